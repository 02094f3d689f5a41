/**
 * What notification hears: the steps that people are told, and who they are.
 *
 * N1 The mail is sent before the transaction, under an id made of the message's: a repeat of the message is the same mail.
 * N2 What was told is written once for each order, step and channel (I6); a second message of the same step sends nothing.
 * N3 A mail server that is away is tried again for hours; then, or where it refuses for good, notification.failed says so.
 *    Nothing else waits for that.
 */
import type { Bus, Clock, HandlerContext, OutsideContext, SubscribeOptions } from '@shopsphere/bus'
import { notificationFailed, notificationSent, userDeleted, userRegistered, userUpdated } from '@shopsphere/contracts'
import type { Log } from '@shopsphere/runtime/log'
import { type Mailer, MailRefusal } from './mailer.ts'
import {
  addNotification,
  findSituation,
  forgetRecipient,
  type Notification,
  notificationIdsOf,
  saveRecipient,
} from './queries.ts'
import { type Step, steps } from './steps.ts'

export type NotificationParts = { bus: Bus; clock: Clock; log: Log; mailer: Mailer }

const CHANNEL = 'email'
/** Mails that are on their way to the server at the same time; what is written after them shares a commit. */
const CONCURRENCY = 64
/** Together with the waiting times: about five hours. */
const ATTEMPTS_MAX = 40
export const settings: SubscribeOptions = {
  concurrency: CONCURRENCY,
  attemptsMax: ATTEMPTS_MAX,
  backoff: { firstMs: 500, maxMs: 900_000 },
  afterDeadLetter: 'skip',
}
/** An order can be heard of a moment before its customer's account: so often it is waited for. */
const UNKNOWN_ATTEMPTS_MAX = 3
const FORGET_PAGE = 500

export function hear({ bus, clock, log, mailer }: NotificationParts): void {
  bus.subscribe(userRegistered, (user, { tx }) => saveRecipient(tx, user), settings)
  bus.subscribe(userUpdated, (user, { tx }) => saveRecipient(tx, user), settings)
  bus.subscribe(
    userDeleted,
    {
      outside: ({ userId }, { read }) => forgetMails(mailer, read, userId),
      handle: ({ userId }, { tx }) => forgetRecipient(tx, userId),
    },
    settings,
  )

  for (const step of steps) {
    bus.subscribe(
      step.event,
      {
        outside: (data, asked) => tell(step, data, { ...asked, clock, log, mailer }),
        handle: noteTold,
      },
      settings,
    )
  }
}

/** Writes that somebody was told, or could not be, and says so. */
export async function noteTold(
  _: unknown,
  { tx, publish }: Pick<HandlerContext, 'tx' | 'publish'>,
  told: Notification | null,
): Promise<void> {
  if (told === null || !(await addNotification(tx, told))) return
  const { notificationId, recipient, userId, orderId, step, channel, subject, reason, attempts } = told
  const about = { notificationId, recipient, userId, orderId, step, channel, subject }
  if (reason === null) publish(notificationSent, about)
  else publish(notificationFailed, { ...about, reason, attempt: attempts })
}

/** A step, whatever set it off. */
export type Telling<Data> = Omit<Step<Data>, 'event'>

type Asked = OutsideContext & { clock: Clock; log: Log; mailer: Mailer }

/** Sends the mail; null: there is nobody to tell, or nothing to be told. Throws where it has to be tried again. */
export async function tell<Data>(step: Telling<Data>, data: Data, asked: Asked): Promise<Notification | null> {
  if (step.isTold && !step.isTold(data)) return null
  const { message, attempt, read, signal, clock, log, mailer } = asked
  const occasion = step.occasion(data)
  const { about, userId, orderId } = occasion
  if (userId === null && occasion.email === null) return null
  const name = step.step(data)
  const situation = await read((reader) => findSituation(reader, { about, step: name, channel: CHANNEL, userId }))
  if (situation.told || !(situation.wantsMail || step.always)) return null
  const to = occasion.email ?? situation.email
  if (to === null) {
    if (!situation.known && attempt <= UNKNOWN_ATTEMPTS_MAX) throw new Error(`${userId} is not known here yet`)
    return null
  }
  const mail = { messageId: idOf(message.id), to, ...step.write(data, { name: situation.name }) }
  const notification = {
    notificationId: mail.messageId,
    about,
    step: name,
    channel: CHANNEL,
    recipient: to,
    userId,
    orderId,
    subject: mail.subject,
    attempts: attempt,
    at: clock.now(),
  }
  try {
    await mailer.send(mail, signal)
    return { ...notification, state: 'sent', reason: null }
  } catch (error) {
    const reason = error instanceof MailRefusal ? error.reason : 'mail_server_unavailable'
    if (!(error instanceof MailRefusal) && attempt < ATTEMPTS_MAX) throw error
    log.warn({ notificationId: mail.messageId, step: name, reason, attempt, err: error }, 'a mail was given up')
    return { ...notification, state: 'failed', reason }
  }
}

const idOf = (messageId: string) => `ntf_${messageId}`

async function forgetMails(mailer: Mailer, read: OutsideContext['read'], userId: string): Promise<void> {
  for (let afterId = ''; ; ) {
    const ids = await read((reader) => notificationIdsOf(reader, userId, { afterId, limit: FORGET_PAGE }))
    await mailer.forget(ids)
    if (ids.length < FORGET_PAGE) return
    afterId = ids.at(-1)!
  }
}
