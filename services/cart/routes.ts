/**
 * Carts. A guest's cart belongs to whoever knows its id, which cannot be guessed; a customer's only to the customer: for
 * everybody else it does not exist.
 */
import { createRoute, z } from '@hono/zod-openapi'
import type { TransactionContext } from '@shopsphere/bus'
import { cartCheckedOut, cartUpdated, contractLimits } from '@shopsphere/contracts'
import { requireCaller } from '@shopsphere/runtime/auth'
import { etagOf, matchIfGiven } from '@shopsphere/runtime/etag'
import type { Api } from '@shopsphere/runtime/http'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { type ApiEnv, origin } from '@shopsphere/runtime/request-context'
import type { ServiceContext } from '@shopsphere/runtime/service'
import type { Context } from 'hono'
import { anyId, emailAddress, postalAddress, productCode } from '../fields.ts'
import { body, json, signedIn, signedInOrNot } from '../route-parts.ts'
import {
  assertCanCheckOut,
  assertOpen,
  assertWithinLimits,
  type Cart,
  merged,
  newCart,
  pricedLines,
  type Quote,
  quoteOf,
  withLine,
} from './cart.ts'
import { addCart, deleteCart, findCart, findOpenCartOf, findWares, findWaresOf, saveCart } from './queries.ts'
import { reminderId, setReminder } from './reminder.ts'

const line = z
  .object({
    sku: z.string(),
    name: z.string(),
    quantity: z.int(),
    unitPence: z.int(),
    linePence: z.int(),
    availability: z.enum(['in_stock', 'low', 'out']).nullable().openapi({ description: 'Null: not known yet' }),
    warning: z.enum(['not_sold', 'out_of_stock', 'not_enough']).nullable(),
  })
  .openapi('CartLine')

const quoteShape = z
  .object({
    cartId: z.string(),
    lines: z.array(line),
    totalPence: z.int(),
    currency: z.literal('GBP'),
    hash: z.string().openapi({ description: 'Send it as `quote` to check out at these prices' }),
  })
  .openapi('Quote')

const cartShape = z
  .object({
    cartId: z.string(),
    customerId: z.string().nullable(),
    email: z.string().nullable(),
    state: z.enum(['open', 'checked_out', 'merged']),
    orderId: z.string().nullable(),
    mergedInto: z.string().nullable(),
    lines: z.array(line),
    totalPence: z.int(),
    currency: z.literal('GBP'),
    changedAt: z.int().openapi({ description: 'Milliseconds since the epoch' }),
  })
  .openapi('Cart')

const checkedOut = z
  .object({ orderId: z.string(), cartId: z.string(), totalPence: z.int(), currency: z.literal('GBP') })
  .openapi('CheckedOut')

const tags = ['carts']
const byId = { params: z.object({ cartId: anyId }) }

const create = createRoute({
  method: 'post',
  path: '/api/carts',
  summary: 'A new cart, for a guest; for who is signed in, the open one if there is one',
  tags,
  security: signedInOrNot,
  responses: {
    200: json('Your open cart', cartShape),
    201: json('A new cart', cartShape),
    ...problemAnswers(401),
  },
})

const get = createRoute({
  method: 'get',
  path: '/api/carts/{cartId}',
  summary: 'A cart at the prices of now',
  tags,
  security: signedInOrNot,
  request: byId,
  responses: { 200: json('The cart, its version in ETag', cartShape), ...problemAnswers(400, 401, 404) },
})

const setEmail = createRoute({
  method: 'patch',
  path: '/api/carts/{cartId}',
  summary: 'Where to remind of the cart, should it be left alone',
  tags,
  security: signedInOrNot,
  request: { ...byId, body: body(z.strictObject({ email: emailAddress.nullable() })) },
  responses: { 200: json('The cart', cartShape), ...problemAnswers(400, 401, 404, 409, 412) },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/carts/{cartId}',
  summary: 'Throws an open cart away',
  tags,
  security: signedInOrNot,
  request: byId,
  responses: { 204: { description: 'Gone' }, ...problemAnswers(400, 401, 404, 409, 412) },
})

const setLine = createRoute({
  method: 'put',
  path: '/api/carts/{cartId}/lines/{sku}',
  summary: 'Sets how many units of a product the cart holds; 0 takes it out',
  tags,
  security: signedInOrNot,
  request: {
    params: z.object({ cartId: anyId, sku: productCode }),
    body: body(z.strictObject({ quantity: z.int().min(0).max(contractLimits.quantityMax) })),
  },
  responses: { 200: json('The cart', cartShape), ...problemAnswers(400, 401, 404, 409, 412, 422) },
})

