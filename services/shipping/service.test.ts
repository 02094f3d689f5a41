import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DataOf } from '@shopsphere/bus'
import {
  orderCancellationRequested,
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPartiallyShipped,
  orderShipped,
  paymentRefunded,
  returnApproved,
  returnClosed,
  returnReceived,
  returnRequested,
  shipmentCancellationRefused,
  shipmentCancelled,
  shipmentCreated,
  shipmentDelivered,
  shipmentDispatched,
  shipmentException,
  shipmentReturned,
  shipmentTrackingUpdated,
  userDeleted,
} from '@shopsphere/contracts'
import { openService, type ServiceBench } from '../testing.ts'
import { sign } from './carrier-signature.ts'
import { shipping } from './service.ts'

const MINUTE_MS = 60_000
/** Timers of minutes in place of days, so that a test has little time to pass. */
const SOON = { CARRIER_SILENCE_MS: '300000', SHIPPING_DEADLINE_MS: '300000', RETURN_WINDOW_MS: '60000' }
const AT_ONCE = { ...SOON, PICKING_GRACE_MS: '0', CARRIER_DELAY_MS: '0' }
const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const operator = { userId: 'usr_operator', roles: ['operator'] }
const ada = { userId: 'usr_ada', roles: ['customer'] }
const bob = { userId: 'usr_bob', roles: ['customer'] }

type Order = DataOf<typeof orderConfirmed>
let orders = 0

/** An order that may be sent; ids sort in the order of their making. */
function newOrder(changes: Partial<Order> = {}): Order {
  const orderId = `ord_${String(++orders).padStart(6, '0')}`
  return { ...orderConfirmed.example!, orderId, customerId: ada.userId, ...changes }
}

const line = (lineNo: number, sku: string, quantity: number, unitPence: number) => ({
  lineNo,
  sku,
  name: sku,
  quantity,
  unitPence,
})

const goingTo = (postcode: string) => ({ ...orderConfirmed.example!.address!, postcode })

let keys = 0
const withKey = () => ({ 'idempotency-key': `key-${++keys}` })

const typesOf = (bench: ServiceBench) => bench.heard.map(({ type }) => type)

async function deliver(bench: ServiceBench, changes: Partial<Order> = {}): Promise<Order> {
  const order = newOrder(changes)
  await bench.say(orderConfirmed, order)
  return order
}

test('with no grace and no delay an order is sent and delivered at once, in as few messages as possible', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const order = await deliver(bench)
  await bench.idle()
  assert.deepEqual(typesOf(bench), [
    'order.confirmed',
    'shipment.created',
    'shipment.dispatched',
    'order.shipped',
    'shipment.tracking_due',
    'shipment.delivered',
    'order.delivered',
  ])
  const [sent] = await bench.told(shipmentDispatched)
  assert.equal(sent!.last, true)
  assert.deepEqual(
    sent!.lines,
    order.lines.map(({ name: _, ...part }) => part),
  )
  const { body } = await bench.ask(`GET /api/orders/${order.orderId}/shipments`, { as: ada })
  assert.equal(body.status, 'delivered')
  assert.equal(body.shipments[0].status, 'delivered')
  assert.deepEqual(body.shipments[0].lines, sent!.lines)
})

test('an order confirmed twice is sent once', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const order = await deliver(bench)
  await bench.say(orderConfirmed, order)
  assert.equal((await bench.told(shipmentDispatched)).length, 1)
  assert.equal((await bench.told(orderDelivered)).length, 1)
})

test('T4: an order leaves after its grace, and its news come one by one', async () => {
  await using bench = await openService(shipping, {
    environment: { ...SOON, PICKING_GRACE_MS: '60000', CARRIER_DELAY_MS: '1000' },
  })
  const order = await deliver(bench)
  assert.deepEqual(await bench.told(shipmentCreated), [])
  await bench.pass(59_999)
  assert.deepEqual(await bench.told(shipmentCreated), [])
  await bench.pass(1)
  assert.equal((await bench.told(orderShipped)).length, 1)
  await bench.pass(10_000)
  assert.deepEqual(
    (await bench.told(shipmentTrackingUpdated)).map(({ status }) => status),
    ['accepted', 'in_transit', 'out_for_delivery'],
  )
  const [arrived] = await bench.told(shipmentDelivered)
  assert.ok(arrived!.deliveredAt <= bench.clock.now())
  assert.deepEqual((await bench.told(orderDelivered))[0]!.orderId, order.orderId)
  await bench.pass(6 * MINUTE_MS)
  assert.deepEqual(await bench.told(shipmentException), [])
})

