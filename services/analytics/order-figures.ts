/**
 * What one order adds to the figures. Pure, and the same whatever order its facts come in: brokers that keep no order
 * between owners may tell of the money before the order.
 *
 * Everything counts on the day (UTC) on which the order was placed, refunds too: a day's figures say what became of the
 * orders of that day.
 */

/** How far an order came; an order counts once for each step that it reached. */
export const steps = ['placed', 'confirmed', 'shipped', 'delivered', 'returned', 'cancelled'] as const
export type Step = (typeof steps)[number]

export type Line = {
  readonly lineNo: number
  readonly sku: string
  readonly name: string
  readonly quantity: number
  readonly unitPence: number
}
type RefundedLine = { readonly lineNo: number; readonly quantity: number; readonly pence: number }
/** `lines` empty, or less than `pence`: the rest belongs to the order as a whole. */
type Refund = { readonly refundId: string; readonly pence: number; readonly lines: readonly RefundedLine[] }

/** What analytics keeps of the events that it hears; no names, no addresses. */
export type Fact =
  | {
      readonly type: 'placed'
      readonly data: {
        readonly placedAt: number
        readonly customerId: string | null
        readonly country: string | null
        readonly totalPence: number
        readonly lines: readonly Line[]
      }
    }
  | { readonly type: 'confirmed' | 'shipped' | 'delivered' | 'returned'; readonly data: Record<string, never> }
  | { readonly type: 'cancelled'; readonly data: { readonly reason: string } }
  | { readonly type: 'captured'; readonly data: { readonly capturedTotalPence: number } }
  | { readonly type: 'refunded'; readonly data: Refund }

export const factTypes = [...steps, 'captured', 'refunded'] as const satisfies readonly Fact['type'][]

/** Everything but the lines, which are long and do not change. */
export type OrderFigures = {
  readonly placed: {
    readonly day: string
    readonly customerId: string | null
    readonly country: string | null
    readonly totalPence: number
  } | null
  readonly steps: readonly Step[]
  readonly cancelReason: string | null
  readonly capturedPence: number
  readonly refunds: readonly Refund[]
}

export const nothingYet: OrderFigures = { placed: null, steps: [], cancelReason: null, capturedPence: 0, refunds: [] }

export function evolve(order: OrderFigures, fact: Fact): OrderFigures {
  switch (fact.type) {
    case 'placed': {
      const { placedAt, customerId, country, totalPence } = fact.data
      return { ...reach(order, 'placed'), placed: { day: dayOf(placedAt), customerId, country, totalPence } }
    }
    case 'captured':
      // The total and not the step: later ones contain earlier ones.
      return { ...order, capturedPence: Math.max(order.capturedPence, fact.data.capturedTotalPence) }
    case 'refunded': {
      const known = order.refunds.some(({ refundId }) => refundId === fact.data.refundId)
      return known ? order : { ...order, refunds: [...order.refunds, fact.data] }
    }
    case 'cancelled':
      return { ...reach(order, 'cancelled'), cancelReason: fact.data.reason }
    default:
      return reach(order, fact.type)
  }
}

function reach(order: OrderFigures, step: Step): OrderFigures {
  return order.steps.includes(step) ? order : { ...order, steps: [...order.steps, step] }
}

/** `2010-12-01`, in UTC. */
export function dayOf(timeMs: number): string {
  return new Date(timeMs).toISOString().slice(0, 10)
}

export type Sales = {
  readonly orders: number
  readonly units: number
  readonly capturedPence: number
  readonly refundedUnits: number
  readonly refundedPence: number
}

/** The money of an order, in all and by product; an order counts as a sale once money was captured. */
export type OrderSales = { readonly whole: Sales; readonly products: ReadonlyMap<string, Sales & { name: string }> }

const noSales: Sales = { orders: 0, units: 0, capturedPence: 0, refundedUnits: 0, refundedPence: 0 }

export function salesOf({ placed, capturedPence, refunds }: OrderFigures, lines: readonly Line[]): OrderSales {
  const products = new Map<string, Sales & { name: string }>()
  if (!placed || capturedPence === 0) return { whole: noSales, products }
  const weights = lines.map(({ quantity, unitPence }) => quantity * unitPence)
  const captured = allocate(capturedPence, weights)
  const refunded = refundsByLine(refunds, lines, weights)
  let whole: Sales = { ...noSales, orders: 1 }
  lines.forEach(({ sku, name, quantity }, index) => {
    const units = Math.min(quantity, Math.floor((quantity * capturedPence) / placed.totalPence))
    const line = { orders: 0, units, capturedPence: captured[index]!, ...refunded[index]! }
    whole = add(whole, line)
    products.set(sku, { ...add(products.get(sku) ?? { ...noSales, orders: 1 }, line), name })
  })
  return { whole, products }
}

type Refunded = Pick<Sales, 'refundedUnits' | 'refundedPence'>

function refundsByLine(refunds: readonly Refund[], lines: readonly Line[], weights: readonly number[]): Refunded[] {
  const byLine: Refunded[] = lines.map(() => ({ refundedUnits: 0, refundedPence: 0 }))
  const give = (index: number, units: number, pence: number) => {
    const { refundedUnits, refundedPence } = byLine[index]!
    byLine[index] = { refundedUnits: refundedUnits + units, refundedPence: refundedPence + pence }
  }
  for (const refund of refunds) {
    let rest = refund.pence
    for (const { lineNo, quantity, pence } of refund.lines) {
      const index = lines.findIndex((line) => line.lineNo === lineNo)
      if (index < 0) continue
      give(index, quantity, pence)
      rest -= pence
    }
    allocate(rest, weights).forEach((pence, index) => {
      give(index, 0, pence)
    })
  }
  return byLine
}

function add(one: Sales, other: Sales): Sales {
  return {
    orders: one.orders + other.orders,
    units: one.units + other.units,
    capturedPence: one.capturedPence + other.capturedPence,
    refundedUnits: one.refundedUnits + other.refundedUnits,
    refundedPence: one.refundedPence + other.refundedPence,
  }
}

export function difference(before: Sales, after: Sales): Sales {
  return {
    orders: after.orders - before.orders,
    units: after.units - before.units,
    capturedPence: after.capturedPence - before.capturedPence,
    refundedUnits: after.refundedUnits - before.refundedUnits,
    refundedPence: after.refundedPence - before.refundedPence,
  }
}

export const isNothing = (sales: Sales): boolean => Object.values(sales).every((value) => value === 0)

export const productSales = (sales: OrderSales, sku: string): Sales => sales.products.get(sku) ?? noSales

/**
 * `pence` in proportion to `weights`, to the penny: what the first n get together is their share rounded down, so the
 * parts always add up.
 */
export function allocate(pence: number, weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  let weighed = 0
  let given = 0
  return weights.map((weight, index) => {
    weighed += weight
    const last = index === weights.length - 1
    const upTo = last || total === 0 ? (last ? pence : 0) : shareOf(pence, weighed, total)
    const part = upTo - given
    given = upTo
    return part
  })
}

/** The product of two amounts in pence may be more than a number holds exactly. */
function shareOf(pence: number, part: number, whole: number): number {
  const product = pence * part
  return Number.isSafeInteger(product)
    ? Math.floor(product / whole)
    : Number((BigInt(pence) * BigInt(part)) / BigInt(whole))
}
