/** The read models: made from analytics' own facts, and made again from them whenever the code or a doubt asks for it. */
import { projection, type Reader, type StoredEvent, sql, type TableName, type Tx, tableSql } from '@shopsphere/bus'
import {
  difference,
  evolve,
  type Fact,
  factTypes,
  isNothing,
  type Line,
  nothingYet,
  type OrderFigures,
  productSales,
  type Sales,
  salesOf,
} from './order-figures.ts'

export type FiguresTable =
  | 'figures_order'
  | 'figures_day'
  | 'figures_product'
  | 'figures_customer'
  | 'figures_home'
  | 'figures_step'

type Tables = (name: FiguresTable) => TableName

const salesColumns = `orders bigint not null, units bigint not null, captured_pence bigint not null,
  refunded_units bigint not null, refunded_pence bigint not null`

/** One projection for all figures: they share the order's row and come from the same facts, so one pass makes them. */
export const figures = projection<FiguresTable>({
  name: 'figures',
  version: 1,
  events: [...factTypes, 'customer'],
  tables: {
    figures_order: (table) => [
      `create table ${table} (order_id text not null primary key, state text not null, lines text)`,
    ],
    figures_day: (table) => [`create table ${table} (day text not null primary key, ${salesColumns})`],
    figures_product: (table) => [
      `create table ${table} (day text not null, sku text not null, name text not null, ${salesColumns}, primary key (day, sku))`,
    ],
    // '' for a guest, and for an order without an address: then the customer's own country counts.
    figures_customer: (table) => [
      `create table ${table} (day text not null, customer_id text not null, country text not null, ${salesColumns},
        primary key (day, customer_id, country))`,
    ],
    figures_home: (table) => [`create table ${table} (customer_id text not null primary key, country text)`],
    figures_step: (table) => [
      `create table ${table} (day text not null, step text not null, reason text not null, orders bigint not null,
        primary key (day, step, reason))`,
    ],
  },
  apply: (tx, event, table) =>
    event.type === 'customer' ? applyCustomer(tx, event, table) : applyFact(tx, event, table),
})

/** What analytics keeps of an account. */
export type CustomerFact = {
  readonly type: 'customer'
  readonly data: { readonly customerId: string; readonly country: string | null }
}

export const orderStream = (orderId: string) => `order:${orderId}`
export const customerStream = (customerId: string) => `customer:${customerId}`

function applyCustomer(tx: Tx, event: StoredEvent, table: Tables) {
  const { customerId, country } = event.data as CustomerFact['data']
  return tx.run(tableSql`
    insert into ${table('figures_home')} (customer_id, country) values (${customerId}, ${country})
    on conflict (customer_id) do update set country = excluded.country`)
}

async function applyFact(tx: Tx, event: StoredEvent, table: Tables): Promise<void> {
  const orderId = event.stream.slice(event.stream.indexOf(':') + 1)
  const fact = event as Pick<StoredEvent, 'type' | 'data'> as Fact
  const row = await readOrder(tx, table, orderId, fact)
  const after = evolve(row.order, fact)
  await tx.run(tableSql`
    insert into ${table('figures_order')} (order_id, state, lines)
    values (${orderId}, ${JSON.stringify(after)}, ${fact.type === 'placed' ? JSON.stringify(fact.data.lines) : null})
    on conflict (order_id) do update set state = excluded.state,
      lines = coalesce(excluded.lines, ${table('figures_order')}.lines)`)
  await countSteps(tx, table, row.order, after)
  await countSales(tx, table, row, after)
}

type OrderRow = { readonly order: OrderFigures; readonly lines: () => readonly Line[] }

/** The lines of a large order are long: they are read only where money moves. */
async function readOrder(tx: Tx, table: Tables, orderId: string, fact: Fact): Promise<OrderRow> {
  const row = await tx.get<{ state: string; lines: string | null }>(
    tableSql`select state, lines from ${table('figures_order')} where order_id = ${orderId}`,
  )
  const order: OrderFigures = row ? JSON.parse(row.state) : nothingYet
  const lines = () => (fact.type === 'placed' ? fact.data.lines : row?.lines ? (JSON.parse(row.lines) as Line[]) : [])
  return { order, lines }
}

async function countSteps(tx: Tx, table: Tables, before: OrderFigures, after: OrderFigures): Promise<void> {
  if (!after.placed) return // counted together once the day is known
  const counted = before.placed ? before.steps : []
  for (const step of after.steps) {
    if (counted.includes(step)) continue
    const reason = step === 'cancelled' ? (after.cancelReason ?? '') : ''
    await tx.run(tableSql`
      insert into ${table('figures_step')} (day, step, reason, orders) values (${after.placed.day}, ${step}, ${reason}, ${1})
      on conflict (day, step, reason) do update set orders = ${table('figures_step')}.orders + 1`)
  }
}

