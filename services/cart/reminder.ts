/** Timer T8: each change of a cart moves it on, so that it falls due when a cart was left alone for so long. */
import type { TransactionContext } from '@shopsphere/bus'
import { cartReminderDue } from '@shopsphere/contracts'
import { type Cart, isWaiting } from './cart.ts'

export const reminderId = (cartId: string) => `T8:${cartId}`

/** Sets the timer for a cart as it is now, or calls it off where there is nothing to be reminded of. */
export async function setReminder(
  { publish, cancel }: Pick<TransactionContext, 'publish' | 'cancel'>,
  cart: Cart,
  abandonedMs: number,
): Promise<void> {
  const { cartId, changedAt } = cart
  if (isWaiting(cart)) publish(cartReminderDue, { cartId }, { at: changedAt + abandonedMs, id: reminderId(cartId) })
  else await cancel(reminderId(cartId))
}
