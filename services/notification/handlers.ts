/**
 * Every event that concerns somebody becomes a mail: handed to the mail server before the transaction, under a key of its
 * own, then written down. A server that is away is tried again, and only that order's later mails wait.
 */
import type { Bus, Clock, Store } from '@shopsphere/bus'
import { notificationFailed, notificationSent, userDeleted, userRegistered, userUpdated } from '@shopsphere/contracts'
import { type Mailer, MailRefusal } from './mailer.ts'
import { findContact, forgetContact, keepContact, keepMail } from './queries.ts'
import { type Notice, type Template, templates } from './templates.ts'

const CHANNEL = 'email'

export type Hearing = { bus: Bus; clock: Clock; mailer: Mailer; newId: (prefix: string) => string }

/** Who got the mail, and why it failed for good if it did; null: nobody was to be told. */
type Posted = { notice: Notice; recipient: string; failure: string | null } | null

export function hear({ bus, clock, mailer, newId }: Hearing): void {
  bus.subscribe(userRegistered, ({ userId, email }, { tx }) => keepContact(tx, userId, email))
  bus.subscribe(userUpdated, ({ userId, email }, { tx }) => keepContact(tx, userId, email))
  bus.subscribe(userDeleted, ({ userId }, { tx }) => forgetContact(tx, userId))

  for (const { event, template } of templates) {
    bus.subscribe<Posted>(event, {
      outside: (data, { read, signal }) => post((template as Template<unknown>)(data), { mailer, read, signal }),
      handle: async (_, { tx, publish, attempt }, posted) => {
        if (posted === null) return
        const { notice, recipient, failure } = posted
        const { step, orderId, userId, subject } = notice
        const notificationId = newId('ntf')
        const isNew = await keepMail(tx, notice, {
          notificationId,
          recipient,
          channel: CHANNEL,
          failure,
          at: clock.now(),
        })
        if (!isNew) return
        const told = { notificationId, recipient, userId, orderId, step, channel: CHANNEL, subject }
        if (failure === null) publish(notificationSent, told)
        else publish(notificationFailed, { ...told, reason: failure, attempt })
      },
    })
  }
}

async function post(
  notice: Notice | null,
  { mailer, read, signal }: { mailer: Mailer; read: Store['read']; signal: AbortSignal },
): Promise<Posted> {
  if (notice === null) return null
  const recipient = await recipientOf(notice, read)
  if (recipient === null) return null
  const { about, step, subject, text } = notice
  try {
    await mailer.send({ idempotencyKey: `${about}/${step}`, to: recipient, subject, text }, signal)
    return { notice, recipient, failure: null }
  } catch (error) {
    if (error instanceof MailRefusal) return { notice, recipient, failure: error.reason }
    throw error
  }
}

/** Null: there is no address, or they do not want to hear of it. */
async function recipientOf({ email, userId, mandatory }: Notice, read: Store['read']): Promise<string | null> {
  if (userId === null || (email !== null && mandatory)) return email
  const contact = await read((reader) => findContact(reader, userId))
  if (contact && !contact.wantsNews && !mandatory) return null
  return email ?? contact?.email ?? null
}
