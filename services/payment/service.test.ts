import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Message, memoryTransport, sql, sqliteStore, systemClock } from '@shopsphere/bus'
import {
  allEvents,
  inventoryReserved,
  orderCancelled,
  orderPlaced,
  paymentActionRequired,
  paymentCaptured,
  paymentDisputed,
  paymentFailed,
  paymentProcessed,
  paymentRefunded,
  paymentRefundFailed,
  paymentRefundRequested,
  paymentVoided,
  returnReceived,
  shipmentDispatched,
  userDeleted,
} from '@shopsphere/contracts'
import { readConfig } from '@shopsphere/runtime/config'
import { createLog } from '@shopsphere/runtime/log'
import { defineService, prepareService, type ServiceContext } from '@shopsphere/runtime/service'
import { openService, type ServiceBench } from '../testing.ts'
import { createBooks } from './books.ts'
import { hear } from './handlers.ts'
import { createProviderSimulator, type Movement, type ProviderSimulator } from './provider-simulator.ts'
import { readTotals } from './queries.ts'
import { createRoutes, WEBHOOK_PATH } from './routes.ts'
import { payment } from './service.ts'

const MINUTE_MS = 60_000
const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const owner = { userId: 'usr_owner', roles: ['customer'] }
const stranger = { userId: 'usr_stranger', roles: ['customer'] }
const orderId = 'ord_1'
const lines = [
  { lineNo: 1, sku: 'A', name: 'A', quantity: 6, unitPence: 255 },
  { lineNo: 2, sku: 'B', name: 'B', quantity: 6, unitPence: 339 },
]

type ShopOptions = { environment?: Record<string, string>; failureRate?: number }

/** The service with a provider in the test's hand; the provider keeps books of its own, which must agree in the end. */
async function openShop({ environment = {}, failureRate = 0 }: ShopOptions = {}) {
  let provider!: ProviderSimulator
  let parts!: ServiceContext
  const movements = new Map<string, Movement>()
  const wired = defineService({
    ...payment,
    async wire(context) {
      parts = context
      const { bus, store, clock, newId, idempotency, config, log } = context
      provider = createProviderSimulator({
        ...context,
        failureRate,
        delayMs: 0,
        onMovement: (movement) => movements.set(`${movement.kind} ${movement.key}`, movement),
        deliver: async (body, headers) =>
          (await routes.request(WEBHOOK_PATH, { method: 'POST', body, headers: { ...headers } })).ok,
      })
      const books = createBooks({ clock, timers: config.timers })
      const routes = createRoutes({ bus, store, idempotency, books, provider, clock, newId, log })
      hear({ bus, books, provider, clock, newId, log })
      await provider.open()
      return { routes, close: () => provider.close() }
    },
  })
  const bench = await openService(wired, { environment })
  const moved = (kind: Movement['kind']) =>
    [...movements.values()].filter((movement) => movement.kind === kind).reduce((sum, { pence }) => sum + pence, 0)
  return Object.assign(bench, {
    provider,
    movements,
    read: parts.store.read,
    async webhook(noticeId: string, content: unknown, change: Record<string, string> = {}) {
      const { body, headers } = await provider.sign(noticeId, content)
      const text = new TextDecoder().decode(body)
      const answer = await bench.ask(`POST ${WEBHOOK_PATH}`, {
        body: JSON.parse(text),
        headers: { ...headers, ...change },
      })
      await bench.idle()
      return answer
    },
    async payment(as: typeof owner | null = merchant, id = orderId) {
      return (await bench.ask(`GET /api/orders/${id}/payments`, { as })).body
    },
    /** What the provider took and gave back is what the ledger says. */
    async close() {
      const totals = await parts.store.read(readTotals)
      assert.deepEqual(totals, { chargedPence: moved('capture'), refundedPence: moved('refund') })
      assert.equal(await bench.deadLetters(), 0)
      await bench[Symbol.asyncDispose]()
    },
  })
}

