/**
 * What the broker itself rejected, or had no queue for: it lies in `<subscription>.dead`, which nobody consumes.
 *
 * A few messages are shown by taking them and giving them back, in order, so somebody who counts at that moment counts too few.
 */
import type { Channel, GetMessage } from 'amqplib'
import type { BrokerDeadLetter } from '../transport.ts'
import type { Names } from './rabbitmq-topology.ts'

/** The first of them, `max` at most. The caller closes the channel, which gives them back. */
export async function firstDeadLetters(
  channel: Channel,
  names: Names,
  { subscription, max }: { subscription: string; max: number },
): Promise<BrokerDeadLetter[]> {
  const first: BrokerDeadLetter[] = []
  while (first.length < max) {
    const message = await channel.get(names.deadQueue(subscription))
    if (!message) break
    first.push(deadLetterOf(message, names.homeless(subscription)))
  }
  return first
}

<<<<<<< HEAD
function deadLetterOf({ content, fields, properties }: GetMessage, homeless: string): BrokerDeadLetter {
  const { messageId, headers = {} } = properties
  const [death] = Array.isArray(headers['x-death']) ? headers['x-death'] : []
=======
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
>>>>>>> refs/heads/review
  return {
    id: typeof messageId === 'string' ? messageId : null,
    type: String(death?.['routing-keys']?.[0] ?? fields.routingKey),
    reason: fields.exchange === homeless ? 'no queue' : String(headers['x-first-death-reason'] ?? 'unknown'),
    body: content,
  }
}
