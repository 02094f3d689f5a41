/**
 * A mail server that keeps the mails, so that people can read them, and delivers none. It knows a mail again by its
 * message id, is slow or away as told, loses some answers after it took the mail, and has no mailboxes in the domain
 * `.invalid` (RFC 2606).
 */
import { type Clock, list, type Random, type Row, type Store, sql } from '@shopsphere/bus'
import { type Mail, type Mailer, MailRefusal } from './mailer.ts'

export type MailerSimulatorOptions = {
  store: Store
  clock: Clock
  /** Decides which mails are not taken. */
  random: Random
  /** Share of attempts that fail, from 0 to 1. */
  failureRate: number
  /** What the server takes to accept one mail. */
  delayMs: number
}

export type MailerSimulator = Mailer & {
  /** From now on this share of attempts fails: 1 is an outage. */
  setFailureRate(rate: number): void
}

const FORGET_MAX = 500

export function createMailerSimulator(options: MailerSimulatorOptions): MailerSimulator {
  const { store, clock, random, delayMs } = options
  let { failureRate } = options
  let waiting: Row[] = []
  let writing: Promise<void> | undefined

  /** Mails that come at the same time are written together. */
  function keep({ messageId, to, subject, text }: Mail): Promise<void> {
    waiting.push({ message_id: messageId, recipient: to, subject, body: text, sent_at: clock.now() })
    writing ??= write()
    return writing
  }

  async function write(): Promise<void> {
    let rows: Row[] = []
    const take = () => {
      if (rows.length > 0) return
      rows = waiting
      waiting = []
      writing = undefined
    }
    try {
      await store.transaction((tx) => {
        take()
        return tx.insert('mail_sent', rows, { orIgnore: true })
      })
    } finally {
      take() // also where the transaction never began: those who wait hear of it, and the next begin anew
    }
  }

  return {
    async send(mail, signal) {
      if (delayMs > 0) await later(clock, delayMs, signal)
      const fails = failureRate > 0 && random() < failureRate
      if (!fails && mail.to.toLowerCase().endsWith('.invalid'))
        throw new MailRefusal('mailbox_unknown', `there is no mailbox ${mail.to}`)
      // Half of the failures are answers that get lost after the mail was taken.
      if (!fails || random() < 0.5) await keep(mail)
      if (fails) throw new Error('the simulated mail server does not answer')
    },
    find: (messageId) =>
      store.read(async (reader) => {
        const row = await reader.get<{ subject: string; body: string }>(
          sql`select subject, body from mail_sent where message_id = ${messageId}`,
        )
        return row && { subject: row.subject, text: row.body }
      }),
    async forget(messageIds) {
      for (let at = 0; at < messageIds.length; at += FORGET_MAX) {
        const some = messageIds.slice(at, at + FORGET_MAX)
        await store.transaction((tx) => tx.run(sql`delete from mail_sent where message_id in ${list(some)}`))
      }
    },
    setFailureRate(rate) {
      failureRate = rate
    },
  }
}

function later(clock: Clock, delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(delayMs, resolve)
    signal?.addEventListener('abort', () => {
      timer.cancel()
      reject(signal.reason)
    })
  })
}
