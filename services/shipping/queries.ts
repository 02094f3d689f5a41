/** The rows behind fulfilments, returns and problems. */
import { type Reader, type Row, sql, type Tx } from '@shopsphere/bus'
import type { PartLine } from '@shopsphere/contracts'
import type { Fulfilment, FulfilmentStatus, Parcel, Problem } from './fulfilment.ts'
import type { ReturnCase } from './returns.ts'

type FulfilmentRow = {
  order_id: string
  customer_id: string | null
  email: string | null
  address: string | null
  placed_at: number
  confirmed_at: number
  status: FulfilmentStatus
  lines: string
  parcels: string
  asked_back: string
  delivered_at: number | null
  forget: number
  version: number
}

/** A fulfilment and the version of its row; 0: it has none yet. */
export type Stored = { readonly state: Fulfilment; readonly version: number }

export async function findFulfilment(reader: Reader, orderId: string): Promise<Stored | undefined> {
  const row = await reader.get<FulfilmentRow>(sql`select * from fulfilment where order_id = ${orderId}`)
  return row && fromRow(row)
}

/** Adds a row; false where the order has one already. */
export async function addFulfilment(tx: Tx, state: Fulfilment): Promise<boolean> {
  const row: Row = {
    order_id: state.orderId,
    customer_id: state.customerId,
    email: state.email,
    address: state.address && JSON.stringify(state.address),
    placed_at: state.placedAt,
    confirmed_at: state.confirmedAt,
    status: state.status,
    lines: JSON.stringify(state.lines),
    parcels: parcelsText(state.parcels),
    asked_back: JSON.stringify(state.askedBack),
    delivered_at: state.deliveredAt,
    forget: state.forget ? 1 : 0,
    version: 1,
  }
  return (await tx.insert('fulfilment', [row], { orIgnore: true })).length === 1
}

/**
 * Writes what may change, if the row still has the version that the change was decided on; false: somebody else was
 * first. This one statement is what makes cancelling and sending exclude each other.
 */
export async function saveFulfilment(tx: Tx, state: Fulfilment, version: number): Promise<boolean> {
  const saved = await tx.run(sql`
    update fulfilment set status = ${state.status}, parcels = ${parcelsText(state.parcels)},
      asked_back = ${JSON.stringify(state.askedBack)}, delivered_at = ${state.deliveredAt}, version = ${version + 1}
    where order_id = ${state.orderId} and version = ${version}`)
  return saved === 1
}

export async function saveAddress(tx: Tx, { orderId, address }: Fulfilment): Promise<void> {
  await tx.run(sql`update fulfilment set address = ${address && JSON.stringify(address)} where order_id = ${orderId}`)
}

/** Fulfilments of a customer that something was delivered of, the newest order first (ids grow with time). */
export async function deliveredFulfilments(
  reader: Reader,
  customerId: string,
  { beforeOrderId, limit }: { beforeOrderId: string | null; limit: number },
): Promise<Stored[]> {
  const rows = await reader.all<FulfilmentRow>(sql`
    select * from fulfilment
    where customer_id = ${customerId} and (cast(${beforeOrderId} as text) is null or order_id < ${beforeOrderId})
      and status in ('partly_sent', 'sent', 'delivered')
    order by order_id desc limit ${limit}`)
  return rows.map(fromRow)
}

/** Makes what is kept of a person unreadable; an address that a parcel still needs goes when the parcel has. */
export async function forgetCustomer(tx: Tx, customerId: string): Promise<void> {
  await tx.run(sql`
    update fulfilment set email = null, forget = 1,
      address = case when status in ('delivered', 'cancelled') then null else address end
    where customer_id = ${customerId}`)
  await tx.run(sql`update return_case set reason = null where customer_id = ${customerId}`)
}

function fromRow(row: FulfilmentRow): Stored {
  const lines = JSON.parse(row.lines) as PartLine[]
  const state = {
    orderId: row.order_id,
    customerId: row.customer_id,
    email: row.email,
    address: row.address === null ? null : JSON.parse(row.address),
    placedAt: Number(row.placed_at),
    confirmedAt: Number(row.confirmed_at),
    status: row.status,
    lines,
    parcels: readParcels(row.parcels, lines),
    askedBack: row.asked_back === '{}' ? {} : JSON.parse(row.asked_back),
    deliveredAt: row.delivered_at === null ? null : Number(row.delivered_at),
    forget: Number(row.forget) === 1,
  }
  return { state, version: Number(row.version) }
}

/** A parcel that is alone holds all lines of its order, which the row has already. */
function parcelsText(parcels: readonly Parcel[]): string {
  const [only] = parcels
  return JSON.stringify(parcels.length === 1 ? [{ ...only, lines: undefined }] : parcels)
}

function readParcels(text: string, lines: readonly PartLine[]): Parcel[] {
  const parcels = JSON.parse(text) as Parcel[]
  return parcels.length === 1 ? [{ ...parcels[0]!, lines }] : parcels
}

