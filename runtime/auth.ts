import { createSecretKey } from 'node:crypto'
import type { Clock } from '@shopsphere/bus'
import type { Context, MiddlewareHandler } from 'hono'
import { errors, jwtVerify, SignJWT } from 'jose'
import { problem } from './problem.ts'
import type { ApiEnv, Caller } from './request-context.ts'

/** Signed tokens say who asks: no look-up, so a role that is taken away ends with the token, 12 hours later at most. */

const TOKEN_LIFETIME_MS = 12 * 3_600_000
const ISSUER = 'shopsphere'
/** Tokens that are not verified anew with each request. */
const VERIFIED_MAX = 10_000

export type Tokens = {
  /** `expiresAt`: milliseconds since the epoch. */
  issue(caller: Caller): Promise<{ token: string; expiresAt: number }>
  /** Throws the problem `invalid_token` for one that is expired, changed or not ours. */
  verify(token: string): Promise<Caller>
}

/** @param secret at least 32 bytes, see tokenSecret() */
export function createTokens({
  secret,
  clock,
  lifetimeMs = TOKEN_LIFETIME_MS,
}: {
  secret: Uint8Array
  clock: Clock
  lifetimeMs?: number
}): Tokens {
  const key = createSecretKey(secret)
  // A token says the same until it expires, and comes with every request of its owner.
  const verified = new Map<string, { caller: Caller; expiresAt: number }>()
  const remember = (token: string, known: { caller: Caller; expiresAt: number }) => {
    if (verified.size >= VERIFIED_MAX) verified.delete(verified.keys().next().value!)
    verified.set(token, known)
  }
  return {
    async issue({ userId, roles }) {
      const nowSeconds = Math.floor(clock.now() / 1000)
      const expiresSeconds = nowSeconds + Math.floor(lifetimeMs / 1000)
      const token = await new SignJWT({ roles })
        .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
        .setIssuer(ISSUER)
        .setSubject(userId)
        .setIssuedAt(nowSeconds)
        .setExpirationTime(expiresSeconds)
        .sign(key)
      return { token, expiresAt: expiresSeconds * 1000 }
    },
    async verify(token) {
      const known = verified.get(token)
      if (known && known.expiresAt > clock.now()) return known.caller
      try {
        const options = {
          algorithms: ['HS256'],
          issuer: ISSUER,
          requiredClaims: ['sub', 'exp', 'roles'],
          currentDate: new Date(clock.now()),
        }
        const { payload } = await jwtVerify<{ roles: string[] }>(token, key, options)
        const caller = { userId: payload.sub!, roles: payload.roles }
        remember(token, { caller, expiresAt: payload.exp! * 1000 })
        return caller
      } catch (error) {
        if (error instanceof errors.JWTExpired) throw refusedToken('The token has expired: sign in again.')
        if (error instanceof errors.JOSEError)
          throw refusedToken('The token was not made here or is damaged: sign in again.')
        throw error
      }
    },
  }
}

const refusedToken = (detail: string) =>
  problem(401, 'invalid_token', detail, {}, { 'www-authenticate': 'Bearer error="invalid_token"' })

/** Reads `Authorization: Bearer …` into `c.var.caller`; null without one. A token that is not valid is refused on every route. */
export function authenticate(tokens: Tokens): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const header = c.req.header('authorization')
    if (header === undefined) {
      c.set('caller', null)
    } else {
      const token = /^Bearer +([^\s]+) *$/i.exec(header)?.[1]
      if (token === undefined) throw refusedToken('Write the header as `Authorization: Bearer <token>`.')
      c.set('caller', await tokens.verify(token))
    }
    await next()
  }
}

/** Whoever signed in. Throws the problem `unauthenticated`. */
export function requireCaller(c: Context<ApiEnv>): Caller {
  const caller = c.var.caller
  if (!caller)
    throw problem(
      401,
      'unauthenticated',
      'Sign in at POST /api/sessions and send the token.',
      {},
      { 'www-authenticate': 'Bearer' },
    )
  return caller
}

export function hasRole(c: Context<ApiEnv>, ...roles: string[]): boolean {
  return c.var.caller?.roles.some((role) => roles.includes(role)) ?? false
}

/** Middleware of a route: lets in who has one of the roles. */
export function requireRole(...roles: [string, ...string[]]): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    requireCaller(c)
    if (!hasRole(c, ...roles)) throw problem(403, 'forbidden', `This needs the role ${roles.join(' or ')}.`)
    await next()
  }
}
