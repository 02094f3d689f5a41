/**
 * `ETag` and `If-Match` over a version number (RFC 9110, 8.8.3 and 13.1.1): of two people who edit at the same time, the
 * second one hears of it instead of undoing what the first one wrote.
 */
import type { Context } from 'hono'
import { problem } from './problem.ts'
import type { ApiEnv } from './request-context.ts'

/** The value of the `ETag` header for `version`. */
export function etagOf(version: number): string {
  return `"${version}"`
}

/** Throws the problems `if_match_required` without the header and `version_mismatch` where it names another version. */
export function requireMatch(c: Context<ApiEnv>, version: number): void {
  if (c.req.header('if-match') === undefined) {
    throw problem(428, 'if_match_required', 'Read it first and send the ETag of that answer as If-Match.')
  }
  matchIfGiven(c, version)
}

/** Throws the problem `version_mismatch` where an `If-Match` names another version; without the header nothing is asked. */
export function matchIfGiven(c: Context<ApiEnv>, version: number): void {
  const wanted = c.req.header('if-match')?.split(',')
  if (!wanted || wanted.some((tag) => tag.trim() === '*' || tag.trim() === etagOf(version))) return
  throw problem(
    412,
    'version_mismatch',
    'It was changed since you read it: read it again and send the new ETag as If-Match.',
    {},
    { etag: etagOf(version) },
  )
}
