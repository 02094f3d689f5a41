/**
 * The order as an event-sourced aggregate: `decide` says what happens, `evolve` what is so afterwards. Pure: no clock, no
 * database, no ids made here.
 *
 * O1 What others say is a fact, whichever comes first. The order is confirmed once it is paid and its stock allocated.
 * O2 A repeat, or something that was overtaken, adds nothing; what cannot be true of the order is left out likewise.
 * O3 Axes only move on: nothing that comes late takes one back. Money is read from totals, which only grow.
 * O4 While it is locked (`cancelling`) nothing moves on. Before confirmation the payment's answer unlocks it, after it
 *    shipping's: shipping alone knows whether a parcel has left.
 * O5 A fact about money or stock of an order that is off is kept, so that it shows what is still to go back.
 * O6 Nothing personal stands in the events, so that an account can be forgotten: see `order_row` in schema.sql.
 */
import { type DataOf, PermanentError } from '@shopsphere/bus'
import {
  type CancelReason,
  inventoryReleased,
  inventoryReservationExpired,
  inventoryReservationFailed,
  inventoryReserved,
  inventoryUpdated,
  inventoryUpdateFailed,
  type OrderLine,
  orderDelivered,
  orderPartiallyShipped,
  orderShipped,
  paymentActionRequired,
  paymentCaptured,
  paymentDisputed,
  paymentFailed,
  paymentProcessed,
  paymentRefunded,
  paymentRefundFailed,
  paymentVoided,
  returnApproved,
  returnClosed,
  returnReceived,
  returnRequested,
  type Shortage,
  shipmentCancellationRefused,
  shipmentCancelled,
  shipmentException,
  shipmentReturned,
} from '@shopsphere/contracts'
import {
  type Axes,
  customerStatus,
  type FulfilmentAxis,
  hasMoneyOut,
  type PaymentAxis,
  type ReturnState,
  stageOf,
} from './axes.ts'

/** What others say about an order, by type; each is a command to take note of it. */
export const heard = {
  'inventory.reserved': inventoryReserved,
  'inventory.reservation_failed': inventoryReservationFailed,
  'inventory.reservation_expired': inventoryReservationExpired,
  'inventory.updated': inventoryUpdated,
  'inventory.update_failed': inventoryUpdateFailed,
  'inventory.released': inventoryReleased,
  'payment.processed': paymentProcessed,
  'payment.failed': paymentFailed,
  'payment.action_required': paymentActionRequired,
  'payment.voided': paymentVoided,
  'payment.captured': paymentCaptured,
  'payment.refunded': paymentRefunded,
  'payment.refund_failed': paymentRefundFailed,
  'payment.disputed': paymentDisputed,
  'order.partially_shipped': orderPartiallyShipped,
  'order.shipped': orderShipped,
  'order.delivered': orderDelivered,
  'shipment.returned': shipmentReturned,
  'shipment.exception': shipmentException,
  'shipment.cancelled': shipmentCancelled,
  'shipment.cancellation_refused': shipmentCancellationRefused,
  'return.requested': returnRequested,
  'return.approved': returnApproved,
  'return.received': returnReceived,
  'return.closed': returnClosed,
} as const

type Heard = { [Type in keyof typeof heard]: DataOf<(typeof heard)[Type]> }
type Said<Type extends keyof Heard> = Heard[Type]

/** What was bought and by whom. */
type Placed = {
  readonly customerId: string | null
  /** Milliseconds since the epoch; a merchant may name an earlier time than now. */
  readonly placedAt: number
  readonly currency: 'GBP'
  readonly lines: readonly OrderLine[]
  readonly totalPence: number
  readonly paymentMethod: string
  readonly channel: 'direct' | 'cart' | 'merchant'
  readonly placedBy: string | null
}

type Asked = {
  place: Placed
  cancel: { readonly requestedBy: string | null; readonly requestedAt: number }
  /** T7. */
  close_return_window: Record<never, never>
  /** T9: has nothing happened since this version? */
  check_progress: { readonly sinceVersion: number }
}

type Commands = Heard & Asked
export type Command = { [Type in keyof Commands]: { type: Type; data: Commands[Type] } }[keyof Commands]

