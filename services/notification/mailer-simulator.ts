/**
 * A mail server that delivers nowhere. Like a real one it is away now and then, loses some answers after it took the mail,
 * and refuses mailboxes that it does not know: any address whose name begins with `unknown`. What it took it remembers for
 * a while, so that a repeat is the same mail; what was sent stands in the service's own table.
 */
import type { Clock, Random } from '@shopsphere/bus'
import { type Mail, type Mailer, MailRefusal } from './mailer.ts'

export type MailerSimulatorOptions = {
  clock: Clock
  random: Random
  /** Share of calls that fail, from 0 to 1. */
  failureRate: number
  /** How long an answer takes. */
  delayMs: number
}

export type MailerSimulator = Mailer & {
  /** Mails taken, repeats left out. */
  readonly takenCount: number
  /** From now on this share of calls fails: 1 is an outage. */
  setFailureRate(rate: number): void
}

const REMEMBERED_MAX = 20_000

export function createMailerSimulator({
  clock,
  random,
  failureRate,
  delayMs,
}: MailerSimulatorOptions): MailerSimulator {
  const taken = new Set<string>()
  let rate = failureRate
  let takenCount = 0

  function take(key: string): void {
    if (taken.has(key)) return
    if (taken.size >= REMEMBERED_MAX) taken.delete(taken.values().next().value!)
    taken.add(key)
    takenCount += 1
  }

  return {
    async send({ idempotencyKey, to }: Mail) {
      if (delayMs > 0) await new Promise<void>((resolve) => clock.after(delayMs, resolve))
      if (to.startsWith('unknown')) throw new MailRefusal('mailbox_unknown', `${to} is not known here`)
      const fails = rate > 0 && random() < rate
      // Half of the failures are answers that get lost on the way back.
      if (!fails || random() < 0.5) take(idempotencyKey)
      if (fails) throw new Error('the simulated mail server does not answer')
    },
    get takenCount() {
      return takenCount
    },
    setFailureRate(next) {
      rate = next
    },
  }
}
