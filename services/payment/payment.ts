/**
 * The money of one order as an event-sourced aggregate, which is also its ledger. `decide` says what happens, `evolve`
 * what is so afterwards. Pure: no clock, no ids, no provider in here.
 *
 * P1 I1: 0 ≤ captured − refunded ≤ total, the same per line. A refund is set aside when it is asked for, so two that run
 *    at the same time cannot exceed what was captured; money lost to a dispute counts as gone as well.
 * P2 A refund is `succeeded` only when the provider, or a person who paid it by other means, said so.
 * P3 At most one attempt is open at a time. An attempt ends `authorized`, `failed`, `voided` or `closed`; until then the
 *    provider is asked about it, also when the shop has given it up (`overdue`) or the order is off.
 * P4 An order that is off keeps no money: what is authorised is voided, what was captured is refunded, whenever it came.
 * P5 A repeat adds nothing. A contradiction throws PaymentContradiction.
 * P6 Nothing personal stands in the events: see `payment_buyer` in schema.sql.
 */
import type { ChargeAnswer, RefundAnswer } from './provider.ts'
import { penceOfUnits, spread, takeFrom } from './shares.ts'

export const attemptStatuses = [
  'due',
  'unanswered',
  'pending',
  'action_required',
  'overdue',
  'authorized',
  'failed',
  'voided',
  'closed',
] as const
export type AttemptStatus = (typeof attemptStatuses)[number]

export type Attempt = {
  /** From 1. */
  readonly attempt: number
  readonly paymentMethod: string
  readonly status: AttemptStatus
  /** The provider's; null: none is known (yet). */
  readonly chargeId: string | null
  readonly actionUrl: string | null
  /** T2; null: it was answered at once. */
  readonly decisionDueAt: number | null
  /** How often the provider did not answer. */
  readonly unanswered: number
  readonly reason: string | null
  readonly retryable: boolean
}

export type Line = {
  readonly lineNo: number
  readonly quantity: number
  /** What the customer pays for all of it. */
  readonly pence: number
  readonly capturedUnits: number
  readonly capturedPence: number
  /** Set aside or gone back. */
  readonly refundedPence: number
  /** Units that came back. */
  readonly returnedUnits: number
}

export const refundStatuses = ['requested', 'pending', 'retrying', 'needs_person', 'succeeded', 'dropped'] as const
export type RefundStatus = (typeof refundStatuses)[number]
export type RefundReason = 'order_cancelled' | 'payment_late' | 'return' | 'goodwill'
/** So many units of a line, and what they cost. */
export type LinePart = { readonly lineNo: number; readonly quantity: number; readonly pence: number }

export type Refund = {
  readonly refundId: string
  readonly returnId: string | null
  readonly reason: RefundReason
  readonly pence: number
  readonly lines: readonly LinePart[]
  /** The provider's charge that it goes back to. */
  readonly chargeId: string | null
  readonly status: RefundStatus
  /** From 1; each is a request of its own to the provider. */
  readonly attempt: number
  /** How often the provider did not answer this attempt. */
  readonly unanswered: number
  /** The provider's, once it took the request. */
  readonly providerRefundId: string | null
}

export type Dispute = {
  readonly disputeId: string
  readonly status: 'opened' | 'won' | 'lost'
  readonly pence: number
}

export type PaymentState = {
  /** Null until order.placed has come. */
  readonly order: {
    readonly paymentId: string
    readonly customerId: string | null
    readonly totalPence: number
    readonly placedAt: number
  } | null
  /** T1; null: nothing is held (yet). */
  readonly holdExpiresAt: number | null
  /** Why the order is off. */
  readonly off: string | null
  readonly attempts: readonly Attempt[]
  readonly lines: readonly Line[]
  /** Of the attempt that was authorised. */
  readonly authorizedPence: number
  readonly voidedPence: number
  readonly capturedPence: number
  /** What has gone back. */
  readonly refundedPence: number
  /** Refunds that were asked for and have not gone back. */
  readonly setAsidePence: number
  readonly disputeLostPence: number
  /** Shipments whose price was captured. */
  readonly captures: readonly string[]
  readonly refunds: readonly Refund[]
  readonly disputes: readonly Dispute[]
}