const place = (shop: ServiceBench, paymentMethod = 'pm_card_visa', change: object = {}) =>
  shop.say(orderPlaced, {
    ...orderPlaced.example!,
    orderId,
    customerId: owner.userId,
    email: 'ada@example.org',
    lines,
    totalPence: 3_564,
    paymentMethod,
    ...change,
  })
const reserve = (shop: ServiceBench, id = orderId) =>
  shop.say(inventoryReserved, { orderId: id, holdExpiresAt: shop.clock.now() + 15 * MINUTE_MS })
const dispatch = (shop: ServiceBench, shipmentId: string, last: boolean, shipped: object[] = lines) =>
  shop.say(shipmentDispatched, {
    ...shipmentDispatched.example!,
    orderId,
    shipmentId,
    last,
    lines: shipped as (typeof shipmentDispatched.example & object)['lines'],
  })
const cancel = (shop: ServiceBench) =>
  shop.say(orderCancelled, { ...orderCancelled.example!, orderId, reason: 'customer' })
const giveBack = (shop: ServiceBench, returnId: string, quantity: number) =>
  shop.say(returnReceived, {
    ...returnReceived.example!,
    orderId,
    returnId,
    refundPence: quantity * 255,
    lines: [{ lineNo: 1, sku: 'A', quantity, unitPence: 255, restock: true }],
  })

/** An order that is paid and sent. */
async function sell(shop: ServiceBench, paymentMethod = 'pm_card_visa') {
  await place(shop, paymentMethod)
  await reserve(shop)
  await dispatch(shop, 'shp_1', true)
}

test('an order is authorised when its stock is held and captured parcel by parcel', async () => {
  const shop = await openShop({ environment: { CAPTURE_DEADLINE_MS: String(MINUTE_MS) } })
  await place(shop)
  await reserve(shop)
  const [processed] = await shop.told(paymentProcessed)
  assert.deepEqual(
    { ...processed, paymentId: '' },
    {
      orderId,
      paymentId: '',
      authorizedPence: 3_564,
      currency: 'GBP',
      attempt: 1,
    },
  )
  await dispatch(shop, 'shp_1', false, [{ lineNo: 2, sku: 'B', quantity: 6, unitPence: 339 }])
  await dispatch(shop, 'shp_2', true, [{ lineNo: 1, sku: 'A', quantity: 6, unitPence: 255 }])
  const captured = (await shop.told(paymentCaptured)).map(({ shipmentId, capturedPence, capturedTotalPence }) => [
    shipmentId,
    capturedPence,
    capturedTotalPence,
  ])
  assert.deepEqual(captured, [
    ['shp_1', 2_034, 2_034],
    ['shp_2', 1_530, 3_564],
  ])
  const { body } = await shop.ask('GET /api/payments/ledger', { as: merchant })
  assert.deepEqual(body, { currency: 'GBP', chargedPence: 3_564, refundedPence: 0 })
  await shop.pass(2 * MINUTE_MS)
  assert.equal((await shop.told(paymentCaptured)).length, 2)
  await shop.close()
})

test('everything twice has the same end', async () => {
  const shop = await openShop()
  for (let time = 0; time < 2; time++) await place(shop)
  for (let time = 0; time < 2; time++) await reserve(shop)
  for (let time = 0; time < 2; time++) await dispatch(shop, 'shp_1', true)
  for (let time = 0; time < 2; time++) await giveBack(shop, 'ret_1', 2)
  await shop.idle()
  for (const { type } of [paymentProcessed, paymentCaptured, paymentRefundRequested, paymentRefunded])
    assert.equal(shop.heard.filter((message) => message.type === type).length, 1, type)
  assert.equal((await shop.payment()).status, 'partially_refunded')
  await shop.close()
})

test('the hold may be heard of before the order', async () => {
  const shop = await openShop()
  await reserve(shop)
  assert.deepEqual(await shop.told(paymentProcessed), [])
  await place(shop)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  await shop.close()
})