test('called off in its grace, an order is not sent', async () => {
  await using bench = await openService(shipping, { environment: { ...AT_ONCE, PICKING_GRACE_MS: '60000' } })
  const { orderId } = await deliver(bench)
  const request = { ...orderCancellationRequested.example!, orderId }
  await bench.say(orderCancellationRequested, request)
  assert.deepEqual(await bench.told(shipmentCancelled), [{ orderId }])
  await bench.say(orderCancellationRequested, request)
  assert.equal((await bench.told(shipmentCancelled)).length, 2)
  await bench.pass(10 * MINUTE_MS)
  assert.deepEqual(await bench.told(shipmentCreated), [])
})

test('a cancellation that comes after the parcel is refused, naming it', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench)
  const [{ shipmentId } = assert.fail()] = await bench.told(shipmentDispatched)
  await bench.say(orderCancellationRequested, { ...orderCancellationRequested.example!, orderId })
  assert.deepEqual(await bench.told(shipmentCancellationRefused), [{ orderId, shipmentId, reason: 'already_shipped' }])
  assert.deepEqual(await bench.told(shipmentCancelled), [])
})

test('an order that is cancelled in its grace is not sent, and nobody is answered', async () => {
  await using bench = await openService(shipping, { environment: { ...AT_ONCE, PICKING_GRACE_MS: '60000' } })
  const { orderId } = await deliver(bench)
  await bench.say(orderCancelled, { ...orderCancelled.example!, orderId, wasConfirmed: true })
  await bench.pass(10 * MINUTE_MS)
  assert.deepEqual(await bench.told(shipmentCreated), [])
  assert.deepEqual(await bench.told(shipmentCancelled), [])
})

test('a confirmation that comes after the cancellation sends nothing', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const order = newOrder()
  const { orderId } = order
  await bench.say(orderCancellationRequested, { ...orderCancellationRequested.example!, orderId })
  assert.deepEqual(await bench.told(shipmentCancelled), [{ orderId }])
  await bench.say(orderConfirmed, order)
  assert.deepEqual(await bench.told(shipmentCreated), [])
})

test('lines beyond the parcel limit of the carrier go in several parcels, and the order arrives with the last', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const lines = [line(1, 'A', 4_000, 10), line(2, 'B', 7_000, 20)]
  await deliver(bench, { lines })
  const sent = await bench.told(shipmentDispatched)
  assert.deepEqual(
    sent.map(({ lines, last }) => ({ units: lines.map(({ lineNo, quantity }) => [lineNo, quantity]), last })),
    [
      {
        units: [
          [1, 4_000],
          [2, 1_000],
        ],
        last: false,
      },
      { units: [[2, 5_000]], last: false },
      { units: [[2, 1_000]], last: true },
    ],
  )
  assert.equal((await bench.told(shipmentCreated)).length, 3)
  assert.equal((await bench.told(orderPartiallyShipped)).length, 2)
  assert.equal((await bench.told(orderShipped)).length, 1)
  assert.equal((await bench.told(shipmentDelivered)).length, 3)
  assert.equal((await bench.told(orderDelivered)).length, 1)
})

test('T5: while the carrier is away an order can be called off; one that has not left in time is an alert', async () => {
  const environment = { ...AT_ONCE, CARRIER_FAILURE_RATE: '1' }
  await using bench = await openService(shipping, { environment })
  const first = await deliver(bench)
  const second = await deliver(bench)
  await bench.pass(10_000)
  assert.equal((await bench.told(shipmentCreated)).length, 2)
  await bench.say(orderCancellationRequested, { ...orderCancellationRequested.example!, orderId: first.orderId })
  assert.deepEqual(await bench.told(shipmentCancelled), [{ orderId: first.orderId }])
  await bench.pass(5 * MINUTE_MS)
  const alerts = await bench.told(shipmentException)
  assert.deepEqual(
    alerts.map(({ orderId, kind }) => ({ orderId, kind })),
    [{ orderId: second.orderId, kind: 'not_dispatched' }],
  )
  const { body } = await bench.ask('GET /api/shipments/problems', { as: merchant })
  assert.deepEqual(
    body.items.map((item: { kind: string }) => item.kind),
    ['not_dispatched'],
  )
  assert.equal(await bench.deadLetters(), 0)
})