/** What stands in the order's stream. */
type Facts = {
  placed: Placed
  stock_reserved: { holdExpiresAt: number }
  stock_expired: Record<never, never>
  stock_allocated: Record<never, never>
  stock_lost: { reason: string; short: readonly Shortage[] }
  stock_released: { was: string }
  payment_authorized: { paymentId: string; authorizedPence: number; attempt: number }
  payment_failed: { paymentId: string; reason: string; retryable: boolean; attempt: number }
  payment_action_required: { paymentId: string; actionUrl: string; decisionDueAt: number; attempt: number }
  payment_voided: { paymentId: string; voidedPence: number; reason: string }
  payment_captured: { capturedPence: number; capturedTotalPence: number; shipmentId: string | null }
  payment_refunded: {
    refundId: string
    returnId: string | null
    reason: string
    refundedPence: number
    refundedTotalPence: number
    capturedTotalPence: number
  }
  refund_failed: RefundProblem
  payment_disputed: Dispute & { disputedPence: number }
  confirmed: Record<never, never>
  cancellation_requested: { reason: CancelReason; requestedBy: string | null; requestedAt: number | null }
  cancellation_rejected: { reason: string }
  cancelled: { reason: CancelReason; short: readonly Shortage[] }
  parcel_shipped: Omit<Parcel, 'returned'> & { last: boolean }
  parcel_returned: { shipmentId: string; reason: string; returnedAt: number }
  parcel_exception: ParcelException
  delivered: { deliveredAt: number }
  return_requested: Omit<OrderReturn, 'state'>
  return_approved: { returnId: string; units: number; refundPence: number }
  return_received: { returnId: string; units: number; refundPence: number }
  /** `outcome`: `refunded`, `rejected` or `not_received`. */
  return_closed: { returnId: string; outcome: string }
  completed: Record<never, never>
  stalled: { sinceVersion: number }
}
export type OrderEvent = { [Type in keyof Facts]: { type: Type; data: Facts[Type] } }[keyof Facts]

/** `status`: `opened`, `won` or `lost`. */
type Dispute = { disputeId: string; status: string }
type RefundProblem = { refundId: string; reason: string; attempt: number; willRetry: boolean }
type Parcel = {
  shipmentId: string
  carrier: string
  trackingNumber: string
  shippedAt: number
  /** The carrier brought it back. */
  returned: boolean
}
type ParcelException = { shipmentId: string; kind: string; occurredAt: number }
type OrderReturn = { returnId: string; state: ReturnState; units: number; refundPence: number }

export type OrderState = Omit<Axes, 'returns'> & {
  /** How many events there are, which is the order's version; 0: it was never placed. */
  readonly events: number
  /** The version at which the customer's status, the stage or `stalled` last changed. */
  readonly shownSince: number
  /** T9 found that nothing moves; any event ends it. */
  readonly stalled: boolean
  /** It has stalled at least once. */
  readonly hasStalled: boolean

  readonly customerId: string | null
  readonly placedBy: string | null
  readonly placedAt: number
  readonly channel: Placed['channel']
  readonly currency: 'GBP'
  readonly totalPence: number
  readonly lineCount: number
  readonly units: number

  readonly wasConfirmed: boolean
  /** Why it is locked or off. */
  readonly cancellation: {
    readonly reason: CancelReason
    readonly requestedBy: string | null
    readonly requestedAt: number | null
    readonly short: readonly Shortage[]
  } | null

  readonly holdExpiresAt: number | null
  /** The latest attempt to pay that was answered; 0: none. */
  readonly attempt: number
  readonly authorization: 'pending' | 'action_required' | 'authorized' | 'failed' | 'voided'
  /** The provider’s code of the latest refusal. */
  readonly refusal: string | null
  /** What the customer must do at their bank. */
  readonly action: { readonly url: string; readonly decisionDueAt: number } | null
  /** Null: nothing yet. */
  readonly capturedPence: number | null
  readonly refundedPence: number
  readonly refundIds: readonly string[]
  readonly refundProblem: RefundProblem | null
  readonly dispute: Dispute | null

  readonly parcels: readonly Parcel[]
  readonly exception: ParcelException | null
  readonly deliveredAt: number | null
  readonly returns: readonly OrderReturn[]
}