test('a refusal for good is told once, with whom to write to', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_declined')
  await reserve(shop)
  const [failed] = await shop.told(paymentFailed)
  assert.deepEqual(
    { ...failed, paymentId: '' },
    {
      orderId,
      paymentId: '',
      customerId: owner.userId,
      email: 'ada@example.org',
      reason: 'card_declined',
      retryable: false,
      attempt: 1,
    },
  )
  const again = await shop.ask(`POST /api/orders/${orderId}/payments`, {
    as: owner,
    body: { paymentMethod: 'pm_card_visa' },
  })
  assert.deepEqual([again.status, again.body.code], [409, 'conflict'])
  await shop.close()
})

test('after a refusal for now the customer pays with a card of another number, while the goods are held', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_insufficient_funds')
  await reserve(shop)
  assert.equal((await shop.told(paymentFailed))[0]!.retryable, true)
  const card = { number: '4242 4242 4242 4242', expiryMonth: 12, expiryYear: 2030, cvc: '123' }
  const saved = await shop.ask('POST /api/payment-methods', { body: card })
  assert.deepEqual([saved.status, saved.body.brand, saved.body.last4], [201, 'visa', '4242'])
  const { paymentMethod } = saved.body
  const headers = { 'idempotency-key': 'attempt-2' }
  const pay = () => shop.ask(`POST /api/orders/${orderId}/payments`, { as: owner, body: { paymentMethod }, headers })
  assert.deepEqual((await pay()).body, { orderId, attempt: 2, status: 'due', reason: null })
  assert.equal((await pay()).headers.get('idempotency-replayed'), 'true')
  assert.deepEqual(
    (await shop.told(paymentProcessed)).map(({ attempt }) => attempt),
    [2],
  )
  await shop.close()
})

test('a hold that has run out is not paid for any more', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_insufficient_funds')
  await reserve(shop)
  await shop.pass(16 * MINUTE_MS)
  const pay = { as: owner, body: { paymentMethod: 'pm_card_visa' } }
  assert.equal((await shop.ask(`POST /api/orders/${orderId}/payments`, pay)).status, 409)
  await place(shop, 'pm_card_visa', { orderId: 'ord_2' })
  await shop.say(inventoryReserved, { orderId: 'ord_2', holdExpiresAt: shop.clock.now() - 1 })
  assert.equal((await shop.told(paymentFailed)).at(-1)!.reason, 'hold_expired')
  assert.equal(shop.movements.size, 0)
  await shop.close()
})

test('a payment that must be confirmed waits for it; confirmed, it is processed once', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_authentication_required')
  await reserve(shop)
  const [required] = await shop.told(paymentActionRequired)
  assert.equal(required!.decisionDueAt, shop.clock.now() + 10 * MINUTE_MS)
  assert.match(required!.actionUrl, /^https:\/\//)
  assert.equal((await shop.payment(owner)).status, 'action_required')
  const confirm = () => shop.ask(`POST /api/orders/${orderId}/payments/confirm`, { as: owner })
  assert.deepEqual((await confirm()).body, { orderId, attempt: 1, status: 'authorized', reason: null })
  assert.equal((await confirm()).status, 200)
  // The provider's webhook says the same, later.
  await shop.pass(20 * MINUTE_MS)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  assert.deepEqual(await shop.told(paymentFailed), [])
  await shop.close()
})

test('T2 a payment that nobody confirms is given up with the provider', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_authentication_required')
  await reserve(shop)
  await shop.pass(10 * MINUTE_MS - 1)
  assert.deepEqual(await shop.told(paymentFailed), [])
  await shop.pass(1)
  const [failed] = await shop.told(paymentFailed)
  assert.deepEqual([failed!.reason, failed!.retryable], ['decision_overdue', true])
  assert.equal((await shop.ask(`POST /api/orders/${orderId}/payments/confirm`, { as: owner })).status, 409)
  assert.equal((await shop.payment()).status, 'failed')
  await shop.close()
})

