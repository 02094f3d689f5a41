import { type Store, tableSql } from '@shopsphere/bus'
import { figures } from './figures.ts'
import { type Sales, type Step, steps } from './order-figures.ts'

/** Days as `2010-12-01`, both included. */
export type Days = { readonly from: string; readonly to: string }

export const ALL_DAYS: Days = { from: '', to: '9999-12-31' }

export const salesDimensions = ['day', 'product', 'customer', 'country'] as const
export type SalesDimension = (typeof salesDimensions)[number]

export type SalesRow = Sales & { readonly netPence: number }
/** `key`: the day, sku, customer id or country; null for guests and for what is not known. */
export type SalesItem = SalesRow & { readonly key: string | null; readonly name: string | null }

type Row = {
  key: string
  name: string | null
  orders: number
  units: number
  captured_pence: number
  refunded_units: number
  refunded_pence: number
}

/** Days in their order; everything else by what it brought, most first. */
export async function salesBy(
  store: Store,
  dimension: SalesDimension,
  { from, to }: Days,
  limit: number,
): Promise<SalesItem[]> {
  const rows = await figures.query(store, async (reader, table) => {
    switch (dimension) {
      case 'day':
        return reader.all<Row>(tableSql`
          select day as key, null as name, orders, units, captured_pence, refunded_units, refunded_pence
          from ${table('figures_day')} where day >= ${from} and day <= ${to} order by day limit ${limit}`)
      case 'product':
        return reader.all<Row>(tableSql`
          select sku as key, max(name) as name, sum(orders) as orders, sum(units) as units,
            sum(captured_pence) as captured_pence, sum(refunded_units) as refunded_units, sum(refunded_pence) as refunded_pence
          from ${table('figures_product')} where day >= ${from} and day <= ${to}
          group by sku order by sum(captured_pence) - sum(refunded_pence) desc, sku limit ${limit}`)
      case 'customer':
        return reader.all<Row>(tableSql`
          select customer_id as key, null as name, sum(orders) as orders, sum(units) as units,
            sum(captured_pence) as captured_pence, sum(refunded_units) as refunded_units, sum(refunded_pence) as refunded_pence
          from ${table('figures_customer')} where day >= ${from} and day <= ${to}
          group by customer_id order by sum(captured_pence) - sum(refunded_pence) desc, customer_id limit ${limit}`)
      case 'country':
        // An order counts where it was sent; without an address, where the customer lives.
        return reader.all<Row>(tableSql`
          select key, null as name, sum(orders) as orders, sum(units) as units,
            sum(captured_pence) as captured_pence, sum(refunded_units) as refunded_units, sum(refunded_pence) as refunded_pence
          from (select coalesce(nullif(sold.country, ''), home.country, '') as key, sold.*
            from ${table('figures_customer')} sold left join ${table('figures_home')} home
              on home.customer_id = sold.customer_id
            where sold.day >= ${from} and sold.day <= ${to}) placed
          group by key order by sum(captured_pence) - sum(refunded_pence) desc, key limit ${limit}`)
    }
  })
  return rows.map((row) => ({ key: row.key === '' ? null : row.key, name: row.name, ...toSales(row) }))
}

/** All sales of those days together. */
export async function salesTotal(store: Store, { from, to }: Days): Promise<SalesRow> {
  const row = await figures.query(store, (reader, table) =>
    reader.get<Omit<Row, 'key' | 'name'>>(tableSql`
      select coalesce(sum(orders), 0) as orders, coalesce(sum(units), 0) as units,
        coalesce(sum(captured_pence), 0) as captured_pence, coalesce(sum(refunded_units), 0) as refunded_units,
        coalesce(sum(refunded_pence), 0) as refunded_pence
      from ${table('figures_day')} where day >= ${from} and day <= ${to}`),
  )
  return toSales(row!)
}

function toSales(row: Omit<Row, 'key' | 'name'>): SalesRow {
  const capturedPence = Number(row.captured_pence)
  const refundedPence = Number(row.refunded_pence)
  return {
    orders: Number(row.orders),
    units: Number(row.units),
    capturedPence,
    refundedUnits: Number(row.refunded_units),
    refundedPence,
    netPence: capturedPence - refundedPence,
  }
}

export type Funnel = {
  readonly orders: Readonly<Record<Step, number>>
  /** Orders by the reason why they were called off. */
  readonly cancelled: Readonly<Record<string, number>>
}

/** How many of the orders placed on those days came how far. */
export async function funnelOf(store: Store, { from, to }: Days): Promise<Funnel> {
  const rows = await figures.query(store, (reader, table) =>
    reader.all<{ step: Step; reason: string; orders: number }>(tableSql`
      select step, reason, sum(orders) as orders from ${table('figures_step')}
      where day >= ${from} and day <= ${to} group by step, reason order by reason`),
  )
  const orders = Object.fromEntries(steps.map((step) => [step, 0])) as Record<Step, number>
  const cancelled: Record<string, number> = {}
  for (const { step, reason, orders: count } of rows) {
    orders[step] += Number(count)
    if (step === 'cancelled') cancelled[reason] = Number(count)
  }
  return { orders, cancelled }
}

/** Facts that are not in the figures yet: 0 once they have caught up. */
export async function factsBehind(store: Store): Promise<number> {
  const { live, headPosition } = await store.read((reader) => figures.status(reader))
  return headPosition - (live?.position ?? 0)
}
