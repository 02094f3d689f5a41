/** The tables of payment beside the streams. */
import { aggregate, type Reader, sql, type Tx } from '@shopsphere/bus'
import { type Command, decide, evolve, initial, type PaymentEvent, type PaymentState } from './payment.ts'
import type { ProviderNotice } from './provider.ts'

/** The money of each order, by the order's id. */
export const payments = aggregate<PaymentState, Command, PaymentEvent>({
  name: 'payment',
  initial,
  decide,
  evolve,
  version: 1,
})

// --- to whom word is sent ---

const buyerOf = (orderId: string, customerId: string | null) => customerId ?? orderId

export async function keepEmail(
  tx: Tx,
  { orderId, customerId, email }: { orderId: string; customerId: string | null; email: string },
): Promise<void> {
  await tx.run(sql`
    insert into payment_buyer (buyer, email, forgotten) values (${buyerOf(orderId, customerId)}, ${email}, 0)
    on conflict (buyer) do update set email = excluded.email where payment_buyer.forgotten = 0`)
}

export async function emailOf(reader: Reader, orderId: string, customerId: string | null): Promise<string | null> {
  const row = await reader.get<{ email: string | null }>(
    sql`select email from payment_buyer where buyer = ${buyerOf(orderId, customerId)}`,
  )
  return row?.email ?? null
}

/** For good: an order that comes later does not bring the address back. */
export async function forget(tx: Tx, customerId: string): Promise<void> {
  await tx.run(sql`
    insert into payment_buyer (buyer, email, forgotten) values (${customerId}, null, 1)
    on conflict (buyer) do update set email = null, forgotten = 1`)
}

// --- totals ---

const SHARDS = 16

/** By the last digit of the order's id, which is chance. */
const shardOf = (orderId: string) => (Number.parseInt(orderId.slice(-1), SHARDS) || 0) % SHARDS

export async function addToTotals(
  tx: Tx,
  orderId: string,
  { chargedPence = 0, refundedPence = 0 }: { chargedPence?: number; refundedPence?: number },
): Promise<void> {
  await tx.run(sql`
    insert into payment_total (shard, charged_pence, refunded_pence)
    values (${shardOf(orderId)}, ${chargedPence}, ${refundedPence})
    on conflict (shard) do update set charged_pence = payment_total.charged_pence + excluded.charged_pence,
      refunded_pence = payment_total.refunded_pence + excluded.refunded_pence`)
}

export type Totals = { chargedPence: number; refundedPence: number }

export async function readTotals(reader: Reader): Promise<Totals> {
  const row = await reader.get<{ charged: number | null; refunded: number | null }>(
    sql`select sum(charged_pence) as charged, sum(refunded_pence) as refunded from payment_total`,
  )
  return { chargedPence: Number(row?.charged ?? 0), refundedPence: Number(row?.refunded ?? 0) }
}

// --- refunds that need a person ---

export type RefundInNeed = { refundId: string; orderId: string; refundPence: number; reason: string; since: number }

export async function askForPerson(tx: Tx, refund: RefundInNeed): Promise<void> {
  const { refundId, orderId, refundPence, reason, since } = refund
  await tx.run(sql`
    insert into refund_attention (refund_id, order_id, refund_pence, reason, since)
    values (${refundId}, ${orderId}, ${refundPence}, ${reason}, ${since}) on conflict (refund_id) do nothing`)
}

export async function noPersonNeeded(tx: Tx, refundId: string): Promise<void> {
  await tx.run(sql`delete from refund_attention where refund_id = ${refundId}`)
}

type AttentionRow = { refund_id: string; order_id: string; refund_pence: number; reason: string; since: number }

/** In the order of their making. */
export async function listRefundsInNeed(
  reader: Reader,
  { afterRefundId, limit }: { afterRefundId: string; limit: number },
): Promise<RefundInNeed[]> {
  const rows = await reader.all<AttentionRow>(sql`
    select refund_id, order_id, refund_pence, reason, since from refund_attention
    where refund_id > ${afterRefundId} order by refund_id limit ${limit}`)
  return rows.map((row) => ({
    refundId: row.refund_id,
    orderId: row.order_id,
    refundPence: Number(row.refund_pence),
    reason: row.reason,
    since: Number(row.since),
  }))
}

// --- webhooks ---

const NOTICES_KEPT_MS = 30 * 24 * 3_600_000
const NOTICES_DELETED_MAX = 20

/** False: it has come before. */
export async function keepNotice(tx: Tx, notice: ProviderNotice, at: number): Promise<boolean> {
  const added = await tx.run(sql`
    insert into provider_notice (notice_id, order_id, notice, received_at)
    values (${notice.noticeId}, ${notice.orderId}, ${JSON.stringify(notice)}, ${at})
    on conflict (notice_id) do nothing`)
  if (added === 0) return false
  await tx.run(sql`
    delete from provider_notice where notice_id in (
      select notice_id from provider_notice where received_at < ${at - NOTICES_KEPT_MS}
      order by received_at limit ${NOTICES_DELETED_MAX})`)
  return true
}

export async function findNotice(reader: Reader, noticeId: string): Promise<ProviderNotice | undefined> {
  const row = await reader.get<{ notice: string }>(
    sql`select notice from provider_notice where notice_id = ${noticeId}`,
  )
  return row && JSON.parse(row.notice)
}

export async function noticeIsWorked(tx: Tx, noticeId: string, at: number): Promise<void> {
  await tx.run(sql`update provider_notice set worked_at = ${at} where notice_id = ${noticeId}`)
}