export const initial: OrderState = {
  order: 'placed',
  payment: 'pending',
  fulfilment: 'unfulfilled',
  returns: [],
  events: 0,
  shownSince: 0,
  stalled: false,
  hasStalled: false,
  customerId: null,
  placedBy: null,
  placedAt: 0,
  channel: 'direct',
  currency: 'GBP',
  totalPence: 0,
  lineCount: 0,
  units: 0,
  wasConfirmed: false,
  cancellation: null,
  holdExpiresAt: null,
  attempt: 0,
  authorization: 'pending',
  refusal: null,
  action: null,
  capturedPence: null,
  refundedPence: 0,
  refundIds: [],
  refundProblem: null,
  dispute: null,
  parcels: [],
  exception: null,
  deliveredAt: null,
}

/** Somebody wants to call off an order that has gone too far. */
export class NotCancellable extends Error {
  override readonly name = 'NotCancellable'
}

/** Pure. Throws NotCancellable, and PermanentError for a fact about an order that was never placed. */
export function decide(state: OrderState, command: Command): OrderEvent[] {
  if (state.events === 0 && command.type !== 'place') {
    throw new PermanentError(`${command.type}: no such order was placed here`)
  }
  // The record has one decider for each type, so the data is that decider's.
  const decider = deciders[command.type] as (state: OrderState, data: unknown) => OrderEvent[]
  return decider(state, command.data)
}

const deciders: { [Type in keyof Commands]: (state: OrderState, data: Commands[Type]) => OrderEvent[] } = {
  place: (state, placed) => (state.events === 0 ? [fact('placed', placed)] : []),
  cancel: decideCancel,
  close_return_window: (state) =>
    state.order === 'confirmed' && state.fulfilment === 'delivered' ? [fact('completed', {})] : [],
  check_progress: (state, { sinceVersion }) =>
    isWatched(state) && !state.stalled && state.events <= sinceVersion ? [fact('stalled', { sinceVersion })] : [],

  'inventory.reserved': (state, { holdExpiresAt }) =>
    isOn(state) && state.fulfilment === 'unfulfilled' ? [fact('stock_reserved', { holdExpiresAt })] : [],
  'inventory.reservation_failed': (state, { short }) =>
    isBeforeConfirmation(state) ? [calledOff(state, 'out_of_stock', short)] : [],
  'inventory.reservation_expired': decideExpired,
  'inventory.updated': (state) =>
    isOn(state) && isBeforeAllocation(state) ? withConfirmation(state, [fact('stock_allocated', {})]) : [],
  'inventory.update_failed': decideStockLost,
  'inventory.released': (state, { was }) =>
    state.order === 'cancelled' && (state.fulfilment === 'reserved' || state.fulfilment === 'allocated')
      ? [fact('stock_released', { was })]
      : [],

  'payment.processed': decideAuthorized,
  'payment.failed': decideRefused,
  'payment.action_required': decideActionRequired,
  'payment.voided': decideVoided,
  'payment.captured': (state, { capturedPence, capturedTotalPence, shipmentId }) =>
    capturedTotalPence > (state.capturedPence ?? -1)
      ? [fact('payment_captured', { capturedPence, capturedTotalPence, shipmentId })]
      : [],
  'payment.refunded': decideRefunded,
  'payment.refund_failed': decideRefundFailed,
  'payment.disputed': decideDisputed,

  'order.partially_shipped': (state, parcel) => decideShipped(state, parcel, false),
  'order.shipped': (state, parcel) => decideShipped(state, parcel, true),
  'order.delivered': (state, { deliveredAt }) =>
    state.fulfilment === 'delivered' ? [] : leaving(state, fact('delivered', { deliveredAt })),
  'shipment.returned': (state, { shipmentId, reason, returnedAt }) =>
    isKnownAsReturned(state, shipmentId) ? [] : [fact('parcel_returned', { shipmentId, reason, returnedAt })],
  'shipment.exception': (state, { shipmentId, kind, occurredAt }) =>
    isSameException(state.exception, { shipmentId, kind, occurredAt })
      ? []
      : [fact('parcel_exception', { shipmentId, kind, occurredAt })],
  'shipment.cancelled': (state) => (isLockedByShipping(state) ? [calledOff(state, state.cancellation!.reason)] : []),
  'shipment.cancellation_refused': (state, { reason }) =>
    isLockedByShipping(state) ? [fact('cancellation_rejected', { reason })] : [],

  'return.requested': (state, { returnId, lines }) => {
    // One that was overtaken by its successors still says how much was asked for.
    if ((findReturn(state, returnId)?.units ?? 0) > 0) return []
    return [fact('return_requested', { returnId, units: unitsOf(lines), refundPence: penceOf(lines) })]
  },
  'return.approved': (state, { returnId, lines }) =>
    isReturnBefore(state, returnId, 'approved')
      ? [fact('return_approved', { returnId, units: unitsOf(lines), refundPence: penceOf(lines) })]
      : [],
  'return.received': (state, { returnId, lines, refundPence }) =>
    isReturnBefore(state, returnId, 'received')
      ? [fact('return_received', { returnId, units: unitsOf(lines), refundPence })]
      : [],
  'return.closed': (state, { returnId, outcome }) =>
    isReturnBefore(state, returnId, 'closed') ? [fact('return_closed', { returnId, outcome })] : [],
}

