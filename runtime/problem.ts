import { z } from '@hono/zod-openapi'

/**
 * Errors as RFC 9457 `application/problem+json`. The list of codes is closed: programs branch on them, docs/errors.md
 * explains each, and a code has one status for ever.
 */
export const problemCodes = {
  malformed_json: { status: 400, title: 'The body is no JSON' },
  malformed_form: { status: 400, title: 'The body is no form' },
  invalid_request: { status: 400, title: 'The request does not match what the API takes' },
  invalid_cursor: { status: 400, title: 'The cursor is not one that this list gave' },
  invalid_idempotency_key: { status: 400, title: 'The Idempotency-Key cannot be used' },
  idempotency_key_required: { status: 400, title: 'The request needs an Idempotency-Key' },
  invalid_signature: { status: 400, title: 'The signature does not match the body' },
  unauthenticated: { status: 401, title: 'Sign in first' },
  invalid_token: { status: 401, title: 'The token is not valid, or no longer' },
  invalid_credentials: { status: 401, title: 'E-mail or password is wrong' },
  forbidden: { status: 403, title: 'You may not do this' },
  price_not_allowed: { status: 403, title: 'Only a merchant may name a price' },
  not_found: { status: 404, title: 'There is no such thing' },
  route_not_found: { status: 404, title: 'There is nothing at this address' },
  method_not_allowed: { status: 405, title: 'This address does not take this method' },
  conflict: { status: 409, title: 'The request does not fit the present state' },
  already_exists: { status: 409, title: 'There is one already' },
  price_changed: { status: 409, title: 'A price changed since it was quoted' },
  out_of_stock: { status: 409, title: 'There is not enough in stock' },
  not_cancellable: { status: 409, title: 'It is too late to cancel' },
  idempotency_in_progress: { status: 409, title: 'The first request with this Idempotency-Key is still running' },
  version_mismatch: { status: 412, title: 'It was changed since you read it' },
  body_too_large: { status: 413, title: 'The body is too large' },
  unsupported_media_type: { status: 415, title: 'The Content-Type is not one that this address takes' },
  idempotency_key_reused: { status: 422, title: 'The Idempotency-Key was used for another request' },
  unknown_product: { status: 422, title: 'A product does not exist or is no longer sold' },
  unknown_payment_method: { status: 422, title: 'The payment method does not exist' },
  nothing_to_return: { status: 422, title: 'Nothing of this can be given back' },
  if_match_required: { status: 428, title: 'The request needs If-Match' },
  too_many_requests: { status: 429, title: 'Too many requests' },
  internal: { status: 500, title: 'Something went wrong here' },
  service_unreachable: { status: 502, title: 'The service behind this address cannot be reached' },
  unavailable: { status: 503, title: 'This cannot be done now' },
  service_timeout: { status: 504, title: 'The service behind this address took too long' },
} as const

export type ProblemCode = keyof typeof problemCodes
type StatusOf<Code extends ProblemCode> = (typeof problemCodes)[Code]['status']

/** Members beside the standard ones, as `{ quote: … }`. */
type Members = Readonly<Record<string, unknown>>

export class ProblemError extends Error {
  override readonly name = 'ProblemError'
  readonly code: ProblemCode
  readonly members: Members
  readonly headers: Readonly<Record<string, string>>

  constructor(code: ProblemCode, detail: string, members: Members, headers: Readonly<Record<string, string>>) {
    super(detail)
    this.code = code
    this.members = members
    this.headers = headers
  }
}

/**
 * An error to throw: `throw problem(404, 'not_found', 'There is no order ord_1.')`. The status is there to be read; a
 * wrong one does not compile. `detail` goes to the caller: say what to do next, and nothing that is not theirs to know.
 */
export function problem<Code extends ProblemCode>(
  _status: StatusOf<Code>,
  code: Code,
  detail: string,
  members: Members = {},
  headers: Readonly<Record<string, string>> = {},
): ProblemError {
  return new ProblemError(code, detail, members, headers)
}

export const PROBLEM_MEDIA_TYPE = 'application/problem+json'

/** The answer that an error becomes. */
export function problemResponse(error: ProblemError, requestId: string | undefined): Response {
  const { status, title } = problemCodes[error.code]
  const type = `urn:shopsphere:problem:${error.code}`
  const body = { type, title, status, code: error.code, detail: error.message, requestId, ...error.members }
  return new Response(JSON.stringify(body), {
    status,
    headers: { 'content-type': PROBLEM_MEDIA_TYPE, ...error.headers },
  })
}

export const problemSchema = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    code: z.enum(Object.keys(problemCodes) as [ProblemCode, ...ProblemCode[]]),
    detail: z.string(),
    requestId: z.string().optional(),
  })
  .openapi('Problem')

type ProblemAnswer = { description: string; content: { [PROBLEM_MEDIA_TYPE]: { schema: typeof problemSchema } } }

/** For `createRoute`: `responses: { 200: …, ...problemAnswers(401, 404) }`. */
export function problemAnswers<const Status extends StatusOf<ProblemCode>>(
  ...statuses: Status[]
): Record<Status, ProblemAnswer> {
  const answers = statuses.map((status) => {
    const codes = Object.entries(problemCodes).filter(([, entry]) => entry.status === status)
    const description = codes.map(([code, { title }]) => `\`${code}\`: ${title}`).join('; ')
    return [status, { description, content: { [PROBLEM_MEDIA_TYPE]: { schema: problemSchema } } }]
  })
  return Object.fromEntries(answers)
}
