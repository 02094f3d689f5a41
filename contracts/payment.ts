/** Owned by payment: the money of an order. Every event tells order and payment; refunds also which lines. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import {
  attempt,
  buyer,
  code,
  contractLimits,
  currency,
  id,
  partLine,
  sentence,
  text,
  timeMs,
  totalPence,
} from './values.ts'

const orderId = 'ord_01939c1e-7000-7000-8000-000000000003'
const paymentId = 'pay_01939c1e-7000-7000-8000-000000000004'
const customerId = 'usr_01939c1e-7000-7000-8000-000000000001'
const refundId = 'rfd_01939c1e-7000-7000-8000-000000000006'

/** Why money goes back. `payment_late`: it came for an order that was already off. */
const refundReason = z.enum(['order_cancelled', 'payment_late', 'return', 'goodwill'])

/** What of a refund belongs to which line; empty: to the order as a whole. */
const refundedLines = z
  .array(z.object({ lineNo: partLine.shape.lineNo, quantity: partLine.shape.quantity, pence: totalPence }))
  .max(contractLimits.linesMax)

export const paymentProcessed = event('payment.processed', {
  version: 1,
  owner: 'payment',
  summary: 'The provider authorised the whole amount; it is captured when the goods leave.',
  schema: z.object({ orderId: id, paymentId: id, authorizedPence: totalPence, currency, attempt }),
  key: (payment) => payment.orderId,
  example: { orderId, paymentId, authorizedPence: 3_564, currency: 'GBP', attempt: 1 },
})

export const paymentFailed = event('payment.failed', {
  version: 1,
  owner: 'payment',
  summary: 'An attempt to pay did not succeed; if it is retryable, the customer may try again while the hold lasts.',
  schema: z.object({
    orderId: id,
    paymentId: id,
    ...buyer,
    /** The provider’s code, or `decision_overdue`, `hold_expired`. */
    reason: code,
    retryable: z.boolean(),
    attempt,
  }),
  key: (payment) => payment.orderId,
  example: {
    orderId,
    paymentId,
    customerId,
    email: 'ada@example.org',
    reason: 'card_declined',
    retryable: false,
    attempt: 1,
  },
})

export const paymentActionRequired = event('payment.action_required', {
  version: 1,
  owner: 'payment',
  summary: 'The customer must confirm the payment at their bank before it is decided.',
  schema: z.object({ orderId: id, paymentId: id, ...buyer, actionUrl: text(2_000), decisionDueAt: timeMs, attempt }),
  key: (payment) => payment.orderId,
  example: {
    orderId,
    paymentId,
    customerId,
    email: 'ada@example.org',
    actionUrl: 'https://bank.example/confirm/01939c1e',
    decisionDueAt: 1_291_193_400_000,
    attempt: 1,
  },
})

export const paymentVoided = event('payment.voided', {
  version: 1,
  owner: 'payment',
  summary: 'An authorisation was given up; no money had moved.',
  schema: z.object({ orderId: id, paymentId: id, voidedPence: totalPence, currency, reason: code }),
  key: (payment) => payment.orderId,
  example: { orderId, paymentId, voidedPence: 3_564, currency: 'GBP', reason: 'order_cancelled' },
})

export const paymentCaptured = event('payment.captured', {
  version: 1,
  owner: 'payment',
  summary: 'Authorised money was taken, for a shipment or before the authorisation ran out (T3).',
  schema: z.object({
    orderId: id,
    paymentId: id,
    shipmentId: id.nullable(),
    currency,
    capturedPence: totalPence,
    /** Of all captures of the order, this one included. */
    capturedTotalPence: totalPence,
  }),
  key: (payment) => payment.orderId,
  example: {
    orderId,
    paymentId,
    shipmentId: 'shp_01939c1e-7000-7000-8000-000000000005',
    currency: 'GBP',
    capturedPence: 3_564,
    capturedTotalPence: 3_564,
  },
})

export const paymentRefundRequested = event('payment.refund_requested', {
  version: 1,
  owner: 'payment',
  summary:
    'Money is to go back and is set aside in the ledger; payment asks the provider when it hears this from itself.',
  schema: z.object({
    orderId: id,
    paymentId: id,
    refundId: id,
    /** The return it belongs to; null: none. */
    returnId: id.nullable(),
    reason: refundReason,
    currency,
    refundPence: totalPence,
    lines: refundedLines,
    requestedBy: id.nullable(),
  }),
  key: (refund) => refund.orderId,
  example: {
    orderId,
    paymentId,
    refundId,
    returnId: 'ret_01939c1e-7000-7000-8000-000000000007',
    reason: 'return',
    currency: 'GBP',
    refundPence: 255,
    lines: [{ lineNo: 1, quantity: 1, pence: 255 }],
    requestedBy: null,
  },
})