// --- calling off ---

function decideCancel(state: OrderState, { requestedBy, requestedAt }: Asked['cancel']): OrderEvent[] {
  if (state.order === 'cancelled' || state.order === 'cancelling') return []
  const request = fact('cancellation_requested', { reason: 'customer', requestedBy, requestedAt })
  if (state.order === 'placed') {
    // With no answer on its way nothing is worth waiting for: a payment that comes late is given back all the same.
    return isPaymentInFlight(state) ? [request] : [request, fact('cancelled', { reason: 'customer', short: [] })]
  }
  if (state.order === 'completed' || !mayStillBeStopped(state.fulfilment)) {
    throw new NotCancellable(
      'A parcel of this order has left: when it has arrived, ask for a return at POST /api/returns.',
    )
  }
  return [request]
}

/** Asked for payment and not answered. A new attempt after a refusal is payment's own matter and looks as refused here. */
function isPaymentInFlight({ payment, fulfilment }: OrderState): boolean {
  return payment === 'pending' && fulfilment !== 'unfulfilled'
}

function calledOff(state: OrderState, reason: CancelReason, short: readonly Shortage[] = []): OrderEvent {
  return fact('cancelled', { reason: state.cancellation?.reason ?? reason, short })
}

/** Off at once before confirmation; after it shipping decides; too late for either, nothing. */
function callOffOrAsk(state: OrderState, reason: CancelReason, short: readonly Shortage[] = []): OrderEvent[] {
  if (isBeforeConfirmation(state)) return [calledOff(state, reason, short)]
  if (state.order !== 'confirmed' || !mayStillBeStopped(state.fulfilment)) return []
  return [fact('cancellation_requested', { reason, requestedBy: null, requestedAt: null })]
}

function isLockedByShipping(state: OrderState): boolean {
  return state.order === 'cancelling' && state.wasConfirmed
}

/** A parcel that has left was allocated, and is shipping's answer, too. */
function leaving(state: OrderState, event: OrderEvent): OrderEvent[] {
  if (isLockedByShipping(state)) return [event, fact('cancellation_rejected', { reason: 'already_shipped' })]
  return withConfirmation(state, [event])
}

// --- stock ---

function decideExpired(state: OrderState): OrderEvent[] {
  if (!isBeforeAllocation(state)) return []
  const gone = fact('stock_expired', {})
  if (isBeforeConfirmation(state)) return [gone, calledOff(state, 'expired')]
  return state.order === 'cancelled' && state.fulfilment === 'reserved' ? [gone] : []
}

function decideStockLost(state: OrderState, { reason, short }: Said<'inventory.update_failed'>): OrderEvent[] {
  const consequences = callOffOrAsk(state, 'inventory_lost', short)
  return consequences.length > 0 ? [fact('stock_lost', { reason, short }), ...consequences] : []
}

// --- money ---

function decideAuthorized(state: OrderState, said: Said<'payment.processed'>): OrderEvent[] {
  const { paymentId, authorizedPence, attempt } = said
  const isKnown = state.authorization === 'authorized' || state.authorization === 'voided'
  if (attempt < state.attempt || (attempt === state.attempt && isKnown)) return []
  const authorized = fact('payment_authorized', { paymentId, authorizedPence, attempt })
  if (isLockedByPayment(state)) return [authorized, calledOff(state, 'customer')]
  return withConfirmation(state, [authorized])
}

