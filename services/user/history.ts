/**
 * User's copies: each customer's orders, and what was sent to them. One statement an event, since every order passes
 * here several times. Events may come twice or out of order: what is known only grows.
 */
import { type Message, sql, type Tx } from '@shopsphere/bus'

/** How far an order has come, as the customer reads it; the column holds the place in this list. */
export const orderProgress = ['unknown', 'placed', 'delivered', 'completed', 'cancelled'] as const
export type OrderProgress = (typeof orderProgress)[number]

type Ordered = { readonly orderId: string; readonly customerId: string | null }
type Placed = Ordered & { readonly placedAt: number; readonly totalPence: number; readonly lines: readonly unknown[] }

/** The conditions leave out a deleted account, whose last orders run on without a name. */
export async function keepPlaced(tx: Tx, order: Placed): Promise<void> {
  const { customerId, orderId, placedAt, totalPence, lines } = order
  if (customerId === null) return
  await tx.run(sql`
    insert into order_history (user_id, order_id, progress, placed_at, line_count, total_pence, refunded_pence, changed_at)
    select cast(${customerId} as text), cast(${orderId} as text), 1, cast(${placedAt} as bigint),
      cast(${lines.length} as bigint), cast(${totalPence} as bigint), 0, cast(${placedAt} as bigint)
    where not exists (select 1 from account where user_id = ${customerId} and deleted_at is not null)
    on conflict (user_id, order_id) do update
    set placed_at = excluded.placed_at, line_count = excluded.line_count, total_pence = excluded.total_pence`)
}

export async function keepProgress(tx: Tx, order: Ordered, progress: OrderProgress, message: Message): Promise<void> {
  if (order.customerId === null) return
  await tx.run(sql`
    insert into order_history (user_id, order_id, progress, refunded_pence, changed_at)
    select cast(${order.customerId} as text), cast(${order.orderId} as text),
      cast(${orderProgress.indexOf(progress)} as bigint), 0, cast(${message.time} as bigint)
    where not exists (select 1 from account where user_id = ${order.customerId} and deleted_at is not null)
    on conflict (user_id, order_id) do update set progress = excluded.progress, changed_at = excluded.changed_at
    where excluded.progress > order_history.progress`)
}

type Refunded = Ordered & { readonly refundedTotalPence: number }

export async function keepRefund(tx: Tx, order: Refunded, message: Message): Promise<void> {
  if (order.customerId === null) return
  await tx.run(sql`
    insert into order_history (user_id, order_id, progress, refunded_pence, changed_at)
    select cast(${order.customerId} as text), cast(${order.orderId} as text), 0,
      cast(${order.refundedTotalPence} as bigint), cast(${message.time} as bigint)
    where not exists (select 1 from account where user_id = ${order.customerId} and deleted_at is not null)
    on conflict (user_id, order_id) do update
    set refunded_pence = excluded.refunded_pence, changed_at = excluded.changed_at
    where excluded.refunded_pence > order_history.refunded_pence`)
}

type Sent = {
  readonly notificationId: string
  readonly userId: string | null
  readonly orderId: string | null
  readonly step: string
  readonly channel: string
  readonly recipient: string
  readonly subject: string
}

export async function keepSent(tx: Tx, sent: Sent, message: Message): Promise<void> {
  const { notificationId, userId, orderId, step, channel, recipient, subject } = sent
  if (userId === null) return
  await tx.run(sql`
    insert into sent_message (user_id, notification_id, order_id, step, channel, recipient, subject, sent_at)
    select cast(${userId} as text), cast(${notificationId} as text), cast(${orderId} as text), cast(${step} as text),
      cast(${channel} as text), cast(${recipient} as text), cast(${subject} as text), cast(${message.time} as bigint)
    where not exists (select 1 from account where user_id = ${userId} and deleted_at is not null)
    on conflict (user_id, notification_id) do nothing`)
}

/** What a deletion takes with it. */
export async function forgetHistory(tx: Tx, userId: string): Promise<void> {
  await tx.run(sql`delete from order_history where user_id = ${userId}`)
  await tx.run(sql`delete from sent_message where user_id = ${userId}`)
}
