/** I3: the stock of each product against its own ledger, and against what orders hold of it. */
import { type Reader, sql } from '@shopsphere/bus'
import type { AuditedStore } from './order-facts.ts'
import type { Violation } from './violation.ts'

const ROWS_PER_PAGE = 500

type StockRow = {
  sku: string
  on_hand: number
  available: number
  held: number
  allocated: number
  ledger: number
}

/**
 * The next `limit` products after `afterSku`, each against the sum of its ledger, in one statement: true at every moment,
 * whatever is under way. Answers the last product looked at; null: that was all.
 */
export async function checkStock(
  inventory: AuditedStore,
  { afterSku, limit }: { afterSku: string; limit: number },
): Promise<{ violations: Violation[]; lastSku: string | null }> {
  const rows = await inventory.read((reader) =>
    reader.all<StockRow>(sql`
      select sku, on_hand, available, held, allocated,
        (select coalesce(sum(change), 0) from stock_ledger where stock_ledger.sku = stock.sku) as ledger
      from stock where sku > ${afterSku} order by sku limit ${limit}`),
  )
  return { violations: rows.flatMap(checkRow), lastSku: rows.length < limit ? null : rows.at(-1)!.sku }
}

function checkRow(row: StockRow): Violation[] {
  const [onHand, available, held, allocated, ledger] = [
    row.on_hand,
    row.available,
    row.held,
    row.allocated,
    row.ledger,
  ].map(Number) as [number, number, number, number, number]
  const found: string[] = []
  if (onHand !== available + held + allocated)
    found.push(`${onHand} on hand are not ${available} available, ${held} held and ${allocated} allocated`)
  if (Math.min(onHand, available, held, allocated) < 0)
    found.push(`below 0: ${onHand} on hand, ${available} available, ${held} held, ${allocated} allocated`)
  if (onHand !== ledger) found.push(`${onHand} on hand, and its ledger comes to ${ledger}`)
  return found.map((text) => ({ invariant: 'I3', text: `${row.sku}: ${text}` }))
}

/** What is held and allocated against the orders that hold it. Only when nothing is under way: it takes many statements. */
export async function checkHolders(inventory: AuditedStore): Promise<Violation[]> {
  const kept = { held: new Map<string, number>(), allocated: new Map<string, number>() }
  for (let after = ''; ; ) {
    const rows = await inventory.read((reader) => holdersAfter(reader, after))
    for (const { state, wanted, sent } of rows) {
      for (const [sku, units] of JSON.parse(wanted) as [string, number][]) add(kept[state], sku, units)
      for (const [sku, units] of JSON.parse(sent) as [string, number][]) add(kept[state], sku, -units)
    }
    if (rows.length < ROWS_PER_PAGE) break
    after = rows.at(-1)!.order_id
  }
  const violations: Violation[] = []
  for (let afterSku = ''; ; ) {
    const rows = await inventory.read((reader) => stockAfter(reader, afterSku))
    for (const row of rows) violations.push(...compareHolders(row, kept))
    if (rows.length < ROWS_PER_PAGE) return violations
    afterSku = rows.at(-1)!.sku
  }
}

type Kept = { held: Map<string, number>; allocated: Map<string, number> }

function add(kept: Map<string, number>, sku: string, units: number): void {
  kept.set(sku, (kept.get(sku) ?? 0) + units)
}

function holdersAfter(reader: Reader, after: string) {
  return reader.all<{ order_id: string; state: 'held' | 'allocated'; wanted: string; sent: string }>(sql`
    select order_id, state, wanted, sent from stock_order
    where order_id > ${after} and state in ('held', 'allocated') order by order_id limit ${ROWS_PER_PAGE}`)
}

function stockAfter(reader: Reader, afterSku: string) {
  return reader.all<{ sku: string; held: number; allocated: number }>(
    sql`select sku, held, allocated from stock where sku > ${afterSku} order by sku limit ${ROWS_PER_PAGE}`,
  )
}

function compareHolders(row: { sku: string; held: number; allocated: number }, kept: Kept): Violation[] {
  return (['held', 'allocated'] as const).flatMap((place) => {
    const byOrders = kept[place].get(row.sku) ?? 0
    if (Number(row[place]) === byOrders) return []
    const text = `${row.sku}: ${row[place]} ${place}, and orders have ${byOrders} of it ${place}`
    return [{ invariant: 'I3' as const, text }]
  })
}
