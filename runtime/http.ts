import { OpenAPIHono } from '@hono/zod-openapi'
import { BusError, type ErrorCode, type Tracing, UnavailableError } from '@shopsphere/bus'
import type { Context, MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { HTTPException } from 'hono/http-exception'
import { TrieRouter } from 'hono/router/trie-router'
import { secureHeaders } from 'hono/secure-headers'
import { authenticate, type Tokens } from './auth.ts'
import type { Log } from './log.ts'
import { type ProblemCode, ProblemError, problem, problemCodes, problemResponse } from './problem.ts'
import { type ApiEnv, requestContext } from './request-context.ts'

export const BODY_BYTES_MAX = 1024 * 1024
const VALIDATION_ERRORS_MAX = 20
const RETRY_AFTER_SECONDS = 2

export type Api = OpenAPIHono<ApiEnv>

/** Routes of one service: what is wrong with a request, and whatever a handler throws, becomes problem+json. */
export function createApi(log: Log): Api {
  const api: Api = new OpenAPIHono<ApiEnv>({
    defaultHook: (result) => {
      if (!result.success) throw invalidRequest(result.target, result.error.issues)
    },
  })
  api.onError((error, c) => problemResponse(asProblem(error, c, log), c.var.requestId))
  return api
}

/**
 * The app that a process serves; the services' routes are mounted on it: `door.route('/', service.routes)`. What holds
 * for every request is here, once: request id, trace, limits, headers, who asks (`tokens`), 404 and 405.
 */
export function createFrontDoor(options: {
  log: Log
  tokens: Tokens
  /** Runs around everything else, as `metrics.middleware`. */
  around?: MiddlewareHandler<ApiEnv>
  /** Each request is a span; by default nobody traces. */
  tracing?: Tracing | undefined
  bodyBytesMax?: number
}): Api {
  const { log, tokens, around, tracing, bodyBytesMax = BODY_BYTES_MAX } = options
  const door = createApi(log)
  if (around) door.use(around)
  door.use(requestContext(tracing), safeHeaders, limitBody(bodyBytesMax), authenticate(tokens))
  const allowedMethods = methodsByPath(door)
  door.notFound((c) => {
    const methods = allowedMethods(c.req.path)
    const { method, path } = c.req
    const error =
      methods.length === 0 || methods.includes(method)
        ? problem(404, 'route_not_found', `There is nothing at ${method} ${path}: see /openapi.json for what there is.`)
        : problem(405, 'method_not_allowed', `${path} takes ${methods.join(', ')}.`, {}, { allow: methods.join(', ') })
    return problemResponse(error, c.var.requestId)
  })
  return door
}

type Issue = { readonly path: readonly PropertyKey[]; readonly message: string }

function invalidRequest(target: string, issues: readonly Issue[]): ProblemError {
  const part = target === 'json' || target === 'form' ? 'body' : target === 'param' ? 'path' : target
  const errors = issues
    .slice(0, VALIDATION_ERRORS_MAX)
    .map(({ path, message }) => ({ in: part, path: path.join('.'), message }))
  const where = errors[0]?.path ? `${part}, ${errors[0].path}` : part
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more: see errors)` : ''
  return problem(400, 'invalid_request', `${where}: ${errors[0]?.message}${more}`, { errors })
}

/** Full or closing: nothing was changed and the same request may succeed later, as with a database that is away. */
const laterCodes: ReadonlySet<ErrorCode> = new Set(['bus_closed', 'outbox_full', 'log_full', 'backlog_full'])

function asProblem(error: Error, c: Context<ApiEnv>, log: Log): ProblemError {
  if (error instanceof ProblemError) return error
  if (error instanceof HTTPException) return fromHttpException(error)
  const seen = { err: error, requestId: c.var.requestId, method: c.req.method, path: c.req.path }
  if (error instanceof UnavailableError || (error instanceof BusError && laterCodes.has(error.code))) {
    log.warn(seen, 'a request was put off')
    const detail = 'This cannot be done now and nothing was changed: send the same request again in a moment.'
    return problem(503, 'unavailable', detail, {}, { 'retry-after': String(RETRY_AFTER_SECONDS) })
  }
  if (error instanceof BusError && error.code === 'version_conflict') {
    return problem(409, 'conflict', 'Somebody else changed it at the same moment: read it again, then decide.')
  }
  if (error instanceof BusError && error.code === 'not_found') return problem(404, 'not_found', error.message)
  log.error(seen, 'a request failed')
  return problem(
    500,
    'internal',
    'The failure was logged under this request id. Sending the same request again may help.',
  )
}

/** Hono throws these itself, for a body that it cannot read and a type that the route does not take. */
function fromHttpException({ status, message }: HTTPException): ProblemError {
  if (status === 400 && /json/i.test(message)) return problem(400, 'malformed_json', 'Send valid JSON in UTF-8.')
  if (status === 400 && /form/i.test(message)) return problem(400, 'malformed_form', 'Send a valid form.')
  if (status === 413) return tooLarge(BODY_BYTES_MAX)
  if (status === 415)
    return problem(415, 'unsupported_media_type', 'Send application/json, and say so in Content-Type.')
  const code = (Object.keys(problemCodes) as ProblemCode[]).find(
    (candidate) => problemCodes[candidate].status === status,
  )
  return new ProblemError(code ?? 'internal', message, {}, {})
}

const tooLarge = (bytesMax: number) => problem(413, 'body_too_large', `A body may have ${bytesMax} bytes.`)

/** Trusts a Content-Length, which Node's parser enforces; a body without one is counted while it comes in. */
function limitBody(bytesMax: number): MiddlewareHandler<ApiEnv> {
  const count = bodyLimit({
    maxSize: bytesMax,
    onError: () => {
      throw tooLarge(bytesMax)
    },
  })
  return (c, next) => {
    const length = c.req.header('content-length')
    if (c.req.method === 'GET' || c.req.method === 'HEAD') return next()
    if (length === undefined || c.req.header('transfer-encoding') !== undefined) return count(c, next)
    if (Number(length) > bytesMax) throw tooLarge(bytesMax)
    return next()
  }
}

/** For answers that are data; a page brings its own policy and keeps it. HSTS is for whoever holds the certificate. */
const headersForData = secureHeaders({
  overwrite: false,
  strictTransportSecurity: false,
  xFrameOptions: 'DENY',
  contentSecurityPolicy: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
})

const safeHeaders: MiddlewareHandler<ApiEnv> = async (c, next) => {
  await headersForData(c, next)
  if (c.req.path.startsWith('/api/') && !c.res.headers.has('cache-control'))
    c.res.headers.set('cache-control', 'no-store')
}

/** Which methods a path takes, for 405. Built on first use, when every route is mounted; wildcards (pages, proxies) do not count. */
function methodsByPath(app: Api): (path: string) => string[] {
  let router: TrieRouter<string> | undefined
  const build = () => {
    const built = new TrieRouter<string>()
    for (const { method, path } of app.routes) {
      if (method === 'ALL' || path.includes('*')) continue
      for (const name of method === 'GET' ? ['GET', 'HEAD'] : [method]) built.add('ALL', path, name)
    }
    return built
  }
  return (path) => {
    router ??= build()
    return [...new Set(router.match('ALL', path)[0].map(([method]) => method))]
  }
}