export const initial: PaymentState = {
  order: null,
  holdExpiresAt: null,
  off: null,
  attempts: [],
  lines: [],
  authorizedPence: 0,
  voidedPence: 0,
  capturedPence: 0,
  refundedPence: 0,
  setAsidePence: 0,
  disputeLostPence: 0,
  captures: [],
  refunds: [],
  disputes: [],
}

/** What was asked cannot be true of, or done with, this payment; the message says why. */
export class PaymentContradiction extends Error {
  override readonly name = 'PaymentContradiction'
}

// --- commands and events ---

/** What the provider said; `unanswered`: nothing, and nobody knows whether it did what it was asked. */
export type Answered<Answer> = Answer | { readonly status: 'unanswered' }

type Deciding = {
  /** Now, milliseconds since the epoch. */
  readonly at: number
  /** T2 of an attempt that is not decided at once. */
  readonly decisionDueAt: number
}

type Commands = {
  open: {
    readonly paymentId: string
    readonly customerId: string | null
    readonly totalPence: number
    readonly lines: readonly { readonly lineNo: number; readonly quantity: number; readonly unitPence: number }[]
    readonly paymentMethod: string
    readonly placedAt: number
  }
  /** The stock is held; `answer`: what the provider said to the first attempt, null where it was not asked. */
  reserve: { readonly holdExpiresAt: number; readonly answer: Answered<ChargeAnswer> | null } & Deciding
  /** The customer tries again, with this means. */
  request_attempt: { readonly paymentMethod: string; readonly at: number }
  /** What the provider said about an attempt. */
  answer: { readonly attempt: number; readonly answer: Answered<ChargeAnswer> } & Deciding
  /** `voided`: attempts that the provider has voided for it; `refundId`: of the refund, if one is due. */
  call_off: { readonly reason: string; readonly voided: readonly number[]; readonly refundId: string }
  /** The provider has taken what `captureOf` said. */
  capture: { readonly shipmentId: string | null; readonly pence: number; readonly lines: readonly LinePart[] }
  request_refund: RefundRequest
  answer_refund: {
    readonly refundId: string
    readonly attempt: number
    readonly answer: Answered<RefundAnswer>
  }
  /** A person wants the provider asked once more. */
  retry_refund: { readonly refundId: string }
  /** A person has paid it by other means. */
  settle_refund: { readonly refundId: string; readonly settledBy: string; readonly note: string }
  dispute: {
    readonly disputeId: string
    readonly status: Dispute['status']
    readonly pence: number
    readonly reason: string
  }
}

export type RefundRequest = {
  readonly refundId: string
  readonly returnId: string | null
  readonly reason: RefundReason
  readonly requestedBy: string | null
  /** For these units, or this much of the order as a whole. */
  readonly of: { readonly lines: readonly { readonly lineNo: number; readonly quantity: number }[] } | number
}

export type Command = { [Type in keyof Commands]: { readonly type: Type } & Commands[Type] }[keyof Commands]

