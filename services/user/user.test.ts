import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DataOf, EventType, Message } from '@shopsphere/bus'
import {
  notificationSent,
  orderCancelled,
  orderCompleted,
  orderDelivered,
  orderPlaced,
  orderRefunded,
  userDeleted,
  userRegistered,
  userRoleChanged,
  userUpdated,
} from '@shopsphere/contracts'
import { type Answered, openService, type ServiceBench } from '../testing.ts'
import { user } from './service.ts'

const PASSWORD = 'correct horse battery'
const ADA = { email: 'ada@example.org', password: PASSWORD, name: 'Ada Lovelace', country: 'GB' }
const OPERATOR = { email: 'operator@shop.example', password: 'operator password' }
const ADDRESS = { name: 'Ada', line1: '12 St James’s Square', city: 'London', postcode: 'SW1Y 4JH', country: 'GB' }

const signIn = async (shop: ServiceBench, { email, password }: { email: string; password: string }) =>
  shop.ask('POST /api/sessions', { body: { email, password } })

async function registered(shop: ServiceBench, account: typeof ADA = ADA) {
  const { status, body } = await shop.ask('POST /api/users', { body: account })
  assert.equal(status, 201)
  return { userId: body.userId as string, token: (await signIn(shop, account)).body.token as string }
}

const operatorToken = async (shop: ServiceBench) => (await signIn(shop, OPERATOR)).body.token as string

test('who registers is a customer, can sign in, and the others hear of it', async () => {
  await using shop = await openService(user)
  const { body, status, headers } = await shop.ask('POST /api/users', { body: ADA })
  assert.equal(status, 201)
  assert.equal(headers.get('etag'), '"1"')
  const { userId } = body
  assert.match(userId, /^usr_/)
  assert.deepEqual(body.roles, ['customer'])
  const session = await signIn(shop, { email: 'ADA@example.org', password: PASSWORD })
  assert.equal(session.status, 201)
  assert.equal(session.body.userId, userId)
  assert.equal(session.body.expiresAt, shop.clock.now() + 12 * 3_600_000)
  const mine = await shop.ask('GET /api/users/me', { token: session.body.token })
  assert.deepEqual(mine.body, body)
  const told = (await shop.told(userRegistered)).find((account) => account.userId === userId)
  assert.deepEqual(told, { ...body, registeredBy: null })
  assert.equal(JSON.stringify(body).includes('argon2'), false)
})

test('what cannot be an account is refused', async () => {
  await using shop = await openService(user)
  const wrong = [
    { ...ADA, password: 'too short' },
    { ...ADA, password: 'x'.repeat(257) },
    { ...ADA, email: 'not an e-mail' },
    { ...ADA, email: `${'x'.repeat(250)}@example.org` },
    { ...ADA, name: ' ' },
    { ...ADA, name: 'Ada\r\nBcc: everybody@example.org' },
    { ...ADA, roles: ['operator'] },
    { email: ADA.email },
  ]
  for (const body of wrong) {
    const answer = await shop.ask('POST /api/users', { body })
    assert.deepEqual([answer.status, answer.body.code], [400, 'invalid_request'], JSON.stringify(body))
  }
  assert.equal((await shop.told(userRegistered)).length, 1) // the operator
})

test('an e-mail has one account, in whatever case, also when two register at the same time', async () => {
  await using shop = await openService(user)
  const answers = await Promise.all([
    shop.ask('POST /api/users', { body: ADA }),
    shop.ask('POST /api/users', { body: { ...ADA, email: 'Ada@Example.org' } }),
  ])
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 409])
  assert.equal(answers.find(({ status }) => status === 409)!.body.code, 'already_exists')
})

