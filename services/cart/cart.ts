/** What a cart is, what it costs and how it may change. Pure: no clock, no database; ids, times and prices come in. */
import { createHash } from 'node:crypto'
import { type Availability, contractLimits, type CartLine as PricedLine } from '@shopsphere/contracts'
import { problem } from '@shopsphere/runtime/problem'

export type CartLine = { readonly sku: string; readonly quantity: number }

export type Cart = {
  readonly cartId: string
  /** Null: a guest's. */
  readonly customerId: string | null
  readonly email: string | null
  /** One for each sku, in the order in which they were put in. */
  readonly lines: readonly CartLine[]
  readonly state: 'open' | 'checked_out' | 'merged'
  /** Set when it is checked out. */
  readonly orderId: string | null
  /** Set when it is merged: the cart that has its lines now. */
  readonly mergedInto: string | null
  /** Grows by one with each change. */
  readonly version: number
  /** When cart.abandoned was said; it is said once. */
  readonly remindedAt: number | null
  readonly changedAt: number
}

/** What cart has heard of a product. */
export type Ware = {
  readonly sku: string
  readonly name: string
  readonly unitPence: number
  readonly discontinued: boolean
  /** Null: inventory has said nothing yet. */
  readonly availability: Availability | null
  readonly available: number | null
}
export type Wares = ReadonlyMap<string, Ware>

export function newCart(cartId: string, customerId: string | null, at: number): Cart {
  return {
    cartId,
    customerId,
    email: null,
    lines: [],
    state: 'open',
    orderId: null,
    mergedInto: null,
    version: 1,
    remindedAt: null,
    changedAt: at,
  }
}

/** Throws the problem `conflict`, saying where the cart went. */
export function assertOpen(cart: Cart): void {
  if (cart.state === 'checked_out') {
    const detail = `The cart was checked out as ${cart.orderId}: start a new one at POST /api/carts.`
    throw problem(409, 'conflict', detail, { orderId: cart.orderId })
  }
  if (cart.state === 'merged') {
    const { mergedInto } = cart
    throw problem(409, 'conflict', `The cart was merged into ${mergedInto}: use that one.`, { mergedInto })
  }
}

/**
 * Sets how many units of a product the cart holds; 0 takes it out. The same cart where that is so already. Throws the
 * problems `unknown_product` for what is not sold, and `conflict` for a closed cart or more lines than a cart holds.
 */
export function withLine(cart: Cart, sku: string, quantity: number, ware: Ware | undefined): Cart {
  assertOpen(cart)
  const present = cart.lines.find((line) => line.sku === sku)
  if (quantity === (present?.quantity ?? 0)) return cart
  if (quantity === 0) return { ...cart, lines: cart.lines.filter((line) => line !== present) }
  if (!ware || ware.discontinued) throw notSold([sku])
  const line = { sku, quantity }
  const lines = present ? cart.lines.map((one) => (one === present ? line : one)) : [...cart.lines, line]
  if (lines.length > contractLimits.linesMax) {
    throw problem(409, 'conflict', `A cart holds at most ${contractLimits.linesMax} lines: check out, then go on.`)
  }
  return { ...cart, lines }
}

/** Puts a guest's lines into the customer's cart, adding units of the same product, as far as a line and a cart hold them. */
export function merged(customers: Cart, guests: Cart): { customers: Cart; guests: Cart } {
  const units = new Map(customers.lines.map(({ sku, quantity }) => [sku, quantity]))
  for (const { sku, quantity } of guests.lines) {
    units.set(sku, Math.min(contractLimits.quantityMax, (units.get(sku) ?? 0) + quantity))
  }
  const lines = [...units].slice(0, contractLimits.linesMax).map(([sku, quantity]) => ({ sku, quantity }))
  return {
    customers: { ...customers, lines },
    guests: {
      ...guests,
      lines: [],
      email: null,
      state: 'merged',
      customerId: customers.customerId,
      mergedInto: customers.cartId,
    },
  }
}

