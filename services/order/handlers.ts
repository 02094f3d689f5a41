/** What the order service hears, and which command to which order that is. */
import type { Bus, HandlerContext } from '@shopsphere/bus'
import { cartCheckedOut, orderCompletionDue, orderProgressDue } from '@shopsphere/contracts'
import type { Log } from '@shopsphere/runtime/log'
import { customerOf, keepCopies } from './copies.ts'
import { type Command, heard, isWatched } from './order.ts'
import type { Cause, OrderBook } from './order-book.ts'

export function hear(bus: Bus, book: OrderBook, log: Log): void {
  keepCopies(bus)

  bus.subscribe(cartCheckedOut, async (cart, context) => {
    const { cartId: _, quoteHash: __, checkedOutAt, currency: ___, ...bought } = cart
    const customer = cart.customerId === null ? undefined : await customerOf(context.tx, cart.customerId)
    const placement = {
      ...bought,
      email: cart.email ?? customer?.email ?? null,
      address: cart.address ?? customer?.address ?? null,
      placedAt: checkedOutAt,
      channel: 'cart' as const,
      placedBy: cart.customerId,
    }
    await book.place(context, placement, causeOf(context))
  })

  for (const [type, event] of Object.entries(heard)) {
    bus.subscribe(event, async (data, context) => {
      // `heard` lists each event under its own type, so the two belong together.
      await book.carryOut(context, data.orderId, { type, data } as Command, causeOf(context))
    })
  }

  bus.subscribe(orderCompletionDue, async ({ orderId }, context) => {
    await book.carryOut(context, orderId, { type: 'close_return_window', data: {} }, causeOf(context))
  })

  bus.subscribe(orderProgressDue, async ({ orderId, sinceVersion }, context) => {
    const command = { type: 'check_progress', data: { sinceVersion } } as const
    const { state, version } = await book.carryOut(context, orderId, command, causeOf(context))
    if (!isWatched(state)) return
    if (state.stalled)
      log.warn(
        { orderId, order: state.order, payment: state.payment, fulfilment: state.fulfilment },
        'an order stands still',
      )
    book.watch(context, orderId, version)
  })
}

function causeOf({ message }: HandlerContext): Cause {
  return { messageId: message.id, type: message.type }
}
