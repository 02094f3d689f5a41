/** Accounts: register, sign in, one's own data, and what an operator may do with others'. */
import { createRoute, z } from '@hono/zod-openapi'
import type { TransactionContext } from '@shopsphere/bus'
import { userDeleted, userRegistered, userRoleChanged, userUpdated } from '@shopsphere/contracts'
import type { Tokens } from '@shopsphere/runtime/auth'
import { etagOf, matchIfGiven, requireMatch } from '@shopsphere/runtime/etag'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import {
  hashPassword,
  needsRehash,
  PASSWORD_LENGTH_MAX,
  PASSWORD_LENGTH_MIN,
  verifyPassword,
} from '@shopsphere/runtime/passwords'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { type ApiEnv, origin } from '@shopsphere/runtime/request-context'
import type { ServiceContext } from '@shopsphere/runtime/service'
import type { Context } from 'hono'
import { anyId, countryName, displayName, emailAddress, postalAddress } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import { accountGone, requireAccount } from './access.ts'
import {
  type Account,
  ADDRESSES_MAX,
  assertDeletable,
  type Details,
  type SavedAddress,
  selfRegistered,
  toTell,
  withAddress,
  withDetails,
  withoutAddress,
  withRoles,
} from './account.ts'
import { forgetHistory, orderProgress } from './history.ts'
import {
  addAccounts,
  eraseAccount,
  findAccount,
  findBySignInEmail,
  findFailures,
  forgetFailures,
  type HistoryRow,
  listAccounts,
  listOrders,
  listSent,
  type SentRow,
  saveAccount,
  saveFailures,
} from './queries.ts'
import { afterFailure, assertMayTry, createTurns, digestOf } from './sign-in.ts'

const newPassword = z.string().min(PASSWORD_LENGTH_MIN).max(PASSWORD_LENGTH_MAX)
/** A wrong one is refused as wrong, whatever its length; only what would keep the server busy is not looked at. */
const givenPassword = z.string().min(1).max(PASSWORD_LENGTH_MAX)
const role = z.enum(['customer', 'merchant', 'operator'])
const timeMs = z.int().openapi({ description: 'Milliseconds since the epoch' })
const pence = z.int().nullable()

const savedAddress = postalAddress.extend({ addressId: z.string() }).openapi('SavedAddress')
const addresses = z.array(savedAddress).openapi({ description: 'The default one first' })

const accountShape = z
  .object({
    userId: z.string(),
    email: z.string().nullable(),
    name: z.string().nullable(),
    country: z.string().nullable(),
    roles: z.array(role),
    registeredAt: timeMs,
  })
  .openapi('Account')

const session = z
  .object({ token: z.string(), userId: z.string(), roles: z.array(role), expiresAt: timeMs })
  .openapi('Session')

const order = z
  .object({
    orderId: z.string(),
    state: z.enum(orderProgress),
    placedAt: timeMs.nullable(),
    lineCount: z.int().nullable(),
    currency: z.literal('GBP'),
    totalPence: pence,
    refundedPence: z.int(),
    changedAt: timeMs,
  })
  .openapi('OrderInHistory')

const sentMessage = z
  .object({
    notificationId: z.string(),
    orderId: z.string().nullable(),
    step: z.string(),
    channel: z.string(),
    recipient: z.string(),
    subject: z.string(),
    sentAt: timeMs,
  })
  .openapi('SentMessage')

const tags = ['users']
const ofUser = { params: z.object({ userId: anyId }) }
const position = z.string()

const register = createRoute({
  method: 'post',
  path: '/api/users',
  summary: 'Registers a customer',
  tags,
  request: {
    body: body(
      z.strictObject({
        email: emailAddress,
        password: newPassword,
        name: displayName,
        country: countryName.nullable().default(null),
      }),
    ),
  },
  responses: { 201: json('The new account', accountShape), ...problemAnswers(400, 409, 503) },
})

const signIn = createRoute({
  method: 'post',
  path: '/api/sessions',
  summary: 'Signs in; send the token as `Authorization: Bearer …`',
  tags,
  request: { body: body(z.strictObject({ email: emailAddress, password: givenPassword })) },
  responses: { 201: json('Signed in', session), ...problemAnswers(400, 401, 429, 503) },
})

const me = createRoute({
  method: 'get',
  path: '/api/users/me',
  summary: 'Your own account',
  tags,
  security: signedIn,
  responses: { 200: json('The account, its version in ETag', accountShape), ...problemAnswers(401) },
})

