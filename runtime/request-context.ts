import { randomBytes, randomUUID } from 'node:crypto'
import type { Span, Tracing } from '@shopsphere/bus'
import type { Context, MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'

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

/** Gives each request its id and its place in a trace, and answers with the id. With `tracing`, each is a span. */
export function requestContext(tracing?: Tracing): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const given = c.req.header('x-request-id')
    const requestId = given !== undefined && REQUEST_ID.test(given) ? given : randomUUID()
    c.set('requestId', requestId)
    const span = tracing && serverSpan(tracing, c)
    c.set('traceparent', span?.traceparent ?? continueTrace(c.req.header('traceparent')))
    await next()
    c.res.headers.set('x-request-id', requestId)
    if (!span) return
    const route = c.res.status === 404 ? '' : ` ${routePath(c, -1)}`
    span.describe(`${c.req.method}${route}`, { 'http.response.status_code': c.res.status })
    if (c.res.status >= 500) span.fail(c.error ?? new Error(`answered ${c.res.status}`))
    span.end()
  }
}

function serverSpan(tracing: Tracing, c: Context<ApiEnv>): Span {
  const given = c.req.header('traceparent')
  return tracing.start({
    name: c.req.method,
    kind: 'server',
    parent: given !== undefined && isTraceparent(given) ? given : null,
    attributes: { 'http.request.method': c.req.method, 'url.path': c.req.path },
  })
}

/** The options of `bus.transaction` and `bus.publish` for what this request sets off. */
export function origin(c: Context<ApiEnv>): { correlationId: string; traceparent: string } {
  return { correlationId: c.var.requestId, traceparent: c.var.traceparent }
}

/** The trace that `header` is part of, or a new one, with a fresh span. Source: https://www.w3.org/TR/trace-context/ */
export function continueTrace(header: string | undefined): string {
  const [, , traceId, , flags] = TRACEPARENT.exec(header ?? '') ?? []
  if (isTraceparent(header ?? '')) return `00-${traceId}-${randomBytes(8).toString('hex')}-${flags}`
  const drawn = randomBytes(24).toString('hex') // both at once: each draw is a system call
  return `00-${drawn.slice(0, 32)}-${drawn.slice(32)}-01`
}

function isTraceparent(header: string): boolean {
  const [, version, traceId, parentId, , rest] = TRACEPARENT.exec(header) ?? []
  return (
    version !== undefined && version !== 'ff' && !(version === '00' && rest) && !isZero(traceId!) && !isZero(parentId!)
  )
}

const isZero = (hex: string) => /^0+$/.test(hex)
