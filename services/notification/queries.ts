import { type Reader, sql, type Tx } from '@shopsphere/bus'

export type NotificationState = 'sent' | 'failed'

export type Notification = {
  readonly notificationId: string
  readonly about: string
  readonly step: string
  readonly channel: string
  readonly state: NotificationState
  readonly recipient: string
  readonly userId: string | null
  readonly orderId: string | null
  readonly subject: string
  /** Why it failed. */
  readonly reason: string | null
  readonly attempts: number
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** What has to be known before somebody is told something. */
export type Situation = {
  /** It was told, or could not be told, before. */
  readonly told: boolean
  /** The account is known here, with or without an e-mail address. */
  readonly known: boolean
  readonly email: string | null
  readonly name: string | null
  readonly wantsMail: boolean
}

type SituationRow = {
  told: string | null
  known: number | null
  email: string | null
  name: string | null
  email_on: number | null
}

export async function findSituation(
  reader: Reader,
  { about, step, channel, userId }: { about: string; step: string; channel: string; userId: string | null },
): Promise<Situation> {
  const row = await reader.get<SituationRow>(sql`
    select n.notification_id as told, r.known, r.email, r.name, r.email_on
    from (select 1 as one) as always
      left join recipient r on r.user_id = ${userId}
      left join notification n on n.about = ${about} and n.step = ${step} and n.channel = ${channel}`)
  return {
    told: row!.told !== null,
    known: Number(row!.known) === 1,
    email: row!.email,
    name: row!.name,
    wantsMail: row!.email_on === null || Number(row!.email_on) === 1,
  }
}

/** False where it was written before (I6). */
export async function addNotification(tx: Tx, notification: Notification): Promise<boolean> {
  const { notificationId, about, step, channel, state, recipient, userId, orderId, subject, reason, attempts, at } =
    notification
  const row = {
    notification_id: notificationId,
    about,
    step,
    channel,
    state,
    recipient,
    user_id: userId,
    order_id: orderId,
    subject,
    reason,
    attempts,
    at,
  }
  return (await tx.insert('notification', [row], { orIgnore: true })).length === 1
}

// --- accounts ---

/** Keeps what an account says of itself; what it wants to be told stays as it is. */
export async function saveRecipient(
  tx: Tx,
  { userId, email, name }: { userId: string; email: string | null; name: string | null },
): Promise<void> {
  await tx.run(sql`
    insert into recipient (user_id, email, name, email_on, known) values (${userId}, ${email}, ${name}, 1, 1)
    on conflict (user_id) do update set email = excluded.email, name = excluded.name, known = 1`)
}

export async function findWantsMail(reader: Reader, userId: string): Promise<boolean> {
  const row = await reader.get<{ email_on: number }>(sql`select email_on from recipient where user_id = ${userId}`)
  return row === undefined || Number(row.email_on) === 1
}

export async function saveWantsMail(tx: Tx, userId: string, wantsMail: boolean): Promise<void> {
  const on = wantsMail ? 1 : 0
  await tx.run(sql`
    insert into recipient (user_id, email, name, email_on, known) values (${userId}, null, null, ${on}, 0)
    on conflict (user_id) do update set email_on = excluded.email_on`)
}

const FORGOTTEN = 'deleted'

/** Leaves that something was told, and when; not whom. */
export async function forgetRecipient(tx: Tx, userId: string): Promise<void> {
  await saveRecipient(tx, { userId, email: null, name: null })
  await tx.run(sql`update notification set recipient = ${FORGOTTEN} where user_id = ${userId}`)
}

export async function notificationIdsOf(
  reader: Reader,
  userId: string,
  { afterId, limit }: { afterId: string; limit: number },
): Promise<string[]> {
  const rows = await reader.all<{ notification_id: string }>(sql`
    select notification_id from notification where user_id = ${userId} and notification_id > ${afterId}
    order by notification_id limit ${limit}`)
  return rows.map((row) => row.notification_id)
}

// --- reading ---

type NotificationRow = {
  notification_id: string
  about: string
  step: string
  channel: string
  state: NotificationState
  recipient: string
  user_id: string | null
  order_id: string | null
  subject: string
  reason: string | null
  attempts: number
  at: number
}

export async function findNotification(reader: Reader, notificationId: string): Promise<Notification | undefined> {
  const row = await reader.get<NotificationRow>(
    sql`select * from notification where notification_id = ${notificationId}`,
  )
  return row && toNotification(row)
}

export type NotificationFilter = {
  userId: string | null
  orderId: string | null
  beforeId: string | null
  limit: number
}

/** The newest first. */
export async function listNotifications(reader: Reader, filter: NotificationFilter): Promise<Notification[]> {
  return (await notificationRows(reader, filter)).map(toNotification)
}

/** One statement for each index that helps: by order, by user, or none. */
function notificationRows(reader: Reader, { userId, orderId, beforeId: before, limit }: NotificationFilter) {
  if (orderId !== null) {
    return reader.all<NotificationRow>(sql`
      select * from notification where about = ${orderId}
        and (cast(${userId} as text) is null or user_id = ${userId})
        and (cast(${before} as text) is null or notification_id < ${before})
      order by notification_id desc limit ${limit}`)
  }
  if (userId !== null) {
    return reader.all<NotificationRow>(sql`
      select * from notification
      where user_id = ${userId} and (cast(${before} as text) is null or notification_id < ${before})
      order by notification_id desc limit ${limit}`)
  }
  return reader.all<NotificationRow>(sql`
    select * from notification where (cast(${before} as text) is null or notification_id < ${before})
    order by notification_id desc limit ${limit}`)
}

function toNotification(row: NotificationRow): Notification {
  return {
    notificationId: row.notification_id,
    about: row.about,
    step: row.step,
    channel: row.channel,
    state: row.state,
    recipient: row.recipient,
    userId: row.user_id,
    orderId: row.order_id,
    subject: row.subject,
    reason: row.reason,
    attempts: Number(row.attempts),
    at: Number(row.at),
  }
}
