/** What people read of a payment: its ledger, entry by entry, and where it stands. Pure. */
import type { StoredEvent } from '@shopsphere/bus'
import {
  type LinePart,
  type PaymentEvent,
  type PaymentState,
  refundablePence,
  statusOf,
  uncapturedPence,
} from './payment.ts'

export const entryKinds = [
  'authorized',
  'voided',
  'captured',
  'refund_requested',
  'refunded',
  'refund_failed',
  'refund_dropped',
  'dispute_opened',
  'dispute_won',
  'dispute_lost',
] as const

export type LedgerEntry = {
  kind: (typeof entryKinds)[number]
  /** Milliseconds since the epoch. */
  at: number
  pence: number
  /** What of it belongs to which line; empty: to the order as a whole. */
  lines: LinePart[]
  /** The attempt, shipment, refund or dispute. */
  reference: string | null
  /** The provider's or the shop's code; of a refund that a person settled, the note. */
  reason: string | null
}

/** The entries of a stream of events, oldest first. */
export function ledgerOf(events: readonly StoredEvent<PaymentEvent>[]): LedgerEntry[] {
  const refunds = new Map<string, { pence: number; lines: readonly LinePart[] }>()
  return events.flatMap((event) => {
    if (event.type === 'refund_requested') refunds.set(event.data.refundId, event.data)
    const entry = entryOf(event, refunds)
    return entry ? [{ lines: [], reason: null, ...entry, at: event.at }] : []
  })
}

type Entry = Pick<LedgerEntry, 'kind' | 'pence' | 'reference'> & Partial<Pick<LedgerEntry, 'lines' | 'reason'>>

function entryOf(
  event: StoredEvent<PaymentEvent>,
  refunds: ReadonlyMap<string, { pence: number; lines: readonly LinePart[] }>,
): Entry | null {
  switch (event.type) {
    case 'authorized':
      return { kind: 'authorized', pence: event.data.pence, reference: String(event.data.attempt) }
    case 'voided': {
      const { attempt, pence, reason } = event.data
      return { kind: 'voided', pence, reference: String(attempt), reason }
    }
    case 'captured': {
      const { shipmentId, pence, lines } = event.data
      return { kind: 'captured', pence, lines: [...lines], reference: shipmentId }
    }
    case 'refund_requested': {
      const { refundId, pence, lines, reason } = event.data
      return { kind: 'refund_requested', pence, lines: [...lines], reference: refundId, reason }
    }
    case 'refunded': {
      const { refundId, note } = event.data
      const { pence, lines } = refunds.get(refundId)!
      return { kind: 'refunded', pence, lines: [...lines], reference: refundId, reason: note }
    }
    case 'refund_failed':
    case 'refund_dropped': {
      const { refundId, reason } = event.data
      return { kind: event.type, pence: refunds.get(refundId)!.pence, reference: refundId, reason }
    }
    case 'disputed': {
      const { disputeId, status, pence, lostPence, reason } = event.data
      const kind = `dispute_${status}` as const
      return { kind, pence: status === 'lost' ? lostPence : pence, reference: disputeId, reason }
    }
    default:
      return null
  }
}

/** Where the payment stands. Its order must be known. */
export function overviewOf(orderId: string, state: PaymentState) {
  const { order, attempts, lines, refunds, disputes } = state
  return {
    orderId,
    paymentId: order!.paymentId,
    status: statusOf(state),
    currency: 'GBP' as const,
    totalPence: order!.totalPence,
    authorizedPence: state.authorizedPence,
    uncapturedPence: uncapturedPence(state),
    voidedPence: state.voidedPence,
    capturedPence: state.capturedPence,
    refundedPence: state.refundedPence,
    disputeLostPence: state.disputeLostPence,
    refundablePence: Math.max(0, refundablePence(state)),
    holdExpiresAt: state.holdExpiresAt,
    attempts: attempts.map(({ attempt, status, reason, retryable, actionUrl, decisionDueAt }) => ({
      attempt,
      status,
      reason,
      retryable,
      actionUrl,
      decisionDueAt,
    })),
    lines: lines.map(({ lineNo, quantity, pence, capturedPence, refundedPence }) => ({
      lineNo,
      quantity,
      pence,
      capturedPence,
      refundedPence,
    })),
    refunds: refunds.map(({ refundId, returnId, reason, pence, status, attempt }) => ({
      refundId,
      returnId,
      reason,
      refundPence: pence,
      status,
      attempt,
    })),
    disputes: disputes.map(({ disputeId, status, pence }) => ({ disputeId, status, disputedPence: pence })),
  }
}
