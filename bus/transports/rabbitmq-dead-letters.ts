/**
 * Watches what the broker itself rejected, and says so: the service's own dead letters stand in its database, these in
 * queues that nobody reads.
 *
 * W1 It warns once whenever a subscription's count rises to `warnFrom` or above, and again only when it rises further.
 * W2 A webhook that does not answer is asked again at the next look; the log has the warning in any case, once.
 */
import { type Clock, systemClock, type Timer } from '../clock.ts'
import type { Log } from '../log.ts'
import type { BrokerDeadLetters, RabbitmqTransport } from './rabbitmq.ts'

export type DeadLetterWatchOptions = {
  transport: Pick<RabbitmqTransport, 'brokerDeadLetters'>
  log: Log
  clock?: Clock
  everyMs?: number
  warnFrom?: number
  /** Is sent a POST with `{ event: 'broker_dead_letters', subscription, queue, count, time }`. */
  webhook?: string
  /** Told all counts at every look, for a metric. */
  counted?: (found: readonly BrokerDeadLetters[]) => void
}

export type DeadLetterWatch = {
  /** Looks at once, beside the regular looks. */
  look(): Promise<void>
  close(): void
}

const EVERY_MS = 60_000
const WEBHOOK_TIMEOUT_MS = 5_000

export function watchBrokerDeadLetters(options: DeadLetterWatchOptions): DeadLetterWatch {
  const { transport, log, clock = systemClock, everyMs = EVERY_MS, warnFrom = 1, webhook, counted } = options
  const logged = new Map<string, number>()
  const sent = new Map<string, number>()
  let timer: Timer | undefined

  const rose = (before: Map<string, number>, { subscription, count }: BrokerDeadLetters) =>
    count >= warnFrom && count > (before.get(subscription) ?? 0)

  async function look(): Promise<void> {
    const found = await transport.brokerDeadLetters()
    counted?.(found)
    for (const one of found) {
      if (rose(logged, one)) log.warn(one, 'the broker rejected messages of a subscription: look into its queue')
      logged.set(one.subscription, one.count)
      if (!webhook || !rose(sent, one)) continue
      await send(webhook, { event: 'broker_dead_letters', ...one, time: new Date(clock.now()).toISOString() })
      sent.set(one.subscription, one.count) // W2
    }
    // Those that were emptied count from the beginning.
    for (const counts of [logged, sent])
      for (const name of counts.keys())
        if (!found.some(({ subscription }) => subscription === name)) counts.delete(name)
  }

  function lookLater(): void {
    timer = clock.after(everyMs, () => {
      look()
        .catch((error) => log.warn({ err: error }, "the broker's dead letters could not be looked at or reported"))
        .finally(() => {
          if (timer) lookLater()
        })
    })
  }

  lookLater()
  return {
    look,
    close() {
      timer?.cancel()
      timer = undefined
    },
  }
}

async function send(webhook: string, body: object): Promise<void> {
  const response = await fetch(webhook, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(WEBHOOK_TIMEOUT_MS),
  })
  await response.body?.cancel()
  if (!response.ok) throw new Error(`the webhook answered ${response.status}`)
}
