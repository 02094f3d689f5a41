/**
 * What the services know about one order, each from its own database. Read with the auditor's own statements: what is
 * audited is not asked for its opinion.
 */
import { eventStore, type Reader, type Store, type StoredEvent, sql } from '@shopsphere/bus'

/** A service's database, as far as the auditor needs it. */
export type AuditedStore = Pick<Store, 'read'>
/** By the name of their service; one that is missing runs elsewhere and is not audited here. */
export type AuditedStores = ReadonlyMap<string, AuditedStore>

const EVENTS_PER_READ = 1_000
/** An order has some dozens of messages; parcels with much news of them a few hundred. */
const MESSAGES_MAX = 20_000

export type Stream = {
  readonly events: readonly StoredEvent[]
  /** The state kept beside the stream, as JSON, where it is as of the last event. */
  readonly state: unknown
}

export type OrderRecord = Stream & {
  readonly status: string
  readonly stage: string
  /** A timer is pending that will look at the order again. */
  readonly watched: boolean
  /** What the customer was told, by step and channel. */
  readonly notifications: ReadonlyMap<string, number>
}

export type StockRecord = {
  readonly state: string
  /** Units by sku. */
  readonly wanted: readonly (readonly [sku: string, units: number])[]
  readonly sent: readonly (readonly [sku: string, units: number])[]
}

type ShippedLine = { readonly lineNo: number; readonly sku: string; readonly quantity: number }
export type ParcelRecord = {
  readonly shipmentId: string
  readonly lines: readonly ShippedLine[]
  /** Null: it never left. */
  readonly dispatchedAt: number | null
  /** Rows of the stock ledger that its leaving made. */
  readonly ledgerRows: number
}

export type ShippingRecord = {
  readonly status: string
  readonly parcels: readonly ParcelRecord[]
  readonly returns: readonly { readonly state: string; readonly outcome: string | null }[]
}

export type NotificationRecord = {
  /** Sent or not, by step and channel. */
  readonly steps: ReadonlyMap<string, number>
  readonly sent: number
  readonly failed: number
}

/** A message that audit heard. `data` only where money is in it. */
export type Told = { readonly type: string; readonly data: Record<string, unknown> | null }

/** Undefined: the service is not audited here. Null: it knows nothing of the order. */
export type OrderFacts = {
  readonly orderId: string
  readonly order: OrderRecord | null | undefined
  readonly payment: Stream | null | undefined
  readonly stock: StockRecord | null | undefined
  readonly shipping: ShippingRecord | null | undefined
  /** Facts of analytics, by type. */
  readonly analytics: ReadonlyMap<string, number> | undefined
  readonly notification: NotificationRecord | undefined
  readonly told: readonly Told[] | undefined
}

export async function readOrderFacts(stores: AuditedStores, orderId: string): Promise<OrderFacts> {
  const at = async <T>(service: string, read: (reader: Reader) => Promise<T>): Promise<T | undefined> => {
    const store = stores.get(service)
    return store && (await store.read(read))
  }
  const shipping = await at('shipping', (reader) => readShipping(reader, orderId))
  return {
    orderId,
    order: await at('order', (reader) => readOrder(reader, orderId)),
    payment: await at('payment', (reader) => readStream(reader, `payment:${orderId}`)),
    stock: await at('inventory', (reader) => readStock(reader, orderId)),
    shipping: shipping && (await withLedger(stores, shipping)),
    analytics: await at('analytics', async (reader) => {
      const stream = await readStream(reader, `order:${orderId}`)
      return countBy(stream?.events ?? [], ({ type }) => type)
    }),
    notification: await at('notification', (reader) => readNotifications(reader, orderId)),
    told: await at('audit', (reader) => readTold(reader, orderId)),
  }
}

async function readStream(reader: Reader, stream: string): Promise<Stream | null> {
  const events: StoredEvent[] = []
  for (let page: StoredEvent[] | undefined; page === undefined || page.length === EVENTS_PER_READ; ) {
    page = await eventStore.read(reader, stream, { fromVersion: events.length + 1, limit: EVENTS_PER_READ })
    events.push(...page)
  }
  if (events.length === 0) return null
  const head = await reader.get<{ version: number; state: string | null; folded_version: number | null }>(
    sql`select version, state, folded_version from bus_stream where stream = ${stream}`,
  )
  const isCurrent = head?.state != null && Number(head.folded_version) === events.at(-1)!.version
  return { events, state: isCurrent ? JSON.parse(head.state!) : undefined }
}