test('a carrier that fails now and then delays an order and loses none', async () => {
  const environment = { ...AT_ONCE, CARRIER_FAILURE_RATE: '0.5' }
  await using bench = await openService(shipping, { environment })
  for (let count = 0; count < 10; count++) await deliver(bench)
  await bench.pass(10 * MINUTE_MS)
  assert.equal((await bench.told(shipmentDispatched)).length, 10)
  assert.equal((await bench.told(orderDelivered)).length, 10)
  assert.equal(await bench.deadLetters(), 0)
})

test('T6: a parcel without news for too long is an alert; news that come after all end it', async () => {
  await using bench = await openService(shipping, { environment: { ...AT_ONCE, CARRIER_DELAY_MS: '1000' } })
  const { orderId } = await deliver(bench, { address: goingTo('SIM SILENT') })
  await bench.pass(5 * MINUTE_MS)
  assert.deepEqual(await bench.told(shipmentException), [])
  await bench.pass(MINUTE_MS)
  assert.deepEqual(
    (await bench.told(shipmentException)).map(({ kind }) => kind),
    ['no_news'],
  )
  const [{ trackingNumber } = assert.fail()] = await bench.told(shipmentDispatched)
  const history = [{ status: 'delivered', occurredAt: bench.clock.now() }]
  const news = { reference: `${orderId}:1:1`, trackingNumber, history }
  const heard = await bench.ask('POST /api/shipments/carrier-news', { body: news, as: merchant })
  assert.equal(heard.body.status, 'delivered')
  assert.equal((await bench.told(orderDelivered)).length, 1)
  assert.deepEqual((await bench.ask('GET /api/shipments/problems', { as: merchant })).body.items, [])
})

test('the carrier brings its whole history, in any order and more than once: each piece is told once', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench, { address: goingTo('SIM SILENT') })
  const [{ trackingNumber, shipmentId, dispatchedAt } = assert.fail()] = await bench.told(shipmentDispatched)
  const whole = ['accepted', 'in_transit', 'out_for_delivery', 'delivered'].map((status, hour) => ({
    status,
    place: 'Leeds',
    occurredAt: dispatchedAt + hour,
  }))
  const tell = (known: number, as: typeof merchant | null = merchant) =>
    bench.ask('POST /api/shipments/carrier-news', {
      as,
      body: { reference: `${orderId}:1:1`, trackingNumber, history: whole.slice(0, known) },
    })
  for (const known of [2, 1, 2, 3]) assert.equal((await tell(known)).body.status, 'under_way')
  for (const known of [4, 4, 1]) assert.deepEqual((await tell(known)).body, { shipmentId, status: 'delivered' })
  assert.deepEqual(
    (await bench.told(shipmentTrackingUpdated)).map(({ status, place }) => ({ status, place })),
    whole.slice(0, 3).map(({ status, place }) => ({ status, place })),
  )
  assert.equal((await bench.told(shipmentDelivered)).length, 1)
  assert.equal((await tell(1, null)).status, 401)
  assert.equal((await tell(1, ada)).status, 403)
})

test('news of another tracking number, or of nothing, are refused', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench)
  const tell = (reference: string) =>
    bench.ask('POST /api/shipments/carrier-news', {
      as: operator,
      body: { reference, trackingNumber: 'another', history: [] },
    })
  assert.equal((await tell(`${orderId}:1:1`)).status, 409)
  for (const reference of [`${orderId}:2:1`, `${orderId}:1:2`, 'ord_nowhere:1:1', orderId])
    assert.equal((await tell(reference)).body.code, 'not_found', reference)
})