/** What stands in the stream of an order's payment: its ledger. */
type Facts = {
  opened: Omit<Commands['open'], 'lines'> & {
    readonly lines: readonly { readonly lineNo: number; readonly quantity: number; readonly pence: number }[]
  }
  reserved: { readonly holdExpiresAt: number }
  attempt_requested: { readonly attempt: number; readonly paymentMethod: string }
  /** The provider knows of it and has not decided. */
  attempt_undecided: {
    readonly attempt: number
    readonly status: 'pending' | 'action_required'
    readonly chargeId: string
    readonly actionUrl: string | null
    readonly decisionDueAt: number
  }
  attempt_unanswered: { readonly attempt: number; readonly decisionDueAt: number }
  /** T2 is over. The provider is still asked, so that nothing stays authorised. */
  attempt_overdue: { readonly attempt: number }
  attempt_failed: {
    readonly attempt: number
    readonly chargeId: string | null
    readonly reason: string
    readonly retryable: boolean
  }
  /** Of an attempt that was given up: the provider has nothing of it any more. */
  attempt_closed: { readonly attempt: number }
  authorized: { readonly attempt: number; readonly chargeId: string | null; readonly pence: number }
  voided: { readonly attempt: number; readonly pence: number; readonly reason: string }
  called_off: { readonly reason: string }
  captured: { readonly shipmentId: string | null; readonly pence: number; readonly lines: readonly LinePart[] }
  refund_requested: Omit<RefundRequest, 'of'> & {
    readonly pence: number
    readonly lines: readonly LinePart[]
    readonly chargeId: string | null
  }
  refund_unanswered: { readonly refundId: string; readonly attempt: number }
  refund_pending: { readonly refundId: string; readonly attempt: number; readonly providerRefundId: string }
  refund_failed: {
    readonly refundId: string
    readonly attempt: number
    readonly reason: string
    readonly willRetry: boolean
  }
  refund_retried: { readonly refundId: string; readonly attempt: number }
  /** `settledBy`: the person who paid it by other means. */
  refunded: { readonly refundId: string; readonly settledBy: string | null; readonly note: string | null }
  /** The bank gave the money back in a dispute; a second time it does not go. */
  refund_dropped: { readonly refundId: string; readonly attempt: number; readonly reason: string }
  /** `lostPence`: what it took of the captured money. */
  disputed: Commands['dispute'] & { readonly lostPence: number }
}
export type PaymentEvent = {
  [Type in keyof Facts]: { readonly type: Type; readonly data: Facts[Type] }
}[keyof Facts]

const REFUND_ATTEMPTS_MAX = 5
/** Times that one attempt to refund goes unanswered before a person has a look. */
const REFUND_UNANSWERED_MAX = 12
export const ATTEMPTS_MAX = 20

// --- decide ---

/** Pure. Throws PaymentContradiction. */
export function decide(state: PaymentState, command: Command): PaymentEvent[] {
  switch (command.type) {
    case 'open':
      return decideOpen(state, command)
    case 'reserve':
      return decideReserve(state, command)
    case 'request_attempt':
      return decideAttempt(state, command)
    case 'answer':
      return decideAnswer(state, command)
    case 'call_off':
      return decideCallOff(state, command)
    case 'capture':
      return decideCapture(state, command)
    case 'request_refund':
      return decideRefund(state, command)
    case 'answer_refund':
      return decideRefundAnswer(state, command)
    case 'retry_refund':
      return decideRetry(state, command.refundId)
    case 'settle_refund':
      return decideSettled(state, command)
    case 'dispute':
      return decideDispute(state, command)
  }
}

function fact<Type extends keyof Facts>(type: Type, data: Facts[Type]): PaymentEvent {
  return { type, data } as PaymentEvent
}

/** Decides `then` on the state that `events` lead to. */
function followedBy(
  state: PaymentState,
  events: PaymentEvent[],
  then: (next: PaymentState) => PaymentEvent[],
): PaymentEvent[] {
  return [...events, ...then(events.reduce(evolve, state))]
}

function decideOpen(state: PaymentState, order: Commands['open']): PaymentEvent[] {
  if (state.order) return []
  const { paymentId, customerId, totalPence, paymentMethod, placedAt } = order
  const pence = spread(
    totalPence,
    order.lines.map(({ quantity, unitPence }) => quantity * unitPence),
  )
  const lines = order.lines.map(({ lineNo, quantity }, index) => ({ lineNo, quantity, pence: pence[index]! }))
  const opened = fact('opened', { paymentId, customerId, totalPence, lines, paymentMethod, placedAt })
  return state.off === null ? [opened] : [opened, fact('attempt_closed', { attempt: 1 })]
}

function decideReserve(state: PaymentState, command: Commands['reserve']): PaymentEvent[] {
  const { holdExpiresAt, answer, at, decisionDueAt } = command
  const held = state.holdExpiresAt === null ? [fact('reserved', { holdExpiresAt })] : []
  return followedBy(state, held, (next) =>
    answer === null ? [] : decideAnswer(next, { attempt: 1, answer, at, decisionDueAt }),
  )
}