const claim = createRoute({
  method: 'post',
  path: '/api/carts/{cartId}/claim',
  summary: 'After signing in: makes a guest’s cart yours, or puts it into the one that you have',
  tags,
  security: signedIn,
  request: byId,
  responses: { 200: json('Your cart', cartShape), ...problemAnswers(400, 401, 404, 409) },
})

const quote = createRoute({
  method: 'get',
  path: '/api/carts/{cartId}/quote',
  summary: 'What the cart costs, with the hash that check-out wants',
  tags,
  security: signedInOrNot,
  request: byId,
  responses: { 200: json('The quote', quoteShape), ...problemAnswers(400, 401, 404, 409) },
})

const checkOut = createRoute({
  method: 'post',
  path: '/api/carts/{cartId}/check-out',
  summary: 'Orders what the cart holds. Needs an Idempotency-Key; `price_changed` answers with the new quote.',
  tags,
  security: signedInOrNot,
  request: {
    ...byId,
    body: body(
      z.strictObject({
        quote: z.string().min(1).max(128).openapi({ description: 'The hash of the quote that was agreed to' }),
        paymentMethod: z
          .string()
          .regex(/^pm_[\w-]{1,60}$/, 'expected the token of a payment method, pm_…')
          .openapi({ example: 'pm_card_visa' }),
        address: postalAddress.nullable().default(null),
        email: emailAddress.optional().openapi({ description: 'Where a guest wants to be told' }),
      }),
    ),
  },
  responses: {
    202: json('The order is on its way: see Location', checkedOut),
    ...problemAnswers(400, 401, 404, 409, 422),
  },
})

