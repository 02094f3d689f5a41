/**
 * Carries a command out on the payment of one order: appends what was decided and says to the others what they need to
 * know, all in the caller's transaction.
 */
import type { Clock, TransactionContext } from '@shopsphere/bus'
import {
  paymentActionRequired,
  paymentAttemptDue,
  paymentCaptureDue,
  paymentCaptured,
  paymentDecisionDue,
  paymentDisputed,
  paymentFailed,
  paymentProcessed,
  paymentRefundDue,
  paymentRefunded,
  paymentRefundFailed,
  paymentRefundRequested,
  paymentVoided,
} from '@shopsphere/contracts'
import {
  type Attempt,
  type Command,
  findAttempt,
  findRefund,
  isAuthorized,
  isEnded,
  type PaymentEvent,
  type PaymentState,
  type Refund,
  uncapturedPence,
} from './payment.ts'
import { addToTotals, askForPerson, emailOf, noPersonNeeded, payments } from './queries.ts'

export type BookTimers = {
  /** T2 */ readonly paymentDecisionMs: number
  /** T3 */ readonly captureDeadlineMs: number
}

export type Books = {
  /** Throws PaymentContradiction. `cause`: the message that is being handled, null where a person asks. */
  apply(
    context: TransactionContext,
    orderId: string,
    command: Command,
    cause: string | null,
  ): Promise<{ state: PaymentState; events: readonly PaymentEvent[] }>
  /** T2 of an attempt that begins now, milliseconds since the epoch. */
  decisionDueAt(): number
}

const decisionTimer = (orderId: string, attempt: number) => `T2:${orderId}:${attempt}`
const captureTimer = (orderId: string) => `T3:${orderId}`
const refundTimer = (refundId: string) => `refund:${refundId}`

const UNANSWERED_FIRST_MS = 1_000
const UNANSWERED_MAX_MS = 3_600_000
/** Before a refund that failed is tried again: 1, 4, 16, 64 minutes. */
const REFUND_FIRST_MS = 60_000
/** A webhook should have told of the end of a refund long before. */
const REFUND_PENDING_MS = 3_600_000

const backoffMs = (unanswered: number) =>
  Math.min(UNANSWERED_MAX_MS, UNANSWERED_FIRST_MS * 2 ** Math.min(30, unanswered - 1))

/** One payment in the middle of a transaction that has changed it. */
type Change = {
  readonly context: TransactionContext
  readonly orderId: string
  readonly paymentId: string
  readonly state: PaymentState
  /** Read only when somebody is written to. */
  buyer(): Promise<{ customerId: string | null; email: string | null }>
}

const currency = 'GBP'

