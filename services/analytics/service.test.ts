import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPlaced,
  orderShipped,
  paymentCaptured,
  paymentRefunded,
  returnReceived,
  userRegistered,
} from '@shopsphere/contracts'
import { openService, type ServiceBench } from '../testing.ts'
import { analytics } from './service.ts'

const operator = { userId: 'usr_operator', roles: ['operator'] }
const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const customer = { userId: 'usr_customer', roles: ['customer'] }

const DAY_MS = 86_400_000
const first = Date.UTC(2010, 11, 1, 8, 26)
const placed = orderPlaced.example!
const customerId = placed.customerId!

/** Long enough for the figures to follow. */
const follow = (shop: ServiceBench) => shop.pass(100)

const placeOrder = (shop: ServiceBench, orderId: string, change: Partial<typeof placed> = {}) =>
  shop.say(orderPlaced, { ...placed, placedAt: first, orderId, ...change })

const capture = (shop: ServiceBench, orderId: string) =>
  shop.say(paymentCaptured, {
    ...paymentCaptured.example!,
    orderId,
    capturedPence: placed.totalPence,
    capturedTotalPence: placed.totalPence,
  })

async function deliver(shop: ServiceBench, orderId: string) {
  await shop.say(orderConfirmed, { ...orderConfirmed.example!, orderId })
  await capture(shop, orderId)
  await shop.say(orderShipped, { ...orderShipped.example!, orderId })
  await shop.say(orderDelivered, { ...orderDelivered.example!, orderId })
}

const refund = (shop: ServiceBench, orderId: string) =>
  shop.say(paymentRefunded, {
    ...paymentRefunded.example!,
    orderId,
    refundId: `rfd_${orderId}`,
    refundedPence: 255,
    refundedTotalPence: 255,
    lines: [{ lineNo: 1, quantity: 1, pence: 255 }],
  })

/** Two orders that were delivered on two days, one of them partly returned, and one that was cancelled. */
async function aLittleTrade(shop: ServiceBench) {
  await shop.say(userRegistered, { ...userRegistered.example!, userId: customerId, country: 'GB' })
  await placeOrder(shop, 'ord_1')
  await deliver(shop, 'ord_1')
  await placeOrder(shop, 'ord_2', { placedAt: first + DAY_MS, customerId: null, email: null, address: null })
  await deliver(shop, 'ord_2')
  await shop.say(returnReceived, { ...returnReceived.example!, orderId: 'ord_2' })
  await refund(shop, 'ord_2')
  await placeOrder(shop, 'ord_3')
  await shop.say(orderCancelled, { ...orderCancelled.example!, orderId: 'ord_3', reason: 'out_of_stock' })
  await follow(shop)
}

const ask = async (shop: ServiceBench, path: string) => (await shop.ask(`GET ${path}`, { as: merchant })).body

test('sales by day, product, customer and country', async () => {
  await using shop = await openService(analytics)
  await aLittleTrade(shop)
  const byDay = await ask(shop, '/api/analytics/sales')
  assert.deepEqual(
    byDay.items.map(({ key, orders, netPence }: Record<string, unknown>) => [key, orders, netPence]),
    [
      ['2010-12-01', 1, 3_564],
      ['2010-12-02', 1, 3_309],
    ],
  )
  assert.equal(byDay.total.netPence, 6_873)
  assert.equal(byDay.factsBehind, 0)
  const byProduct = await ask(shop, '/api/analytics/sales?by=product')
  assert.deepEqual(
    byProduct.items.map(({ key, units, refundedUnits, netPence }: Record<string, unknown>) => [
      key,
      units,
      refundedUnits,
      netPence,
    ]),
    [
      ['71053', 12, 0, 4_068],
      ['85123A', 12, 1, 2_805],
    ],
  )
  const byCustomer = await ask(shop, '/api/analytics/sales?by=customer')
  assert.deepEqual(
    byCustomer.items.map(({ key, netPence }: Record<string, unknown>) => [key, netPence]),
    [
      [customerId, 3_564],
      [null, 3_309],
    ],
  )
  const byCountry = await ask(shop, '/api/analytics/sales?by=country')
  assert.deepEqual(
    byCountry.items.map(({ key }: { key: string }) => key),
    ['GB', null],
  )
  const oneDay = await ask(shop, '/api/analytics/sales?by=product&from=2010-12-02&to=2010-12-02&limit=1')
  assert.equal(oneDay.total.netPence, 3_309)
  assert.equal(oneDay.items.length, 1)
  assert.equal(oneDay.truncated, true)
})

