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

function deadLetterOf({ content, fields, properties }: GetMessage, homeless: string): BrokerDeadLetter {
  const { messageId, headers = {} } = properties
  const [death] = Array.isArray(headers['x-death']) ? headers['x-death'] : []
  return {
    id: typeof messageId === 'string' ? messageId : null,
    type: String(death?.['routing-keys']?.[0] ?? fields.routingKey),
    reason: fields.exchange === homeless ? 'no queue' : String(headers['x-first-death-reason'] ?? 'unknown'),
    body: content,
  }
}
