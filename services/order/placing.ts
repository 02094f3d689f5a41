/** What a request for an order may ask for, and what it comes to by the catalogue. */
import { type Address, contractLimits, type OrderLine } from '@shopsphere/contracts'
import { problem } from '@shopsphere/runtime/problem'
import type { Caller } from '@shopsphere/runtime/request-context'
import type { CatalogueProduct } from './copies.ts'

const NAMED_MAX = 20

export type AskedLine = {
  readonly sku: string
  readonly quantity: number
  readonly unitPence?: number | undefined
  readonly name?: string | undefined
}

export type AskedOrder = {
  readonly lines: readonly AskedLine[]
  readonly paymentMethod: string
  readonly email?: string | null | undefined
  readonly address?: Address | null | undefined
  readonly expectedTotalPence?: number | undefined
  readonly customerId?: string | null | undefined
  readonly placedAt?: number | undefined
}

export type Buyer = {
  /** Null: a guest. */
  readonly customerId: string | null
  readonly channel: 'direct' | 'merchant'
  readonly placedBy: string | null
}

/** Whose order it is. Throws the problems `price_not_allowed` and `forbidden` for what only a merchant may say. */
export function buyerOf(asked: AskedOrder, caller: Caller | null): Buyer {
  const placedBy = caller?.userId ?? null
  if (caller?.roles.includes('merchant')) {
    return { customerId: asked.customerId ?? null, channel: 'merchant', placedBy }
  }
  if (asked.lines.some((line) => line.unitPence !== undefined)) {
    throw problem(
      403,
      'price_not_allowed',
      'Leave unitPence out: prices come from the catalogue. To be sure of the sum, send expectedTotalPence.',
    )
  }
  if (asked.placedAt !== undefined || asked.lines.some((line) => line.name !== undefined)) {
    throw problem(403, 'forbidden', 'Leave placedAt and the names of lines out: only a merchant may give them.')
  }
  if (asked.customerId !== undefined && asked.customerId !== placedBy) {
    throw problem(403, 'forbidden', 'Leave customerId out: only a merchant orders for somebody else.')
  }
  return { customerId: placedBy, channel: 'direct', placedBy }
}

export type Quote = { readonly lines: readonly OrderLine[]; readonly totalPence: number }

/**
 * What the lines cost, line by line as they were asked. Throws the problems `unknown_product`, for skus that the catalogue
 * does not have or does not sell any more, and `invalid_request` for more than an order can hold.
 */
export function quote(lines: readonly AskedLine[], catalogue: ReadonlyMap<string, CatalogueProduct>): Quote {
  refuseUnknown(lines, catalogue)
  const quoted = lines.map(({ sku, quantity, unitPence, name }, index) => {
    const product = catalogue.get(sku)!
    return { lineNo: index + 1, sku, name: name ?? product.name, quantity, unitPence: unitPence ?? product.pricePence }
  })
  return { lines: quoted, totalPence: totalOf(quoted) }
}

/** Throws the problem `price_changed`, with the new quote, where the sum is not the one that the customer agreed to. */
export function refuseOtherTotal({ lines, totalPence }: Quote, expectedTotalPence: number | undefined): void {
  if (expectedTotalPence === undefined || expectedTotalPence === totalPence) return
  throw problem(
    409,
    'price_changed',
    `The order comes to ${totalPence} pence now, not ${expectedTotalPence}: show the new quote, then send it again with a new Idempotency-Key.`,
    { quote: { currency: 'GBP', totalPence, lines } },
  )
}

function refuseUnknown(lines: readonly AskedLine[], catalogue: ReadonlyMap<string, CatalogueProduct>): void {
  const skus = [...new Set(lines.map(({ sku }) => sku))]
  const unknown = skus.filter((sku) => !catalogue.has(sku))
  const discontinued = skus.filter((sku) => catalogue.get(sku)?.discontinued)
  if (unknown.length === 0 && discontinued.length === 0) return
  const parts = [
    unknown.length > 0 ? `not in the catalogue: ${named(unknown)}` : '',
    discontinued.length > 0 ? `no longer sold: ${named(discontinued)}` : '',
  ]
  const detail = `${parts.filter((part) => part !== '').join('; ')}. Leave these out, or look at GET /api/products.`
  // Also what was just made known elsewhere may not have arrived here: the same request may then succeed in a moment.
  throw problem(
    422,
    'unknown_product',
    detail,
    { skus: [...unknown, ...discontinued], unknown, discontinued },
    { 'retry-after': '1' },
  )
}

function named(skus: readonly string[]): string {
  const more = skus.length > NAMED_MAX ? ` and ${skus.length - NAMED_MAX} more` : ''
  return skus.slice(0, NAMED_MAX).join(', ') + more
}

function totalOf(lines: readonly OrderLine[]): number {
  const { unitsMax, totalPenceMax } = contractLimits
  let units = 0
  let totalPence = 0
  for (const { quantity, unitPence } of lines) {
    units += quantity
    totalPence += quantity * unitPence
    // Refused as soon as it is too much, so that no sum leaves the range of exact whole numbers.
    if (units > unitsMax) {
      throw problem(400, 'invalid_request', `An order holds up to ${unitsMax} units: split it.`)
    }
    if (totalPence > totalPenceMax) {
      throw problem(400, 'invalid_request', `An order comes to ${totalPenceMax} pence at most: split it.`)
    }
  }
  return totalPence
}