export type Warning = 'not_sold' | 'out_of_stock' | 'not_enough'

export type QuotedLine = PricedLine & {
  readonly linePence: number
  readonly availability: Availability | null
  /** Null: as far as is known, it can be had. Inventory has the last word when the order is placed. */
  readonly warning: Warning | null
}

export type Quote = {
  readonly lines: readonly QuotedLine[]
  readonly totalPence: number
  /** Of products, quantities and prices: what the customer agrees to. */
  readonly hash: string
}

/** What the cart costs now. A line of a product that was never heard of costs nothing and is marked `not_sold`. */
export function quoteOf(cart: Cart, wares: Wares): Quote {
  const lines = cart.lines.map(({ sku, quantity }): QuotedLine => {
    const ware = wares.get(sku)
    const unitPence = ware?.unitPence ?? 0
    return {
      sku,
      name: ware?.name ?? sku,
      quantity,
      unitPence,
      linePence: quantity * unitPence,
      availability: ware?.availability ?? null,
      warning: warningOf(ware, quantity),
    }
  })
  const agreed = lines.map(({ sku, quantity, unitPence }) => [sku, quantity, unitPence])
  return {
    lines,
    totalPence: lines.reduce((sum, { linePence }) => sum + linePence, 0),
    hash: createHash('sha256')
      .update(JSON.stringify(['GBP', ...agreed]))
      .digest('hex'),
  }
}

function warningOf(ware: Ware | undefined, quantity: number): Warning | null {
  if (!ware || ware.discontinued) return 'not_sold'
  if (ware.availability === 'out') return 'out_of_stock'
  // While a product is in stock nobody is told every unit, so only of few is the number worth something.
  if (ware.availability === 'low' && ware.available !== null && quantity > ware.available) return 'not_enough'
  return null
}

/** The lines as events carry them. */
export function pricedLines(quote: Quote): PricedLine[] {
  return quote.lines.map(({ sku, name, quantity, unitPence }) => ({ sku, name, quantity, unitPence }))
}

/** True where no event would be refused for its sums. */
export function isWithinLimits({ lines, totalPence }: Quote): boolean {
  const units = lines.reduce((sum, { quantity }) => sum + quantity, 0)
  return totalPence <= contractLimits.totalPenceMax && units <= contractLimits.unitsMax
}

/** Throws the problem `conflict` for sums that no order may have. */
export function assertWithinLimits(quote: Quote): void {
  if (isWithinLimits(quote)) return
  throw problem(409, 'conflict', 'This is more than one order may hold: put in fewer units, and order more than once.')
}

/**
 * Throws what stands between the cart and an order: `conflict` (closed, empty, too much), `unknown_product` (no longer
 * sold) or `price_changed` with the quote of now, where it is not the one that the customer has seen.
 */
export function assertCanCheckOut(cart: Cart, quote: Quote, seenHash: string): void {
  assertOpen(cart)
  if (cart.lines.length === 0) throw problem(409, 'conflict', 'The cart is empty: put something in first.')
  const gone = quote.lines.filter(({ warning }) => warning === 'not_sold').map(({ sku }) => sku)
  if (gone.length > 0) throw notSold(gone)
  if (quote.hash !== seenHash) {
    const detail = 'The cart or a price changed since the quote: look at the new one and send its hash.'
    throw problem(409, 'price_changed', detail, { quote: { cartId: cart.cartId, ...quote, currency: 'GBP' } })
  }
  assertWithinLimits(quote)
}

/** True where the cart has been left alone with something in it, and nobody was reminded yet. */
export function isWaiting(cart: Cart): boolean {
  return cart.state === 'open' && cart.lines.length > 0 && cart.remindedAt === null
}

function notSold(skus: readonly string[]) {
  const detail = `Not sold, or no longer: ${skus.slice(0, 5).join(', ')}${skus.length > 5 ? ' …' : ''}. Take it out of the cart.`
  return problem(422, 'unknown_product', detail, { skus })
}
