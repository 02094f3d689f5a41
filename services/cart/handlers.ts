/** Cart's own copy of what is sold, at which price and whether it can be had; and what happens to carts by themselves. */
import type { Bus, Clock } from '@shopsphere/bus'
import {
  cartAbandoned,
  cartReminderDue,
  inventoryLevelChanged,
  productCreated,
  productDiscontinued,
  productPriceUpdated,
  productUpdated,
  userDeleted,
} from '@shopsphere/contracts'
import { isWaiting, isWithinLimits, pricedLines, quoteOf } from './cart.ts'
import {
  deleteCartsOf,
  findCart,
  findWaresOf,
  keepCreated,
  keepDiscontinued,
  keepLevel,
  keepName,
  keepPrice,
  saveCart,
} from './queries.ts'
import { reminderId, setReminder } from './reminder.ts'

export function hear({ bus, clock, abandonedMs }: { bus: Bus; clock: Clock; abandonedMs: number }): void {
  bus.subscribe(productCreated, ({ sku, name, pricePence }, { tx, message }) =>
    keepCreated(tx, sku, name, pricePence, message.time),
  )
  bus.subscribe(productUpdated, ({ sku, name }, { tx, message }) => keepName(tx, sku, name, message.time))
  bus.subscribe(productPriceUpdated, ({ sku, pricePence }, { tx, message }) =>
    keepPrice(tx, sku, pricePence, message.time),
  )
  bus.subscribe(productDiscontinued, ({ sku }, { tx }) => keepDiscontinued(tx, sku))
  bus.subscribe(inventoryLevelChanged, (level, { tx, message }) => keepLevel(tx, level, message.time))

  bus.subscribe(cartReminderDue, async ({ cartId }, context) => {
    const { tx, publish } = context
    const cart = await findCart(tx, cartId)
    if (!cart || !isWaiting(cart)) return
    // Somebody changed the cart while the timer's message was on its way.
    if (cart.changedAt + abandonedMs > clock.now()) return setReminder(context, cart, abandonedMs)
    const quote = quoteOf(cart, await findWaresOf(tx, cart))
    if (!isWithinLimits(quote)) return
    await saveCart(tx, cart, { ...cart, remindedAt: clock.now(), version: cart.version + 1 })
    const { customerId, email } = cart
    const { totalPence } = quote
    publish(cartAbandoned, { cartId, customerId, email, lines: pricedLines(quote), totalPence, currency: 'GBP' })
  })

  bus.subscribe(userDeleted, async ({ userId }, { tx, cancel }) => {
    for (const cartId of await deleteCartsOf(tx, userId)) await cancel(reminderId(cartId))
  })
}
