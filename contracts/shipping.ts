/** Owned by shipping: parcels, what they mean for the order, and what comes back. All keyed by the order. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import {
  address,
  buyer,
  code,
  contractLimits,
  currency,
  id,
  partLine,
  partLines,
  sentence,
  text,
  timeMs,
  totalPence,
} from './values.ts'

const orderId = 'ord_01939c1e-7000-7000-8000-000000000003'
const customerId = 'usr_01939c1e-7000-7000-8000-000000000001'
const shipmentId = 'shp_01939c1e-7000-7000-8000-000000000005'
const returnId = 'ret_01939c1e-7000-7000-8000-000000000007'
const shippedLines = [
  { lineNo: 1, sku: '85123A', quantity: 6, unitPence: 255 },
  { lineNo: 2, sku: '71053', quantity: 6, unitPence: 339 },
]
const returnedLines = [{ lineNo: 1, sku: '85123A', quantity: 1, unitPence: 255 }]

const exampleBuyer = { customerId, email: 'ada@example.org' }

/** How a parcel can be followed; one carrier may use a number again. */
const parcel = { carrier: code, trackingNumber: text(64) }
const exampleParcel = { carrier: 'simulated', trackingNumber: 'SIM0000000042' }

export const shipmentCreated = event('shipment.created', {
  version: 1,
  owner: 'shipping',
  summary: 'Lines of a confirmed order are to be picked and packed as one parcel (after T4, the grace).',
  schema: z.object({
    shipmentId: id,
    orderId: id,
    customerId: id.nullable(),
    lines: partLines,
    address: address.nullable(),
  }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId, customerId, lines: shippedLines, address: null },
})

export const shipmentDispatched = event('shipment.dispatched', {
  version: 1,
  owner: 'shipping',
  summary: 'A parcel left: its units leave the stock and its price is captured.',
  schema: z.object({
    shipmentId: id,
    orderId: id,
    ...parcel,
    lines: partLines,
    dispatchedAt: timeMs,
    /** True: nothing of the order remains to be sent. */
    last: z.boolean(),
  }),
  key: (shipment) => shipment.orderId,
  example: {
    shipmentId,
    orderId,
    ...exampleParcel,
    lines: shippedLines,
    dispatchedAt: 1_291_196_400_000,
    last: true,
  },
})

export const shipmentTrackingUpdated = event('shipment.tracking_updated', {
  version: 1,
  owner: 'shipping',
  summary:
    'The carrier has news of a parcel that is under way; each piece of news is told once, in the carrier’s order.',
  schema: z.object({
    shipmentId: id,
    orderId: id,
    status: z.enum(['accepted', 'in_transit', 'out_for_delivery', 'delivery_attempted']),
    place: text(128).nullable(),
    occurredAt: timeMs,
  }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId, status: 'in_transit', place: 'Birmingham', occurredAt: 1_291_230_000_000 },
})

export const shipmentDelivered = event('shipment.delivered', {
  version: 1,
  owner: 'shipping',
  summary: 'A parcel reached the customer.',
  schema: z.object({ shipmentId: id, orderId: id, deliveredAt: timeMs }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId, deliveredAt: 1_291_282_800_000 },
})

export const shipmentException = event('shipment.exception', {
  version: 1,
  owner: 'shipping',
  summary: 'Something is wrong with a parcel, sent or not; a person decides what to do.',
  schema: z.object({
    shipmentId: id,
    orderId: id,
    kind: z.enum(['not_dispatched', 'no_news', 'lost', 'damaged', 'address_unknown']),
    detail: sentence.nullable(),
    occurredAt: timeMs,
  }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId, kind: 'no_news', detail: 'nothing for 30 days', occurredAt: 1_293_874_800_000 },
})

export const shipmentReturned = event('shipment.returned', {
  version: 1,
  owner: 'shipping',
  summary: 'The carrier brought a parcel back undelivered; a person decides: send again or refund.',
  schema: z.object({ shipmentId: id, orderId: id, lines: partLines, reason: code, returnedAt: timeMs }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId, lines: shippedLines, reason: 'address_unknown', returnedAt: 1_291_628_400_000 },
})

export const shipmentCancelled = event('shipment.cancelled', {
  version: 1,
  owner: 'shipping',
  summary:
    'The answer to order.cancellation_requested when nothing had left: nothing will be sent, the order may be cancelled.',
  schema: z.object({ orderId: id }),
  key: (shipment) => shipment.orderId,
  example: { orderId },
})

export const shipmentCancellationRefused = event('shipment.cancellation_refused', {
  version: 1,
  owner: 'shipping',
  summary: 'The answer to order.cancellation_requested when it was too late: a parcel of the order has left.',
  schema: z.object({ orderId: id, shipmentId: id, reason: code }),
  key: (shipment) => shipment.orderId,
  example: { orderId, shipmentId, reason: 'already_shipped' },
})

export const orderPartiallyShipped = event('order.partially_shipped', {
  version: 1,
  owner: 'shipping',
  summary: 'A parcel of an order left and more is to follow.',
  schema: z.object({ orderId: id, ...buyer, shipmentId: id, ...parcel, lines: partLines, shippedAt: timeMs }),
  key: (order) => order.orderId,
  example: {
    orderId,
    ...exampleBuyer,
    shipmentId,
    ...exampleParcel,
    lines: shippedLines.slice(0, 1),
    shippedAt: 1_291_196_400_000,
  },
})

