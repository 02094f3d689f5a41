/** What the mails say. Pure: the payload of an event and the reader's name give a subject and plain text. */
import type { DataOf } from '@shopsphere/bus'
import type {
  CancelReason,
  cartAbandoned,
  OrderLine,
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

export type Written = { readonly subject: string; readonly text: string }
export type Reader = { readonly name: string | null }

const LINES_SHOWN_MAX = 20
const SHOP = 'ShopSphere'

/** Pence as pounds: 123456 → £1,234.56. Digits only, never a fraction. */
export function pounds(pence: number): string {
  const digits = String(Math.abs(pence)).padStart(3, '0')
  const whole = digits.slice(0, -2).replace(/\B(?=(\d{3})+$)/g, ',')
  return `${pence < 0 ? '-' : ''}£${whole}.${digits.slice(-2)}`
}

/** Milliseconds since the epoch as a day and a time that everybody can read: 3 December 2010, 09:05 UTC. */
function moment(timeMs: number): string {
  return `${dayFormat.format(timeMs)}, ${timeFormat.format(timeMs)} UTC`
}
const dayFormat = new Intl.DateTimeFormat('en-GB', { dateStyle: 'long', timeZone: 'UTC' })
const timeFormat = new Intl.DateTimeFormat('en-GB', { timeStyle: 'short', timeZone: 'UTC' })

/** A letter: greeting, paragraphs, the shop's name. */
function letter({ name }: Reader, ...paragraphs: (string | null)[]): string {
  const said = paragraphs.filter((paragraph) => paragraph !== null)
  return [name === null ? 'Hello,' : `Hello ${name},`, ...said, SHOP].join('\n\n')
}

/** A row for each line, as `6 × White metal lantern, £20.34`; a long list is cut. */
function rows(lines: readonly Pick<OrderLine, 'name' | 'quantity' | 'unitPence'>[]): string {
  const shown = lines
    .slice(0, LINES_SHOWN_MAX)
    .map(({ name, quantity, unitPence }) => `${quantity} × ${name}, ${pounds(quantity * unitPence)}`)
  const more = lines.length - shown.length
  return [...shown, ...(more > 0 ? [`and ${more} more`] : [])].join('\n')
}

const parcelOf = ({ carrier, trackingNumber }: { carrier: string; trackingNumber: string }) =>
  `Carrier: ${carrier}\nTracking number: ${trackingNumber}`

export function welcome(_: DataOf<typeof userRegistered>, reader: Reader): Written {
  return {
    subject: `Welcome to ${SHOP}`,
    text: letter(
      reader,
      'Your account is ready. Your orders, and everything that we tell you about them, are kept there.',
    ),
  }
}

export function foreignOrderReceived({ order_id }: { order_id: string }, reader: Reader): Written {
  return {
    subject: 'We have received your order',
    text: letter(reader, `Thank you for your order ${order_id}. It was received and is being worked on.`),
  }
}

export function orderReceived(order: DataOf<typeof orderPlaced>, reader: Reader): Written {
  return {
    subject: 'We have received your order',
    text: letter(
      reader,
      `Thank you for your order ${order.orderId}. We are checking stock and payment now, and tell you as soon as it is confirmed.`,
      rows(order.lines),
      `Total: ${pounds(order.totalPence)}`,
    ),
  }
}

export function orderIsConfirmed(order: DataOf<typeof orderConfirmed>, reader: Reader): Written {
  const { address } = order
  const to = address && [address.name, address.line1, address.line2, address.city, address.postcode, address.country]
  return {
    subject: 'Your order is confirmed',
    text: letter(
      reader,
      `Your order ${order.orderId} is paid and its goods are set aside for you.`,
      rows(order.lines),
      `Total: ${pounds(order.totalPence)}`,
      to && `It goes to:\n${to.filter((part) => part !== null).join('\n')}`,
    ),
  }
}

export function parcelOnItsWay(parcel: DataOf<typeof orderPartiallyShipped>, reader: Reader): Written {
  const units = parcel.lines.reduce((sum, { quantity }) => sum + quantity, 0)
  return {
    subject: 'A part of your order is on its way',
    text: letter(
      reader,
      `A parcel with ${units} ${units === 1 ? 'unit' : 'units'} of your order ${parcel.orderId} has left. The rest follows.`,
      parcelOf(parcel),
    ),
  }
}

export function orderOnItsWay(order: DataOf<typeof orderShipped>, reader: Reader): Written {
  return {
    subject: 'Your order is on its way',
    text: letter(reader, `Everything of your order ${order.orderId} has left.`, parcelOf(order)),
  }
}

export function orderArrived(order: DataOf<typeof orderDelivered>, reader: Reader): Written {
  return {
    subject: 'Your order was delivered',
    text: letter(
      reader,
      `Your order ${order.orderId} was delivered on ${moment(order.deliveredAt)}.`,
      'Is anything wrong with it? You can ask for a return from your order.',
    ),
  }
}

const cancelReasons: Readonly<Record<CancelReason, string>> = {
  out_of_stock: 'Not everything that you ordered is in stock, so we cannot send it.',
  payment_failed: 'The payment was refused.',
  expired: 'The payment did not reach us in time.',
  customer: 'You asked us to cancel it.',
  inventory_lost: 'Goods that were set aside for you turned out to be missing or damaged. We are sorry.',
}

export function orderIsCancelled(order: DataOf<typeof orderCancelled>, reader: Reader): Written {
  const short = order.short
    .slice(0, LINES_SHOWN_MAX)
    .map(({ sku, wanted, available }) => `${sku}: ${wanted} ordered, ${available} left`)
  return {
    subject: 'Your order was cancelled',
    text: letter(
      reader,
      `Your order ${order.orderId} over ${pounds(order.totalPence)} was cancelled. ${cancelReasons[order.reason]}`,
      short.length > 0 ? short.join('\n') : null,
      'Whatever was taken from your card for it goes back; we tell you when.',
    ),
  }
}

export function cancellationCameTooLate(order: DataOf<typeof orderCancellationRejected>, reader: Reader): Written {
  return {
    subject: 'Your order could not be cancelled',
    text: letter(
      reader,
      order.reason === 'already_shipped'
        ? `Your order ${order.orderId} had left before it could be stopped.`
        : `Your order ${order.orderId} could not be stopped any more.`,
      'When it has arrived you can ask for a return.',
    ),
  }
}

export function moneyWentBack(refund: DataOf<typeof orderRefunded>, reader: Reader): Written {
  const { refundedPence, refundedTotalPence } = refund
  return {
    subject: `Your refund of ${pounds(refundedPence)}`,
    text: letter(
      reader,
      `We have sent ${pounds(refundedPence)} of your order ${refund.orderId} back the way it was paid.`,
      refundedTotalPence === refundedPence ? null : `Of this order ${pounds(refundedTotalPence)} went back in all.`,
    ),
  }
}

export function paymentWasRefused(payment: DataOf<typeof paymentFailed>, reader: Reader): Written {
  return {
    subject: 'Your payment did not go through',
    text: letter(
      reader,
      `The payment for your order ${payment.orderId} did not go through (${payment.reason.replaceAll('_', ' ')}).`,
      payment.retryable
        ? 'Your goods are still set aside for a while: try again, or pay in another way.'
        : 'The order cannot go on. Nothing was charged.',
    ),
  }
}

export function paymentNeedsYou(payment: DataOf<typeof paymentActionRequired>, reader: Reader): Written {
  return {
    subject: 'Please confirm your payment',
    text: letter(
      reader,
      `Your bank wants you to confirm the payment for your order ${payment.orderId}, until ${moment(payment.decisionDueAt)}:`,
      payment.actionUrl,
    ),
  }
}

export function returnWasEnded(goods: DataOf<typeof returnClosed>, reader: Reader): Written {
  const why = goods.reason === null ? null : `The reason: ${goods.reason}`
  return goods.outcome === 'not_received'
    ? {
        subject: 'Your return has not arrived',
        text: letter(reader, `What you wanted to return of your order ${goods.orderId} has not reached us.`, why),
      }
    : {
        subject: 'Your return was refused',
        text: letter(reader, `We cannot take back what you asked for of your order ${goods.orderId}.`, why),
      }
}

export function cartIsWaiting(cart: DataOf<typeof cartAbandoned>, reader: Reader): Written {
  return {
    subject: 'Your cart is waiting for you',
    text: letter(reader, 'You left something in your cart:', rows(cart.lines), `Total: ${pounds(cart.totalPence)}`),
  }
}
