/** Owned by order: what was bought, and how it stands. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import {
  address,
  buyer,
  cancelReason,
  code,
  contractLimits,
  currency,
  id,
  orderLines,
  shortages,
  text,
  timeMs,
  totalPence,
  whole,
} from './values.ts'

const orderId = 'ord_01939c1e-7000-7000-8000-000000000003'
const customerId = 'usr_01939c1e-7000-7000-8000-000000000001'
const lines = [
  { lineNo: 1, sku: '85123A', name: 'White hanging heart T-light holder', quantity: 6, unitPence: 255 },
  { lineNo: 2, sku: '71053', name: 'White metal lantern', quantity: 6, unitPence: 339 },
]
const exampleAddress = {
  name: 'Ada Lovelace',
  line1: '12 St James’s Square',
  line2: null,
  city: 'London',
  region: null,
  postcode: 'SW1Y 4JH',
  country: 'GB',
}

const placed = z.object({
  orderId: id,
  ...buyer,
  placedAt: timeMs,
  currency,
  lines: orderLines,
  totalPence,
  /** The token of a card or another means: `pm_…`. */
  paymentMethod: id,
  address: address.nullable(),
  /** `direct`: by the buyer over the API; `cart`: by check-out; `merchant`: on the buyer’s behalf. */
  channel: z.enum(['direct', 'cart', 'merchant']),
  /** Whose account did it; null: a guest. */
  placedBy: id.nullable(),
})

/** Version 1 told the total in pounds, as a decimal number: 38.1 is £38.10. */
type OrderPlacedVersion1 = Omit<z.infer<typeof placed>, 'totalPence'> & { total: number }

export const orderPlaced = event('order.placed', {
  version: 2,
  owner: 'order',
  summary: 'An order was accepted; nothing is reserved or paid yet.',
  schema: placed,
  key: (order) => order.orderId,
  upcast: {
    1: ({ total, ...same }: OrderPlacedVersion1) => ({ ...same, totalPence: Math.round(total * 100) }),
  },
  example: {
    orderId,
    customerId,
    email: 'ada@example.org',
    placedAt: 1_291_192_800_000,
    currency: 'GBP',
    lines,
    totalPence: 3_564,
    paymentMethod: 'pm_card_visa',
    address: exampleAddress,
    channel: 'direct',
    placedBy: customerId,
  },
})

export const orderConfirmed = event('order.confirmed', {
  version: 1,
  owner: 'order',
  summary: 'An order is paid (authorised) and its stock allocated: it may be shipped.',
  schema: z.object({
    orderId: id,
    ...buyer,
    placedAt: timeMs,
    currency,
    lines: orderLines,
    totalPence,
    address: address.nullable(),
  }),
  key: (order) => order.orderId,
  example: {
    orderId,
    customerId,
    email: 'ada@example.org',
    placedAt: 1_291_192_800_000,
    currency: 'GBP',
    lines,
    totalPence: 3_564,
    address: exampleAddress,
  },
})

export const orderCancellationRequested = event('order.cancellation_requested', {
  version: 1,
  owner: 'order',
  summary:
    'Somebody wants an order called off; it is locked until shipping has answered with shipment.cancelled or shipment.cancellation_refused.',
  schema: z.object({
    orderId: id,
    customerId: id.nullable(),
    reason: cancelReason,
    requestedBy: id.nullable(),
    requestedAt: timeMs,
  }),
  key: (order) => order.orderId,
  example: { orderId, customerId, reason: 'customer', requestedBy: customerId, requestedAt: 1_291_193_400_000 },
})

export const orderCancellationRejected = event('order.cancellation_rejected', {
  version: 1,
  owner: 'order',
  summary: 'It was too late to call an order off; it goes on.',
  schema: z.object({ orderId: id, ...buyer, reason: code }),
  key: (order) => order.orderId,
  example: { orderId, customerId, email: 'ada@example.org', reason: 'already_shipped' },
})

export const orderCancelled = event('order.cancelled', {
  version: 1,
  owner: 'order',
  summary: 'An order is off: holds and allocations are released, payments voided or refunded.',
  schema: z.object({
    orderId: id,
    ...buyer,
    reason: cancelReason,
    currency,
    totalPence,
    /** False: it was called off before it was confirmed. */
    wasConfirmed: z.boolean(),
    /** What was missing, where that is the reason; otherwise empty. */
    short: shortages,
  }),
  key: (order) => order.orderId,
  example: {
    orderId,
    customerId,
    email: 'ada@example.org',
    reason: 'out_of_stock',
    currency: 'GBP',
    totalPence: 3_564,
    wasConfirmed: false,
    short: [{ sku: '71053', wanted: 6, available: 2 }],
  },
})

export const orderCompleted = event('order.completed', {
  version: 1,
  owner: 'order',
  summary: 'An order was delivered and its return window (T7) is over.',
  schema: z.object({ orderId: id, customerId: id.nullable(), currency, totalPence }),
  key: (order) => order.orderId,
  example: { orderId, customerId, currency: 'GBP', totalPence: 3_564 },
})

export const orderRefunded = event('order.refunded', {
  version: 1,
  owner: 'order',
  summary: 'Money of an order went back: how much this time, how much in all.',
  schema: z.object({
    orderId: id,
    ...buyer,
    refundId: id,
    currency,
    refundedPence: totalPence,
    refundedTotalPence: totalPence,
    /** True: nothing that was captured is left. */
    full: z.boolean(),
  }),
  key: (order) => order.orderId,
  example: {
    orderId,
    customerId,
    email: 'ada@example.org',
    refundId: 'rfd_01939c1e-7000-7000-8000-000000000006',
    currency: 'GBP',
    refundedPence: 255,
    refundedTotalPence: 255,
    full: false,
  },
})

export const foreignOrderCreated = event('foreign.order_created', {
  version: 1,
  owner: 'order',
  summary: 'Another program said that it has taken an order, in a line of text; the order is none of ours.',
  schema: z.object({
    orderNumber: text(64),
    text: text(200),
    /** Where it was said: `rabbitmq queue order_created`. */
    from: text(300),
  }),
  key: (order) => `foreign:${order.orderNumber}`,
  example: { orderNumber: '123', text: 'Order #123 created', from: 'rabbitmq queue order_created' },
})

export const orderCompletionDue = event('order.completion_due', {
  version: 1,
  owner: 'order',
  summary: 'Timer T7, order to itself: the return window of a delivered order is over.',
  schema: z.object({ orderId: id }),
  key: (order) => order.orderId,
  example: { orderId },
})

export const orderProgressDue = event('order.progress_due', {
  version: 1,
  owner: 'order',
  summary: 'Timer T9, order to itself: has an order that has not ended moved on since this version of it?',
  schema: z.object({ orderId: id, sinceVersion: whole(0, contractLimits.unitsMax) }),
  key: (order) => order.orderId,
  example: { orderId, sinceVersion: 3 },
})

export const orderEvents = [
  orderPlaced,
  orderConfirmed,
  orderCancellationRequested,
  orderCancellationRejected,
  orderCancelled,
  orderCompleted,
  orderRefunded,
  foreignOrderCreated,
  orderCompletionDue,
  orderProgressDue,
]
