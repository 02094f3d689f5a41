import { randomBytes, randomUUID } from 'node:crypto'
import type { Context, MiddlewareHandler } from 'hono'

/** Who asks. Roles: `customer`, `merchant`, `operator`. */
export type Caller = { readonly userId: string; readonly roles: readonly string[] }

/** What every handler finds in `c.var`. */
export type ApiEnv = {
  Variables: {
    /** Taken from `X-Request-Id` or made; becomes the correlation id of what the request sets off. */
    requestId: string
    /** W3C Trace Context: the caller's trace, or a new one, with this request as the parent of what follows. */
    traceparent: string
    /** Null: nobody signed in. */
    caller: Caller | null
  }
}

const REQUEST_ID = /^[\w.:-]{1,128}$/
const TRACEPARENT = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/

/** Gives each request its id and its place in a trace, and answers with the id. */
export const requestContext: MiddlewareHandler<ApiEnv> = async (c, next) => {
  const given = c.req.header('x-request-id')
  const requestId = given !== undefined && REQUEST_ID.test(given) ? given : randomUUID()
  c.set('requestId', requestId)
  c.set('traceparent', continueTrace(c.req.header('traceparent')))
  await next()
  c.res.headers.set('x-request-id', requestId)
}

/** The options of `bus.transaction` and `bus.publish` for what this request sets off. */
export function origin(c: Context<ApiEnv>): { correlationId: string; traceparent: string } {
  return { correlationId: c.var.requestId, traceparent: c.var.traceparent }
}

/** The trace that `header` is part of, or a new one, with a fresh span. Source: https://www.w3.org/TR/trace-context/ */
export function continueTrace(header: string | undefined): string {
  const [, version, traceId, parentId, flags, rest] = TRACEPARENT.exec(header ?? '') ?? []
  const valid =
    version !== undefined && version !== 'ff' && !(version === '00' && rest) && !isZero(traceId!) && !isZero(parentId!)
  if (valid) return `00-${traceId}-${randomBytes(8).toString('hex')}-${flags}`
  const drawn = randomBytes(24).toString('hex') // both at once: each draw is a system call
  return `00-${drawn.slice(0, 32)}-${drawn.slice(32)}-01`
}

const isZero = (hex: string) => /^0+$/.test(hex)