test('an order without an address counts in the country where its customer lives, also where that is learned later', async () => {
  await using shop = await openService(analytics)
  await placeOrder(shop, 'ord_1', { address: null })
  await capture(shop, 'ord_1')
  await follow(shop)
  assert.equal((await ask(shop, '/api/analytics/sales?by=country')).items[0].key, null)
  await shop.say(userRegistered, { ...userRegistered.example!, userId: customerId, country: 'FR' })
  await follow(shop)
  assert.equal((await ask(shop, '/api/analytics/sales?by=country')).items[0].key, 'FR')
})

test('the funnel and the summary', async () => {
  await using shop = await openService(analytics)
  await aLittleTrade(shop)
  const funnel = await ask(shop, '/api/analytics/funnel')
  assert.deepEqual(funnel.orders, { placed: 3, confirmed: 2, shipped: 2, delivered: 2, returned: 1, cancelled: 1 })
  assert.deepEqual(funnel.cancelled, { out_of_stock: 1 })
  const summary = await ask(shop, '/api/analytics/summary?from=2010-12-02')
  assert.equal(summary.orders.placed, 1)
  assert.equal(summary.sales.averageOrderPence, 3_309)
  assert.equal(summary.bestSellers[0].sku, '71053')
})

test('money that is told of before its order counts all the same', async () => {
  await using shop = await openService(analytics)
  await refund(shop, 'ord_1')
  await deliver(shop, 'ord_1')
  await follow(shop)
  assert.equal((await ask(shop, '/api/analytics/summary')).sales.orders, 0)
  await placeOrder(shop, 'ord_1')
  await follow(shop)
  const { sales, orders } = await ask(shop, '/api/analytics/summary')
  assert.equal(sales.netPence, 3_309)
  assert.equal(orders.delivered, 1)
})

test('a rebuild makes the same figures, and says how it gets on', async () => {
  await using shop = await openService(analytics)
  await aLittleTrade(shop)
  const before = await ask(shop, '/api/analytics/sales?by=product')
  assert.equal((await shop.ask('GET /api/analytics/rebuild', { as: operator })).body.state, 'none')
  const begun = await shop.ask('POST /api/analytics/rebuild', { as: operator })
  assert.equal(begun.status, 202)
  assert.equal(begun.body.state, 'running')
  assert.equal(begun.headers.get('location'), '/api/analytics/rebuild')
  let progress = begun.body
  while (progress.state === 'running') {
    await shop.pass(1)
    progress = (await shop.ask('GET /api/analytics/rebuild', { as: operator })).body
  }
  assert.equal(progress.state, 'done')
  assert.ok(progress.applied > 0)
  assert.equal(progress.position, progress.headPosition)
  assert.deepEqual(await ask(shop, '/api/analytics/sales?by=product'), before)
})

test('only staff may look, only operators rebuild, and nonsense is refused', async () => {
  await using shop = await openService(analytics)
  const cases: [string, { userId: string; roles: string[] } | null, number, string][] = [
    ['GET /api/analytics/sales', null, 401, 'unauthenticated'],
    ['GET /api/analytics/summary', customer, 403, 'forbidden'],
    ['POST /api/analytics/rebuild', merchant, 403, 'forbidden'],
    ['GET /api/analytics/sales?by=weekday', merchant, 400, 'invalid_request'],
    ['GET /api/analytics/sales?from=2010-13-01', merchant, 400, 'invalid_request'],
    ['GET /api/analytics/sales?limit=0', merchant, 400, 'invalid_request'],
  ]
  for (const [request, as, status, code] of cases) {
    const answer = await shop.ask(request, { as })
    assert.deepEqual([request, answer.status, answer.body.code], [request, status, code])
  }
  assert.equal((await shop.ask('GET /api/analytics/summary', { as: merchant })).body.sales.averageOrderPence, 0)
})