async function countSales(tx: Tx, table: Tables, row: OrderRow, after: OrderFigures): Promise<void> {
  const moneyMoved = after.capturedPence !== row.order.capturedPence || after.refunds !== row.order.refunds
  if (!after.placed || !(moneyMoved || !row.order.placed) || after.capturedPence === 0) return
  const { day, customerId, country } = after.placed
  const lines = row.lines()
  const old = salesOf(row.order, lines)
  const now = salesOf(after, lines)
  const whole = difference(old.whole, now.whole)
  if (isNothing(whole)) return
  await addToDay(tx, table, day, whole)
  await addToCustomer(tx, table, { day, customerId: customerId ?? '', country: country ?? '' }, whole)
  for (const [sku, product] of now.products) {
    await addToProduct(tx, table, { day, sku, name: product.name }, difference(productSales(old, sku), product))
  }
}

function addToDay(tx: Tx, table: Tables, day: string, sales: Sales) {
  const days = table('figures_day')
  return tx.run(tableSql`
    insert into ${days} (day, orders, units, captured_pence, refunded_units, refunded_pence)
    values (${day}, ${sales.orders}, ${sales.units}, ${sales.capturedPence}, ${sales.refundedUnits}, ${sales.refundedPence})
    on conflict (day) do update set orders = ${days}.orders + excluded.orders, units = ${days}.units + excluded.units,
      captured_pence = ${days}.captured_pence + excluded.captured_pence,
      refunded_units = ${days}.refunded_units + excluded.refunded_units,
      refunded_pence = ${days}.refunded_pence + excluded.refunded_pence`)
}

function addToCustomer(
  tx: Tx,
  table: Tables,
  { day, customerId, country }: { day: string; customerId: string; country: string },
  sales: Sales,
) {
  const customers = table('figures_customer')
  return tx.run(tableSql`
    insert into ${customers} (day, customer_id, country, orders, units, captured_pence, refunded_units, refunded_pence)
    values (${day}, ${customerId}, ${country}, ${sales.orders}, ${sales.units}, ${sales.capturedPence},
      ${sales.refundedUnits}, ${sales.refundedPence})
    on conflict (day, customer_id, country) do update set orders = ${customers}.orders + excluded.orders,
      units = ${customers}.units + excluded.units,
      captured_pence = ${customers}.captured_pence + excluded.captured_pence,
      refunded_units = ${customers}.refunded_units + excluded.refunded_units,
      refunded_pence = ${customers}.refunded_pence + excluded.refunded_pence`)
}

function addToProduct(
  tx: Tx,
  table: Tables,
  { day, sku, name }: { day: string; sku: string; name: string },
  sales: Sales,
) {
  const products = table('figures_product')
  if (isNothing(sales)) return 0
  return tx.run(tableSql`
    insert into ${products} (day, sku, name, orders, units, captured_pence, refunded_units, refunded_pence)
    values (${day}, ${sku}, ${name}, ${sales.orders}, ${sales.units}, ${sales.capturedPence}, ${sales.refundedUnits},
      ${sales.refundedPence})
    on conflict (day, sku) do update set name = excluded.name, orders = ${products}.orders + excluded.orders,
      units = ${products}.units + excluded.units,
      captured_pence = ${products}.captured_pence + excluded.captured_pence,
      refunded_units = ${products}.refunded_units + excluded.refunded_units,
      refunded_pence = ${products}.refunded_pence + excluded.refunded_pence`)
}

/** For each table the columns that tell its rows apart. */
const keys: Readonly<Record<FiguresTable, string>> = {
  figures_order: 'order_id',
  figures_day: 'day',
  figures_product: 'day, sku',
  figures_customer: 'day, customer_id, country',
  figures_home: 'customer_id',
  figures_step: 'day, step, reason',
}

/** Every row of every read model as JSON, in an order of its own: two that were made of the same facts are equal. */
export async function dumpFigures(reader: Reader): Promise<Record<string, string[]>> {
  const dump: Record<string, string[]> = {}
  for (const [name, key] of Object.entries(keys)) {
    const table = await figures.table(reader, name as FiguresTable)
    const text = `select * from ${table.name} order by ${key}` // names from code alone
    const rows = await reader.all(sql(Object.assign([text], { raw: [text] })))
    dump[name] = rows.map((row) => JSON.stringify(row))
  }
  return dump
}