const changeMe = createRoute({
  method: 'patch',
  path: '/api/users/me',
  summary: 'Changes your account; e-mail and password need the password of now. Needs If-Match.',
  tags,
  security: signedIn,
  request: {
    body: body(
      z.strictObject({
        name: displayName.optional(),
        country: countryName.nullable().optional(),
        email: emailAddress.optional(),
        password: newPassword.optional(),
        currentPassword: givenPassword.optional(),
      }),
    ),
  },
  responses: {
    200: json('The account after the change', accountShape),
    ...problemAnswers(400, 401, 409, 412, 428, 429),
  },
})

const deleteMe = createRoute({
  method: 'delete',
  path: '/api/users/me',
  summary: 'Deletes your account and what it keeps about you. Open orders run on.',
  tags,
  security: signedIn,
  responses: { 204: { description: 'Deleted' }, ...problemAnswers(401, 409, 412) },
})

const myAddresses = createRoute({
  method: 'get',
  path: '/api/users/me/addresses',
  summary: 'Your addresses',
  tags,
  security: signedIn,
  responses: { 200: json('The addresses', z.object({ items: addresses })), ...problemAnswers(401) },
})

const addAddress = createRoute({
  method: 'post',
  path: '/api/users/me/addresses',
  summary: `Adds an address, up to ${ADDRESSES_MAX}; the first one is the default until another is added as such`,
  tags,
  security: signedIn,
  request: { body: body(postalAddress.extend({ isDefault: z.boolean().default(false) })) },
  responses: { 201: json('The address', savedAddress), ...problemAnswers(400, 401, 409, 412) },
})

const deleteAddress = createRoute({
  method: 'delete',
  path: '/api/users/me/addresses/{addressId}',
  summary: 'Deletes an address',
  tags,
  security: signedIn,
  request: { params: z.object({ addressId: anyId }) },
  responses: { 204: { description: 'Deleted' }, ...problemAnswers(401, 404, 412) },
})

const myOrders = createRoute({
  method: 'get',
  path: '/api/users/me/orders',
  summary: 'Your orders, the newest first; a moment behind the orders themselves',
  tags,
  security: signedIn,
  request: { query: pageQuery },
  responses: { 200: json('A page of orders', pageOf(order)), ...problemAnswers(400, 401) },
})

const myMessages = createRoute({
  method: 'get',
  path: '/api/users/me/messages',
  summary: 'What was sent to you, the newest first',
  tags,
  security: signedIn,
  request: { query: pageQuery },
  responses: { 200: json('A page of messages', pageOf(sentMessage)), ...problemAnswers(400, 401) },
})

const listUsers = createRoute({
  method: 'get',
  path: '/api/users',
  summary: 'All accounts, or the one that signs in with an e-mail; for operators',
  tags,
  security: signedIn,
  request: { query: pageQuery.extend({ email: emailAddress.optional() }) },
  responses: { 200: json('A page of accounts', pageOf(accountShape)), ...problemAnswers(400, 401, 403) },
})

const getUser = createRoute({
  method: 'get',
  path: '/api/users/{userId}',
  summary: 'An account; for operators',
  tags,
  security: signedIn,
  request: ofUser,
  responses: { 200: json('The account', accountShape), ...problemAnswers(400, 401, 403, 404) },
})

const deleteUser = createRoute({
  method: 'delete',
  path: '/api/users/{userId}',
  summary: 'Deletes an account, as of a customer who asked for it by letter; for operators',
  tags,
  security: signedIn,
  request: ofUser,
  responses: { 204: { description: 'Deleted' }, ...problemAnswers(400, 401, 403, 404, 409, 412) },
})

const setRoles = createRoute({
  method: 'post',
  path: '/api/users/{userId}/roles',
  summary: 'Gives an account exactly these roles; for operators',
  tags,
  security: signedIn,
  request: { ...ofUser, body: body(z.strictObject({ roles: z.array(role).min(1).max(3) })) },
  responses: {
    200: json('The account after the change', accountShape),
    ...problemAnswers(400, 401, 403, 404, 409, 412),
  },
})

type RouteContext = Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'newId'> & { tokens: Tokens }