function decideAttempt(state: PaymentState, { paymentMethod, at }: Commands['request_attempt']): PaymentEvent[] {
  if (state.off !== null) throw new PaymentContradiction('The order is off: nothing of it can be paid.')
  if (state.attempts.some(isAuthorized)) throw new PaymentContradiction('The order is paid.')
  const last = state.attempts.at(-1)
  if (state.holdExpiresAt === null || !last) {
    throw new PaymentContradiction('The goods are not held for the order yet: its first payment is still to come.')
  }
  if (at > state.holdExpiresAt)
    throw new PaymentContradiction('The goods are not held for the order any longer: place it anew.')
  if (last.status === 'action_required')
    throw new PaymentContradiction('A payment waits for its confirmation at the bank: confirm that one.')
  if (isOpen(last) && last.status !== 'overdue')
    throw new PaymentContradiction('A payment is under way: wait for its answer.')
  if (!last.retryable)
    throw new PaymentContradiction('The payment was refused for good: the order is being called off.')
  if (state.attempts.length >= ATTEMPTS_MAX)
    throw new PaymentContradiction(`There have been ${ATTEMPTS_MAX} attempts, which is as many as there may be.`)
  return [fact('attempt_requested', { attempt: last.attempt + 1, paymentMethod })]
}

function decideAnswer(state: PaymentState, { attempt, answer, at, decisionDueAt }: Commands['answer']): PaymentEvent[] {
  const one = findAttempt(state, attempt)
  if (!one || isEnded(one)) return []
  if (one.status === 'authorized') return answer.status === 'voided' ? voiding(state, one) : []
  const dueAt = one.decisionDueAt ?? decisionDueAt
  const isGivenUp = one.status === 'overdue' || state.off !== null
  switch (answer.status) {
    case 'authorized':
      // Given up, it is about to be voided; the customer may have paid otherwise.
      if (one.status === 'overdue') return []
      return [fact('authorized', { attempt, chargeId: answer.chargeId, pence: state.order!.totalPence })]
    case 'declined': {
      if (isGivenUp) return [fact('attempt_closed', { attempt })]
      const { chargeId, reason, retryable } = answer
      return [fact('attempt_failed', { attempt, chargeId, reason, retryable })]
    }
    case 'voided':
      if (isGivenUp) return [fact('attempt_closed', { attempt })]
      return [fact('attempt_failed', { attempt, chargeId: one.chargeId, reason: 'decision_overdue', retryable: true })]
    case 'pending':
    case 'action_required': {
      const { status, chargeId } = answer
      if (one.status === 'overdue' || (one.status === status && one.chargeId === chargeId)) return []
      const actionUrl = answer.status === 'action_required' ? answer.actionUrl : null
      return [fact('attempt_undecided', { attempt, status, chargeId, actionUrl, decisionDueAt: dueAt })]
    }
    case 'unanswered': {
      const unanswered = fact('attempt_unanswered', { attempt, decisionDueAt: dueAt })
      const isOverdueNow = at >= dueAt && !isGivenUp
      return isOverdueNow ? [unanswered, fact('attempt_overdue', { attempt })] : [unanswered]
    }
  }
}

/** P4: what of an authorisation was not captured. */
function voiding(state: PaymentState, { attempt, reason }: Attempt): PaymentEvent[] {
  return [fact('voided', { attempt, pence: uncapturedPence(state), reason: reason ?? 'order_cancelled' })]
}

function decideCallOff(state: PaymentState, { reason, voided, refundId }: Commands['call_off']): PaymentEvent[] {
  const off = state.off === null ? [fact('called_off', { reason })] : []
  return followedBy(state, off, (next) => {
    const ended = next.attempts.flatMap((one) => {
      if (isEnded(one)) return []
      // Nothing was asked of the provider yet, so nothing can come of it.
      if (one.status === 'due') return [fact('attempt_closed', { attempt: one.attempt })]
      if (!voided.includes(one.attempt)) return []
      return isAuthorized(one) ? voiding(next, one) : [fact('attempt_closed', { attempt: one.attempt })]
    })
    return followedBy(next, ended, (last) => refundOfAll(last, refundId))
  })
}

function refundOfAll(state: PaymentState, refundId: string): PaymentEvent[] {
  const pence = refundablePence(state)
  if (pence === 0) return []
  const lines = state.lines.map((line) => ({
    lineNo: line.lineNo,
    quantity: line.capturedUnits - line.returnedUnits,
    pence: refundableOf(line),
  }))
  const request = { refundId, returnId: null, reason: 'order_cancelled', requestedBy: null } as const
  return [fact('refund_requested', { ...request, pence, lines: upToPence(lines, pence), chargeId: chargeOf(state) })]
}