async function readOrder(reader: Reader, orderId: string): Promise<OrderRecord | null> {
  const stream = await readStream(reader, `order:${orderId}`)
  const row = await reader.get<{ status: string; stage: string }>(
    sql`select status, stage from order_row where order_id = ${orderId}`,
  )
  if (!stream && !row) return null
  const timer = await reader.get(sql`select 1 as one from bus_timer where id = ${`next:${orderId}`}`)
  const told = await reader.all<{ step: string; channel: string }>(
    sql`select step, channel from order_notification where order_id = ${orderId}`,
  )
  return {
    events: stream?.events ?? [],
    state: stream?.state,
    status: row?.status ?? '',
    stage: row?.stage ?? '',
    watched: timer !== undefined,
    notifications: stepsOf(told),
  }
}

async function readStock(reader: Reader, orderId: string): Promise<StockRecord | null> {
  const row = await reader.get<{ state: string; wanted: string; sent: string }>(
    sql`select state, wanted, sent from stock_order where order_id = ${orderId}`,
  )
  return row ? { state: row.state, wanted: JSON.parse(row.wanted), sent: JSON.parse(row.sent) } : null
}

async function readShipping(reader: Reader, orderId: string): Promise<ShippingRecord | null> {
  const row = await reader.get<{ status: string; lines: string; parcels: string }>(
    sql`select status, lines, parcels from fulfilment where order_id = ${orderId}`,
  )
  if (!row) return null
  const returns = await reader.all<{ state: string; outcome: string | null }>(
    sql`select state, outcome from return_case where order_id = ${orderId}`,
  )
  // A parcel that is alone holds all lines of its order.
  const parcels = (JSON.parse(row.parcels) as (Omit<ParcelRecord, 'lines'> & { lines?: ShippedLine[] })[]).map(
    ({ shipmentId, dispatchedAt, lines }) => ({
      shipmentId,
      dispatchedAt,
      lines: lines ?? (JSON.parse(row.lines) as ShippedLine[]),
      ledgerRows: 0,
    }),
  )
  return { status: row.status, parcels, returns }
}

async function withLedger(stores: AuditedStores, shipping: ShippingRecord): Promise<ShippingRecord> {
  const inventory = stores.get('inventory')
  if (!inventory) return shipping
  const parcels: ParcelRecord[] = []
  for (const parcel of shipping.parcels) {
    // The ledger's key begins with the sku: one look-up for each that the parcel holds.
    let ledgerRows = 0
    for (const sku of new Set(parcel.lines.map((line) => line.sku))) {
      const row = await inventory.read((reader) =>
        reader.get(sql`select 1 as one from stock_ledger where sku = ${sku} and reference = ${parcel.shipmentId}`),
      )
      if (row) ledgerRows += 1
    }
    parcels.push({ ...parcel, ledgerRows })
  }
  return { ...shipping, parcels }
}

async function readNotifications(reader: Reader, orderId: string): Promise<NotificationRecord> {
  const rows = await reader.all<{ step: string; channel: string; state: string }>(
    sql`select step, channel, state from notification where about = ${orderId}`,
  )
  const sent = rows.filter(({ state }) => state === 'sent').length
  return { steps: stepsOf(rows), sent, failed: rows.length - sent }
}

const stepsOf = (rows: readonly { step: string; channel: string }[]) =>
  countBy(rows, ({ step, channel }) => `${step} by ${channel}`)

async function readTold(reader: Reader, orderId: string): Promise<Told[]> {
  const rows = await reader.all<{ type: string; money: string | null }>(sql`
    select type, case when type in ('payment.captured', 'payment.refunded') then body end as money
    from audit_event where message_key = ${orderId} limit ${MESSAGES_MAX}`)
  return rows.map(({ type, money }) => ({ type, data: money === null ? null : JSON.parse(money) }))
}

export function countBy<Item>(items: readonly Item[], name: (item: Item) => string): Map<string, number> {
  const counts = new Map<string, number>()
  for (const item of items) counts.set(name(item), (counts.get(name(item)) ?? 0) + 1)
  return counts
}