test('an unknown e-mail and a wrong password are answered alike, and locked alike', async () => {
  await using shop = await openService(user)
  await registered(shop)
  const known: Answered[] = []
  const unknown: Answered[] = []
  for (let attempt = 0; attempt < 6; attempt++) {
    known.push(await signIn(shop, { email: ADA.email, password: 'wrong password' }))
    unknown.push(await signIn(shop, { email: 'nobody@example.org', password: 'wrong password' }))
  }
  const plain = (answers: Answered[]) =>
    answers.map(({ status, body: { requestId: _, ...body }, headers }) => [status, body, headers.get('retry-after')])
  assert.deepEqual(plain(known), plain(unknown))
  assert.deepEqual(
    known.map(({ status }) => status),
    [401, 401, 401, 401, 401, 429],
  )
  assert.equal(known.at(-1)!.headers.get('retry-after'), '30')
})

test('a locked account opens again after the wait; signing in forgets the failures', async () => {
  await using shop = await openService(user)
  await registered(shop)
  const wrong = { email: ADA.email, password: 'wrong password' }
  for (let attempt = 0; attempt < 5; attempt++) await signIn(shop, wrong)
  assert.equal((await signIn(shop, ADA)).status, 429)
  await shop.pass(30_000)
  assert.equal((await signIn(shop, ADA)).status, 201)
  for (let attempt = 0; attempt < 4; attempt++) assert.equal((await signIn(shop, wrong)).status, 401)
  assert.equal((await signIn(shop, ADA)).status, 201)
})

test('guesses at the same time count one by one', async () => {
  await using shop = await openService(user)
  await registered(shop)
  const guesses = Array.from({ length: 9 }, () => signIn(shop, { email: ADA.email, password: 'wrong password' }))
  const statuses = (await Promise.all(guesses)).map(({ status }) => status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429, 429, 429])
})

test('the account is changed by who has read it; the others hear all of it', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  const change = (body: object, ifMatch?: string) =>
    shop.ask('PATCH /api/users/me', { token, body, headers: ifMatch ? { 'if-match': ifMatch } : {} })
  assert.equal((await change({ name: 'Ada King' })).body.code, 'if_match_required')
  const changed = await change({ name: 'Ada King' }, '"1"')
  assert.equal(changed.status, 200)
  assert.equal(changed.headers.get('etag'), '"2"')
  assert.deepEqual((await change({ name: 'Ada Byron' }, '"1"')).body.code, 'version_mismatch')
  assert.equal((await change({ name: 'Ada King' }, '"2"')).headers.get('etag'), '"2"') // nothing to change
  assert.deepEqual(await shop.told(userUpdated), [
    { userId, email: ADA.email, name: 'Ada King', country: 'GB', address: null },
  ])
})

test('e-mail and password change only with the password of now', async () => {
  await using shop = await openService(user)
  const { token } = await registered(shop)
  await shop.ask('POST /api/users', { body: { ...ADA, email: 'grace@example.org' } })
  const change = (body: object) => shop.ask('PATCH /api/users/me', { token, body, headers: { 'if-match': '*' } })
  const newPassword = 'another long password'
  assert.equal((await change({ password: newPassword })).body.code, 'invalid_request')
  assert.equal((await change({ password: newPassword, currentPassword: 'wrong' })).body.code, 'invalid_credentials')
  assert.equal((await change({ email: 'grace@example.org', currentPassword: PASSWORD })).body.code, 'already_exists')
  const both = { email: 'countess@example.org', password: newPassword, currentPassword: PASSWORD }
  assert.equal((await change(both)).status, 200)
  assert.equal((await signIn(shop, ADA)).status, 401)
  assert.equal((await signIn(shop, { email: 'countess@example.org', password: newPassword })).status, 201)
})