export const paymentRefunded = event('payment.refunded', {
  version: 1,
  owner: 'payment',
  summary: 'Captured money went back to the customer.',
  schema: z.object({
    orderId: id,
    paymentId: id,
    refundId: id,
    returnId: id.nullable(),
    reason: refundReason,
    currency,
    refundedPence: totalPence,
    /** Of all refunds of the order, this one included. */
    refundedTotalPence: totalPence,
    capturedTotalPence: totalPence,
    lines: refundedLines,
  }),
  key: (refund) => refund.orderId,
  example: {
    orderId,
    paymentId,
    refundId,
    returnId: 'ret_01939c1e-7000-7000-8000-000000000007',
    reason: 'return',
    currency: 'GBP',
    refundedPence: 255,
    refundedTotalPence: 255,
    capturedTotalPence: 3_564,
    lines: [{ lineNo: 1, quantity: 1, pence: 255 }],
  },
})

export const paymentRefundFailed = event('payment.refund_failed', {
  version: 1,
  owner: 'payment',
  summary: 'The provider refused a refund; it is tried again, or a person must help.',
  schema: z.object({
    orderId: id,
    paymentId: id,
    refundId: id,
    currency,
    refundPence: totalPence,
    reason: code,
    attempt,
    willRetry: z.boolean(),
  }),
  key: (refund) => refund.orderId,
  example: {
    orderId,
    paymentId,
    refundId,
    currency: 'GBP',
    refundPence: 255,
    reason: 'account_closed',
    attempt: 1,
    willRetry: true,
  },
})

export const paymentDisputed = event('payment.disputed', {
  version: 1,
  owner: 'payment',
  summary: 'A customer’s bank disputes a payment, or has decided; refunds of the payment rest while it is open.',
  schema: z.object({
    orderId: id,
    paymentId: id,
    disputeId: id,
    status: z.enum(['opened', 'won', 'lost']),
    currency,
    disputedPence: totalPence,
    reason: sentence,
  }),
  key: (dispute) => dispute.orderId,
  example: {
    orderId,
    paymentId,
    disputeId: 'dsp_01939c1e-7000-7000-8000-00000000000a',
    status: 'opened',
    currency: 'GBP',
    disputedPence: 3_564,
    reason: 'The cardholder does not recognise the payment.',
  },
})

export const paymentAttemptDue = event('payment.attempt_due', {
  version: 1,
  owner: 'payment',
  summary: 'Payment to itself: the customer wants to try again, so ask the provider once more, under a new attempt.',
  schema: z.object({ orderId: id, paymentId: id, paymentMethod: id, attempt }),
  key: (payment) => payment.orderId,
  example: { orderId, paymentId, paymentMethod: 'pm_card_visa', attempt: 2 },
})

export const paymentDecisionDue = event('payment.decision_due', {
  version: 1,
  owner: 'payment',
  summary: 'Timer T2, payment to itself: this attempt should be decided by now.',
  schema: z.object({ orderId: id, paymentId: id, attempt }),
  key: (payment) => payment.orderId,
  example: { orderId, paymentId, attempt: 1 },
})

export const paymentCaptureDue = event('payment.capture_due', {
  version: 1,
  owner: 'payment',
  summary: 'Timer T3, payment to itself: the authorisation is about to run out with money not captured.',
  schema: z.object({ orderId: id, paymentId: id }),
  key: (payment) => payment.orderId,
  example: { orderId, paymentId },
})

export const paymentRefundDue = event('payment.refund_due', {
  version: 1,
  owner: 'payment',
  summary: 'Timer, payment to itself: a refund that failed is to be tried again.',
  schema: z.object({ orderId: id, paymentId: id, refundId: id, attempt }),
  key: (refund) => refund.orderId,
  example: { orderId, paymentId, refundId, attempt: 2 },
})

export const paymentNoticeDue = event('payment.notice_due', {
  version: 1,
  owner: 'payment',
  summary: 'Payment to itself: the provider’s webhook about this order was checked and stored, and is to be worked on.',
  schema: z.object({ orderId: id, noticeId: text(256) }),
  key: (notice) => notice.orderId,
  example: { orderId, noticeId: 'evt_01939c1e-7000-7000-8000-00000000000b' },
})

export const paymentEvents = [
  paymentProcessed,
  paymentFailed,
  paymentActionRequired,
  paymentVoided,
  paymentCaptured,
  paymentRefundRequested,
  paymentRefunded,
  paymentRefundFailed,
  paymentDisputed,
  paymentAttemptDue,
  paymentDecisionDue,
  paymentCaptureDue,
  paymentRefundDue,
  paymentNoticeDue,
]