test('what the provider decides later is heard by webhook, or found at T2', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_decided_later')
  await reserve(shop)
  assert.deepEqual(await shop.told(paymentProcessed), [])
  await shop.pass(1_000)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  await place(shop, 'pm_card_declined_later', { orderId: 'ord_2' })
  await reserve(shop, 'ord_2')
  await shop.pass(1_000)
  assert.equal((await shop.told(paymentFailed))[0]!.reason, 'card_declined')
  await place(shop, 'pm_card_never_decided', { orderId: 'ord_3' })
  await reserve(shop, 'ord_3')
  await shop.pass(10 * MINUTE_MS)
  assert.equal((await shop.told(paymentFailed))[1]!.reason, 'decision_overdue')
  await shop.close()
})

test('an answer that was lost after the charge was made is asked for again, and charged once', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_answer_lost')
  await reserve(shop)
  assert.deepEqual(await shop.told(paymentProcessed), [])
  await shop.pass(1_000)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  assert.equal(shop.movements.size, 1)
  await shop.close()
})

test('T2 holds while the provider cannot be reached; whatever it did is voided when it is back', async () => {
  const shop = await openShop({ failureRate: 1 })
  await place(shop)
  await reserve(shop)
  await shop.pass(10 * MINUTE_MS)
  assert.equal((await shop.told(paymentFailed))[0]!.reason, 'decision_overdue')
  assert.equal((await shop.payment()).attempts[0].status, 'overdue')
  shop.provider.setFailureRate(0)
  await shop.pass(20 * MINUTE_MS)
  assert.equal((await shop.payment()).attempts[0].status, 'closed')
  assert.deepEqual(await shop.told(paymentProcessed), [])
  assert.equal((await shop.told(paymentFailed)).length, 1)
  await shop.close()
})

test('a provider that is away now and then delays, and neither loses nor doubles anything', async () => {
  const shop = await openShop({ failureRate: 0.4 })
  await place(shop)
  await reserve(shop)
  await shop.pass(9 * MINUTE_MS)
  await dispatch(shop, 'shp_1', true)
  await shop.pass(5 * MINUTE_MS)
  await giveBack(shop, 'ret_1', 2)
  await shop.pass(10 * MINUTE_MS)
  const { capturedPence, refundedPence } = await shop.payment()
  assert.deepEqual([capturedPence, refundedPence], [3_564, 510])
  await shop.close()
})

test('a cancelled order: what is authorised is voided', async () => {
  const shop = await openShop({ environment: { CAPTURE_DEADLINE_MS: String(MINUTE_MS) } })
  await place(shop)
  await reserve(shop)
  for (let time = 0; time < 2; time++) await cancel(shop)
  const voided = await shop.told(paymentVoided)
  assert.deepEqual(
    voided.map(({ voidedPence, reason }) => [voidedPence, reason]),
    [[3_564, 'order_cancelled']],
  )
  await shop.pass(2 * MINUTE_MS)
  assert.deepEqual(await shop.told(paymentCaptured), [])
  assert.equal((await shop.payment()).status, 'voided')
  await shop.close()
})

test('a cancelled order: what was captured is refunded, with the ledger saying so only then', async () => {
  const shop = await openShop()
  await sell(shop)
  await cancel(shop)
  assert.deepEqual(
    (await shop.told(paymentRefunded)).map(({ refundedPence, reason }) => [refundedPence, reason]),
    [[3_564, 'order_cancelled']],
  )
  const { ledger, status } = await shop.payment()
  const kinds = ledger.map(({ kind }: { kind: string }) => kind)
  assert.deepEqual([status, kinds], ['refunded', ['authorized', 'captured', 'refund_requested', 'refunded']])
  await shop.close()
})

test('a payment that comes after the order is off is given back by itself', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_authentication_required')
  await reserve(shop)
  // At the very moment of the void the customer confirms at the bank.
  const { provider } = shop
  const voidForReal = provider.void
  let confirmed = 0
  provider.void = async (charge, signal) => {
    if (!('chargeId' in charge) || ++confirmed > 2) return voidForReal(charge, signal)
    return provider.confirm(charge)
  }
  await cancel(shop)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  assert.deepEqual(
    (await shop.told(paymentVoided)).map(({ voidedPence, reason }) => [voidedPence, reason]),
    [[3_564, 'payment_late']],
  )
  assert.equal((await shop.payment()).status, 'voided')
  await shop.close()
})

