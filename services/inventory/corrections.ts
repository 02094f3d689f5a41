/** What people book: goods that came in, and goods that are gone. Each in the caller's transaction. */
import type { TransactionContext } from '@shopsphere/bus'
import { inventoryUpdateFailed } from '@shopsphere/contracts'
import { tellLevels } from './handlers.ts'
import { changeAll, enterInLedger, type LedgerEntry, ordersThatHave, type Stock, setState } from './queries.ts'
import { keptFor, type Loss, lossesOf, type SkuUnits } from './stock.ts'

export type Booking = {
  readonly reference: string
  readonly reason: string | null
  readonly at: number
}

const entry = (booking: Booking, kind: LedgerEntry['kind'], [sku, change]: SkuUnits): LedgerEntry => ({
  sku,
  kind,
  change,
  ...booking,
})

/** Adds units to what is on hand and available. Every sku must be known. */
export async function receive(
  context: TransactionContext,
  lines: readonly SkuUnits[],
  booking: Booking,
): Promise<void> {
  await enterInLedger(
    context.tx,
    lines.map((line) => entry(booking, 'receipt', line)),
  )
  tellLevels(context, await changeAll(context.tx, lines, (units) => ({ available: units })))
}

export type WrittenOff = {
  /** Unpaid orders that lost their hold: their payment, if it comes, will be answered with inventory.update_failed. */
  readonly heldOrders: string[]
  /** Paid orders that cannot be filled any more, and have been told so. */
  readonly allocatedOrders: string[]
}

/**
 * Takes units from what is on hand: first those that nobody has a claim to, then those of orders. `units` is at most
 * what is on hand.
 */
export async function writeOff(
  context: TransactionContext,
  stock: Stock,
  units: number,
  booking: Booking,
): Promise<WrittenOff> {
  const { tx } = context
  const { sku } = stock
  await enterInLedger(tx, [entry(booking, 'write_off', [sku, -units])])
  const free = Math.min(units, stock.available)
  if (free > 0) tellLevels(context, await changeAll(tx, [[sku, free]], (gone) => ({ available: -gone })))
  const missing = units - free
  if (missing === 0) return { heldOrders: [], allocatedOrders: [] }
  const holding = await ordersThatHave(tx, { sku, state: 'held', units: missing })
  const fromPaid = missing - Math.min(missing, stock.held)
  const promised = fromPaid > 0 ? await ordersThatHave(tx, { sku, state: 'allocated', units: fromPaid }) : []
  const losses = lossesOf(sku, missing, [...holding, ...promised])
  for (const loss of losses) await lose(context, sku, loss, booking.at)
  const named = (state: 'held' | 'allocated') =>
    losses.filter(({ order }) => order.state === state).map(({ order }) => order.orderId)
  return { heldOrders: named('held'), allocatedOrders: named('allocated') }
}

/** T1 of a held order goes on: if no payment comes, it ends as any other hold does. */
async function lose(context: TransactionContext, sku: string, loss: Loss, at: number): Promise<void> {
  const { order, lostUnits, short } = loss
  const from = order.state === 'held' ? 'held' : 'allocated'
  for (const [kept, units] of keptFor(order)) {
    const gone = kept === sku ? lostUnits : 0
    const changes = await changeAll(context.tx, [[kept, units]], () => ({ [from]: -units, available: units - gone }))
    tellLevels(context, changes)
  }
  if (order.state === 'held') return setState(context.tx, order.orderId, 'lost', at, { short: [short] })
  await setState(context.tx, order.orderId, 'refused', at, { short: [short] })
  context.publish(inventoryUpdateFailed, { orderId: order.orderId, reason: 'stock_lost', short: [short] })
}
