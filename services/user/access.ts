import type { Store } from '@shopsphere/bus'
import type { Role } from '@shopsphere/contracts'
import { requireCaller } from '@shopsphere/runtime/auth'
import { problem } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Context } from 'hono'
import type { Account } from './account.ts'
import { findAccount } from './queries.ts'

/**
 * The account of who asks. Here, where roles are kept, they decide and not the token, so a role that was taken away is
 * gone at once. Throws `unauthenticated`, `invalid_token` where the account was deleted, `forbidden` without one of `roles`.
 */
export async function requireAccount(c: Context<ApiEnv>, store: Store, ...roles: Role[]): Promise<Account> {
  const { userId } = requireCaller(c)
  const account = await store.read((reader) => findAccount(reader, userId))
  if (!account) throw accountGone()
  if (roles.length > 0 && !roles.some((role) => account.roles.includes(role))) {
    throw problem(403, 'forbidden', `This needs the role ${roles.join(' or ')}.`)
  }
  return account
}

export const accountGone = () =>
  problem(
    401,
    'invalid_token',
    'The account was deleted: register to have one again.',
    {},
    { 'www-authenticate': 'Bearer error="invalid_token"' },
  )