test('while a void does not get through, it is tried again', async () => {
  const shop = await openShop()
  await place(shop)
  await reserve(shop)
  shop.provider.setFailureRate(1)
  await cancel(shop)
  assert.deepEqual(await shop.told(paymentVoided), [])
  shop.provider.setFailureRate(0)
  await shop.pass(MINUTE_MS)
  assert.equal((await shop.told(paymentVoided)).length, 1)
  await shop.close()
})

test('an order that is off before its payment was asked for is never charged', async () => {
  const shop = await openShop()
  await place(shop)
  await cancel(shop)
  await reserve(shop)
  assert.equal(shop.movements.size, 0)
  await shop.close()
})

test('T3 money that was not captured is captured before the authorisation runs out, and a parcel then captures nothing', async () => {
  const shop = await openShop({ environment: { CAPTURE_DEADLINE_MS: String(MINUTE_MS) } })
  await place(shop)
  await reserve(shop)
  await shop.pass(MINUTE_MS)
  const [captured] = await shop.told(paymentCaptured)
  assert.deepEqual([captured!.shipmentId, captured!.capturedPence], [null, 3_564])
  await dispatch(shop, 'shp_1', true)
  assert.equal((await shop.told(paymentCaptured)).length, 1)
  await giveBack(shop, 'ret_1', 1)
  assert.equal((await shop.told(paymentRefunded))[0]!.refundedPence, 255)
  await shop.close()
})

test('a return is refunded at the price paid, line by line', async () => {
  const shop = await openShop()
  await sell(shop)
  await giveBack(shop, 'ret_1', 2)
  const [refunded] = await shop.told(paymentRefunded)
  assert.deepEqual(
    { ...refunded, paymentId: '', refundId: '' },
    {
      orderId,
      paymentId: '',
      refundId: '',
      returnId: 'ret_1',
      reason: 'return',
      currency: 'GBP',
      refundedPence: 510,
      refundedTotalPence: 510,
      capturedTotalPence: 3_564,
      lines: [{ lineNo: 1, quantity: 2, pence: 510 }],
    },
  )
  const { body } = await shop.ask('GET /api/payments/ledger', { as: merchant })
  assert.deepEqual([body.chargedPence, body.refundedPence], [3_564, 510])
  await shop.close()
})

test('a return of what was never captured is a dead letter, and gives nothing back', async () => {
  const shop = await openShop()
  await place(shop)
  await reserve(shop)
  await giveBack(shop, 'ret_1', 2)
  assert.equal(await shop.deadLetters(), 1)
  assert.deepEqual(await shop.told(paymentRefundRequested), [])
  await shop[Symbol.asyncDispose]()
})

test('a refund that fails is tried again with back-off, then a person has to pay it by other means', async () => {
  const shop = await openShop()
  await sell(shop, 'pm_card_refund_fails')
  await giveBack(shop, 'ret_1', 2)
  await shop.pass((1 + 4 + 16 + 64) * MINUTE_MS)
  const failed = (await shop.told(paymentRefundFailed)).map(({ attempt, willRetry }) => [attempt, willRetry])
  assert.deepEqual(failed, [
    [1, true],
    [2, true],
    [3, true],
    [4, true],
    [5, false],
  ])
  assert.deepEqual(await shop.told(paymentRefunded), [])
  assert.equal((await shop.payment()).refundedPence, 0)
  const need = async () => (await shop.ask('GET /api/payments/refunds-in-need', { as: merchant })).body.items
  const [{ refundId, refundPence, reason }] = await need()
  assert.deepEqual([refundPence, reason], [510, 'account_closed'])
  const path = `POST /api/orders/${orderId}/refunds/${refundId}`
  assert.equal((await shop.ask(`${path}/retry`, { as: merchant })).status, 202)
  await shop.idle()
  assert.equal((await shop.told(paymentRefundFailed)).at(-1)!.attempt, 6)
  assert.equal((await need()).length, 1)
  const settle = { as: merchant, body: { note: 'bank transfer of 2 January' } }
  assert.equal((await shop.ask(`${path}/settlement`, settle)).body.status, 'succeeded')
  assert.equal((await shop.ask(`${path}/settlement`, settle)).status, 409)
  assert.deepEqual(await need(), [])
  assert.equal((await shop.told(paymentRefunded))[0]!.refundedPence, 510)
  assert.equal(await shop.deadLetters(), 0)
  await shop[Symbol.asyncDispose]()
})