function decideRefused(state: OrderState, said: Said<'payment.failed'>): OrderEvent[] {
  const { paymentId, reason, retryable, attempt } = said
  const isKnown = state.authorization !== 'pending' && state.authorization !== 'action_required'
  if (attempt < state.attempt || (attempt === state.attempt && isKnown)) return []
  const refused = fact('payment_failed', { paymentId, reason, retryable, attempt })
  if (state.order === 'placed' && !retryable) return [refused, calledOff(state, 'payment_failed')]
  if (isLockedByPayment(state)) return [refused, calledOff(state, 'customer')]
  return state.order === 'placed' || state.order === 'cancelled' ? [refused] : []
}

function decideActionRequired(state: OrderState, said: Said<'payment.action_required'>): OrderEvent[] {
  const { paymentId, actionUrl, decisionDueAt, attempt } = said
  const isKnown = state.authorization !== 'pending'
  if (attempt < state.attempt || (attempt === state.attempt && isKnown)) return []
  const required = fact('payment_action_required', { paymentId, actionUrl, decisionDueAt, attempt })
  // Nobody will confirm at a bank what they have called off: waiting for it would only last until T2.
  if (isLockedByPayment(state)) return [required, calledOff(state, 'customer')]
  return state.order === 'placed' ? [required] : []
}

function decideVoided(state: OrderState, { paymentId, voidedPence, reason }: Said<'payment.voided'>): OrderEvent[] {
  // The rest of an authorisation that was captured in part may be given up: the captured money stays.
  if (state.authorization !== 'authorized' || state.capturedPence !== null) return []
  return [fact('payment_voided', { paymentId, voidedPence, reason }), ...callOffOrAsk(state, 'payment_failed')]
}

function decideRefunded(state: OrderState, said: Said<'payment.refunded'>): OrderEvent[] {
  const { refundId, returnId, reason, refundedPence, refundedTotalPence, capturedTotalPence } = said
  if (state.refundIds.includes(refundId)) return []
  const back = { refundId, returnId, reason, refundedPence, refundedTotalPence, capturedTotalPence }
  const refunded = fact('payment_refunded', back)
  if (!isLostOnTheWay(evolve(state, refunded))) return [refunded]
  return [refunded, fact('cancellation_requested', { reason: 'inventory_lost', requestedBy: null, requestedAt: null })]
}

/** A person gave all the money back for what got lost or came back: nothing will be delivered that could end the order. */
function isLostOnTheWay({ order, payment, fulfilment, exception }: OrderState): boolean {
  const isInTrouble = fulfilment === 'returned_to_sender' || (fulfilment !== 'delivered' && exception !== null)
  return order === 'confirmed' && payment === 'refunded' && isInTrouble
}

function decideRefundFailed(state: OrderState, said: Said<'payment.refund_failed'>): OrderEvent[] {
  const { refundId, reason, attempt, willRetry } = said
  const known = state.refundProblem
  if (state.refundIds.includes(refundId) || (known?.refundId === refundId && known.attempt >= attempt)) return []
  return [fact('refund_failed', { refundId, reason, attempt, willRetry })]
}

function decideDisputed(state: OrderState, said: Said<'payment.disputed'>): OrderEvent[] {
  const { disputeId, status, disputedPence } = said
  const known = state.dispute?.disputeId === disputeId ? state.dispute.status : undefined
  if (known === status || (known !== undefined && status === 'opened')) return []
  return [fact('payment_disputed', { disputeId, status, disputedPence })]
}

function isLockedByPayment(state: OrderState): boolean {
  return state.order === 'cancelling' && !state.wasConfirmed
}

/** O1. */
function withConfirmation(state: OrderState, events: OrderEvent[]): OrderEvent[] {
  if (state.order !== 'placed') return events
  const next = events.reduce(evolve, state)
  const isJoined = next.authorization === 'authorized' && !isBeforeAllocation(next)
  return isJoined ? [...events, fact('confirmed', {})] : events
}

// --- parcels ---

function decideShipped(
  state: OrderState,
  { shipmentId, carrier, trackingNumber, shippedAt }: Said<'order.shipped'>,
  last: boolean,
): OrderEvent[] {
  // One that came back may go out again.
  if (state.parcels.some((parcel) => parcel.shipmentId === shipmentId && !parcel.returned)) return []
  return leaving(state, fact('parcel_shipped', { shipmentId, carrier, trackingNumber, shippedAt, last }))
}

