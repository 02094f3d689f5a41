import { type Reader, sql, type Tx } from '@shopsphere/bus'
import type { Notice } from './templates.ts'

export type MailRow = {
  notification_id: string
  order_id: string | null
  user_id: string | null
  recipient: string
  step: string
  channel: string
  subject: string
  body: string
  failure: string | null
  at: number
}

export type Contact = { email: string | null; wantsNews: boolean }

export async function findContact(reader: Reader, userId: string): Promise<Contact | undefined> {
  const row = await reader.get<{ email: string | null; wants_news: number }>(
    sql`select email, wants_news from contact where user_id = ${userId}`,
  )
  return row && { email: row.email, wantsNews: Number(row.wants_news) === 1 }
}

export async function keepContact(tx: Tx, userId: string, email: string | null): Promise<void> {
  await tx.run(sql`
    insert into contact (user_id, email, wants_news) values (${userId}, ${email}, 1)
    on conflict (user_id) do update set email = excluded.email`)
}

/** Answers false where there is no such account. */
export async function savePreference(tx: Tx, userId: string, wantsNews: boolean): Promise<boolean> {
  return (await tx.run(sql`update contact set wants_news = ${wantsNews ? 1 : 0} where user_id = ${userId}`)) > 0
}

/** Who they were and what they were told can be read by nobody any more; that something was sent remains. */
export async function forgetContact(tx: Tx, userId: string): Promise<void> {
  await tx.run(sql`delete from contact where user_id = ${userId}`)
  await tx.run(sql`update mail set recipient = 'deleted', subject = 'deleted', body = '' where user_id = ${userId}`)
}

/** False: it was sent before (I6). */
export async function keepMail(
  tx: Tx,
  notice: Notice,
  sent: { notificationId: string; recipient: string; channel: string; failure: string | null; at: number },
): Promise<boolean> {
  const { about, step, orderId, userId, subject, text } = notice
  const { notificationId, recipient, channel, failure, at } = sent
  const changed = await tx.run(sql`
    insert into mail (about, step, channel, notification_id, order_id, user_id, recipient, subject, body, failure, at)
    values (${about}, ${step}, ${channel}, ${notificationId}, ${orderId}, ${userId}, ${recipient}, ${subject}, ${text}, ${failure}, ${at})
    on conflict (about, step, channel) do nothing`)
  return changed > 0
}

/** The newest first. */
export async function listMailsOf(reader: Reader, userId: string, before: string, limit: number): Promise<MailRow[]> {
  return reader.all<MailRow>(sql`
    select * from mail where user_id = ${userId} and notification_id < ${before} order by notification_id desc limit ${limit}`)
}

export async function listAllMails(reader: Reader, before: string, limit: number): Promise<MailRow[]> {
  return reader.all<MailRow>(sql`
    select * from mail where notification_id < ${before} order by notification_id desc limit ${limit}`)
}

export async function listMailsAbout(
  reader: Reader,
  orderId: string,
  before: string,
  limit: number,
): Promise<MailRow[]> {
  return reader.all<MailRow>(sql`
    select * from mail where about = ${orderId} and notification_id < ${before} order by notification_id desc limit ${limit}`)
}

export async function findMail(reader: Reader, notificationId: string): Promise<MailRow | undefined> {
  return reader.get<MailRow>(sql`select * from mail where notification_id = ${notificationId}`)
}