test('addresses are kept, the default one is told', async () => {
  await using shop = await openService(user)
  const { token } = await registered(shop)
  const added = await shop.ask('POST /api/users/me/addresses', { token, body: ADDRESS })
  assert.equal(added.status, 201)
  assert.deepEqual(added.body, { ...ADDRESS, line2: null, region: null, addressId: added.body.addressId })
  const paris = { ...ADDRESS, city: 'Paris', country: 'FR', isDefault: true }
  await shop.ask('POST /api/users/me/addresses', { token, body: paris })
  const cities = async () =>
    (await shop.ask('GET /api/users/me/addresses', { token })).body.items.map(({ city }: { city: string }) => city)
  assert.deepEqual(await cities(), ['Paris', 'London'])
  assert.deepEqual(
    (await shop.told(userUpdated)).map(({ address }) => address?.city),
    ['London', 'Paris'],
  )
  const path = `/api/users/me/addresses/${added.body.addressId}`
  const { token: anothers } = await registered(shop, { ...ADA, email: 'grace@example.org' })
  assert.equal((await shop.ask(`DELETE ${path}`, { token: anothers })).status, 404)
  assert.equal((await shop.ask(`DELETE ${path}`, { token })).status, 204)
  assert.equal((await shop.ask(`DELETE ${path}`, { token })).status, 404)
  assert.deepEqual(await cities(), ['Paris'])
})

test('roles are given by operators only, at once and also against the token', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  const operator = await operatorToken(shop)
  const give = (to: string, roles: unknown, by: string) =>
    shop.ask(`POST /api/users/${to}/roles`, { token: by, body: { roles } })
  assert.equal((await give(userId, ['operator'], token)).status, 403)
  assert.equal((await give('usr_nobody', ['merchant'], operator)).status, 404)
  assert.equal((await give(userId, ['king'], operator)).status, 400)
  assert.equal((await give(userId, [], operator)).status, 400)
  const given = await give(userId, ['merchant', 'customer', 'operator'], operator)
  assert.deepEqual(given.body.roles, ['customer', 'merchant', 'operator'])
  await give(userId, ['customer', 'merchant', 'operator'], operator) // again: nothing to tell
  const told = await shop.told(userRoleChanged)
  assert.equal(told.length, 1)
  assert.deepEqual(told[0]!.roles, ['customer', 'merchant', 'operator'])
  // The old token says customer; the account says operator.
  assert.equal((await shop.ask('GET /api/users', { token })).status, 200)
  await give(userId, ['customer'], operator)
  assert.equal((await shop.ask('GET /api/users', { token })).status, 403)
})

test('operators find accounts, page by page or by e-mail; nobody else does', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  await registered(shop, { ...ADA, email: 'grace@example.org' })
  const operator = await operatorToken(shop)
  const first = await shop.ask('GET /api/users?limit=2', { token: operator })
  const second = await shop.ask(`GET /api/users?limit=2&cursor=${first.body.nextCursor}`, { token: operator })
  assert.deepEqual([first.body.items.length, second.body.items.length, second.body.nextCursor], [2, 1, null])
  const found = await shop.ask('GET /api/users?email=ADA@example.org', { token: operator })
  assert.deepEqual(
    found.body.items.map((account: { userId: string }) => account.userId),
    [userId],
  )
  assert.equal((await shop.ask(`GET /api/users/${userId}`, { token: operator })).body.email, ADA.email)
  for (const path of ['/api/users', `/api/users/${userId}`]) {
    assert.equal((await shop.ask(`GET ${path}`, { token })).status, 403)
    assert.equal((await shop.ask(`GET ${path}`)).status, 401)
  }
})

test('a merchant makes customers by reference: the same one again is the same customer', async () => {
  await using shop = await openService(user)
  const merchant = await operatorToken(shop)
  const make = (body: object, token = merchant) => shop.ask('POST /api/customers', { token, body })
  const first = await make({ externalReference: '17850', country: 'United Kingdom' })
  assert.equal(first.status, 201)
  assert.equal(first.body.customerId, first.body.userId)
  const again = await make({ externalReference: '17850', name: 'Somebody' })
  assert.deepEqual([again.status, again.body.userId], [200, first.body.userId])
  const told = (await shop.told(userRegistered)).filter(({ userId }) => userId === first.body.userId)
  assert.equal(told.length, 1)
  assert.deepEqual([told[0]!.email, told[0]!.country, told[0]!.roles], [null, 'United Kingdom', ['customer']])
  const { token, userId } = await registered(shop)
  assert.equal((await make({ externalReference: '17850' }, token)).status, 403)
  await shop.ask(`POST /api/users/${userId}/roles`, { token: merchant, body: { roles: ['merchant'] } })
  assert.notEqual((await make({ externalReference: '17850' }, token)).body.userId, first.body.userId)
})

