/**
 * What a replay of a book must come to, worked out in memory from the rules alone: no services, no time, no concurrency.
 * Tests hold the whole shop against it.
 */
import type { BookLine, OrderBook } from './order-book.ts'
import type { ReplayFigures } from './summary.ts'
import { survey } from './survey.ts'

/** The figures that the book decides; the rest (events, seconds, violations) is the run's own. */
export type ExpectedFigures = Omit<ReplayFigures, 'events' | 'seconds' | 'violations'>

/** @param options.stock units of each stock code at the start; without it, what the whole file sells */
export async function expectedFigures(book: OrderBook, options: { stock?: number } = {}): Promise<ExpectedFigures> {
  const found = await survey(book)
  const shelf = new Map([...found.products.values()].map(({ sku, units }) => [sku, options.stock ?? units]))
  const sold = new SoldGoods()
  const figures: ExpectedFigures = {
    invoices: found.invoices,
    orders: { placed: 0, completed: 0, cancelled: 0 },
    lines: { accepted: found.lines.accepted, refused: found.lines.refused },
    units: { sold: 0, returned: 0 },
    pence: { charged: 0, refunded: 0 },
    returns: { accepted: 0, refused: {} },
  }
  for await (const entry of book.entries()) {
    if (entry.kind === 'order') sell(figures, shelf, sold, entry.lines)
    if (entry.kind === 'return') for (const line of entry.lines) takeBack(figures, shelf, sold, line)
  }
  return figures
}

function sell(figures: ExpectedFigures, shelf: Map<string, number>, sold: SoldGoods, lines: BookLine[]) {
  figures.orders.placed += 1
  const wanted = new Map<string, number>()
  for (const { sku, quantity } of lines) wanted.set(sku, (wanted.get(sku) ?? 0) + quantity)
  if ([...wanted].some(([sku, quantity]) => quantity > shelf.get(sku)!)) {
    figures.orders.cancelled += 1
    return
  }
  for (const [sku, quantity] of wanted) shelf.set(sku, shelf.get(sku)! - quantity)
  figures.orders.completed += 1
  for (const { quantity, unitPence } of lines) {
    figures.units.sold += quantity
    figures.pence.charged += quantity * unitPence
  }
  sold.add(lines)
}

function takeBack(figures: ExpectedFigures, shelf: Map<string, number>, sold: SoldGoods, line: BookLine) {
  if (line.customerReference === null) return refuse(figures, 'no_customer')
  const taken = sold.takeBack(line.customerReference, line.sku, -line.quantity)
  if (taken.units === 0) return refuse(figures, 'nothing_to_return')
  figures.returns.accepted += 1
  figures.units.returned += taken.units
  figures.pence.refunded += taken.pence
  shelf.set(line.sku, shelf.get(line.sku)! + taken.units)
}

function refuse(figures: ExpectedFigures, reason: string) {
  figures.returns.refused[reason] = (figures.returns.refused[reason] ?? 0) + 1
}

/** What each customer bought and still has, an order after the other. */
class SoldGoods {
  readonly #orders = new Map<string, { sku: string; left: number; unitPence: number }[][]>()

  add(lines: BookLine[]) {
    const customer = lines.find(({ customerReference }) => customerReference !== null)?.customerReference
    if (customer == null) return
    const orders = this.#orders.get(customer) ?? []
    orders.push(lines.map(({ sku, quantity, unitPence }) => ({ sku, left: quantity, unitPence })))
    this.#orders.set(customer, orders)
  }

  /** The newest order first; within one order, its lines as they stand in the book. */
  takeBack(customer: string, sku: string, wanted: number): { units: number; pence: number } {
    const taken = { units: 0, pence: 0 }
    const lines = (this.#orders.get(customer) ?? []).toReversed().flat()
    for (const line of lines.filter((candidate) => candidate.sku === sku)) {
      const units = Math.max(0, Math.min(line.left, wanted - taken.units))
      line.left -= units
      taken.units += units
      taken.pence += units * line.unitPence
    }
    return taken
  }
}