test('the carrier signs its news: without an account, with the shared secret, not later than five minutes', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench, { address: goingTo('SIM SILENT') })
  const [{ trackingNumber, dispatchedAt } = assert.fail()] = await bench.told(shipmentDispatched)
  assert.equal((await bench.ask('GET /api/shipments/carrier-news/secret', { as: merchant })).status, 403)
  const { secret } = (await bench.ask('GET /api/shipments/carrier-news/secret', { as: operator })).body
  const news = {
    reference: `${orderId}:1:1`,
    trackingNumber,
    history: [{ status: 'delivered', place: null, occurredAt: dispatchedAt }],
  }
  const send = (key: string, ageMs = 0, body: unknown = news) => {
    const id = 'msg_1'
    const timestamp = String(Math.floor((bench.clock.now() - ageMs) / 1000))
    const signature = `v1,bm90aGluZw== ${sign(key, { id, timestamp, body: JSON.stringify(news) })}`
    const headers = { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature }
    return bench.ask('POST /api/shipments/carrier-news', { body, headers })
  }
  assert.equal((await send('whsec_Zm9yZ2Vk')).body.code, 'invalid_signature')
  assert.equal((await send(secret, 301_000)).body.code, 'invalid_signature')
  assert.equal((await send(secret, 0, { ...news, history: [] })).body.code, 'invalid_signature')
  assert.deepEqual(await bench.told(orderDelivered), [])
  assert.equal((await send(secret)).body.status, 'delivered')
  assert.equal((await bench.told(orderDelivered)).length, 1)
})

test('a parcel that comes back is sent again by a person: the same parcel, so nothing is captured or taken twice', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench, { address: goingTo('SIM RETURNED') })
  const [back] = await bench.told(shipmentReturned)
  const path = `/api/orders/${orderId}/shipments/${back!.shipmentId}/resend`
  assert.equal((await bench.ask(`POST ${path}`, { body: {}, as: ada })).status, 403)
  const again = await bench.ask(`POST ${path}`, { body: { address: goingTo('SW1Y 4JH') }, as: merchant })
  assert.equal(again.status, 202)
  await bench.idle()
  assert.equal((await bench.told(shipmentDispatched)).length, 1)
  assert.deepEqual(
    (await bench.told(shipmentTrackingUpdated)).map(({ status }) => status),
    ['accepted'],
  )
  assert.equal((await bench.told(orderDelivered)).length, 1)
  assert.equal((await bench.ask(`POST ${path}`, { body: {}, as: merchant })).body.code, 'conflict')
})

test('a parcel that the carrier does not take goes out once its address is mended', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench, { address: goingTo('SIM REFUSED') })
  const [trouble] = await bench.told(shipmentException)
  assert.equal(trouble!.kind, 'address_unknown')
  const body = { address: goingTo('SW1Y 4JH') }
  await bench.ask(`POST /api/orders/${orderId}/shipments/${trouble!.shipmentId}/resend`, { body, as: merchant })
  await bench.idle()
  assert.equal((await bench.told(shipmentDispatched)).length, 1)
  assert.equal((await bench.told(orderDelivered)).length, 1)
})

test('a lost parcel is refunded by a person, and its order may then be called off', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const order = await deliver(bench, { address: goingTo('SIM LOST') })
  const { orderId } = order
  const [trouble] = await bench.told(shipmentException)
  const path = `/api/orders/${orderId}/shipments/${trouble!.shipmentId}`
  assert.equal((await bench.ask(`POST ${path}/resend`, { body: {}, as: merchant })).body.code, 'conflict')
  const restock = { body: { disposition: 'restock' }, as: merchant, headers: withKey() }
  assert.equal((await bench.ask(`POST ${path}/refund`, restock)).body.code, 'conflict')
  const refund = { body: {}, as: merchant, headers: withKey() }
  const refunded = await bench.ask(`POST ${path}/refund`, refund)
  assert.equal(refunded.status, 202)
  assert.equal((await bench.ask(`POST ${path}/refund`, refund)).body.returnId, refunded.body.returnId)
  const [received, ...more] = await bench.told(returnReceived)
  assert.equal(more.length, 0)
  assert.equal(received!.refundPence, order.totalPence)
  assert.ok(received!.lines.every(({ restock }) => !restock))
  assert.deepEqual((await bench.ask('GET /api/shipments/problems', { as: merchant })).body.items, [])
  await bench.say(orderCancellationRequested, { ...orderCancellationRequested.example!, orderId })
  assert.deepEqual(await bench.told(shipmentCancelled), [{ orderId }])
})