// --- problems ---

export type ShipmentProblem = { shipmentId: string; orderId: string; kind: Problem; since: number }

type ProblemRow = { shipment_id: string; order_id: string; kind: Problem; since: number }

export async function saveProblem(tx: Tx, { shipmentId, orderId, kind, since }: ShipmentProblem): Promise<void> {
  await tx.run(sql`
    insert into shipment_problem (shipment_id, order_id, kind, since)
    values (${shipmentId}, ${orderId}, ${kind}, ${since})
    on conflict (shipment_id) do update set kind = excluded.kind, since = excluded.since`)
}

export async function solveProblem(tx: Tx, shipmentId: string): Promise<void> {
  await tx.run(sql`delete from shipment_problem where shipment_id = ${shipmentId}`)
}

export async function listProblems(
  reader: Reader,
  { afterShipmentId, limit }: { afterShipmentId: string; limit: number },
): Promise<ShipmentProblem[]> {
  const rows = await reader.all<ProblemRow>(sql`
    select * from shipment_problem where shipment_id > ${afterShipmentId} order by shipment_id limit ${limit}`)
  return rows.map((row) => ({
    shipmentId: row.shipment_id,
    orderId: row.order_id,
    kind: row.kind,
    since: Number(row.since),
  }))
}

// --- returns ---

type ReturnRow = {
  return_id: string
  order_id: string
  customer_id: string | null
  state: ReturnCase['state']
  outcome: ReturnCase['outcome']
  lines: string
  refund_pence: number
  reason: string | null
  requested_at: number
  requested_by: string | null
  changed_at: number
}

export async function findReturn(reader: Reader, returnId: string): Promise<ReturnCase | undefined> {
  const row = await reader.get<ReturnRow>(sql`select * from return_case where return_id = ${returnId}`)
  return row && toReturn(row)
}

export async function addReturn(tx: Tx, goods: ReturnCase): Promise<void> {
  await tx.insert('return_case', [
    {
      return_id: goods.returnId,
      order_id: goods.orderId,
      customer_id: goods.customerId,
      state: goods.state,
      outcome: goods.outcome,
      lines: JSON.stringify(goods.lines),
      refund_pence: goods.refundPence,
      reason: goods.reason,
      requested_at: goods.requestedAt,
      requested_by: goods.requestedBy,
      changed_at: goods.changedAt,
    },
  ])
}

/** Writes the next state, if the return is still in `from`; false: somebody else was first. */
export async function saveReturn(tx: Tx, goods: ReturnCase, from: ReturnCase['state']): Promise<boolean> {
  const saved = await tx.run(sql`
    update return_case set state = ${goods.state}, outcome = ${goods.outcome}, lines = ${JSON.stringify(goods.lines)},
      refund_pence = ${goods.refundPence}, reason = ${goods.reason}, changed_at = ${goods.changedAt}
    where return_id = ${goods.returnId} and state = ${from}`)
  return saved === 1
}

export type ReturnFilter = {
  customerId: string | null
  orderId: string | null
  state: string | null
  beforeReturnId: string | null
  limit: number
}

/** The newest first. */
export async function listReturns(reader: Reader, filter: ReturnFilter): Promise<ReturnCase[]> {
  return (await returnRows(reader, filter)).map(toReturn)
}

/** One statement for each index that helps: by order, by customer, by state, or none. */
function returnRows(reader: Reader, { customerId, orderId, state, beforeReturnId: before, limit }: ReturnFilter) {
  if (orderId !== null) {
    return reader.all<ReturnRow>(sql`
      select * from return_case where order_id = ${orderId} and (cast(${before} as text) is null or return_id < ${before})
        and (cast(${customerId} as text) is null or customer_id = ${customerId})
        and (cast(${state} as text) is null or state = ${state})
      order by return_id desc limit ${limit}`)
  }
  if (customerId !== null) {
    return reader.all<ReturnRow>(sql`
      select * from return_case
      where customer_id = ${customerId} and (cast(${before} as text) is null or return_id < ${before})
        and (cast(${state} as text) is null or state = ${state})
      order by return_id desc limit ${limit}`)
  }
  if (state !== null) {
    return reader.all<ReturnRow>(sql`
      select * from return_case where state = ${state} and (cast(${before} as text) is null or return_id < ${before})
      order by return_id desc limit ${limit}`)
  }
  return reader.all<ReturnRow>(sql`
    select * from return_case where (cast(${before} as text) is null or return_id < ${before})
    order by return_id desc limit ${limit}`)
}

function toReturn(row: ReturnRow): ReturnCase {
  return {
    returnId: row.return_id,
    orderId: row.order_id,
    customerId: row.customer_id,
    state: row.state,
    outcome: row.outcome,
    lines: JSON.parse(row.lines),
    refundPence: Number(row.refund_pence),
    reason: row.reason,
    requestedAt: Number(row.requested_at),
    requestedBy: row.requested_by,
    changedAt: Number(row.changed_at),
  }
}