function decideCapture(state: PaymentState, { shipmentId, pence, lines }: Commands['capture']): PaymentEvent[] {
  if (shipmentId !== null && state.captures.includes(shipmentId)) return []
  if (pence > uncapturedPence(state)) {
    throw new PaymentContradiction(`${pence} pence were captured and only ${uncapturedPence(state)} were authorised`)
  }
  return pence === 0 && lines.length === 0 ? [] : [fact('captured', { shipmentId, pence, lines })]
}

function decideRefund(state: PaymentState, request: RefundRequest): PaymentEvent[] {
  const { refundId, returnId, reason, requestedBy, of } = request
  if (!state.order) throw new PaymentContradiction('The order is not known here yet.')
  const isKnown = state.refunds.some((one) => one.refundId === refundId || isOfReturn(one, returnId))
  if (isKnown) return []
  const { pence, lines } = typeof of === 'number' ? { pence: of, lines: [] } : priceOf(state, of.lines, reason)
  const chargeId = chargeOf(state)
  const asked = fact('refund_requested', { refundId, returnId, reason, requestedBy, pence, lines, chargeId })
  if (reason !== 'goodwill') return [asked]
  if (pence <= 0) throw new PaymentContradiction('Nothing of this can be refunded: it was not captured, or went back.')
  if (pence > refundablePence(state)) {
    throw new PaymentContradiction(
      `${pence} pence are more than the ${refundablePence(state)} that were captured and have not gone back.`,
    )
  }
  if (isFrozen(state)) {
    throw new PaymentContradiction('A dispute about this payment is open: wait for the bank to decide it.')
  }
  return [asked]
}

const isOfReturn = (refund: Refund, returnId: string | null) => returnId !== null && refund.returnId === returnId

/** The price paid for these units, as far as it was captured and has not gone back otherwise. */
function priceOf(
  state: PaymentState,
  lines: readonly { readonly lineNo: number; readonly quantity: number }[],
  reason: RefundReason,
): { pence: number; lines: LinePart[] } {
  const units = new Map<number, number>()
  for (const { lineNo, quantity } of lines) units.set(lineNo, (units.get(lineNo) ?? 0) + quantity)
  const wanted = [...units].map(([lineNo, quantity]) => {
    const line = state.lines.find((one) => one.lineNo === lineNo)
    if (!line) throw new PaymentContradiction(`The order has no line ${lineNo}.`)
    const before = reason === 'return' ? line.returnedUnits : 0
    if (before + quantity > line.capturedUnits) {
      throw new PaymentContradiction(
        `Of line ${lineNo} ${line.capturedUnits} units were paid and ${before} came back: not ${quantity} more.`,
      )
    }
    return { lineNo, quantity, pence: Math.min(penceOfUnits(line, before, quantity), refundableOf(line)) }
  })
  const sum = wanted.reduce((total, { pence }) => total + pence, 0)
  const pence = Math.min(sum, refundablePence(state))
  return { pence, lines: upToPence(wanted, pence) }
}

/** Lines that come to `pence` together, none to more than it says. */
function upToPence(lines: readonly LinePart[], pence: number): LinePart[] {
  const taken = takeFrom(
    lines.map((line) => line.pence),
    pence,
  )
  return lines.map((line, index) => ({ ...line, pence: taken[index]! })).filter(({ quantity }) => quantity > 0)
}

function decideRefundAnswer(state: PaymentState, command: Commands['answer_refund']): PaymentEvent[] {
  const { refundId, attempt, answer } = command
  const refund = findRefund(state, refundId)
  if (!refund || isRefundEnded(refund)) return []
  if (answer.status === 'succeeded') return [fact('refunded', { refundId, settledBy: null, note: null })]
  if (attempt !== refund.attempt || refund.status === 'needs_person') return []
  switch (answer.status) {
    case 'pending': {
      const { providerRefundId } = answer
      return refund.providerRefundId === providerRefundId
        ? []
        : [fact('refund_pending', { refundId, attempt, providerRefundId })]
    }
    case 'failed':
      return [
        fact('refund_failed', { refundId, attempt, reason: answer.reason, willRetry: attempt < REFUND_ATTEMPTS_MAX }),
      ]
    case 'unanswered': {
      const unanswered = fact('refund_unanswered', { refundId, attempt })
      if (refund.unanswered + 1 < REFUND_UNANSWERED_MAX) return [unanswered]
      return [
        unanswered,
        fact('refund_failed', { refundId, attempt, reason: 'provider_unreachable', willRetry: false }),
      ]
    }
  }
}