export const orderShipped = event('order.shipped', {
  version: 1,
  owner: 'shipping',
  summary: 'The last or only parcel of an order left.',
  schema: z.object({ orderId: id, ...buyer, shipmentId: id, ...parcel, shippedAt: timeMs }),
  key: (order) => order.orderId,
  example: { orderId, ...exampleBuyer, shipmentId, ...exampleParcel, shippedAt: 1_291_196_400_000 },
})

export const orderDelivered = event('order.delivered', {
  version: 1,
  owner: 'shipping',
  summary: 'Every parcel of an order reached the customer; the return window (T7) begins.',
  schema: z.object({ orderId: id, ...buyer, deliveredAt: timeMs }),
  key: (order) => order.orderId,
  example: { orderId, ...exampleBuyer, deliveredAt: 1_291_282_800_000 },
})

export const returnRequested = event('return.requested', {
  version: 1,
  owner: 'shipping',
  summary: 'Units of one order are to be given back, at the price that was paid.',
  schema: z.object({
    returnId: id,
    orderId: id,
    customerId: id.nullable(),
    lines: partLines,
    reason: sentence.nullable(),
    requestedBy: id.nullable(),
    requestedAt: timeMs,
  }),
  key: (goods) => goods.orderId,
  example: {
    returnId,
    orderId,
    customerId,
    lines: returnedLines,
    reason: 'Arrived cracked.',
    requestedBy: customerId,
    requestedAt: 1_291_369_200_000,
  },
})

export const returnApproved = event('return.approved', {
  version: 1,
  owner: 'shipping',
  summary: 'The customer may send the units back.',
  schema: z.object({ returnId: id, orderId: id, ...buyer, lines: partLines }),
  key: (goods) => goods.orderId,
  example: { returnId, orderId, ...exampleBuyer, lines: returnedLines },
})

export const returnReceived = event('return.received', {
  version: 1,
  owner: 'shipping',
  summary: 'Returned units are here: those to restock go back on hand, and all are refunded at the price paid.',
  schema: z.object({
    returnId: id,
    orderId: id,
    customerId: id.nullable(),
    lines: z
      .array(partLine.extend({ restock: z.boolean() }))
      .min(1)
      .max(contractLimits.linesMax),
    currency,
    refundPence: totalPence,
    receivedAt: timeMs,
  }),
  key: (goods) => goods.orderId,
  example: {
    returnId,
    orderId,
    customerId,
    lines: [{ lineNo: 1, sku: '85123A', quantity: 1, unitPence: 255, restock: false }],
    currency: 'GBP',
    refundPence: 255,
    receivedAt: 1_291_628_400_000,
  },
})

export const returnClosed = event('return.closed', {
  version: 1,
  owner: 'shipping',
  summary: 'A return has ended: refunded, refused, or never sent.',
  schema: z.object({
    returnId: id,
    orderId: id,
    ...buyer,
    outcome: z.enum(['refunded', 'rejected', 'not_received']),
    reason: sentence.nullable(),
  }),
  key: (goods) => goods.orderId,
  example: { returnId, orderId, ...exampleBuyer, outcome: 'refunded', reason: null },
})

export const shipmentPickingDue = event('shipment.picking_due', {
  version: 1,
  owner: 'shipping',
  summary: 'Timer T4, shipping to itself: the grace of a confirmed order is over, its parcels are made now.',
  schema: z.object({ orderId: id }),
  key: (shipment) => shipment.orderId,
  example: { orderId },
})

export const shipmentDispatchDue = event('shipment.dispatch_due', {
  version: 1,
  owner: 'shipping',
  summary: 'Timer T5, shipping to itself: this parcel should have left by now.',
  schema: z.object({ shipmentId: id, orderId: id }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId },
})

export const shipmentTrackingDue = event('shipment.tracking_due', {
  version: 1,
  owner: 'shipping',
  summary: 'Timer, shipping to itself: ask the carrier for news of this parcel.',
  schema: z.object({ shipmentId: id, orderId: id }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId },
})

export const shipmentInvestigationDue = event('shipment.investigation_due', {
  version: 1,
  owner: 'shipping',
  summary: 'Timer T6, shipping to itself: the carrier has had no news of this parcel for 30 days.',
  schema: z.object({ shipmentId: id, orderId: id }),
  key: (shipment) => shipment.orderId,
  example: { shipmentId, orderId },
})

export const shippingEvents = [
  shipmentCreated,
  shipmentDispatched,
  shipmentTrackingUpdated,
  shipmentDelivered,
  shipmentException,
  shipmentReturned,
  shipmentCancelled,
  shipmentCancellationRefused,
  orderPartiallyShipped,
  orderShipped,
  orderDelivered,
  returnRequested,
  returnApproved,
  returnReceived,
  returnClosed,
  shipmentPickingDue,
  shipmentDispatchDue,
  shipmentTrackingDue,
  shipmentInvestigationDue,
]
