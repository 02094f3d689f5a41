/** Which event tells whom what, and under which step it is told once. */
import type { EventType } from '@shopsphere/bus'
import {
  cartAbandoned,
  orderCancellationRejected,
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPartiallyShipped,
  orderPlaced,
  orderRefunded,
  orderShipped,
  paymentActionRequired,
  paymentFailed,
  returnClosed,
  userRegistered,
} from '@shopsphere/contracts'
import {
  cancellationCameTooLate,
  cartIsWaiting,
  moneyWentBack,
  orderArrived,
  orderIsCancelled,
  orderIsConfirmed,
  orderOnItsWay,
  orderReceived,
  parcelOnItsWay,
  paymentNeedsYou,
  paymentWasRefused,
  type Reader,
  returnWasEnded,
  type Written,
  welcome,
} from './templates.ts'

/** What a mail is about and for whom. */
export type Occasion = {
  /** With the step and the channel, what is told once. */
  readonly about: string
  readonly orderId: string | null
  readonly userId: string | null
  /** As the event says; null: perhaps our own copy of the account knows one. */
  readonly email: string | null
}

export type Step<Data> = {
  readonly event: EventType<Data>
  /** `order.shipped`; what may happen more than once to an order has the number or id of the time behind a colon. */
  readonly step: (data: Data) => string
  readonly occasion: (data: Data) => Occasion
  readonly write: (data: Data, reader: Reader) => Written
  /** Told even to people who want no mails. */
  readonly always: boolean
  /** Left out: each one is told. */
  readonly isTold?: (data: Data) => boolean
}

/** Steps of different events stand in one list; each is given its own event's payload. */
type AnyStep = Step<any>

type OfOrder = { orderId: string; customerId: string | null; email: string | null }

function ofOrder<Data extends OfOrder>(
  event: EventType<Data>,
  write: Step<Data>['write'],
  options: Partial<Pick<Step<Data>, 'step' | 'always' | 'isTold'>> = {},
): Step<Data> {
  const occasion = ({ orderId, customerId, email }: Data) => ({ about: orderId, orderId, userId: customerId, email })
  return { event, step: () => event.type, occasion, write, always: false, ...options }
}

function ofOther<Data>(
  event: EventType<Data>,
  write: Step<Data>['write'],
  options: Pick<Step<Data>, 'occasion' | 'isTold'>,
): Step<Data> {
  return { event, step: () => event.type, write, always: false, ...options }
}

/** The first attempt under the plain name, later ones each under their own. */
const byAttempt =
  (type: string) =>
  ({ attempt }: { attempt: number }) =>
    attempt === 1 ? type : `${type}:${attempt}`

export const steps: readonly AnyStep[] = [
  ofOrder(orderPlaced, orderReceived),
  ofOrder(orderConfirmed, orderIsConfirmed, { always: true }),
  ofOrder(orderPartiallyShipped, parcelOnItsWay, {
    step: ({ shipmentId }) => `${orderPartiallyShipped.type}:${shipmentId}`,
  }),
  ofOrder(orderShipped, orderOnItsWay),
  ofOrder(orderDelivered, orderArrived),
  ofOrder(orderCancelled, orderIsCancelled),
  ofOrder(orderCancellationRejected, cancellationCameTooLate),
  ofOrder(orderRefunded, moneyWentBack, {
    always: true,
    step: ({ refundId, refundedPence, refundedTotalPence }) =>
      refundedPence === refundedTotalPence ? orderRefunded.type : `${orderRefunded.type}:${refundId}`,
  }),
  ofOrder(paymentFailed, paymentWasRefused, { step: byAttempt(paymentFailed.type) }),
  ofOrder(paymentActionRequired, paymentNeedsYou, { always: true, step: byAttempt(paymentActionRequired.type) }),
  // A refund is told by order.refunded.
  ofOrder(returnClosed, returnWasEnded, {
    step: ({ returnId }) => `${returnClosed.type}:${returnId}`,
    isTold: ({ outcome }) => outcome !== 'refunded',
  }),
  ofOther(userRegistered, welcome, {
    occasion: ({ userId, email }) => ({ about: userId, orderId: null, userId, email }),
    // A merchant's customer without an address: there is nowhere else to look for one.
    isTold: ({ email }) => email !== null,
  }),
  ofOther(cartAbandoned, cartIsWaiting, {
    occasion: ({ cartId, customerId, email }) => ({ about: cartId, orderId: null, userId: customerId, email }),
  }),
]