function decideRetry(state: PaymentState, refundId: string): PaymentEvent[] {
  const refund = findRefund(state, refundId)
  if (refund?.status !== 'needs_person')
    throw new PaymentContradiction('Only a refund that needs a person can be tried again.')
  // After silence the same request again: the provider may have carried it out.
  const attempt = refund.unanswered > 0 ? refund.attempt : refund.attempt + 1
  return [fact('refund_retried', { refundId, attempt })]
}

function decideSettled(state: PaymentState, command: Commands['settle_refund']): PaymentEvent[] {
  const { refundId, settledBy, note } = command
  if (findRefund(state, refundId)?.status !== 'needs_person')
    throw new PaymentContradiction('Only a refund that needs a person can be settled by one.')
  return [fact('refunded', { refundId, settledBy, note })]
}

function decideDispute(state: PaymentState, dispute: Commands['dispute']): PaymentEvent[] {
  const { disputeId, status, pence } = dispute
  const known = state.disputes.find((one) => one.disputeId === disputeId)?.status
  if (known === status || known === 'won' || known === 'lost') return []
  const net = state.capturedPence - state.refundedPence - state.disputeLostPence
  const lostPence = status === 'lost' ? Math.min(pence, net) : 0
  const { reason } = dispute
  return followedBy(state, [fact('disputed', { disputeId, status, pence, reason, lostPence })], dropped)
}

/** Refunds that what is left does not suffice for, the newest first. */
function dropped(state: PaymentState): PaymentEvent[] {
  let missing = -refundablePence(state)
  const events: PaymentEvent[] = []
  for (const { refundId, attempt, pence, status } of state.refunds.toReversed()) {
    if (missing <= 0) break
    if (status === 'succeeded' || status === 'dropped' || pence === 0) continue
    events.push(fact('refund_dropped', { refundId, attempt, reason: 'dispute_lost' }))
    missing -= pence
  }
  return events
}

// --- evolve ---

/** Pure. */
export function evolve(state: PaymentState, event: PaymentEvent): PaymentState {
  const evolver = evolvers[event.type] as (state: PaymentState, data: unknown) => Partial<PaymentState>
  return { ...state, ...evolver(state, event.data) }
}