test('a customer whom a merchant made does not stand in the way of who registers with that e-mail', async () => {
  await using shop = await openService(user)
  const token = await operatorToken(shop)
  const made = await shop.ask('POST /api/customers', { token, body: { externalReference: '1', email: ADA.email } })
  assert.equal((await signIn(shop, ADA)).status, 401)
  const { userId } = await registered(shop)
  assert.notEqual(userId, made.body.userId)
})

test('customers come a thousand at a time, each line with its outcome', async () => {
  await using shop = await openService(user)
  const token = await operatorToken(shop)
  await shop.ask('POST /api/customers', { token, body: { externalReference: 'old' } })
  const { status, body } = await shop.ask('POST /api/customers/bulk', {
    token,
    body: {
      customers: [
        { externalReference: 'new', country: 'FR' },
        { externalReference: 'old' },
        { externalReference: 'new' },
        { externalReference: '' },
        { externalReference: 'x', email: 'nonsense' },
      ],
    },
  })
  assert.equal(status, 200)
  assert.deepEqual(
    body.customers.map(({ line, outcome }: { line: number; outcome: string }) => [line, outcome]),
    [
      [1, 'created'],
      [2, 'exists'],
      [3, 'exists'],
      [4, 'refused'],
      [5, 'refused'],
    ],
  )
  assert.equal(body.customers[0].userId, body.customers[2].userId)
  assert.match(body.customers[4].reason, /^email: /)
  const many = Array.from({ length: 1_001 }, (_, number) => ({ externalReference: String(number) }))
  assert.equal((await shop.ask('POST /api/customers/bulk', { token, body: { customers: many } })).status, 400)
  const most = await shop.ask('POST /api/customers/bulk', { token, body: { customers: many.slice(1) } })
  assert.equal(most.body.customers.length, 1_000)
  assert.equal((await shop.told(userRegistered)).length, 1 + 2 + 1_000)
})

const orderId = 'ord_01939c1e-7000-7000-8000-000000000003'
const example = <E extends EventType>(event: E, change: Partial<DataOf<E>> = {}): DataOf<E> => ({
  ...event.example,
  ...change,
})

/** What happens to one order, in the order in which it should. */
function lifeOf(customerId: string | null): [EventType, unknown][] {
  return [
    [orderPlaced, example(orderPlaced, { customerId })],
    [notificationSent, example(notificationSent, { userId: customerId })],
    [orderDelivered, example(orderDelivered, { customerId })],
    [orderRefunded, example(orderRefunded, { customerId, refundedTotalPence: 255 })],
    [orderCompleted, example(orderCompleted, { customerId })],
  ]
}

test('customers find their orders and what was sent to them, and nobody else does', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  for (const [event, data] of lifeOf(userId)) await shop.say(event, data)
  const orders = await shop.ask('GET /api/users/me/orders', { token })
  const { changedAt, ...order } = orders.body.items[0]
  assert.deepEqual(order, {
    orderId,
    state: 'completed',
    placedAt: orderPlaced.example!.placedAt,
    lineCount: 2,
    currency: 'GBP',
    totalPence: 3_564,
    refundedPence: 255,
  })
  const messages = await shop.ask('GET /api/users/me/messages', { token })
  assert.equal(messages.body.items.length, 1)
  assert.equal(messages.body.items[0].subject, notificationSent.example!.subject)
  const { token: anothers } = await registered(shop, { ...ADA, email: 'grace@example.org' })
  assert.deepEqual((await shop.ask('GET /api/users/me/orders', { token: anothers })).body.items, [])
  assert.deepEqual((await shop.ask('GET /api/users/me/messages', { token: anothers })).body.items, [])
  assert.equal((await shop.ask('GET /api/users/me/orders')).status, 401)
})

