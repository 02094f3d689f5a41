/** Orders from their first request to their end, through the front door of a whole shop, in each way that they can go. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type SkippableClock, skippableClock, sql } from '@shopsphere/bus'
import { createWorld, eraseDatabase, needs } from '@shopsphere/bus/testing'
import { createLog } from '@shopsphere/runtime/log'
import { startShop } from '../shop.ts'

const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
const HOLD_MS = 15 * MINUTE_MS
const BEYOND_RETURN_WINDOW_MS = 31 * DAY_MS
const operator = { email: 'operator@shop.example', password: 'a long enough password' }
const ada = { email: 'ada@example.org', password: 'another long password' }

/** A test asserts what is inside. */
type Answer = any
type Asked = { body?: unknown; token?: string }
type Order = { sku?: string; quantity?: number; paymentMethod?: string; token?: string }

/** A shop that picks and delivers at once, in memory unless it is given a DATA_DIR. */
async function startOne(environment: Record<string, string>, clock: SkippableClock) {
  const shop = await startShop({
    environment: {
      SEED: '1',
      ADMIN_EMAIL: operator.email,
      ADMIN_PASSWORD: operator.password,
      PICKING_GRACE_MS: '0',
      CARRIER_DELAY_MS: '0',
      ...environment,
    },
    headless: true,
    inMemory: environment.DATA_DIR === undefined,
    clock,
    log: createLog('silent'),
  })
  await shop.idle()
  let keys = 0

  /** The provider's webhooks too are on their way, which no service of the shop knows. */
  async function settled(): Promise<void> {
    for (;;) {
      await shop.idle()
      const { store } = shop.services.get('payment')!.bus
      const due = await store.read((reader) =>
        reader.get(sql`select 1 as one from provider_webhook where due_at <= ${clock.now()} limit 1`),
      )
      if (!due) return shop.idle()
      await nextTurn()
    }
  }

  async function send(method: string, path: string, { body, token }: Asked = {}) {
    const response = await shop.app.request(path, {
      method,
      headers: {
        'content-type': 'application/json',
        ...(token && { authorization: `Bearer ${token}` }),
        ...(method === 'POST' && { 'idempotency-key': `key-${++keys}` }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json()) as Answer }
  }

  async function ask(method: string, path: string, asked: Asked = {}): Promise<Answer> {
    const { status, body } = await send(method, path, asked)
    assert.ok(status < 400, `${method} ${path}: ${status} ${JSON.stringify(body)}`)
    await settled()
    return body
  }

  const signIn = async (account: object): Promise<string> =>
    (await ask('POST', '/api/sessions', { body: account })).token
  /** A token for one request: days may have passed since the last. */
  const asStaff = async (body?: unknown): Promise<Asked> => ({ token: await signIn(operator), body })

  return {
    shop,
    settled,
    send,
    ask,
    signIn,
    asStaff,
    /** A guest's order, or with a token the account's; answers once all that follows at once has happened. */
    async place({ sku = 'heart', quantity = 2, paymentMethod = 'pm_card_visa', token }: Order = {}): Promise<string> {
      const email = token ? {} : { email: 'eve@example.org' }
      const body = { paymentMethod, lines: [{ sku, quantity }], ...email }
      return (await ask('POST', '/api/orders', { body, ...(token && { token }) })).orderId
    },
    orderOf: (orderId: string, token?: string) => ask('GET', `/api/orders/${orderId}`, token ? { token } : {}),
    paymentOf: (orderId: string) => ask('GET', `/api/orders/${orderId}/payments`),
    async stockOf(sku: string) {
      const { onHand, available, held, allocated } = await ask('GET', `/api/inventory/${sku}`, await asStaff())
      return { onHand, available, held, allocated }
    },
    async mailsOf(orderId: string, token?: string): Promise<string[]> {
      const { notifications } = await ask('GET', `/api/orders/${orderId}/timeline`, token ? { token } : {})
      return notifications.map(({ step }: Answer) => step).sort()
    },
    async skip(byMs: number) {
      clock.skip(byMs)
      await settled()
    },
    /** The return window of all that was delivered passes, then the auditor looks. */
    async endsWell() {
      clock.skip(BEYOND_RETURN_WINDOW_MS)
      await settled()
      assert.deepEqual(await shop.auditor.finish('ended'), [])
    },
    [Symbol.asyncDispose]: () => shop.close(),
  }
}

type Opened = Awaited<ReturnType<typeof startOne>>

/** With a clock that can jump, 100 hearts and 3 lanterns. */
async function openShop(environment: Record<string, string> = {}, clock = skippableClock()): Promise<Opened> {
  const opened = await startOne(environment, clock)
  const { ask, asStaff } = opened
  for (const [sku, pricePence, quantity] of [
    ['heart', 255, 100],
    ['lantern', 339, 3],
  ] as const) {
    await ask('POST', '/api/products', await asStaff({ sku, name: sku, pricePence }))
    await ask('POST', `/api/inventory/${sku}/receipts`, await asStaff({ quantity }))
  }
  return opened
}

const postgres = await needs('postgres')

/** One of the main ways, also with every service's database on a PostgreSQL server: `open` takes the place of `openShop`. */
function alsoOnPostgres(title: string, way: (open: typeof openShop) => Promise<void>): void {
  test(title, () => way(openShop))
  test(`on PostgreSQL: ${title}`, { skip: postgres.skip }, async () => {
    await using world = await createWorld()
    const prefix = `${world.name}_`
    world.defer(() => eraseDatabase(postgres.url, prefix))
    const servers = { DATABASE_URL: postgres.url, DATABASE_PREFIX: prefix, DATA_DIR: world.directory }
    await way((environment, clock) => openShop({ ...servers, ...environment }, clock))
  })
}

const axesOf = ({ status, order, payment, fulfilment }: Answer) => ({ status, order, payment, fulfilment })
const FULL = { onHand: 100, available: 100, held: 0, allocated: 0 }

async function assertCancelled(opened: Opened, orderId: string, reason: string, payment: string): Promise<void> {
  const order = await opened.orderOf(orderId)
  assert.deepEqual([order.order, order.cancellation?.reason, order.payment], ['cancelled', reason, payment])
  assert.equal(order.fulfilment, 'unfulfilled')
  assert.ok((await opened.mailsOf(orderId)).includes('order.cancelled'))
}

/** Pence that the shop has of an order in the end. */
async function netPence({ paymentOf }: Opened, orderId: string): Promise<number> {
  const { capturedPence, refundedPence, uncapturedPence } = await paymentOf(orderId)
  assert.equal(uncapturedPence, 0)
  return capturedPence - refundedPence
}

async function delivers({ orderOf, mailsOf }: Opened, orderId: string, payment = 'captured'): Promise<void> {
  const delivered = { status: 'delivered', order: 'confirmed', payment, fulfilment: 'delivered' }
  assert.deepEqual(axesOf(await orderOf(orderId)), delivered)
  assert.ok((await mailsOf(orderId)).includes('order.delivered'))
}

alsoOnPostgres(
  'an order is placed, held, paid, allocated, confirmed, shipped, delivered and, after the return window, completed',
  async (openShop) => {
    await using opened = await openShop({ PICKING_GRACE_MS: '60000', CARRIER_DELAY_MS: '1000' })
    const { ask, signIn, place, orderOf, stockOf, mailsOf, skip } = opened
    await ask('POST', '/api/users', { body: { ...ada, name: 'Ada' } })
    const token = await signIn(ada)
    const orderId = await place({ token })
    const confirmed = { status: 'confirmed', order: 'confirmed', payment: 'authorized', fulfilment: 'allocated' }
    assert.deepEqual(axesOf(await orderOf(orderId, token)), confirmed)
    assert.deepEqual(await stockOf('heart'), { onHand: 100, available: 98, held: 0, allocated: 2 })
    assert.deepEqual(await mailsOf(orderId, token), ['order.confirmed', 'order.placed'])

    await skip(MINUTE_MS) // The grace before picking; the carrier has its own time.
    await skip(MINUTE_MS)
    await skip(MINUTE_MS)
    const delivered = await orderOf(orderId, token)
    assert.deepEqual(axesOf(delivered), {
      ...confirmed,
      status: 'delivered',
      payment: 'captured',
      fulfilment: 'delivered',
    })
    assert.deepEqual([delivered.totalPence, delivered.capturedPence, delivered.parcels.length], [510, 510, 1])
    assert.deepEqual(await stockOf('heart'), { onHand: 98, available: 98, held: 0, allocated: 0 })
    const allMails = ['order.confirmed', 'order.delivered', 'order.placed', 'order.shipped']
    assert.deepEqual(await mailsOf(orderId, token), allMails)

    await skip(BEYOND_RETURN_WINDOW_MS)
    const later = await signIn(ada)
    assert.deepEqual(axesOf(await orderOf(orderId, later)), {
      ...axesOf(delivered),
      status: 'completed',
      order: 'completed',
    })
    assert.deepEqual(await mailsOf(orderId, later), allMails)
    const { events } = await ask('GET', `/api/orders/${orderId}/timeline`, { token: later })
    const types: string[] = events.map(({ type }: Answer) => type)
    // Payment and stock answer each other's news, and so do parcel and capture: which is heard of first is chance.
    assert.deepEqual(types.toSorted(), [
      'completed',
      'confirmed',
      'delivered',
      'parcel_shipped',
      'payment_authorized',
      'payment_captured',
      'placed',
      'stock_allocated',
      'stock_reserved',
    ])
    const inOrder = ['placed', 'confirmed', 'parcel_shipped', 'delivered', 'completed']
    assert.deepEqual(
      types.filter((type) => inOrder.includes(type)),
      inOrder,
    )
    assert.ok(events.every(({ cause, type }: Answer) => (cause === null) === (type === 'placed')))
    await opened.endsWell()
  },
)

test('a guest fills a cart, is told when a price has changed, agrees to the new one and gets the goods', async () => {
  await using opened = await openShop()
  const { ask, send, asStaff, orderOf } = opened
  const { cartId } = await ask('POST', '/api/carts')
  await ask('PUT', `/api/carts/${cartId}/lines/heart`, { body: { quantity: 2 } })
  await ask('PUT', `/api/carts/${cartId}/lines/lantern`, { body: { quantity: 1 } })
  const before = await ask('GET', `/api/carts/${cartId}/quote`)
  assert.equal(before.totalPence, 2 * 255 + 339)
  const change = await asStaff({ pricePence: 295 })
  const product = await opened.shop.app.request('/api/products/heart')
  const patched = await opened.shop.app.request('/api/products/heart', {
    method: 'PATCH',
    headers: {
      'content-type': 'application/json',
      authorization: `Bearer ${change.token}`,
      'if-match': product.headers.get('etag')!,
    },
    body: JSON.stringify(change.body),
  })
  assert.equal(patched.status, 200, await patched.text())
  await opened.settled()

  const checkOut = (quote: string) => {
    const body = { quote, paymentMethod: 'pm_card_visa', email: 'eve@example.org' }
    return send('POST', `/api/carts/${cartId}/check-out`, { body })
  }
  const refused = await checkOut(before.hash)
  assert.deepEqual([refused.status, refused.body.code], [409, 'price_changed'])
  const after = await ask('GET', `/api/carts/${cartId}/quote`)
  assert.equal(after.totalPence, 2 * 295 + 339)
  const accepted = await checkOut(after.hash)
  assert.equal(accepted.status, 202)
  await opened.settled()
  const { orderId } = accepted.body
  await delivers(opened, orderId)
  const order = await orderOf(orderId)
  assert.deepEqual([order.channel, order.totalPence, order.capturedPence], ['cart', 929, 929])
  await opened.endsWell()
})

alsoOnPostgres('nothing left: the order is cancelled, says what is short, and nothing is charged', async (openShop) => {
  await using opened = await openShop()
  const orderId = await opened.place({ sku: 'lantern', quantity: 4 })
  await assertCancelled(opened, orderId, 'out_of_stock', 'pending')
  const { cancellation } = await opened.orderOf(orderId)
  assert.deepEqual(cancellation.short, [{ sku: 'lantern', wanted: 4, available: 3 }])
  assert.deepEqual((await opened.paymentOf(orderId)).ledger, [])
  await opened.endsWell()
})

alsoOnPostgres('a card refused for good: cancelled, and the goods are free again', async (openShop) => {
  await using opened = await openShop()
  const orderId = await opened.place({ paymentMethod: 'pm_card_declined' })
  await assertCancelled(opened, orderId, 'payment_failed', 'failed')
  assert.deepEqual(await opened.stockOf('heart'), FULL)
  await opened.endsWell()
})

test('a card refused for now: another one pays while the goods are held', async () => {
  await using opened = await openShop()
  const { place, orderOf, ask, stockOf, paymentOf } = opened
  const orderId = await place({ paymentMethod: 'pm_card_insufficient_funds' })
  const refused = { status: 'payment_failed', order: 'placed', payment: 'failed', fulfilment: 'reserved' }
  assert.deepEqual(axesOf(await orderOf(orderId)), refused)
  assert.deepEqual(await stockOf('heart'), { onHand: 100, available: 98, held: 2, allocated: 0 })
  await ask('POST', `/api/orders/${orderId}/payments`, { body: { paymentMethod: 'pm_card_mastercard' } })
  await delivers(opened, orderId)
  const { attempts, capturedPence } = await paymentOf(orderId)
  assert.deepEqual([attempts.map(({ status }: Answer) => status), capturedPence], [['failed', 'authorized'], 510])
  await opened.endsWell()
})

test('a hold that runs out before the payment: cancelled, and the payment called off', async () => {
  await using opened = await openShop()
  const { place, orderOf, skip, send, stockOf } = opened
  const orderId = await place({ paymentMethod: 'pm_card_insufficient_funds' })
  await skip(HOLD_MS - MINUTE_MS)
  assert.equal((await orderOf(orderId)).order, 'placed')
  await skip(2 * MINUTE_MS)
  await assertCancelled(opened, orderId, 'expired', 'failed')
  const again = { body: { paymentMethod: 'pm_card_visa' } }
  assert.equal((await send('POST', `/api/orders/${orderId}/payments`, again)).status, 409)
  assert.deepEqual(await stockOf('heart'), FULL)
  await opened.endsWell()
})

test('a payment that nobody confirms: the hold runs out, and it cannot be confirmed any more', async () => {
  await using opened = await openShop({ PAYMENT_DECISION_MS: String(60 * MINUTE_MS) })
  const { place, orderOf, skip, send } = opened
  const orderId = await place({ paymentMethod: 'pm_card_authentication_required' })
  assert.equal((await orderOf(orderId)).status, 'payment_action_required')
  await skip(HOLD_MS + MINUTE_MS)
  const order = await orderOf(orderId)
  assert.deepEqual([order.order, order.cancellation.reason], ['cancelled', 'expired'])
  assert.equal((await send('POST', `/api/orders/${orderId}/payments/confirm`)).status, 409)
  assert.equal(await netPence(opened, orderId), 0)
  await opened.endsWell()
})

test('a payment that comes after the hold ran out, before order has heard of it: it goes back by itself', async () => {
  await using world = await createWorld()
  const clock = skippableClock()
  const environment = { DATA_DIR: world.directory, PAYMENT_DECISION_MS: String(60 * MINUTE_MS) }
  let orderId: string
  {
    await using opened = await openShop(environment, clock)
    orderId = await opened.place({ paymentMethod: 'pm_card_authentication_required' })
  }
  {
    // The order service is down: nobody calls the payment off.
    await using opened = await startOne({ ...environment, SERVICES: 'user,inventory,payment' }, clock)
    await opened.skip(HOLD_MS + MINUTE_MS)
    const { status } = await opened.ask('POST', `/api/orders/${orderId}/payments/confirm`)
    assert.equal(status, 'authorized')
  }
  await using opened = await startOne(environment, clock)
  await assertCancelled(opened, orderId, 'expired', 'voided')
  const { authorizedPence, voidedPence } = await opened.paymentOf(orderId)
  assert.deepEqual([authorizedPence, voidedPence, await netPence(opened, orderId)], [510, 510, 0])
  assert.deepEqual(await opened.stockOf('heart'), FULL)
  await opened.endsWell()
})

alsoOnPostgres('held goods that are lost before the payment: it comes, and is given up', async (openShop) => {
  await using opened = await openShop()
  const { place, ask, asStaff, stockOf } = opened
  const orderId = await place({ sku: 'lantern', quantity: 2, paymentMethod: 'pm_card_authentication_required' })
  const loss = await ask('POST', '/api/inventory/lantern/write-offs', await asStaff({ quantity: 2 }))
  assert.deepEqual([loss.heldOrders, loss.allocatedOrders], [[orderId], []])
  await ask('POST', `/api/orders/${orderId}/payments/confirm`)
  await assertCancelled(opened, orderId, 'inventory_lost', 'voided')
  assert.equal(await netPence(opened, orderId), 0)
  assert.deepEqual(await stockOf('lantern'), { onHand: 1, available: 1, held: 0, allocated: 0 })
  await opened.endsWell()
})

alsoOnPostgres('paid goods that are lost before they are picked: what was captured is refunded', async (openShop) => {
  await using opened = await openShop({ PICKING_GRACE_MS: String(20 * DAY_MS) })
  const { place, ask, asStaff, skip, orderOf, paymentOf } = opened
  const orderId = await place({ sku: 'lantern', quantity: 2 })
  await skip(7 * DAY_MS) // Money is captured before its authorisation ends.
  assert.equal((await orderOf(orderId)).payment, 'captured')
  const loss = await ask('POST', '/api/inventory/lantern/write-offs', await asStaff({ quantity: 2 }))
  assert.deepEqual(loss.allocatedOrders, [orderId])
  await assertCancelled(opened, orderId, 'inventory_lost', 'refunded')
  const { capturedPence, refundedPence } = await paymentOf(orderId)
  assert.deepEqual([capturedPence, refundedPence], [678, 678])
  await opened.endsWell()
})

test('a customer cancels before the confirmation', async () => {
  await using opened = await openShop()
  const { place, ask, stockOf } = opened
  const orderId = await place({ paymentMethod: 'pm_card_insufficient_funds' })
  await ask('POST', `/api/orders/${orderId}/cancel`)
  await assertCancelled(opened, orderId, 'customer', 'failed')
  const unconfirmed = await place({ paymentMethod: 'pm_card_authentication_required' })
  await ask('POST', `/api/orders/${unconfirmed}/cancel`)
  const order = await opened.orderOf(unconfirmed)
  assert.deepEqual([order.order, order.cancellation.reason], ['cancelled', 'customer'])
  for (const one of [orderId, unconfirmed]) assert.equal(await netPence(opened, one), 0)
  assert.deepEqual(await stockOf('heart'), FULL)
  await opened.endsWell()
})

test('a customer cancels after the confirmation and before the goods are picked: the money is not taken', async () => {
  await using opened = await openShop({ PICKING_GRACE_MS: String(60 * MINUTE_MS) })
  const { place, send, settled, orderOf, stockOf } = opened
  const orderId = await place()
  assert.equal((await orderOf(orderId)).order, 'confirmed')
  const asked = await send('POST', `/api/orders/${orderId}/cancel`)
  assert.deepEqual([asked.status, asked.body.order], [202, 'cancelling'])
  await settled()
  await assertCancelled(opened, orderId, 'customer', 'voided')
  assert.equal(await netPence(opened, orderId), 0)
  assert.deepEqual(await stockOf('heart'), FULL)
  await opened.endsWell()
})

test('after dispatch it is too late to cancel', async () => {
  await using opened = await openShop()
  const orderId = await opened.place()
  const refused = await opened.send('POST', `/api/orders/${orderId}/cancel`)
  assert.deepEqual([refused.status, refused.body.code], [409, 'not_cancellable'])
  await delivers(opened, orderId)
  await opened.endsWell()
})

alsoOnPostgres('goods that come back are on the shelf again, and their price with the customer', async (openShop) => {
  await using opened = await openShop()
  const { place, ask, asStaff, orderOf, stockOf, mailsOf } = opened
  const orderId = await place({ quantity: 3 })
  const body = { lines: [{ sku: 'heart', quantity: 2 }] }
  const { returnId } = await ask('POST', `/api/orders/${orderId}/returns`, { body })
  assert.equal((await orderOf(orderId)).status, 'return_in_progress')
  await ask('POST', `/api/returns/${returnId}/approve`, await asStaff())
  await ask('POST', `/api/returns/${returnId}/receive`, await asStaff({ disposition: 'restock' }))
  const order = await orderOf(orderId)
  assert.deepEqual([order.payment, order.refundedPence], ['partially_refunded', 510])
  assert.deepEqual(order.returns, [{ returnId, state: 'closed', units: 2, refundPence: 510 }])
  assert.deepEqual(await stockOf('heart'), { onHand: 99, available: 99, held: 0, allocated: 0 })
  assert.ok((await mailsOf(orderId)).includes('order.refunded'))
  await opened.endsWell()
})

test('to another customer the order is not there', async () => {
  await using opened = await openShop()
  const { ask, send, signIn, place, orderOf } = opened
  const grace = { email: 'grace@example.org', password: 'one more long password' }
  await ask('POST', '/api/users', { body: { ...ada, name: 'Ada' } })
  await ask('POST', '/api/users', { body: { ...grace, name: 'Grace' } })
  const orderId = await place({ token: await signIn(ada) })
  const stranger = { token: await signIn(grace) }
  for (const asked of [stranger, {}]) {
    for (const [method, path] of [
      ['GET', ''],
      ['GET', '/timeline'],
      ['GET', '/payments'],
      ['GET', '/shipments'],
      ['POST', '/cancel'],
    ] as const) {
      const { status, body } = await send(method, `/api/orders/${orderId}${path}`, asked)
      assert.deepEqual([status, body.code], [404, 'not_found'], `${method} ${path}`)
    }
  }
  assert.deepEqual((await ask('GET', '/api/orders', stranger)).items, [])
  assert.equal((await orderOf(orderId, await signIn(ada))).status, 'delivered')
  await opened.endsWell()
})