const evolvers: { [Type in keyof Facts]: (state: PaymentState, data: Facts[Type]) => Partial<PaymentState> } = {
  opened: (_, { paymentId, customerId, totalPence, placedAt, lines, paymentMethod }) => ({
    order: { paymentId, customerId, totalPence, placedAt },
    lines: lines.map((line) => ({ ...line, capturedUnits: 0, capturedPence: 0, refundedPence: 0, returnedUnits: 0 })),
    attempts: [newAttempt(1, paymentMethod)],
  }),
  reserved: (_, { holdExpiresAt }) => ({ holdExpiresAt }),

  attempt_requested: (state, { attempt, paymentMethod }) => ({
    attempts: [...state.attempts, newAttempt(attempt, paymentMethod)],
  }),
  attempt_undecided: (state, { attempt, ...change }) => withAttempt(state, attempt, { ...change, unanswered: 0 }),
  attempt_unanswered: (state, { attempt, decisionDueAt }) => {
    const one = findAttempt(state, attempt)!
    const status = one.status === 'due' ? 'unanswered' : one.status
    return withAttempt(state, attempt, { status, decisionDueAt, unanswered: one.unanswered + 1 })
  },
  attempt_overdue: (state, { attempt }) =>
    withAttempt(state, attempt, { status: 'overdue', reason: 'decision_overdue', retryable: true }),
  attempt_failed: (state, { attempt, ...change }) => withAttempt(state, attempt, { ...change, status: 'failed' }),
  attempt_closed: (state, { attempt }) => withAttempt(state, attempt, { status: 'closed' }),
  authorized: (state, { attempt, chargeId, pence }) => ({
    ...withAttempt(state, attempt, {
      status: 'authorized',
      chargeId,
      reason: state.off === null ? null : 'payment_late',
    }),
    authorizedPence: pence,
  }),
  voided: (state, { attempt, pence }) => ({
    ...withAttempt(state, attempt, { status: 'voided' }),
    voidedPence: state.voidedPence + pence,
  }),
  called_off: (_, { reason }) => ({ off: reason }),

  captured: (state, { shipmentId, pence, lines }) => ({
    capturedPence: state.capturedPence + pence,
    captures: shipmentId === null ? state.captures : [...state.captures, shipmentId],
    lines: withLines(state.lines, lines, (line, part) => ({
      ...line,
      capturedUnits: line.capturedUnits + part.quantity,
      capturedPence: line.capturedPence + part.pence,
    })),
  }),

  refund_requested: (state, { refundId, returnId, reason, pence, lines, chargeId }) => ({
    setAsidePence: state.setAsidePence + pence,
    refunds: [
      ...state.refunds,
      {
        refundId,
        returnId,
        reason,
        pence,
        lines,
        chargeId,
        status: 'requested',
        attempt: 1,
        unanswered: 0,
        providerRefundId: null,
      },
    ],
    lines: withLines(state.lines, lines, (line, part) => ({
      ...line,
      refundedPence: line.refundedPence + part.pence,
      returnedUnits: line.returnedUnits + (reason === 'return' ? part.quantity : 0),
    })),
  }),
  refund_unanswered: (state, { refundId }) =>
    withRefund(state, refundId, (refund) => ({ ...refund, unanswered: refund.unanswered + 1 })),
  refund_pending: (state, { refundId, providerRefundId }) =>
    withRefund(state, refundId, (refund) => ({ ...refund, status: 'pending', providerRefundId, unanswered: 0 })),
  refund_failed: (state, { refundId, attempt, reason, willRetry }) =>
    withRefund(state, refundId, (refund) =>
      willRetry
        ? { ...refund, status: 'retrying', attempt: attempt + 1, unanswered: 0, providerRefundId: null }
        : {
            ...refund,
            status: 'needs_person',
            unanswered: reason === 'provider_unreachable' ? refund.unanswered : 0,
          },
    ),
  refund_retried: (state, { refundId, attempt }) =>
    withRefund(state, refundId, (refund) => ({
      ...refund,
      status: 'retrying',
      attempt,
      unanswered: 0,
      providerRefundId: attempt === refund.attempt ? refund.providerRefundId : null,
    })),
  refunded: (state, { refundId }) => {
    const { pence } = findRefund(state, refundId)!
    return {
      ...withRefund(state, refundId, (refund) => ({ ...refund, status: 'succeeded' })),
      setAsidePence: state.setAsidePence - pence,
      refundedPence: state.refundedPence + pence,
    }
  },
  refund_dropped: (state, { refundId }) => {
    const { pence, lines } = findRefund(state, refundId)!
    return {
      ...withRefund(state, refundId, (refund) => ({ ...refund, status: 'dropped' })),
      setAsidePence: state.setAsidePence - pence,
      lines: withLines(state.lines, lines, (line, part) => ({
        ...line,
        refundedPence: line.refundedPence - part.pence,
      })),
    }
  },
  disputed: (state, { disputeId, status, pence, lostPence }) => ({
    disputes: [...state.disputes.filter((one) => one.disputeId !== disputeId), { disputeId, status, pence }],
    disputeLostPence: state.disputeLostPence + lostPence,
  }),
}

function newAttempt(attempt: number, paymentMethod: string): Attempt {
  return {
    attempt,
    paymentMethod,
    status: 'due',
    chargeId: null,
    actionUrl: null,
    decisionDueAt: null,
    unanswered: 0,
    reason: null,
    retryable: false,
  }
}

function withAttempt(state: PaymentState, attempt: number, change: Partial<Attempt>): Pick<PaymentState, 'attempts'> {
  return { attempts: state.attempts.map((one) => (one.attempt === attempt ? { ...one, ...change } : one)) }
}

