import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, type Clock, type Store, sql, sqliteStore, type Tx } from '@shopsphere/bus'
import { createTokens } from './auth.ts'
import { createApi, createFrontDoor } from './http.ts'
import { createIdempotency, idempotencyDdl } from './idempotency.ts'
import { createLog } from './log.ts'
import { problem } from './problem.ts'

const DAY_MS = 86_400_000

/** A shop of one route that makes an order, on a store in memory. */
async function createShop() {
  let nowMs = Date.UTC(2025, 0, 1)
  const clock: Clock = { now: () => nowMs, after: () => ({ cancel() {} }) }
  const store = sqliteStore(':memory:')
  await store.open()
  await store.migrate('idempotency', idempotencyDdl)
  await store.migrate('shop', 'create table made (id text primary key)')
  const log = createLog('silent')
  const tokens = createTokens({ secret: new Uint8Array(32), clock })
  const idempotency = createIdempotency({ bus: transactionsOf(store), store, clock })
  const api = createApi(log)
  /** What the next request does between its effect and its answer. */
  const hooks = { afterEffect: async () => {} }
  let made = 0
  api.post('/api/orders', (c) =>
    idempotency.run(
      c,
      async ({ tx }) => {
        const id = `ord_${++made}`
        await tx.run(sql`insert into made (id) values (${id})`)
        await hooks.afterEffect()
        return { status: 202, body: { id }, headers: { location: `/api/orders/${id}` } }
      },
      { required: c.req.query('required') !== undefined },
    ),
  )
  const door = createFrontDoor({ log, tokens })
  door.route('/', api)
  const bearer = async (userId: string) => `Bearer ${(await tokens.issue({ userId, roles: ['customer'] })).token}`
  return {
    hooks,
    store,
    idempotency,
    pass: (durationMs: number) => {
      nowMs += durationMs
    },
    async post(key: string | null, { body = '{}', userId = 'usr_1', query = '' } = {}) {
      const headers = { authorization: await bearer(userId), ...(key !== null && { 'idempotency-key': key }) }
      const response = await door.request(`/api/orders${query}`, { method: 'POST', body, headers })
      const { id, code } = (await response.json()) as { id?: string; code?: string }
      return {
        status: response.status,
        id,
        code,
        location: response.headers.get('location'),
        replayed: response.headers.get('idempotency-replayed'),
      }
    },
    effects: async () => (await store.read((reader) => reader.all(sql`select id from made`))).length,
    [Symbol.asyncDispose]: () => store.close(),
  }
}

function transactionsOf(store: Store): Pick<Bus, 'transaction'> {
  const transaction = (work: (context: { tx: Tx }) => Promise<unknown>) => store.transaction((tx) => work({ tx }))
  return { transaction } as unknown as Pick<Bus, 'transaction'>
}

test('the same request again has the same answer, marked, and no second effect', async () => {
  await using shop = await createShop()
  const first = await shop.post('k')
  assert.deepEqual(first, { status: 202, id: 'ord_1', code: undefined, location: '/api/orders/ord_1', replayed: null })
  assert.deepEqual(await shop.post('k'), { ...first, replayed: 'true' })
  assert.equal(await shop.effects(), 1)
})

test('without a key every request has its effect; where one is required it is refused', async () => {
  await using shop = await createShop()
  await shop.post(null)
  await shop.post(null)
  assert.equal(await shop.effects(), 2)
  assert.equal((await shop.post(null, { query: '?required' })).code, 'idempotency_key_required')
})

test('another body, or another address, with the same key is refused', async () => {
  await using shop = await createShop()
  await shop.post('k', { body: '{"a":1}' })
  assert.deepEqual((await shop.post('k', { body: '{"a":2}' })).code, 'idempotency_key_reused')
  assert.deepEqual((await shop.post('k', { body: '{"a":1}', query: '?x' })).code, 'idempotency_key_reused')
  assert.equal(await shop.effects(), 1)
})

test('each caller has keys of their own', async () => {
  await using shop = await createShop()
  await shop.post('k', { userId: 'usr_1' })
  assert.equal((await shop.post('k', { userId: 'usr_2' })).replayed, null)
  assert.equal(await shop.effects(), 2)
})

test('while the first runs, a second is told to wait', async () => {
  await using shop = await createShop()
  const reached = Promise.withResolvers<void>()
  const goOn = Promise.withResolvers<void>()
  shop.hooks.afterEffect = () => {
    reached.resolve()
    return goOn.promise
  }
  const first = shop.post('k')
  await reached.promise
  const second = await shop.post('k')
  assert.deepEqual([second.status, second.code], [409, 'idempotency_in_progress'])
  goOn.resolve()
  assert.equal((await first).status, 202)
  assert.equal(await shop.effects(), 1)
})

test('a request that fails leaves no effect and no lock: the key may be used again', async () => {
  await using shop = await createShop()
  shop.hooks.afterEffect = async () => {
    throw problem(409, 'out_of_stock', 'none left')
  }
  assert.equal((await shop.post('k')).code, 'out_of_stock')
  assert.equal(await shop.effects(), 0)
  shop.hooks.afterEffect = async () => {}
  assert.equal((await shop.post('k')).replayed, null)
  assert.equal(await shop.effects(), 1)
})

test('after 24 hours a key is forgotten', async () => {
  await using shop = await createShop()
  await shop.post('k')
  shop.pass(DAY_MS - 1)
  assert.equal((await shop.post('k')).replayed, 'true')
  assert.equal(await shop.idempotency.purge(), 0)
  shop.pass(1)
  assert.equal((await shop.post('k', { body: '{"other":1}' })).id, 'ord_2')
  shop.pass(DAY_MS)
  assert.equal(await shop.idempotency.purge(), 1)
})

test('a key that is too long or not visible ASCII is refused', async () => {
  await using shop = await createShop()
  for (const key of ['x'.repeat(256), '', 'a b', 'é'])
    assert.equal((await shop.post(key)).code, 'invalid_idempotency_key')
  assert.equal((await shop.post('x'.repeat(255))).status, 202)
})
