/** What stock means, without a database: sums by sku, classes of availability, parcels that leave, goods that are lost. */
import type { Availability, Shortage } from '@shopsphere/contracts'

/** With fewer units than this available a product is `low`; with none, `out`. */
export const LOW_STOCK_UNITS = 10

export function availabilityOf(available: number): Availability {
  if (available <= 0) return 'out'
  return available < LOW_STOCK_UNITS ? 'low' : 'in_stock'
}

/** Units of one sku; a list of them has each sku once, in the order of the skus, so that all take locks in one order. */
export type SkuUnits = readonly [sku: string, units: number]

/** Sums lines by sku: an order may name one sku in several lines. */
export function unitsBySku(lines: readonly { readonly sku: string; readonly quantity: number }[]): SkuUnits[] {
  const units = new Map<string, number>()
  for (const { sku, quantity } of lines) units.set(sku, (units.get(sku) ?? 0) + quantity)
  return inOrder(units)
}

export function unitsOf(list: readonly SkuUnits[]): number {
  let sum = 0
  for (const [, units] of list) sum += units
  return sum
}

export function plus(list: readonly SkuUnits[], more: readonly SkuUnits[]): SkuUnits[] {
  if (list.length === 0) return [...more]
  const sum = new Map(list)
  for (const [sku, units] of more) sum.set(sku, (sum.get(sku) ?? 0) + units)
  return inOrder(sum)
}

/** What is left of `list`, skus with nothing left out. Null where `less` is not contained in it. */
export function minus(list: readonly SkuUnits[], less: readonly SkuUnits[]): SkuUnits[] | null {
  if (less.length === 0) return [...list]
  const left = new Map(list)
  for (const [sku, units] of less) {
    const rest = (left.get(sku) ?? 0) - units
    if (rest < 0) return null
    if (rest === 0) left.delete(sku)
    else left.set(sku, rest)
  }
  return [...left]
}

function inOrder(units: ReadonlyMap<string, number>): SkuUnits[] {
  const list = [...units]
  return list.length === 1 ? list : list.sort(([one], [other]) => (one < other ? -1 : 1))
}

/**
 * `held` until T1, then `expired`; `allocated` once it is paid, `dispatched` when everything has left; `released` when
 * the order is off, `failed` when it could not be filled. `lost`: a write-off took some of it, the rest is available
 * again; `refused`: lost, and the payment that came has been answered with inventory.update_failed.
 */
export const orderStates = [
  'held',
  'allocated',
  'dispatched',
  'failed',
  'expired',
  'released',
  'lost',
  'refused',
] as const
export type OrderState = (typeof orderStates)[number]

export type StockOrder = {
  readonly orderId: string
  readonly state: OrderState
  readonly wanted: readonly SkuUnits[]
  /** What has left of it. */
  readonly sent: readonly SkuUnits[]
  readonly short: readonly Shortage[] | null
}

/** What an order has of the stock now. */
export function keptFor(order: StockOrder): SkuUnits[] {
  return order.state === 'held' || order.state === 'allocated' ? (minus(order.wanted, order.sent) ?? []) : []
}

export type Loss = {
  readonly order: StockOrder
  /** Units of the sku that the order loses; what else it had becomes available again. */
  readonly lostUnits: number
  readonly short: Shortage
}

/**
 * Which orders bear the loss of `units` of `sku` that somebody has: unpaid ones before paid ones, the newest first, those
 * of which a parcel has left already last. An order that loses a unit loses all, because it is filled whole or not at all.
 */
export function lossesOf(sku: string, units: number, orders: readonly StockOrder[]): Loss[] {
  const losses: Loss[] = []
  let left = units
  for (const order of [...orders].sort(byReadinessToLose)) {
    const has = keptFor(order).find(([kept]) => kept === sku)?.[1] ?? 0
    if (left === 0) break
    if (has === 0) continue
    const lostUnits = Math.min(has, left)
    losses.push({ order, lostUnits, short: { sku, wanted: has, available: has - lostUnits } })
    left -= lostUnits
  }
  return losses
}

const rank = ({ state, sent }: StockOrder) => (state === 'held' ? 0 : sent.length === 0 ? 1 : 2)

function byReadinessToLose(one: StockOrder, other: StockOrder): number {
  return rank(one) - rank(other) || (one.orderId < other.orderId ? 1 : -1)
}
