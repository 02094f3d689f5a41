/** The tables of inventory. What changes a row of stock answers whose availability moved to another class. */
import { list, type Reader, sql, type Tx } from '@shopsphere/bus'
import type { Availability, Shortage } from '@shopsphere/contracts'
import { availabilityOf, LOW_STOCK_UNITS, type OrderState, type SkuUnits, type StockOrder } from './stock.ts'

export type Stock = { sku: string; onHand: number; available: number; held: number; allocated: number }

/** How many units to add to (or, below 0, take from) each place; on hand changes by their sum. */
export type Change = { available?: number; held?: number; allocated?: number }

export type LevelChange = { sku: string; availability: Availability; available: number }

/** Makes the product known; nothing happens where it is. */
export async function addProduct(tx: Tx, sku: string): Promise<void> {
  await tx.run(sql`
    insert into stock (sku, on_hand, available, held, allocated) values (${sku}, 0, 0, 0, 0) on conflict (sku) do nothing`)
}

/**
 * Holds every line or nothing; answers what is short, then nothing has changed.
 *
 * Most products have plenty: for them one update that looks for itself is enough, and no class can change. Only where
 * few units are left is the row read first.
 */
export async function hold(
  tx: Tx,
  wanted: readonly SkuUnits[],
): Promise<{ short: Shortage[]; changes: LevelChange[] }> {
  const taken: SkuUnits[] = []
  const scarce: SkuUnits[] = []
  for (const line of wanted) (await takeFromPlenty(tx, line)) ? taken.push(line) : scarce.push(line)
  if (scarce.length === 0) return { short: [], changes: [] }
  const short = await shortages(tx, scarce)
  if (short.length > 0) {
    // With as many units back as were there before, these are in stock as they were.
    for (const [sku, units] of taken) await give(tx, sku, units)
    return { short, changes: [] }
  }
  return { short, changes: await changeAll(tx, scarce, (units) => ({ available: -units, held: units })) }
}

async function takeFromPlenty(tx: Tx, [sku, units]: SkuUnits): Promise<boolean> {
  const changed = await tx.run(sql`
    update stock set available = available - ${units}, held = held + ${units}
    where sku = ${sku} and available >= ${units + LOW_STOCK_UNITS}`)
  return changed === 1
}

async function give(tx: Tx, sku: string, units: number): Promise<void> {
  await tx.run(sql`update stock set available = available + ${units}, held = held - ${units} where sku = ${sku}`)
}

async function shortages(tx: Tx, wanted: readonly SkuUnits[]): Promise<Shortage[]> {
  const there = await findStocks(
    tx,
    wanted.map(([sku]) => sku),
  )
  return wanted
    .map(([sku, units]) => ({ sku, wanted: units, available: there.get(sku)?.available ?? 0 }))
    .filter(({ wanted, available }) => available < wanted)
}

/** Changes each sku by what `change` says of its units. Throws where a product is unknown or a place would fall below 0. */
export async function changeAll(
  tx: Tx,
  lines: readonly SkuUnits[],
  change: (units: number) => Change,
): Promise<LevelChange[]> {
  const changes: LevelChange[] = []
  for (const [sku, units] of lines) {
    const changed = await changeOne(tx, sku, change(units))
    if (changed) changes.push(changed)
  }
  return changes
}

const TRIES_MAX = 10

async function changeOne(tx: Tx, sku: string, change: Change): Promise<LevelChange | null> {
  const { available = 0, held = 0, allocated = 0 } = change
  // In stock before and after: nothing to say, and nothing to read.
  const plentyBefore = available === 0 ? 0 : LOW_STOCK_UNITS + Math.max(0, -available)
  const changed = await tx.run(sql`
    update stock set on_hand = on_hand + ${available + held + allocated}, available = available + ${available},
      held = held + ${held}, allocated = allocated + ${allocated}
    where sku = ${sku} and available >= ${plentyBefore}`)
  if (changed === 1) return null
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const before = await findStock(tx, sku)
    if (!before) throw new Error(`there is no product ${sku} here (yet): product.created has not arrived`)
    const after = before.available + available
    const done = await tx.run(sql`
      update stock set on_hand = on_hand + ${available + held + allocated}, available = available + ${available},
        held = held + ${held}, allocated = allocated + ${allocated}
      where sku = ${sku} and available = ${before.available}`)
    if (done === 0) continue // somebody else was faster
    const availability = availabilityOf(after)
    return availability === availabilityOf(before.available) ? null : { sku, availability, available: after }
  }
  throw new Error(`the stock of ${sku} changes too fast`)
}

export type LedgerKind = 'receipt' | 'dispatch' | 'return' | 'write_off'

export type LedgerEntry = {
  sku: string
  reference: string
  kind: LedgerKind
  change: number
  reason: string | null
  at: number
}

/** Writes down changes of what is on hand; answers those that were not there yet: only they may be made. */
export async function enterInLedger(tx: Tx, entries: readonly LedgerEntry[]): Promise<LedgerEntry[]> {
  const inserted = await tx.insert('stock_ledger', entries, { orIgnore: true })
  return inserted.length === entries.length ? [...entries] : inserted.map((position) => entries[position]!)
}

type StockRow = { sku: string; on_hand: number; available: number; held: number; allocated: number }

