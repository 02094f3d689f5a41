/** Keeps the facts; the figures are made of them later, so that nothing here is more than one append. */
import { type Bus, eventStore, type HandlerContext } from '@shopsphere/bus'
import {
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPlaced,
  orderShipped,
  paymentCaptured,
  paymentRefunded,
  returnReceived,
  userRegistered,
  userUpdated,
} from '@shopsphere/contracts'
import { type CustomerFact, customerStream, orderStream } from './figures.ts'
import type { Fact } from './order-figures.ts'

/** `wake` is called for every fact that is kept, before its transaction commits. */
export function subscribe(bus: Bus, wake: () => void): void {
  const append = async ({ tx, message }: HandlerContext, stream: string, fact: Fact | CustomerFact) => {
    await eventStore.append(tx, stream, [fact], { expectedVersion: 'any', at: message.time })
    wake()
  }
  const keep = (context: HandlerContext, orderId: string, fact: Fact) => append(context, orderStream(orderId), fact)

  bus.subscribe(orderPlaced, ({ orderId, placedAt, customerId, address, totalPence, lines }, context) => {
    const country = address?.country ?? null
    return keep(context, orderId, { type: 'placed', data: { placedAt, customerId, country, totalPence, lines } })
  })
  bus.subscribe(orderConfirmed, ({ orderId }, context) => keep(context, orderId, { type: 'confirmed', data: {} }))
  bus.subscribe(orderShipped, ({ orderId }, context) => keep(context, orderId, { type: 'shipped', data: {} }))
  bus.subscribe(orderDelivered, ({ orderId }, context) => keep(context, orderId, { type: 'delivered', data: {} }))
  bus.subscribe(returnReceived, ({ orderId }, context) => keep(context, orderId, { type: 'returned', data: {} }))
  bus.subscribe(orderCancelled, ({ orderId, reason }, context) =>
    keep(context, orderId, { type: 'cancelled', data: { reason } }),
  )
  bus.subscribe(paymentCaptured, ({ orderId, capturedTotalPence }, context) =>
    keep(context, orderId, { type: 'captured', data: { capturedTotalPence } }),
  )
  bus.subscribe(paymentRefunded, ({ orderId, refundId, refundedPence, lines }, context) =>
    keep(context, orderId, { type: 'refunded', data: { refundId, pence: refundedPence, lines } }),
  )

  bus.subscribe([userRegistered, userUpdated], ({ userId, country }, context) =>
    append(context, customerStream(userId), { type: 'customer', data: { customerId: userId, country } }),
  )
}