test('a refund that the provider takes its time for is refunded when its webhook says so', async () => {
  const shop = await openShop()
  await sell(shop, 'pm_card_refund_pending')
  await giveBack(shop, 'ret_1', 1)
  assert.equal((await shop.payment()).refunds[0].status, 'pending')
  assert.deepEqual(await shop.told(paymentRefunded), [])
  await shop.pass(1_000)
  assert.equal((await shop.told(paymentRefunded)).length, 1)
  await shop.close()
})

test('a merchant refunds out of goodwill, never more than was captured', async () => {
  const shop = await openShop()
  await sell(shop)
  const refund = (body: unknown, key: string) =>
    shop.ask(`POST /api/orders/${orderId}/refunds`, { as: merchant, body, headers: { 'idempotency-key': key } })
  const first = await refund({ refundPence: 500 }, 'one')
  assert.deepEqual([first.status, first.body.refundPence, first.body.status], [202, 500, 'requested'])
  assert.equal((await refund({ refundPence: 500 }, 'one')).body.refundId, first.body.refundId)
  assert.equal((await refund({ refundPence: 3_065 }, 'two')).body.code, 'conflict')
  assert.equal((await refund({ lines: [{ lineNo: 1, quantity: 1 }] }, 'three')).body.refundPence, 255)
  assert.equal((await refund({ refundPence: 1, lines: [{ lineNo: 1, quantity: 1 }] }, 'four')).status, 400)
  const unkeyed = await shop.ask(`POST /api/orders/${orderId}/refunds`, { as: merchant, body: { refundPence: 1 } })
  assert.equal(unkeyed.body.code, 'idempotency_key_required')
  assert.deepEqual(
    (await shop.told(paymentRefunded)).map(({ refundedTotalPence }) => refundedTotalPence),
    [500, 755],
  )
  await shop.close()
})

const disputed = { orderId, disputeId: 'dp_1', pence: 3_564, reason: 'The cardholder does not recognise it.' }

test('a dispute lets refunds rest; won, they go on', async () => {
  const shop = await openShop()
  await sell(shop)
  await shop.webhook('evt_1', { type: 'dispute.opened', ...disputed })
  await giveBack(shop, 'ret_1', 2)
  assert.deepEqual(await shop.told(paymentRefunded), [])
  const goodwill = { as: merchant, body: { refundPence: 1 }, headers: { 'idempotency-key': 'k' } }
  assert.match((await shop.ask(`POST /api/orders/${orderId}/refunds`, goodwill)).body.detail, /dispute/)
  await shop.webhook('evt_2', { type: 'dispute.won', ...disputed })
  assert.deepEqual(
    (await shop.told(paymentDisputed)).map(({ status }) => status),
    ['opened', 'won'],
  )
  assert.equal((await shop.told(paymentRefunded))[0]!.refundedPence, 510)
  await shop.close()
})

test('a dispute that is lost is an entry of the ledger, and what rested is not paid a second time', async () => {
  const shop = await openShop()
  await sell(shop)
  await shop.webhook('evt_1', { type: 'dispute.opened', ...disputed })
  await giveBack(shop, 'ret_1', 2)
  await shop.webhook('evt_2', { type: 'dispute.lost', ...disputed })
  const { status, disputeLostPence, refundedPence, refunds } = await shop.payment()
  assert.deepEqual([status, disputeLostPence, refundedPence, refunds[0].status], ['disputed', 3_564, 0, 'dropped'])
  const [failed] = await shop.told(paymentRefundFailed)
  assert.deepEqual([failed!.reason, failed!.willRetry], ['dispute_lost', false])
  await shop.close()
})

