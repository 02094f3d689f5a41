/**
 * What people are told, by the event that sets it off. Pure: an event's payload in, a notice out. The step is unique for
 * an order; where something can happen to an order more than once, it carries which time it was.
 */

import type { DataOf, EventType } from '@shopsphere/bus'
import {
  cartAbandoned,
  type OrderLine,
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
  returnApproved,
  returnClosed,
  userRegistered,
} from '@shopsphere/contracts'

export type Notice = {
  /** What the mail is about: an order's id, else a cart's or an account's. */
  readonly about: string
  readonly orderId: string | null
  readonly userId: string | null
  /** Null: the address of the account, where there is one. */
  readonly email: string | null
  readonly step: string
  /** True: it is sent whatever the account prefers. */
  readonly mandatory: boolean
  readonly subject: string
  readonly text: string
}

/** Null: nothing has to be said. */
export type Template<Data> = (data: Data) => Notice | null

/** £1,234.56; exact, since pence are whole numbers. */
export function pounds(pence: number): string {
  const whole = Math.trunc(pence / 100)
  return `£${whole.toLocaleString('en-GB')}.${String(pence % 100).padStart(2, '0')}`
}

const LINES_SHOWN_MAX = 20

function linesText(lines: readonly OrderLine[]): string {
  const shown = lines
    .slice(0, LINES_SHOWN_MAX)
    .map(({ quantity, name, unitPence }) => `  ${quantity} × ${name}, ${pounds(unitPence)} each`)
  if (lines.length > LINES_SHOWN_MAX) shown.push(`  … and ${lines.length - LINES_SHOWN_MAX} more lines`)
  return shown.join('\n')
}

type AboutOrder = { readonly orderId: string; readonly customerId: string | null; readonly email: string | null }

function orderNotice(order: AboutOrder, step: string, subject: string, text: string, mandatory = false): Notice {
  const { orderId, customerId: userId, email } = order
  return { about: orderId, orderId, userId, email, step, mandatory, subject, text: `${text}\n\nOrder ${orderId}` }
}

const cancelReasons: Readonly<Record<string, string>> = {
  out_of_stock: 'we do not have everything that you ordered',
  payment_failed: 'the payment was refused',
  expired: 'the payment did not arrive in time',
  customer: 'you asked us to',
  inventory_lost: 'some of the goods were lost before they could be sent',
}

function cancelledText({ reason, short }: DataOf<typeof orderCancelled>): string {
  const missing = short.map(({ sku, wanted, available }) => `  ${sku}: ${wanted} ordered, ${available} left`)
  const why = `Your order is cancelled, because ${cancelReasons[reason] ?? reason}.`
  return [why, ...missing, 'Nothing is owed; what was paid goes back to you.'].join('\n')
}

/** Every event that says something to somebody, with what it says. */
export const templates = [
  on(orderPlaced, (order) =>
    orderNotice(
      order,
      'order.placed',
      'We have your order',
      `Thank you. We have received your order over ${pounds(order.totalPence)} and are working on it:\n${linesText(order.lines)}`,
      true,
    ),
  ),
  on(orderConfirmed, (order) =>
    orderNotice(
      order,
      'order.confirmed',
      'Your order is confirmed',
      `Your order over ${pounds(order.totalPence)} is paid for and will be sent soon.`,
      true,
    ),
  ),
  on(orderPartiallyShipped, (order) =>
    orderNotice(
      order,
      `order.partially_shipped#${order.shipmentId}`,
      'Part of your order is on its way',
      `${order.carrier} has a part of your order. Its tracking number: ${order.trackingNumber}`,
    ),
  ),
  on(orderShipped, (order) =>
    orderNotice(
      order,
      'order.shipped',
      'Your order is on its way',
      `${order.carrier} has your order. Its tracking number: ${order.trackingNumber}`,
    ),
  ),
  on(orderDelivered, (order) =>
    orderNotice(order, 'order.delivered', 'Your order has arrived', 'Your order was delivered. We hope you like it.'),
  ),
  on(orderCancelled, (order) =>
    orderNotice(order, 'order.cancelled', 'Your order is cancelled', cancelledText(order), true),
  ),
  on(orderCancellationRejected, (order) =>
    orderNotice(
      order,
      'order.cancellation_rejected',
      'Your order could not be cancelled',
      'It was already on its way. You can send it back once it has arrived.',
      true,
    ),
  ),
  on(orderRefunded, (order) =>
    orderNotice(
      order,
      `order.refunded#${order.refundId}`,
      'Your refund is on its way',
      `${pounds(order.refundedPence)} went back to you${order.full ? ': all that you had paid' : ''}.`,
      true,
    ),
  ),
  on(paymentFailed, (payment) =>
    // A refusal for good cancels the order, and that mail says so.
    payment.retryable
      ? orderNotice(
          payment,
          `payment.failed#${payment.attempt}`,
          'Your payment did not go through',
          'You can try again, with the same card or another one, while your goods are held.',
          true,
        )
      : null,
  ),
  on(paymentActionRequired, (payment) =>
    orderNotice(
      payment,
      `payment.action_required#${payment.attempt}`,
      'Please confirm your payment',
      `Your bank wants you to confirm the payment: ${payment.actionUrl}`,
      true,
    ),
  ),
  on(returnApproved, (returned) =>
    orderNotice(
      returned,
      `return.approved#${returned.returnId}`,
      'You can send it back',
      'Your return is approved. Your refund follows when the goods are here.',
    ),
  ),
  on(returnClosed, (returned) =>
    // A refunded return has the mail about its refund.
    returned.outcome === 'refunded'
      ? null
      : orderNotice(
          returned,
          `return.closed#${returned.returnId}`,
          'Your return is closed',
          returned.reason ?? 'Your return was closed without a refund.',
          true,
        ),
  ),
  on(userRegistered, ({ userId, email, name }) =>
    email === null
      ? null
      : {
          about: userId,
          orderId: null,
          userId,
          email,
          step: 'user.registered',
          mandatory: true,
          subject: 'Welcome',
          text: `Hello${name ? ` ${name}` : ''},\n\nyour account is ready.`,
        },
  ),
  on(cartAbandoned, ({ cartId, customerId, email, totalPence }) => ({
    about: cartId,
    orderId: null,
    userId: customerId,
    email,
    step: 'cart.abandoned',
    mandatory: false,
    subject: 'You left something behind',
    text: `There is still something in your cart, worth ${pounds(totalPence)}.\n\nCart ${cartId}`,
  })),
] as const satisfies readonly { event: EventType; template: Template<never> }[]

function on<Data>(
  event: EventType<Data>,
  template: Template<Data>,
): { event: EventType<Data>; template: Template<Data> } {
  return { event, template }
}