test('a buyer sees the parcels of an order, another customer does not', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench)
  const guests = await deliver(bench, { customerId: null, email: null })
  const look = (id: string, as: typeof ada | null) => bench.ask(`GET /api/orders/${id}/shipments`, { as })
  for (const who of [ada, merchant, operator]) assert.equal((await look(orderId, who)).status, 200)
  for (const who of [bob, null]) assert.equal((await look(orderId, who)).status, 404)
  assert.equal((await look(guests.orderId, null)).status, 200)
  assert.equal((await look('ord_nowhere', merchant)).status, 404)
})

test('a customer gives back what was delivered, and never more', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const lines = [line(1, 'A', 3, 250), line(2, 'B', 2, 100), line(3, 'A', 1, 200)]
  const { orderId } = await deliver(bench, { lines, totalPence: 1_150 })
  const ask = (asked: unknown, as: typeof ada | null = ada) =>
    bench.ask(`POST /api/orders/${orderId}/returns`, { body: { lines: asked }, as, headers: withKey() })
  const first = await ask([
    { lineNo: 1, quantity: 2, reason: 'cracked' },
    { sku: 'B', quantity: 1 },
  ])
  assert.equal(first.status, 202)
  assert.equal(first.headers.get('location'), `/api/returns/${first.body.returnId}`)
  assert.equal(first.body.refundPence, 600)
  const [requested] = await bench.told(returnRequested)
  assert.equal(requested!.reason, 'cracked')
  const tooMany = await ask([{ sku: 'A', quantity: 3 }])
  assert.equal(tooMany.status, 422)
  assert.equal(tooMany.body.code, 'nothing_to_return')
  assert.deepEqual(tooMany.body.lines, [{ lineNo: null, sku: 'A', quantity: 3, returnable: 2, why: 'asked_already' }])
  // By sku: what is left of line 1, then line 3, each at its own price.
  const second = await ask([{ sku: 'A', quantity: 2 }])
  assert.equal(second.body.refundPence, 450)
  assert.equal((await ask([{ lineNo: 9, quantity: 1 }])).body.lines[0].why, 'not_in_order')
  assert.equal((await ask([{ lineNo: 1, quantity: 4 }])).body.lines[0].why, 'not_delivered')
  assert.equal((await ask([{ quantity: 1 }])).body.code, 'invalid_request')
  assert.equal((await ask([{ lineNo: 2, quantity: 1 }], bob)).status, 404)
  assert.equal((await ask([{ lineNo: 2, quantity: 1 }], null)).status, 404)
})

test('nothing is given back before it is delivered, nor after the return window', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const silent = await deliver(bench, { address: goingTo('SIM SILENT') })
  const arrived = await deliver(bench)
  const ask = (orderId: string, as = ada) =>
    bench.ask(`POST /api/orders/${orderId}/returns`, {
      body: { lines: [{ lineNo: 1, quantity: 1 }] },
      as,
      headers: withKey(),
    })
  assert.equal((await ask(silent.orderId)).body.lines[0].why, 'not_delivered')
  await bench.pass(MINUTE_MS)
  assert.equal((await ask(arrived.orderId)).status, 202)
  await bench.pass(1)
  assert.equal((await ask(arrived.orderId)).body.lines[0].why, 'window_over')
  assert.equal((await ask(arrived.orderId, merchant)).status, 202)
})

