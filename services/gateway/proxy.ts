import type { Log } from '@shopsphere/runtime/log'
import { problem } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Context } from 'hono'
import { proxy } from 'hono/proxy'

/** Until the first byte of the answer; a body may then take longer, as live updates do. */
const ANSWER_TIMEOUT_MS = 30_000
/** Set on what a gateway passes on: one that does not run the service either must not pass it on again. */
const PASSED_ON = 'x-shopsphere-passed-on'

export type Forward = (c: Context<ApiEnv>, service: string, origin: string) => Promise<Response>

/** Passes a request on to where a service runs, with who asks, the request id and the trace. */
export function createForward({ log, timeoutMs = ANSWER_TIMEOUT_MS }: { log: Log; timeoutMs?: number }): Forward {
  return async (c, service, origin) => {
    if (c.req.header(PASSED_ON) !== undefined) {
      throw problem(
        502,
        'service_unreachable',
        `${service} does not run where it was looked for: SERVICE_URLS names a process that does not run it.`,
      )
    }
    const { pathname, search } = new URL(c.req.url)
    const send = () => sendOnce(c, `${origin}${pathname}${search}`, timeoutMs)
    const repeatable = c.req.method === 'GET' || c.req.method === 'HEAD'
    try {
      // A connection kept alive may have been closed by the other side at this moment; reading again does no harm.
      return await send().catch((error) => (repeatable && !isTimeout(error) ? send() : Promise.reject(error)))
    } catch (error) {
      const { requestId } = c.var
      log.warn({ err: error, to: service, origin, requestId }, 'a request could not be passed on')
      if (isTimeout(error))
        throw problem(504, 'service_timeout', `${service} did not answer within ${timeoutMs} ms: try again later.`)
      throw problem(502, 'service_unreachable', `${service} cannot be reached now: try again in a moment.`)
    }
  }
}

async function sendOnce(c: Context<ApiEnv>, url: string, timeoutMs: number): Promise<Response> {
  const tooLate = new AbortController()
  const timer = setTimeout(() => tooLate.abort(new DOMException('no answer in time', 'TimeoutError')), timeoutMs)
  try {
    return await proxy(url, {
      raw: c.req.raw,
      headers: {
        ...c.req.header(),
        host: undefined,
        'x-request-id': c.var.requestId,
        traceparent: c.var.traceparent,
        [PASSED_ON]: 'gateway',
      },
      signal: AbortSignal.any([c.req.raw.signal, tooLate.signal]),
      redirect: 'manual',
    })
  } finally {
    clearTimeout(timer)
  }
}

const isTimeout = (error: unknown) => (error as Error | undefined)?.name === 'TimeoutError'