const toStock = (row: StockRow): Stock => ({
  sku: row.sku,
  onHand: Number(row.on_hand),
  available: Number(row.available),
  held: Number(row.held),
  allocated: Number(row.allocated),
})

export async function findStock(reader: Reader, sku: string): Promise<Stock | undefined> {
  const row = await reader.get<StockRow>(
    sql`select sku, on_hand, available, held, allocated from stock where sku = ${sku}`,
  )
  return row && toStock(row)
}

/** So many parameters of one statement at most. */
const NAMES_PER_SELECT = 200

/** By sku; unknown ones are left out. */
export async function findStocks(reader: Reader, skus: readonly string[]): Promise<Map<string, Stock>> {
  const found = new Map<string, Stock>()
  for (let from = 0; from < skus.length; from += NAMES_PER_SELECT) {
    const some = skus.slice(from, from + NAMES_PER_SELECT)
    const rows = await reader.all<StockRow>(
      sql`select sku, on_hand, available, held, allocated from stock where sku in ${list(some)}`,
    )
    for (const row of rows) found.set(row.sku, toStock(row))
  }
  return found
}

/** In the order of their skus. */
export async function listStock(
  reader: Reader,
  { afterSku, limit }: { afterSku: string; limit: number },
): Promise<Stock[]> {
  const rows = await reader.all<StockRow>(sql`
    select sku, on_hand, available, held, allocated from stock where sku > ${afterSku} order by sku limit ${limit}`)
  return rows.map(toStock)
}

/** The newest first. `before`: time and reference of the last entry that was seen. */
export async function listLedger(
  reader: Reader,
  sku: string,
  { before, limit }: { before: readonly [at: number, reference: string] | undefined; limit: number },
): Promise<LedgerEntry[]> {
  const [at, reference] = before ?? [Number.MAX_SAFE_INTEGER, '']
  const rows = await reader.all<LedgerEntry>(sql`
    select sku, reference, kind, change, reason, at from stock_ledger
    where sku = ${sku} and (at < ${at} or (at = ${at} and reference < ${reference}))
    order by at desc, reference desc limit ${limit}`)
  return rows.map((row) => ({ ...row, change: Number(row.change), at: Number(row.at) }))
}

/** Writes down a new order; false where it is known. */
export async function addOrder(
  tx: Tx,
  orderId: string,
  order: { state: OrderState; wanted: readonly SkuUnits[]; at: number },
): Promise<boolean> {
  const added = await tx.run(sql`
    insert into stock_order (order_id, state, wanted, sent, changed_at)
    values (${orderId}, ${order.state}, ${JSON.stringify(order.wanted)}, '[]', ${order.at})
    on conflict (order_id) do nothing`)
  return added === 1
}

type OrderRow = { order_id: string; state: OrderState; wanted: string; sent: string; short: string | null }

const toOrder = (row: OrderRow): StockOrder => ({
  orderId: row.order_id,
  state: row.state,
  wanted: JSON.parse(row.wanted),
  sent: JSON.parse(row.sent),
  short: row.short === null ? null : JSON.parse(row.short),
})

export async function findOrder(reader: Reader, orderId: string): Promise<StockOrder | undefined> {
  const row = await reader.get<OrderRow>(
    sql`select order_id, state, wanted, sent, short from stock_order where order_id = ${orderId}`,
  )
  return row && toOrder(row)
}

export async function setState(
  tx: Tx,
  orderId: string,
  state: OrderState,
  at: number,
  { short = [] }: { short?: readonly Shortage[] } = {},
): Promise<void> {
  if (short.length === 0) {
    await tx.run(sql`update stock_order set state = ${state}, changed_at = ${at} where order_id = ${orderId}`)
    return
  }
  await tx.run(sql`
    update stock_order set state = ${state}, short = ${JSON.stringify(short)}, changed_at = ${at}
    where order_id = ${orderId}`)
}

export async function setSent(
  tx: Tx,
  orderId: string,
  { state, sent, at }: { state: OrderState; sent: readonly SkuUnits[]; at: number },
): Promise<void> {
  await tx.run(sql`
    update stock_order set state = ${state}, sent = ${JSON.stringify(sent)}, changed_at = ${at}
    where order_id = ${orderId}`)
}

const ORDERS_PER_PAGE = 500

/** Orders that have units of `sku`, the newest first, page by page until together they have `units`. */
export async function ordersThatHave(
  reader: Reader,
  { sku, state, units }: { sku: string; state: 'held' | 'allocated'; units: number },
): Promise<StockOrder[]> {
  const found: StockOrder[] = []
  let missing = units
  let before = 'zzzz' // behind every id of an order
  while (missing > 0) {
    const rows = await reader.all<OrderRow>(sql`
      select order_id, state, wanted, sent, short from stock_order
      where state = ${state} and order_id < ${before} order by order_id desc limit ${ORDERS_PER_PAGE}`)
    for (const order of rows.map(toOrder)) {
      const has = order.wanted.find(([wanted]) => wanted === sku)?.[1] ?? 0
      const gone = order.sent.find(([sent]) => sent === sku)?.[1] ?? 0
      if (has - gone <= 0) continue
      found.push(order)
      missing -= has - gone
    }
    if (rows.length < ORDERS_PER_PAGE) break
    before = rows.at(-1)!.order_id
  }
  return found
}