test('the history is the same when events come late, twice or backwards', async () => {
  const history = async (life: [EventType, unknown][]) => {
    await using shop = await openService(user)
    const { token, userId } = await registered(shop)
    for (const [event, data] of life) await shop.say(event, { ...(data as object), ...whose(event, userId) })
    const { items } = (await shop.ask('GET /api/users/me/orders', { token })).body
    const messages = (await shop.ask('GET /api/users/me/messages', { token })).body.items.length
    return { orders: items.map(({ changedAt, ...order }: { changedAt: number }) => order), messages }
  }
  const life = lifeOf('usr_placeholder')
  const straight = await history(life)
  assert.equal(straight.messages, 1)
  assert.deepEqual(await history(life.toReversed()), straight)
  assert.deepEqual(await history([...life, ...life]), straight)
})

const whose = (event: EventType, userId: string) =>
  event.type === notificationSent.type ? { userId } : { customerId: userId }

test('orders come newest first, page by page; guests’ orders belong to nobody', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  for (const number of [1, 2, 3]) {
    await shop.say(orderPlaced, example(orderPlaced, { orderId: `ord_${number}`, customerId: userId }))
  }
  await shop.say(orderCancelled, example(orderCancelled, { orderId: 'ord_2', customerId: userId }))
  for (const [event, data] of lifeOf(null)) await shop.say(event, data)
  const first = await shop.ask('GET /api/users/me/orders?limit=2', { token })
  const next = await shop.ask(`GET /api/users/me/orders?limit=2&cursor=${first.body.nextCursor}`, { token })
  const seen = [...first.body.items, ...next.body.items]
  assert.deepEqual(
    seen.map(({ orderId, state }) => [orderId, state]),
    [
      ['ord_3', 'placed'],
      ['ord_2', 'cancelled'],
      ['ord_1', 'placed'],
    ],
  )
  assert.equal((await shop.ask('GET /api/users/me/orders?cursor=nonsense', { token })).body.code, 'invalid_cursor')
  assert.equal(await shop.deadLetters(), 0)
})

test('a deleted account is gone with all that it kept, and late events do not bring it back', async () => {
  await using shop = await openService(user)
  const { token, userId } = await registered(shop)
  const life = lifeOf(userId)
  for (const [event, data] of life.slice(0, 2)) await shop.say(event, data)
  assert.equal((await shop.ask('DELETE /api/users/me', { token })).status, 204)
  assert.deepEqual(await shop.told(userDeleted), [{ userId, deletedAt: shop.clock.now() }])
  for (const [event, data] of life) await shop.say(event, data)
  assert.equal((await shop.ask('GET /api/users/me/orders', { token })).body.code, 'invalid_token')
  assert.equal((await signIn(shop, ADA)).status, 401)
  const operator = await operatorToken(shop)
  assert.equal((await shop.ask(`GET /api/users/${userId}`, { token: operator })).status, 404)
  assert.equal((await shop.ask(`DELETE /api/users/${userId}`, { token: operator })).status, 404)
  assert.equal((await shop.ask('DELETE /api/users/me', { token: operator })).status, 409)
  const again = await registered(shop)
  assert.notEqual(again.userId, userId)
  assert.deepEqual((await shop.ask('GET /api/users/me/orders', { token: again.token })).body.items, [])
})

test('what a request sets off carries its request id', async () => {
  await using shop = await openService(user)
  await shop.ask('POST /api/users', { body: ADA, headers: { 'x-request-id': 'request-1' } })
  await shop.idle()
  const told = shop.heard.filter(({ correlationId }: Message) => correlationId === 'request-1')
  assert.deepEqual(
    told.map(({ type }) => type),
    ['user.registered'],
  )
})