export function addAccountRoutes(api: Api, { bus, store, clock, newId, tokens }: RouteContext): void {
  const inTurn = createTurns()

  /**
   * True for the password of the account (false without one), after as much time either way. Throws
   * `too_many_requests` after too many wrong ones for this e-mail.
   */
  async function tryPassword(email: string, password: string, passwordHash: string | null): Promise<boolean> {
    const digest = digestOf(email)
    const failed = await store.read((reader) => findFailures(reader, digest))
    assertMayTry(failed, clock.now())
    const right = await verifyPassword(password, passwordHash)
    if (!right) await bus.transaction(({ tx }) => saveFailures(tx, digest, afterFailure(failed, clock.now())))
    else if (failed) await bus.transaction(({ tx }) => forgetFailures(tx, digest))
    return right
  }

  /** Reads, decides, writes and tells in one transaction; answers the account after it. */
  function change(
    c: Context<ApiEnv>,
    userId: string,
    decide: (account: Account, transaction: TransactionContext) => Account | Promise<Account>,
    { changedBy, gone }: { changedBy: string; gone: () => Error },
  ): Promise<Account> {
    return bus.transaction(async (transaction) => {
      const { tx, publish } = transaction
      const before = await findAccount(tx, userId)
      if (!before) throw gone()
      const decided = await decide(before, transaction)
      if (JSON.stringify(decided) === JSON.stringify(before)) return before
      const after = { ...decided, version: before.version + 1 }
      if (!(await saveAccount(tx, before, after))) throw changedMeanwhile()
      const { updated, roles } = toTell(before, after)
      if (updated) publish(userUpdated, updated)
      if (roles) publish(userRoleChanged, { userId, roles, changedBy })
      return after
    }, origin(c))
  }

  const changeOwn = async (c: Context<ApiEnv>, decide: Parameters<typeof change>[2]) => {
    const { userId } = await requireAccount(c, store)
    return change(c, userId, decide, { changedBy: userId, gone: accountGone })
  }

  async function remove(c: Context<ApiEnv>, userId: string, gone: () => Error): Promise<void> {
    await bus.transaction(async ({ tx, publish }) => {
      const account = await findAccount(tx, userId)
      if (!account) throw gone()
      matchIfGiven(c, account.version)
      assertDeletable(account)
      const deletedAt = clock.now()
      await eraseAccount(tx, userId, deletedAt)
      await forgetHistory(tx, userId)
      if (account.email !== null) await forgetFailures(tx, digestOf(account.email))
      publish(userDeleted, { userId, deletedAt })
    }, origin(c))
  }

  api.openapi(register, async (c) => {
    const { email, password, name, country } = c.req.valid('json')
    const passwordHash = await inTurn(digestOf(email), () => hashPassword(password))
    const details = { userId: newId('usr'), email, name, country, registeredAt: clock.now() }
    const account = selfRegistered({ ...details, passwordHash })
    await bus.transaction(async ({ tx, publish }) => {
      if ((await addAccounts(tx, [account])).length === 0) throw emailTaken()
      publish(userRegistered, { ...details, roles: [...account.roles], registeredBy: null })
    }, origin(c))
    return c.json(shown(account), 201, { etag: etagOf(account.version) })
  })

  api.openapi(signIn, async (c) => {
    const { email, password } = c.req.valid('json')
    return inTurn(digestOf(email), async () => {
      const account = await store.read((reader) => findBySignInEmail(reader, email))
      const right = await tryPassword(email, password, account?.passwordHash ?? null)
      if (!right || !account) throw wrongCredentials()
      if (needsRehash(account.passwordHash!)) {
        const rehashed = { ...account, passwordHash: await hashPassword(password) }
        await bus.transaction(({ tx }) => saveAccount(tx, account, rehashed))
      }
      const { userId, roles } = account
      return c.json({ ...(await tokens.issue({ userId, roles })), userId, roles: [...roles] }, 201)
    })
  })

  api.openapi(me, async (c) => {
    const account = await requireAccount(c, store)
    return c.json(shown(account), 200, { etag: etagOf(account.version) })
  })

  api.openapi(changeMe, async (c) => {
    const { currentPassword, password, ...asked } = c.req.valid('json')
    const account = await requireAccount(c, store)
    requireMatch(c, account.version)
    const details: Details = { ...asked }
    if (password !== undefined || asked.email !== undefined) {
      await confirm(account, currentPassword)
      if (password !== undefined) details.passwordHash = await inTurn(account.userId, () => hashPassword(password))
    }
    const changed = await changeOwn(c, async (present, { tx }) => {
      requireMatch(c, present.version)
      const holder = details.email === undefined ? undefined : await findBySignInEmail(tx, details.email)
      if (holder && holder.userId !== present.userId) throw emailTaken()
      return withDetails(present, details)
    })
    return c.json(shown(changed), 200, { etag: etagOf(changed.version) })
  })

  /** A token that was stolen must not be enough to take over an account. */
  async function confirm(account: Account, currentPassword: string | undefined): Promise<void> {
    if (currentPassword === undefined || !account.canSignIn) {
      throw problem(400, 'invalid_request', 'body, currentPassword: send it to change the e-mail or the password.')
    }
    const email = account.email!
    const right = await inTurn(digestOf(email), () => tryPassword(email, currentPassword, account.passwordHash))
    if (!right) throw wrongCredentials()
  }

  api.openapi(deleteMe, async (c) => {
    const { userId } = await requireAccount(c, store)
    await remove(c, userId, accountGone)
    return c.body(null, 204)
  })

  api.openapi(myAddresses, async (c) => {
    const account = await requireAccount(c, store)
    return c.json({ items: [...account.addresses] }, 200, { etag: etagOf(account.version) })
  })

  api.openapi(addAddress, async (c) => {
    const { isDefault, ...address } = c.req.valid('json')
    const saved: SavedAddress = { addressId: newId('adr'), ...address }
    const account = await changeOwn(c, (present) => {
      matchIfGiven(c, present.version)
      return withAddress(present, saved, isDefault)
    })
    return c.json(saved, 201, { etag: etagOf(account.version) })
  })

  api.openapi(deleteAddress, async (c) => {
    const { addressId } = c.req.valid('param')
    await changeOwn(c, (present) => {
      matchIfGiven(c, present.version)
      const changed = withoutAddress(present, addressId)
      if (changed === present) throw problem(404, 'not_found', `You have no address ${addressId}.`)
      return changed
    })
    return c.body(null, 204)
  })

  api.openapi(myOrders, async (c) => {
    const { userId } = await requireAccount(c, store)
    const { cursor, limit } = c.req.valid('query')
    const before = decodeCursor(position, cursor) ?? null
    const rows = await store.read((reader) => listOrders(reader, userId, before, limit + 1))
    return c.json(page(rows, limit, { item: shownOrder, position: (row) => row.order_id }), 200)
  })

  api.openapi(myMessages, async (c) => {
    const { userId } = await requireAccount(c, store)
    const { cursor, limit } = c.req.valid('query')
    const before = decodeCursor(position, cursor) ?? null
    const rows = await store.read((reader) => listSent(reader, userId, before, limit + 1))
    return c.json(page(rows, limit, { item: shownMessage, position: (row) => row.notification_id }), 200)
  })

  api.openapi(listUsers, async (c) => {
    await requireAccount(c, store, 'operator')
    const { cursor, limit, email = null } = c.req.valid('query')
    const afterUserId = decodeCursor(position, cursor) ?? ''
    const accounts = await store.read((reader) => listAccounts(reader, { email, afterUserId, limit: limit + 1 }))
    return c.json(page(accounts, limit, { item: shown, position: ({ userId }) => userId }), 200)
  })

  api.openapi(getUser, async (c) => {
    await requireAccount(c, store, 'operator')
    const { userId } = c.req.valid('param')
    const account = await store.read((reader) => findAccount(reader, userId))
    if (!account) throw noUser(userId)
    return c.json(shown(account), 200, { etag: etagOf(account.version) })
  })

  api.openapi(deleteUser, async (c) => {
    await requireAccount(c, store, 'operator')
    const { userId } = c.req.valid('param')
    await remove(c, userId, () => noUser(userId))
    return c.body(null, 204)
  })

  api.openapi(setRoles, async (c) => {
    const operator = await requireAccount(c, store, 'operator')
    const { userId } = c.req.valid('param')
    const { roles } = c.req.valid('json')
    const decide = (account: Account) => {
      matchIfGiven(c, account.version)
      return withRoles(account, roles, operator.userId)
    }
    const account = await change(c, userId, decide, { changedBy: operator.userId, gone: () => noUser(userId) })
    return c.json(shown(account), 200, { etag: etagOf(account.version) })
  })
}