test('a card whose holder disputes every payment: the provider tells by itself', async () => {
  const shop = await openShop()
  await sell(shop, 'pm_card_dispute_open')
  await shop.pass(1_000)
  assert.equal((await shop.told(paymentDisputed))[0]!.status, 'opened')
  await shop.close()
})

test('webhooks: forged, late or changed ones are refused, repeated and unordered ones do no harm', async () => {
  const shop = await openShop()
  await sell(shop)
  const content = { orderId, disputeId: 'dp_1', pence: 3_564, reason: 'unknown' }
  const forged = await shop.webhook('evt_1', { type: 'dispute.lost', ...content }, { 'webhook-signature': 'v1,AAAA' })
  assert.deepEqual([forged.status, forged.body.code], [400, 'invalid_signature'])
  const old = String(Math.floor(shop.clock.now() / 1000) - 3_600)
  assert.equal(
    (await shop.webhook('evt_1', { type: 'dispute.lost', ...content }, { 'webhook-timestamp': old })).status,
    400,
  )
  for (let time = 0; time < 3; time++)
    assert.equal((await shop.webhook('evt_2', { type: 'dispute.won', ...content })).status, 200)
  await shop.webhook('evt_1', { type: 'dispute.opened', ...content })
  assert.deepEqual(
    (await shop.told(paymentDisputed)).map(({ status }) => status),
    ['won'],
  )
  await shop.webhook('evt_3', { type: 'dispute.opened', ...content, orderId: 'ord_nobody' })
  await shop.webhook('evt_4', { type: 'payout.paid' })
  await shop.webhook('evt_5', { type: 'charge.updated', orderId, chargeId: 'ch_nobody' })
  await shop.webhook('evt_6', { type: 'refund.updated', orderId, providerRefundId: 're_nobody' })
  assert.equal((await shop.payment()).status, 'captured')
  await shop.close()
})

test('a payment concerns its customer and the staff; to others there is none', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_insufficient_funds')
  await reserve(shop)
  assert.equal((await shop.payment(owner)).paymentId, (await shop.payment(merchant)).paymentId)
  for (const as of [null, stranger]) {
    for (const request of ['GET', 'POST'].map((method) => `${method} /api/orders/${orderId}/payments`)) {
      const asked = request.startsWith('POST') ? { as, body: { paymentMethod: 'pm_card_visa' } } : { as }
      assert.equal((await shop.ask(request, asked)).status, 404)
    }
    assert.equal((await shop.ask(`POST /api/orders/${orderId}/payments/confirm`, { as })).status, 404)
  }
  for (const as of [owner, stranger]) {
    const refund = { as, body: { refundPence: 1 }, headers: { 'idempotency-key': 'k' } }
    assert.equal((await shop.ask(`POST /api/orders/${orderId}/refunds`, refund)).status, 403)
    assert.equal((await shop.ask('GET /api/payments/ledger', { as })).status, 403)
    assert.equal((await shop.ask('GET /api/payments/refunds-in-need', { as })).status, 403)
  }
  assert.equal((await shop.ask('GET /api/payments/ledger')).status, 401)
  await shop.close()
})

test('whoever knows the id of a guest’s order pays it', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_insufficient_funds', { customerId: null, email: null })
  await reserve(shop)
  assert.equal((await shop.payment(null)).status, 'failed')
  const pay = (paymentMethod: string) => shop.ask(`POST /api/orders/${orderId}/payments`, { body: { paymentMethod } })
  assert.equal((await pay('pm_nobody')).body.code, 'unknown_payment_method')
  assert.equal((await pay('pm_card_visa')).status, 202)
  assert.equal((await shop.told(paymentProcessed)).length, 1)
  await shop.close()
})

