/** For tests: an order service whose neighbours are played, and what they say of an order. */
import {
  cartCheckedOut,
  inventoryReservationExpired,
  inventoryReservationFailed,
  inventoryReserved,
  inventoryUpdated,
  orderDelivered,
  orderShipped,
  paymentCaptured,
  paymentFailed,
  paymentProcessed,
  paymentRefunded,
  paymentVoided,
  productCreated,
  userRegistered,
} from '@shopsphere/contracts'
import { type Asked, openService, type ServiceBench } from '../testing.ts'
import { order } from './service.ts'

export const ada = { userId: 'usr_ada', roles: ['customer'] }
export const bob = { userId: 'usr_bob', roles: ['customer'] }
export const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
export const operator = { userId: 'usr_operator', roles: ['operator'] }

export const address = {
  name: 'Ada Lovelace',
  line1: '12 St James’s Square',
  line2: null,
  city: 'London',
  region: null,
  postcode: 'SW1Y 4JH',
  country: 'GB',
}

let keys = 0

export const returnWindowMs = 60_000
export const stalledMs = 30_000

/**
 * A shop that sells lanterns (339 pence) and hearts (255 pence), where Ada has an account. Its timers are short: each
 * virtual day costs many thousands of the bus's own looks around.
 */
export async function openShop(environment: Readonly<Record<string, string>> = {}) {
  const timers = { RETURN_WINDOW_MS: String(returnWindowMs), ORDER_STALLED_MS: String(stalledMs) }
  const bench = await openService(order, { environment: { ...timers, ...environment } })
  for (const [sku, name, pricePence] of [
    ['lantern', 'White metal lantern', 339],
    ['heart', 'Hanging heart', 255],
  ] as const) {
    await bench.say(productCreated, { ...productCreated.example!, sku, name, pricePence })
  }
  await bench.say(userRegistered, { ...userRegistered.example!, userId: ada.userId, email: 'ada@example.org' })
  return bench
}

export const basket = { lines: [{ sku: 'lantern', quantity: 2 }], paymentMethod: 'pm_card_visa' }

/** `POST /api/orders` with a key of its own. */
export function tryOrder(bench: ServiceBench, body: object = basket, asked: Asked = { as: ada }) {
  const headers = { 'idempotency-key': `key-${++keys}`, ...asked.headers }
  return bench.ask('POST /api/orders', { ...asked, body, headers })
}

/** Places an order of 678 pence unless told otherwise; answers its id. */
export async function placeOrder(bench: ServiceBench, body: object = basket, asked: Asked = { as: ada }) {
  const answer = await tryOrder(bench, body, asked)
  if (answer.status !== 202) throw new Error(JSON.stringify(answer.body))
  return answer.body.orderId as string
}

/** What others say about the order `orderId`, each said when it is called. */
export function about(bench: ServiceBench, orderId: string) {
  const buyer = { customerId: ada.userId, email: 'ada@example.org' }
  const payment = { orderId, paymentId: 'pay_1', currency: 'GBP' as const }
  return {
    reserved: () => bench.say(inventoryReserved, { orderId, holdExpiresAt: bench.clock.now() + 900_000 }),
    outOfStock: () =>
      bench.say(inventoryReservationFailed, { orderId, short: [{ sku: 'lantern', wanted: 2, available: 1 }] }),
    expired: () => bench.say(inventoryReservationExpired, { orderId, expiredAt: bench.clock.now() }),
    allocated: () => bench.say(inventoryUpdated, { orderId, allocatedUnits: 2 }),
    paid: () => bench.say(paymentProcessed, { ...payment, authorizedPence: 678, attempt: 1 }),
    refused: (retryable: boolean) =>
      bench.say(paymentFailed, {
        orderId,
        paymentId: 'pay_1',
        ...buyer,
        reason: 'card_declined',
        retryable,
        attempt: 1,
      }),
    voided: () => bench.say(paymentVoided, { ...payment, voidedPence: 678, reason: 'order_cancelled' }),
    captured: () =>
      bench.say(paymentCaptured, { ...payment, shipmentId: 'shp_1', capturedPence: 678, capturedTotalPence: 678 }),
    refunded: (refundedPence: number, refundedTotalPence: number) =>
      bench.say(paymentRefunded, {
        ...payment,
        refundId: `rfd_${refundedTotalPence}`,
        returnId: null,
        reason: 'order_cancelled',
        refundedPence,
        refundedTotalPence,
        capturedTotalPence: 678,
        lines: [],
      }),
    shipped: () => bench.say(orderShipped, { ...orderShipped.example!, orderId, ...buyer }),
    delivered: () => bench.say(orderDelivered, { orderId, ...buyer, deliveredAt: bench.clock.now() }),
  }
}

export async function confirm(bench: ServiceBench, orderId: string) {
  const { reserved, paid, allocated } = about(bench, orderId)
  await reserved()
  await paid()
  await allocated()
}

export async function deliver(bench: ServiceBench, orderId: string) {
  const { shipped, captured, delivered } = about(bench, orderId)
  await confirm(bench, orderId)
  await shipped()
  await captured()
  await delivered()
}

export async function checkOut(bench: ServiceBench, orderId: string, cart: object = {}) {
  await bench.say(cartCheckedOut, { ...cartCheckedOut.example!, orderId, customerId: ada.userId, ...cart })
}