function shown({ userId, email, name, country, roles, registeredAt }: Account) {
  return { userId, email, name, country, roles: [...roles], registeredAt }
}

function shownOrder(row: HistoryRow): z.infer<typeof order> {
  const number = (value: number | null) => (value === null ? null : Number(value))
  return {
    orderId: row.order_id,
    state: orderProgress[Number(row.progress)]!,
    placedAt: number(row.placed_at),
    lineCount: number(row.line_count),
    currency: 'GBP',
    totalPence: number(row.total_pence),
    refundedPence: Number(row.refunded_pence),
    changedAt: Number(row.changed_at),
  }
}

function shownMessage(row: SentRow): z.infer<typeof sentMessage> {
  return {
    notificationId: row.notification_id,
    orderId: row.order_id,
    step: row.step,
    channel: row.channel,
    recipient: row.recipient,
    subject: row.subject,
    sentAt: Number(row.sent_at),
  }
}

const wrongCredentials = () => problem(401, 'invalid_credentials', 'The e-mail or the password is wrong.')
const emailTaken = () =>
  problem(409, 'already_exists', 'There is an account with this e-mail: sign in at POST /api/sessions.')
const changedMeanwhile = () =>
  problem(409, 'conflict', 'Somebody else changed it at the same moment: read it again, then decide.')
const noUser = (userId: string) => problem(404, 'not_found', `There is no account ${userId}.`)