test('a card is checked, and its number is in no answer, table or message', async () => {
  const shop = await openShop()
  const number = '4242424242424242'
  const card = { number, expiryMonth: 12, expiryYear: 2030, cvc: '987' }
  const ask = (change: object) => shop.ask('POST /api/payment-methods', { body: { ...card, ...change } })
  const texts = [JSON.stringify((await ask({})).body)]
  for (const change of [
    { number: '4242424242424241' },
    { number: '1234' },
    { expiryMonth: 13 },
    { expiryYear: 2024 },
    { expiryYear: 30 },
    { cvc: '12' },
    { number: Number(number) },
    { extra: number },
  ]) {
    const refused = await ask(change)
    assert.deepEqual([refused.status, refused.body.code], [400, 'invalid_request'], JSON.stringify(change))
    texts.push(JSON.stringify(refused.body))
  }
  const tables = await shop.read((reader) =>
    reader.all<{ name: string }>(sql`select name from sqlite_master where type = 'table'`),
  )
  assert.ok(tables.some(({ name }) => name === 'provider_card'))
  for (const { name } of tables) {
    const template = Object.assign([`select * from "${name}"`], { raw: [] }) as unknown as TemplateStringsArray
    texts.push(JSON.stringify(await shop.read((reader) => reader.all({ strings: template, values: [] }))))
  }
  texts.push(JSON.stringify(shop.heard))
  // Three digits stand in many an id or time by chance, eight do not.
  const idOrTime = /[\w-]{20,}|\d{13}/g
  for (const text of texts) {
    assert.ok(!text.includes('42424242'), text)
    assert.ok(!text.replaceAll(idOrTime, '').includes('987'), text)
  }
  await shop.close()
})

test('what is known of a deleted account is its id alone, also when an order of it comes later', async () => {
  const shop = await openShop()
  await place(shop, 'pm_card_declined')
  await shop.say(userDeleted, { userId: owner.userId, deletedAt: shop.clock.now() })
  await place(shop, 'pm_card_declined', { orderId: 'ord_2' })
  await reserve(shop)
  await reserve(shop, 'ord_2')
  assert.deepEqual(
    (await shop.told(paymentFailed)).map(({ customerId, email }) => [customerId, email]),
    [
      [owner.userId, null],
      [owner.userId, null],
    ],
  )
  await shop.close()
})

test('a parcel of an order that is not paid is a dead letter', async () => {
  const shop = await openShop()
  await place(shop)
  await dispatch(shop, 'shp_1', true)
  assert.equal(await shop.deadLetters(), 1)
  await shop[Symbol.asyncDispose]()
})

test('a capture that the provider refuses is a dead letter, and nothing is booked', async () => {
  const shop = await openShop()
  await sell(shop, 'pm_card_capture_fails')
  assert.equal(await shop.deadLetters(), 1)
  assert.equal((await shop.payment()).capturedPence, 0)
  await shop[Symbol.asyncDispose]()
})

test('the service as the shop runs it is wired, and can be closed without a start', async () => {
  const service = await prepareService(payment, {
    transport: memoryTransport(),
    openStore: () => sqliteStore(':memory:'),
    events: allEvents,
    clock: systemClock,
    config: readConfig({ SEED: '1' }, ['payment']),
    log: createLog('silent'),
  })
  const card = { number: '4242424242424242', expiryMonth: 12, expiryYear: 2099, cvc: '123' }
  const answer = await service.routes!.request('/api/payment-methods', {
    method: 'POST',
    body: JSON.stringify(card),
    headers: { 'content-type': 'application/json' },
  })
  assert.equal(answer.status, 201)
  await service.close()
})

test('each message that payment sends carries on the correlation of its cause', async () => {
  const shop = await openShop()
  await sell(shop)
  const ours = shop.heard.filter(({ source }: Message) => source === 'payment')
  const theirs = new Set(
    shop.heard.filter(({ source }) => source !== 'payment').map(({ correlationId }) => correlationId),
  )
  assert.ok(ours.length > 0 && ours.every(({ correlationId }) => theirs.has(correlationId)))
  await shop.close()
})