function isKnownAsReturned({ parcels, fulfilment }: OrderState, shipmentId: string): boolean {
  const parcel = parcels.find((one) => one.shipmentId === shipmentId)
  return parcel ? parcel.returned : fulfilment === 'returned_to_sender'
}

function isSameException(known: ParcelException | null, { shipmentId, kind, occurredAt }: ParcelException): boolean {
  return known?.shipmentId === shipmentId && known.kind === kind && known.occurredAt === occurredAt
}

/** What was paid for those units. */
function penceOf(lines: readonly { quantity: number; unitPence: number }[]): number {
  return lines.reduce((sum, { quantity, unitPence }) => sum + quantity * unitPence, 0)
}

function unitsOf(lines: readonly { quantity: number }[]): number {
  return lines.reduce((sum, { quantity }) => sum + quantity, 0)
}

// --- questions to the state ---

function isOn({ order }: OrderState): boolean {
  return order !== 'cancelled' && order !== 'completed'
}

/** Placed, or locked without ever having been confirmed. */
function isBeforeConfirmation(state: OrderState): boolean {
  return state.order === 'placed' || isLockedByPayment(state)
}

function isBeforeAllocation({ fulfilment }: OrderState): boolean {
  return fulfilment === 'unfulfilled' || fulfilment === 'reserved'
}

/** As far as the order knows; shipping decides. A parcel that came back waits for a person, who may call it off. */
function mayStillBeStopped(fulfilment: FulfilmentAxis): boolean {
  return fulfilment !== 'partially_shipped' && fulfilment !== 'shipped' && fulfilment !== 'delivered'
}

/** T9 looks after it: it has not ended, or it is off and money is still to go back. T7 looks after what is delivered. */
export function isWatched(state: OrderState): boolean {
  const stage = stageOf(state)
  return stage === 'open' || (stage === 'cancelled' && hasMoneyOut(state.payment))
}

const RETURN_RANK: Readonly<Record<ReturnState, number>> = {
  requested: 0,
  approved: 1,
  received: 2,
  rejected: 3,
  closed: 3,
}

function findReturn(state: OrderState, returnId: string): OrderReturn | undefined {
  return state.returns.find((one) => one.returnId === returnId)
}

function isReturnBefore(state: OrderState, returnId: string, step: ReturnState): boolean {
  const known = findReturn(state, returnId)
  return known === undefined || RETURN_RANK[known.state] < RETURN_RANK[step]
}

// --- evolve ---

/** Pure. */
export function evolve(state: OrderState, event: OrderEvent): OrderState {
  const evolver = evolvers[event.type] as (state: OrderState, data: unknown) => Partial<OrderState>
  const next = { ...state, stalled: false, events: state.events + 1, ...evolver(state, event.data) }
  next.payment = paymentAxis(next)
  const isShownAlike =
    state.events > 0 &&
    customerStatus(next) === customerStatus(state) &&
    stageOf(next) === stageOf(state) &&
    next.stalled === state.stalled
  if (!isShownAlike) next.shownSince = next.events
  return next
}

