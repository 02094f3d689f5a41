/** Owned by cart: what somebody means to buy. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import { address, cartLines, currency, email, id, orderLines, text, timeMs, totalPence } from './values.ts'

const cartId = 'crt_01939c1e-7000-7000-8000-000000000002'
const customerId = 'usr_01939c1e-7000-7000-8000-000000000001'

export const cartUpdated = event('cart.updated', {
  version: 1,
  owner: 'cart',
  summary: 'A cart holds exactly this from now on; no lines: it was emptied.',
  schema: z.object({ cartId: id, customerId: id.nullable(), lines: cartLines, totalPence, currency }),
  key: (cart) => cart.cartId,
  example: {
    cartId,
    customerId,
    lines: [{ sku: '85123A', name: 'White hanging heart T-light holder', quantity: 6, unitPence: 255 }],
    totalPence: 1_530,
    currency: 'GBP',
  },
})

export const cartCheckedOut = event('cart.checked_out', {
  version: 1,
  owner: 'cart',
  summary: 'A customer or guest bought what the cart holds, at the prices of the quote; order makes the order from it.',
  schema: z.object({
    cartId: id,
    /** Chosen by cart, so that the customer knows the order’s address at once. */
    orderId: id,
    customerId: id.nullable(),
    email: email.nullable(),
    lines: orderLines,
    totalPence,
    currency,
    /** Of the prices that the customer saw and agreed to. */
    quoteHash: text(128),
    paymentMethod: id,
    address: address.nullable(),
    checkedOutAt: timeMs,
  }),
  key: (cart) => cart.cartId,
  example: {
    cartId,
    orderId: 'ord_01939c1e-7000-7000-8000-000000000003',
    customerId,
    email: 'ada@example.org',
    lines: [{ lineNo: 1, sku: '85123A', name: 'White hanging heart T-light holder', quantity: 6, unitPence: 255 }],
    totalPence: 1_530,
    currency: 'GBP',
    quoteHash: 'b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c',
    paymentMethod: 'pm_card_visa',
    address: null,
    checkedOutAt: 1_291_192_800_000,
  },
})

export const cartAbandoned = event('cart.abandoned', {
  version: 1,
  owner: 'cart',
  summary: 'A cart with something in it was left alone for T8 (24 hours); said once, so that one reminder goes out.',
  schema: z.object({
    cartId: id,
    customerId: id.nullable(),
    email: email.nullable(),
    lines: cartLines,
    totalPence,
    currency,
  }),
  key: (cart) => cart.cartId,
  example: {
    cartId,
    customerId,
    email: 'ada@example.org',
    lines: [{ sku: '85123A', name: 'White hanging heart T-light holder', quantity: 6, unitPence: 255 }],
    totalPence: 1_530,
    currency: 'GBP',
  },
})

export const cartReminderDue = event('cart.reminder_due', {
  version: 1,
  owner: 'cart',
  summary: 'Timer T8, cart to itself: nothing was done with the cart since the timer was set.',
  schema: z.object({ cartId: id }),
  key: (cart) => cart.cartId,
  example: { cartId },
})

export const cartEvents = [cartUpdated, cartCheckedOut, cartAbandoned, cartReminderDue]