test('a return is approved, received, refunded and closed, each step once', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const lines = [line(1, 'A', 3, 250), line(2, 'B', 2, 100)]
  const { orderId } = await deliver(bench, { lines })
  const asked = {
    lines: [
      { lineNo: 1, quantity: 3 },
      { lineNo: 2, quantity: 2 },
    ],
  }
  const { returnId } = (
    await bench.ask(`POST /api/orders/${orderId}/returns`, { body: asked, as: ada, headers: withKey() })
  ).body
  const act = (step: string, body: unknown = {}, as = merchant) =>
    bench.ask(`POST /api/returns/${returnId}/${step}`, { body, as })
  assert.equal((await act('approve', undefined, ada)).status, 403)
  assert.equal((await act('receive', { disposition: 'restock' })).body.code, 'conflict')
  assert.equal((await act('approve')).body.state, 'approved')
  assert.equal((await act('approve')).body.state, 'approved')
  // One of line 1 never came; line 2 came broken.
  const came = {
    disposition: 'restock',
    lines: [
      { lineNo: 1, quantity: 2 },
      { lineNo: 2, quantity: 2, disposition: 'write_off' },
    ],
  }
  assert.equal((await act('receive', { ...came, lines: [{ lineNo: 1, quantity: 4 }] })).body.code, 'conflict')
  assert.equal((await act('receive', came)).body.state, 'received')
  assert.equal((await act('receive', came)).body.state, 'received')
  assert.equal((await act('reject')).body.code, 'conflict')
  const [received, ...more] = await bench.told(returnReceived)
  assert.equal(more.length, 0)
  assert.equal(received!.refundPence, 700)
  assert.deepEqual(
    received!.lines.map(({ lineNo, quantity, restock }) => [lineNo, quantity, restock]),
    [
      [1, 2, true],
      [2, 2, false],
    ],
  )
  await bench.say(paymentRefunded, { ...paymentRefunded.example!, orderId, returnId })
  await bench.say(paymentRefunded, { ...paymentRefunded.example!, orderId, returnId })
  assert.deepEqual(
    (await bench.told(returnClosed)).map(({ outcome }) => outcome),
    ['refunded'],
  )
  assert.equal((await bench.told(returnApproved)).length, 1)
  const closed = await bench.ask(`GET /api/returns/${returnId}`, { as: ada })
  assert.equal(closed.body.state, 'closed')
  assert.equal((await bench.ask(`GET /api/returns/${returnId}`, { as: bob })).status, 404)
  // The unit that never came may be asked back again.
  const rest = { lines: [{ lineNo: 1, quantity: 1 }] }
  assert.equal(
    (await bench.ask(`POST /api/orders/${orderId}/returns`, { body: rest, as: ada, headers: withKey() })).status,
    202,
  )
})

test('the units of a refused return may be asked back again', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const { orderId } = await deliver(bench, { lines: [line(1, 'A', 1, 250)] })
  const ask = () =>
    bench.ask(`POST /api/orders/${orderId}/returns`, {
      body: { lines: [{ lineNo: 1, quantity: 1 }] },
      as: ada,
      headers: withKey(),
    })
  const { returnId } = (await ask()).body
  assert.equal((await ask()).status, 422)
  const body = { reason: 'It was worn.' }
  const refused = await bench.ask(`POST /api/returns/${returnId}/reject`, { body, as: merchant })
  assert.equal(refused.body.state, 'rejected')
  const approved = await bench.ask(`POST /api/returns/${returnId}/approve`, { as: merchant })
  assert.equal(approved.body.code, 'conflict')
  const [closed] = await bench.told(returnClosed)
  assert.deepEqual([closed!.outcome, closed!.reason], ['rejected', 'It was worn.'])
  assert.equal((await ask()).status, 202)
})