export function createBooks({ clock, timers }: { clock: Clock; timers: BookTimers }): Books {
  const decisionDueAt = () => clock.now() + timers.paymentDecisionMs

  async function announce(change: Change, event: PaymentEvent): Promise<void> {
    const { context, orderId, paymentId, state } = change
    const { publish, cancel, tx } = context
    switch (event.type) {
      case 'opened':
        // The hold was there first.
        if (state.holdExpiresAt !== null && state.off === null) askAnew(change, state.attempts[0]!)
        return
      case 'attempt_requested':
        return askAnew(change, findAttempt(state, event.data.attempt)!)
      case 'attempt_undecided': {
        const { attempt, status, actionUrl, decisionDueAt: dueAt } = event.data
        if (status !== 'action_required') return
        publish(paymentActionRequired, {
          orderId,
          paymentId,
          ...(await change.buyer()),
          actionUrl: actionUrl!,
          decisionDueAt: dueAt,
          attempt,
        })
        return
      }
      case 'attempt_overdue':
        return tellFailed(change, event.data.attempt, 'decision_overdue', true)
      case 'attempt_failed':
        return tellFailed(change, event.data.attempt, event.data.reason, event.data.retryable)
      case 'authorized': {
        const { attempt, pence } = event.data
        publish(paymentProcessed, { orderId, paymentId, authorizedPence: pence, currency, attempt })
        // P4: it came for an order that is off, so it is settled at once.
        if (state.off !== null) publish(paymentDecisionDue, { orderId, paymentId, attempt })
        else if (pence > 0) {
          const settings = { delayMs: timers.captureDeadlineMs, id: captureTimer(orderId) }
          publish(paymentCaptureDue, { orderId, paymentId }, settings)
        }
        return
      }
      case 'voided': {
        const { pence, reason } = event.data
        publish(paymentVoided, { orderId, paymentId, voidedPence: pence, currency, reason })
        return cancel(captureTimer(orderId))
      }
      case 'captured': {
        const { shipmentId, pence } = event.data
        if (pence > 0) await addToTotals(tx, orderId, { chargedPence: pence })
        const capturedTotalPence = state.capturedPence
        publish(paymentCaptured, {
          orderId,
          paymentId,
          shipmentId,
          currency,
          capturedPence: pence,
          capturedTotalPence,
        })
        if (uncapturedPence(state) === 0) await cancel(captureTimer(orderId))
        return
      }
      case 'disputed':
        return tellDispute(change, event.data)
      default:
        return announceRefund(change, event)
    }
  }

  async function announceRefund(change: Change, event: PaymentEvent): Promise<void> {
    const { context, orderId, paymentId, state } = change
    const { publish, cancel, tx } = context
    switch (event.type) {
      case 'refund_requested': {
        const { refundId, returnId, reason, pence, lines, requestedBy } = event.data
        publish(paymentRefundRequested, {
          orderId,
          paymentId,
          refundId,
          returnId,
          reason,
          currency,
          refundPence: pence,
          lines: [...lines],
          requestedBy,
        })
        return
      }
      case 'refund_unanswered': {
        const refund = findRefund(state, event.data.refundId)!
        return planRefund(change, refund, backoffMs(refund.unanswered))
      }
      case 'refund_pending':
        return planRefund(change, findRefund(state, event.data.refundId)!, REFUND_PENDING_MS)
      case 'refund_failed':
        return tellRefundFailed(change, event.data)
      case 'refund_retried': {
        const { refundId, attempt } = event.data
        await noPersonNeeded(tx, refundId)
        publish(paymentRefundDue, { orderId, paymentId, refundId, attempt })
        return
      }
      case 'refunded': {
        const refund = findRefund(state, event.data.refundId)!
        if (refund.pence > 0) await addToTotals(tx, orderId, { refundedPence: refund.pence })
        await forgetTroubles(change, refund)
        publish(paymentRefunded, {
          orderId,
          paymentId,
          refundId: refund.refundId,
          returnId: refund.returnId,
          reason: refund.reason,
          currency,
          refundedPence: refund.pence,
          refundedTotalPence: state.refundedPence,
          capturedTotalPence: state.capturedPence,
          lines: [...refund.lines],
        })
        return
      }
      case 'refund_dropped': {
        const refund = findRefund(state, event.data.refundId)!
        await noPersonNeeded(tx, refund.refundId)
        await cancel(refundTimer(refund.refundId))
        const { attempt, reason } = event.data
        publish(paymentRefundFailed, { ...refundFields(change, refund), reason, attempt, willRetry: false })
        return
      }
    }
  }

  function askAnew({ context, orderId, paymentId }: Change, { attempt, paymentMethod }: Attempt): void {
    context.publish(paymentAttemptDue, { orderId, paymentId, paymentMethod, attempt })
  }

  async function tellFailed(change: Change, attempt: number, reason: string, retryable: boolean): Promise<void> {
    const { context, orderId, paymentId } = change
    const buyer = await change.buyer()
    context.publish(paymentFailed, { orderId, paymentId, ...buyer, reason, retryable, attempt })
  }

  function planRefund({ context, orderId, paymentId }: Change, refund: Refund, delayMs: number): void {
    const { refundId, attempt } = refund
    const settings = { delayMs, id: refundTimer(refundId) }
    context.publish(paymentRefundDue, { orderId, paymentId, refundId, attempt }, settings)
  }

  const refundFields = ({ orderId, paymentId }: Change, { refundId, pence }: Refund) =>
    ({ orderId, paymentId, refundId, currency, refundPence: pence }) as const

  async function tellRefundFailed(
    change: Change,
    failed: { refundId: string; attempt: number; reason: string; willRetry: boolean },
  ): Promise<void> {
    const { context, orderId } = change
    const { refundId, attempt, reason, willRetry } = failed
    const refund = findRefund(change.state, refundId)!
    context.publish(paymentRefundFailed, { ...refundFields(change, refund), reason, attempt, willRetry })
    if (willRetry) return planRefund(change, refund, REFUND_FIRST_MS * 4 ** (attempt - 1))
    await context.cancel(refundTimer(refundId))
    await askForPerson(context.tx, { refundId, orderId, refundPence: refund.pence, reason, since: clock.now() })
  }

  /** Nothing is left to do or to show of a refund that went through at once. */
  async function forgetTroubles({ context }: Change, refund: Refund): Promise<void> {
    const isSmooth = refund.attempt === 1 && refund.unanswered === 0 && refund.providerRefundId === null
    if (isSmooth) return
    await context.cancel(refundTimer(refund.refundId))
    await noPersonNeeded(context.tx, refund.refundId)
  }

  function tellDispute(
    { context, orderId, paymentId, state }: Change,
    dispute: { disputeId: string; status: 'opened' | 'won' | 'lost'; pence: number; reason: string },
  ): void {
    const { disputeId, status, pence, reason } = dispute
    context.publish(paymentDisputed, {
      orderId,
      paymentId,
      disputeId,
      status,
      currency,
      disputedPence: pence,
      reason,
    })
    if (status === 'opened') return
    // What rested goes on.
    for (const { refundId, attempt, status: how } of state.refunds) {
      if (how !== 'requested' && how !== 'pending' && how !== 'retrying') continue
      context.publish(paymentRefundDue, { orderId, paymentId, refundId, attempt })
    }
  }

  /** T2, and before it each look at an attempt that the provider has not decided. */
  async function watch({ context, orderId, paymentId, state }: Change, attempt: number): Promise<void> {
    const one = findAttempt(state, attempt)
    if (!one || one.decisionDueAt === null) return
    const id = decisionTimer(orderId, attempt)
    if (isEnded(one) || isAuthorized(one)) return context.cancel(id)
    const now = clock.now()
    const isDue = one.decisionDueAt <= now
    const again = now + backoffMs(Math.max(1, one.unanswered))
    const at = isDue ? again : one.unanswered > 0 ? Math.min(again, one.decisionDueAt) : one.decisionDueAt
    context.publish(paymentDecisionDue, { orderId, paymentId, attempt }, { at, id })
  }

  return {
    decisionDueAt,
    async apply(context, orderId, command, cause) {
      const { events, state } = await payments.handle(context.tx, orderId, command, {
        at: clock.now(),
        meta: { cause },
      })
      const change: Change = {
        context,
        orderId,
        // Without an order nothing has been decided that anybody is told of.
        paymentId: state.order?.paymentId ?? '',
        state,
        async buyer() {
          const customerId = state.order!.customerId
          return { customerId, email: await emailOf(context.tx, orderId, customerId) }
        },
      }
      for (const event of events) await announce(change, event)
      if (command.type === 'answer') await watch(change, command.attempt)
      if (command.type === 'reserve') await watch(change, 1)
      if (command.type === 'call_off') for (const attempt of command.voided) await watch(change, attempt)
      return { state, events }
    },
  }
}
