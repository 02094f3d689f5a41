/** The four axes of an order, and what follows from them alone. Pure. */

/** `cancelling` is a lock: nothing moves on until the answer of payment or shipping is in. */
export const orderStates = ['placed', 'confirmed', 'completed', 'cancelling', 'cancelled'] as const
/** Read from what payment said of its ledger. `failed`: refused, and may be tried again while the order stands. */
export const paymentStates = [
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
/** Rolled up from stock and parcels. */
export const fulfilmentStates = [
  'unfulfilled',
  'reserved',
  'allocated',
  'partially_shipped',
  'shipped',
  'delivered',
  'returned_to_sender',
] as const
export const returnStates = ['requested', 'approved', 'rejected', 'received', 'closed'] as const

export type OrderAxis = (typeof orderStates)[number]
export type PaymentAxis = (typeof paymentStates)[number]
export type FulfilmentAxis = (typeof fulfilmentStates)[number]
export type ReturnState = (typeof returnStates)[number]

export type Axes = {
  readonly order: OrderAxis
  readonly payment: PaymentAxis
  readonly fulfilment: FulfilmentAxis
  /** One for each return of the order. */
  readonly returns: readonly { readonly state: ReturnState }[]
}

/** What the customer reads. */
export const customerStatuses = [
  'processing',
  'payment_action_required',
  'payment_failed',
  'confirmed',
  'partially_shipped',
  'shipped',
  'delivered',
  'returned_to_sender',
  'return_in_progress',
  'partially_refunded',
  'refunded',
  'completed',
  'cancelling',
  'cancelled',
  'cancelled_refund_pending',
  'cancelled_refunded',
] as const
export type CustomerStatus = (typeof customerStatuses)[number]

/** Where an order stands in the shop's work. `completed` and `cancelled` are its ends. */
export const stages = ['open', 'delivered', 'completed', 'cancelled'] as const
export type Stage = (typeof stages)[number]

export function customerStatus(axes: Axes): CustomerStatus {
  const { order, payment, fulfilment } = axes
  if (order === 'cancelled') return cancelledStatus(payment)
  if (order === 'cancelling') return 'cancelling'
  if (axes.returns.some(({ state }) => isUnderWay(state))) return 'return_in_progress'
  if (payment === 'refunded') return 'refunded'
  if (order === 'placed') return placedStatus(payment)
  if (payment === 'partially_refunded' && (order === 'completed' || fulfilment === 'delivered'))
    return 'partially_refunded'
  if (order === 'completed') return 'completed'
  return fulfilment === 'unfulfilled' || fulfilment === 'reserved' || fulfilment === 'allocated'
    ? 'confirmed'
    : fulfilment
}

export function stageOf({ order, fulfilment }: Axes): Stage {
  if (order === 'cancelled' || order === 'completed') return order
  return fulfilment === 'delivered' ? 'delivered' : 'open'
}

/** Money of a cancelled order that has not gone back yet: authorised, or captured and not refunded whole. */
export function hasMoneyOut(payment: PaymentAxis): boolean {
  return payment === 'authorized' || payment === 'captured' || payment === 'partially_refunded'
}

function cancelledStatus(payment: PaymentAxis): CustomerStatus {
  if (payment === 'refunded') return 'cancelled_refunded'
  return hasMoneyOut(payment) ? 'cancelled_refund_pending' : 'cancelled'
}

function placedStatus(payment: PaymentAxis): CustomerStatus {
  if (payment === 'action_required') return 'payment_action_required'
  return payment === 'failed' ? 'payment_failed' : 'processing'
}

function isUnderWay(state: ReturnState): boolean {
  return state === 'requested' || state === 'approved' || state === 'received'
}