export function addCartRoutes(
  api: Api,
  {
    bus,
    store,
    clock,
    newId,
    idempotency,
    config,
  }: Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'newId' | 'idempotency' | 'config'>,
): void {
  const { cartAbandonedMs } = config.timers

  /** Writes a cart that was changed and moves its timer. Throws the problem `conflict` where somebody else was quicker. */
  async function write(transaction: TransactionContext, before: Cart, decided: Cart): Promise<Cart> {
    const after = { ...decided, version: before.version + 1, changedAt: clock.now() }
    if (!(await saveCart(transaction.tx, before, after))) throw changedMeanwhile()
    await setReminder(transaction, after, cartAbandonedMs)
    return after
  }

  async function tell({ tx, publish }: TransactionContext, cart: Cart): Promise<Quote> {
    const priced = quoteOf(cart, await findWaresOf(tx, cart))
    assertWithinLimits(priced)
    const { cartId, customerId } = cart
    const { totalPence } = priced
    publish(cartUpdated, { cartId, customerId, lines: pricedLines(priced), totalPence, currency: 'GBP' })
    return priced
  }

  const read = (c: Context<ApiEnv>, cartId: string) =>
    store.read(async (reader) => {
      const cart = visible(c, await findCart(reader, cartId), cartId)
      return { cart, priced: quoteOf(cart, await findWaresOf(reader, cart)) }
    })

  api.openapi(create, async (c) => {
    const customerId = c.var.caller?.userId ?? null
    const { cart, isNew } = await bus.transaction(async ({ tx }) => {
      const cart = newCart(newId('crt'), customerId, clock.now())
      if (await addCart(tx, cart)) return { cart, isNew: true }
      return { cart: (await findOpenCartOf(tx, customerId!))!, isNew: false }
    }, origin(c))
    const headers = { location: `/api/carts/${cart.cartId}`, etag: etagOf(cart.version) }
    if (isNew) return c.json(shown(cart, quoteOf(cart, new Map())), 201, headers)
    const { priced } = await read(c, cart.cartId)
    return c.json(shown(cart, priced), 200, headers)
  })

  api.openapi(get, async (c) => {
    const { cart, priced } = await read(c, c.req.valid('param').cartId)
    return c.json(shown(cart, priced), 200, { etag: etagOf(cart.version) })
  })

  api.openapi(setEmail, async (c) => {
    const { cartId } = c.req.valid('param')
    const { email } = c.req.valid('json')
    const { cart, priced } = await bus.transaction(async (transaction) => {
      const before = visible(c, await findCart(transaction.tx, cartId), cartId)
      matchIfGiven(c, before.version)
      assertOpen(before)
      const cart = before.email === email ? before : await write(transaction, before, { ...before, email })
      return { cart, priced: quoteOf(cart, await findWaresOf(transaction.tx, cart)) }
    }, origin(c))
    return c.json(shown(cart, priced), 200, { etag: etagOf(cart.version) })
  })

  api.openapi(remove, async (c) => {
    const { cartId } = c.req.valid('param')
    await bus.transaction(async ({ tx, publish, cancel }) => {
      const cart = visible(c, await findCart(tx, cartId), cartId)
      matchIfGiven(c, cart.version)
      assertOpen(cart)
      await deleteCart(tx, cartId)
      await cancel(reminderId(cartId))
      if (cart.lines.length === 0) return
      publish(cartUpdated, { cartId, customerId: cart.customerId, lines: [], totalPence: 0, currency: 'GBP' })
    }, origin(c))
    return c.body(null, 204)
  })

  api.openapi(setLine, async (c) => {
    const { cartId, sku } = c.req.valid('param')
    const { quantity } = c.req.valid('json')
    const { cart, priced } = await bus.transaction(async (transaction) => {
      const { tx } = transaction
      const before = visible(c, await findCart(tx, cartId), cartId)
      matchIfGiven(c, before.version)
      const decided = withLine(before, sku, quantity, (await findWares(tx, [sku])).get(sku))
      if (decided === before) return { cart: before, priced: quoteOf(before, await findWaresOf(tx, before)) }
      const cart = await write(transaction, before, decided)
      return { cart, priced: await tell(transaction, cart) }
    }, origin(c))
    return c.json(shown(cart, priced), 200, { etag: etagOf(cart.version) })
  })

  api.openapi(claim, async (c) => {
    const { cartId } = c.req.valid('param')
    const { userId } = requireCaller(c)
    const claimed = await bus.transaction(async (transaction) => {
      const { tx } = transaction
      const cart = visible(c, await findCart(tx, cartId), cartId)
      // Asked again: it is theirs already, or in the one that is.
      if (cart.customerId !== null) return cart.mergedInto ?? cartId
      assertOpen(cart)
      const own = await findOpenCartOf(tx, userId)
      if (!own) {
        await tell(transaction, await write(transaction, cart, { ...cart, customerId: userId }))
        return cartId
      }
      const both = merged(own, cart)
      await tell(transaction, await write(transaction, cart, both.guests))
      await tell(transaction, await write(transaction, own, both.customers))
      return own.cartId
    }, origin(c))
    const { cart, priced } = await read(c, claimed)
    return c.json(shown(cart, priced), 200, { etag: etagOf(cart.version) })
  })

  api.openapi(quote, async (c) => {
    const { cart, priced } = await read(c, c.req.valid('param').cartId)
    assertOpen(cart)
    return c.json({ cartId: cart.cartId, ...forAnswer(priced), hash: priced.hash }, 200)
  })

  api.openapi(checkOut, (c) => {
    const { cartId } = c.req.valid('param')
    const { quote: seenHash, paymentMethod, address, email } = c.req.valid('json')
    const work = async (transaction: TransactionContext) => {
      const { tx, publish } = transaction
      const cart = visible(c, await findCart(tx, cartId), cartId)
      const priced = quoteOf(cart, await findWaresOf(tx, cart))
      assertCanCheckOut(cart, priced, seenHash)
      const orderId = newId('ord')
      const closed = await write(transaction, cart, { ...cart, state: 'checked_out', orderId })
      const { totalPence, hash } = priced
      publish(cartCheckedOut, {
        cartId,
        orderId,
        // A guest's cart is bought by who checks it out, signed in or not.
        customerId: cart.customerId ?? c.var.caller?.userId ?? null,
        email: email ?? cart.email,
        lines: pricedLines(priced).map((line, index) => ({ lineNo: index + 1, ...line })),
        totalPence,
        currency: 'GBP',
        quoteHash: hash,
        paymentMethod,
        address,
        checkedOutAt: closed.changedAt,
      })
      const headers = { location: `/api/orders/${orderId}` }
      return { status: 202 as const, body: { orderId, cartId, totalPence, currency: 'GBP' as const }, headers }
    }
    return idempotency.run(c, work, { required: true })
  })
}

/** The cart, if it is for the caller to see. Throws the problem `not_found`. */
function visible(c: Context<ApiEnv>, cart: Cart | undefined, cartId: string): Cart {
  if (cart && (cart.customerId === null || cart.customerId === c.var.caller?.userId)) return cart
  throw problem(404, 'not_found', `There is no cart ${cartId}: a customer’s cart needs the customer’s token.`)
}

function shown(cart: Cart, priced: Quote): z.infer<typeof cartShape> {
  const { cartId, customerId, email, state, orderId, mergedInto, changedAt } = cart
  return { cartId, customerId, email, state, orderId, mergedInto, ...forAnswer(priced), changedAt }
}

function forAnswer({ lines, totalPence }: Quote) {
  return { lines: [...lines], totalPence, currency: 'GBP' as const }
}

const changedMeanwhile = () =>
  problem(409, 'conflict', 'Somebody else changed the cart at the same moment: read it again, then decide.')