function withRefund(
  state: PaymentState,
  refundId: string,
  change: (refund: Refund) => Refund,
): Pick<PaymentState, 'refunds'> {
  return { refunds: state.refunds.map((one) => (one.refundId === refundId ? change(one) : one)) }
}

function withLines(
  lines: readonly Line[],
  parts: readonly LinePart[],
  change: (line: Line, part: LinePart) => Line,
): readonly Line[] {
  if (parts.length === 0) return lines
  const byLine = new Map(parts.map((part) => [part.lineNo, part]))
  return lines.map((line) => {
    const part = byLine.get(line.lineNo)
    return part ? change(line, part) : line
  })
}

// --- questions to the state ---

export function findAttempt(state: PaymentState, attempt: number): Attempt | undefined {
  return state.attempts.find((one) => one.attempt === attempt)
}

export function findRefund(state: PaymentState, refundId: string): Refund | undefined {
  return state.refunds.find((one) => one.refundId === refundId)
}

export const isAuthorized = ({ status }: Attempt) => status === 'authorized'
export const isEnded = ({ status }: Attempt) => status === 'failed' || status === 'voided' || status === 'closed'
const isOpen = (attempt: Attempt) => !isEnded(attempt) && !isAuthorized(attempt)
export const isRefundEnded = ({ status }: Refund) => status === 'succeeded' || status === 'dropped'

/** Refunds rest while the bank decides. */
export function isFrozen({ disputes }: PaymentState): boolean {
  return disputes.some(({ status }) => status === 'opened')
}

/** Authorised, and neither taken nor given up. */
export function uncapturedPence({ authorizedPence, capturedPence, voidedPence }: PaymentState): number {
  return authorizedPence - capturedPence - voidedPence
}

/** Captured, and neither gone back nor about to. Below 0 only for a moment, when a dispute is lost. */
export function refundablePence(state: PaymentState): number {
  return state.capturedPence - state.refundedPence - state.setAsidePence - state.disputeLostPence
}

const refundableOf = ({ capturedPence, refundedPence }: Line) => capturedPence - refundedPence

/** The charge that holds the money; null: none, or the order was free. */
export function chargeOf({ attempts }: PaymentState): string | null {
  return attempts.find(({ status }) => status === 'authorized' || status === 'voided')?.chargeId ?? null
}

/** What is captured with a parcel of these units; what was captured before is left out. */
export function captureOf(
  state: PaymentState,
  parcel: readonly { readonly lineNo: number; readonly quantity: number }[],
): Part {
  const units = new Map<number, number>()
  for (const { lineNo, quantity } of parcel) units.set(lineNo, (units.get(lineNo) ?? 0) + quantity)
  const parts = state.lines
    .map((line) => ({ line, quantity: Math.min(units.get(line.lineNo) ?? 0, line.quantity - line.capturedUnits) }))
    .filter(({ quantity }) => quantity > 0)
    .map(({ line, quantity }) => ({
      lineNo: line.lineNo,
      quantity,
      pence: penceOfUnits(line, line.capturedUnits, quantity),
    }))
  return { pence: parts.reduce((sum, { pence }) => sum + pence, 0), lines: parts }
}

/** T3: what is captured before the authorisation runs out. */
export function captureOfRest(state: PaymentState): Part {
  return captureOf(state, state.lines)
}

export type Part = { readonly pence: number; readonly lines: readonly LinePart[] }

export const paymentStatuses = [
  'pending',
  'action_required',
  'authorized',
  'captured',
  'partially_refunded',
  'refunded',
  'failed',
  'voided',
  'disputed',
] as const
export type PaymentStatus = (typeof paymentStatuses)[number]

/** Read from the ledger. */
export function statusOf(state: PaymentState): PaymentStatus {
  if (state.disputes.some(({ status }) => status !== 'won')) return 'disputed'
  if (state.refundedPence > 0) return state.refundedPence < state.capturedPence ? 'partially_refunded' : 'refunded'
  if (state.capturedPence > 0) return 'captured'
  const last = state.attempts.at(-1)?.status
  if (state.attempts.some(isAuthorized)) return 'authorized'
  if (last === 'action_required' || last === 'voided') return last
  return last === 'failed' || last === 'overdue' || last === 'closed' ? 'failed' : 'pending'
}