const evolvers: { [Type in keyof Facts]: (state: OrderState, data: Facts[Type]) => Partial<Mutable<OrderState>> } = {
  placed: (_, { customerId, placedBy, placedAt, channel, currency, totalPence, lines }) => ({
    customerId,
    placedBy,
    placedAt,
    channel,
    currency,
    totalPence,
    lineCount: lines.length,
    units: unitsOf(lines),
  }),

  stock_reserved: (_, { holdExpiresAt }) => ({ fulfilment: 'reserved', holdExpiresAt }),
  stock_expired: () => ({ fulfilment: 'unfulfilled', holdExpiresAt: null }),
  stock_allocated: () => ({ fulfilment: 'allocated', holdExpiresAt: null }),
  stock_lost: (state) =>
    isBeforeAllocation(state) || state.fulfilment === 'allocated'
      ? { fulfilment: 'unfulfilled', holdExpiresAt: null }
      : {},
  stock_released: () => ({ fulfilment: 'unfulfilled', holdExpiresAt: null }),

  payment_authorized: (_, { attempt }) => ({ attempt, authorization: 'authorized', action: null, refusal: null }),
  payment_failed: (_, { attempt, reason }) => ({ attempt, authorization: 'failed', action: null, refusal: reason }),
  payment_action_required: (_, { attempt, actionUrl, decisionDueAt }) => ({
    attempt,
    authorization: 'action_required',
    action: { url: actionUrl, decisionDueAt },
    refusal: null,
  }),
  payment_voided: () => ({ authorization: 'voided' }),
  payment_captured: (_, { capturedTotalPence }) => ({ capturedPence: capturedTotalPence }),
  payment_refunded: (state, { refundId, refundedTotalPence, capturedTotalPence }) => ({
    capturedPence: Math.max(state.capturedPence ?? 0, capturedTotalPence),
    refundedPence: Math.max(state.refundedPence, refundedTotalPence),
    refundIds: [...state.refundIds, refundId],
    refundProblem: state.refundProblem?.refundId === refundId ? null : state.refundProblem,
  }),
  refund_failed: (_, refundProblem) => ({ refundProblem }),
  payment_disputed: (_, { disputeId, status }) => ({ dispute: { disputeId, status } }),

  confirmed: () => ({ order: 'confirmed', wasConfirmed: true }),
  cancellation_requested: (_, request) => ({ order: 'cancelling', cancellation: { ...request, short: [] } }),
  cancellation_rejected: () => ({ order: 'confirmed', cancellation: null }),
  cancelled: (state, { reason, short }) => ({
    order: 'cancelled',
    action: null,
    cancellation: { requestedBy: null, requestedAt: null, ...state.cancellation, reason, short },
  }),

  parcel_shipped: (state, { last, ...parcel }) => ({
    parcels: [
      ...state.parcels.filter(({ shipmentId }) => shipmentId !== parcel.shipmentId),
      { ...parcel, returned: false },
    ],
    exception: state.exception?.shipmentId === parcel.shipmentId ? null : state.exception,
    fulfilment: afterShipping(state.fulfilment, last),
  }),
  parcel_returned: (state, { shipmentId }) => ({
    parcels: state.parcels.map((parcel) => (parcel.shipmentId === shipmentId ? { ...parcel, returned: true } : parcel)),
    fulfilment: state.fulfilment === 'delivered' ? 'delivered' : 'returned_to_sender',
  }),
  parcel_exception: (_, exception) => ({ exception }),
  delivered: (_, { deliveredAt }) => ({ fulfilment: 'delivered', deliveredAt, exception: null }),

  return_requested: (state, { returnId, units, refundPence }) => {
    const known = findReturn(state, returnId)
    return { returns: withReturn(state, returnId, { units, refundPence: known?.refundPence || refundPence }) }
  },
  return_approved: (state, { returnId, units, refundPence }) => ({
    returns: withReturn(state, returnId, { state: 'approved', units, refundPence }),
  }),
  return_received: (state, { returnId, units, refundPence }) => ({
    returns: withReturn(state, returnId, { state: 'received', units, refundPence }),
  }),
  return_closed: (state, { returnId, outcome }) => ({
    returns: withReturn(state, returnId, { state: outcome === 'rejected' ? 'rejected' : 'closed' }),
  }),

  completed: () => ({ order: 'completed' }),
  stalled: () => ({ stalled: true, hasStalled: true }),
}

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] }

/** O3: the further a payment has come, the more it counts. A dispute that was lost keeps the money away for good. */
function paymentAxis({ authorization, capturedPence, refundedPence, refundIds, dispute }: OrderState): PaymentAxis {
  if (dispute !== null && dispute.status !== 'won') return 'disputed'
  if (refundIds.length > 0) return refundedPence >= (capturedPence ?? 0) ? 'refunded' : 'partially_refunded'
  return capturedPence === null ? authorization : 'captured'
}

/** A parcel that is sent again after it came back counts as shipped. */
function afterShipping(fulfilment: FulfilmentAxis, last: boolean): FulfilmentAxis {
  if (fulfilment === 'delivered') return fulfilment
  return last || fulfilment === 'shipped' ? 'shipped' : 'partially_shipped'
}

/** A return whose request was overtaken begins with what is known of it. */
function withReturn(state: OrderState, returnId: string, change: Partial<OrderReturn>): OrderReturn[] {
  if (findReturn(state, returnId)) {
    return state.returns.map((one) => (one.returnId === returnId ? { ...one, ...change } : one))
  }
  return [...state.returns, { returnId, state: 'requested', units: 0, refundPence: 0, ...change }]
}

function fact<Type extends keyof Facts>(type: Type, data: Facts[Type]): OrderEvent {
  return { type, data } as OrderEvent
}
