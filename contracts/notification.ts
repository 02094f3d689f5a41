/** Owned by notification: what people were told. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import { attempt, code, id, text } from './values.ts'

const about = {
  notificationId: id,
  /** An e-mail address, or what the channel has instead. */
  recipient: text(254),
  userId: id.nullable(),
  orderId: id.nullable(),
  /** What it tells, by the event that set it off: `order.shipped`. One for each order, step and channel. */
  step: code,
  /** `email`; more may follow. */
  channel: code,
  subject: text(200),
}
const example = {
  notificationId: 'ntf_01939c1e-7000-7000-8000-000000000008',
  recipient: 'ada@example.org',
  userId: 'usr_01939c1e-7000-7000-8000-000000000001',
  orderId: 'ord_01939c1e-7000-7000-8000-000000000003',
  step: 'order.shipped',
  channel: 'email',
  subject: 'Your order is on its way',
}

export const notificationSent = event('notification.sent', {
  version: 1,
  owner: 'notification',
  summary: 'Somebody was told something; once for each order, step and channel.',
  schema: z.object(about),
  key: (notification) => notification.orderId ?? notification.recipient,
  example,
})

export const notificationFailed = event('notification.failed', {
  version: 1,
  owner: 'notification',
  summary: 'Somebody could not be told; nothing else waits for it.',
  schema: z.object({ ...about, reason: code, attempt }),
  key: (notification) => notification.orderId ?? notification.recipient,
  example: { ...example, reason: 'mailbox_unknown', attempt: 3 },
})

export const notificationEvents = [notificationSent, notificationFailed]