test('a merchant’s return matches the newest order first, at the price paid, as far as it goes', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  const older = await deliver(bench, { lines: [line(1, 'A', 2, 200), line(2, 'B', 1, 50)] })
  const newer = await deliver(bench, { lines: [line(1, 'A', 1, 300), line(2, 'A', 1, 290)] })
  await deliver(bench, { customerId: bob.userId, lines: [line(1, 'A', 5, 100)] })
  const body = {
    customerId: ada.userId,
    lines: [
      { sku: 'A', quantity: 3 },
      { sku: 'C', quantity: 1 },
      { sku: 'A', quantity: 5 },
      { sku: 'A', quantity: 1 },
    ],
  }
  const request = { body, as: merchant, headers: withKey() }
  const answer = await bench.ask('POST /api/returns', request)
  assert.equal(answer.status, 202)
  assert.deepEqual(answer.body.lines, [
    { sku: 'A', requested: 3, quantity: 3, refundPence: 790, refused: null },
    { sku: 'C', requested: 1, quantity: 0, refundPence: 0, refused: 'nothing_to_return' },
    { sku: 'A', requested: 5, quantity: 1, refundPence: 200, refused: null },
    { sku: 'A', requested: 1, quantity: 0, refundPence: 0, refused: 'nothing_to_return' },
  ])
  assert.deepEqual(
    answer.body.returns.map((one: { orderId: string; state: string; refundPence: number }) => [
      one.orderId,
      one.state,
      one.refundPence,
    ]),
    [
      [newer.orderId, 'received', 590],
      [older.orderId, 'received', 400],
    ],
  )
  assert.deepEqual((await bench.ask('POST /api/returns', request)).body, answer.body)
  await bench.idle()
  for (const { type } of [returnRequested, returnApproved, returnReceived])
    assert.equal(typesOf(bench).filter((told) => told === type).length, 2, type)
  const again = await bench.ask('POST /api/returns', { body, as: merchant, headers: withKey() })
  assert.equal(again.body.code, 'nothing_to_return')
  assert.equal((await bench.ask('POST /api/returns', { body, as: merchant })).body.code, 'idempotency_key_required')
  assert.equal((await bench.ask('POST /api/returns', { body, as: ada, headers: withKey() })).status, 403)
})

test('a merchant’s return searches more orders than one page of them', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  for (let count = 0; count < 60; count++) await deliver(bench, { lines: [line(1, 'A', 1, 100 + count)] })
  const body = { customerId: ada.userId, received: false, lines: [{ sku: 'A', quantity: 60 }] }
  const { lines, returns } = (await bench.ask('POST /api/returns', { body, as: merchant, headers: withKey() })).body
  assert.equal(lines[0].quantity, 60)
  assert.equal(lines[0].refundPence, 60 * 100 + (59 * 60) / 2)
  assert.equal(returns[0].refundPence, 159)
  assert.equal(returns.length, 60)
  assert.ok(returns.every(({ state }: { state: string }) => state === 'requested'))
})

test('returns are listed page by page: one’s own, or all for a merchant', async () => {
  await using bench = await openService(shipping, { environment: AT_ONCE })
  for (const customerId of [ada.userId, bob.userId, ada.userId]) {
    const { orderId } = await deliver(bench, { customerId })
    const body = { customerId, received: false, lines: [{ sku: '85123A', quantity: 1 }] }
    assert.equal(
      (await bench.ask('POST /api/returns', { body, as: merchant, headers: withKey() })).status,
      202,
      orderId,
    )
  }
  const list = async (query: string, as = merchant) => (await bench.ask(`GET /api/returns?${query}`, { as })).body
  const first = await list('limit=2')
  assert.equal(first.items.length, 2)
  const second = await list(`limit=2&cursor=${first.nextCursor}`)
  assert.equal(second.items.length, 1)
  assert.equal(second.nextCursor, null)
  const own = (await list(`customerId=${bob.userId}`, ada)).items
  assert.deepEqual(
    own.map(({ customerId }: { customerId: string }) => customerId),
    [ada.userId, ada.userId],
  )
  assert.equal((await list(`customerId=${bob.userId}`)).items.length, 1)
  assert.equal((await list(`orderId=${own[0].orderId}`)).items.length, 1)
  assert.equal((await list('state=received')).items.length, 0)
  assert.equal((await list('state=requested')).items.length, 3)
  assert.equal((await bench.ask('GET /api/returns')).status, 401)
})

test('an account that is deleted leaves no address and no e-mail behind, once its parcels have arrived', async () => {
  await using bench = await openService(shipping, { environment: { ...AT_ONCE, CARRIER_DELAY_MS: '1000' } })
  await deliver(bench)
  await bench.say(userDeleted, { userId: ada.userId, deletedAt: bench.clock.now() })
  await bench.pass(10_000)
  const [arrived] = await bench.told(orderDelivered)
  assert.equal(arrived!.email, null)
})
