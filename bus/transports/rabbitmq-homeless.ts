/**
 * What found no queue, because somebody had deleted the one of its shard and the first too, lies in `<s>.dead`. It is brought
 * home when they are made again.
 *
 * H1 Before a queue is bound again: so it stands before what is published later, and the order of each key is kept (but H3).
 * H2 It is taken away from `<s>.dead` once its queue has confirmed it; a death between the two doubles it, and the inbox
 *    knows it again. What the broker rejected stays where it is.
 * H3 And once more after the queue is bound, for what came between the last look and the binding, or was still on its way: it is
 *    not lost, but may stand behind what was published right after it. How many that can be is said.
 */
import type { ConfirmChannel } from 'amqplib'
import type { Link } from './rabbitmq-link.ts'
import type { Names } from './rabbitmq-topology.ts'
import { SHARD_HEADER } from './rabbitmq-wire.ts'

/** The broker's own note on what it rejected. */
const REJECTED_HEADER = 'x-death'
/** So many are looked through at most, since everyone else waits meanwhile. */
const REJECTED_MAX = 1_000

export type Homecoming = {
  count: number
  /** Their queues hold others, or somebody consumes them: some may stand behind later ones of their keys (H3). */
  late: boolean
}

/** @param cameHome hears of those that came home, where there are any; also where it failed in the middle */
export async function bringHome(
  link: Link,
  names: Names,
  { name, shards }: { name: string; shards: number },
  cameHome: (homecoming: Homecoming) => void,
): Promise<void> {
  const dead = names.deadQueue(name)
  const channel = await link.confirmChannel()
  const home: Homecoming = { count: 0, late: true }
  try {
    const { messageCount } = await link.answer('a count', channel.checkQueue(dead))
    if (messageCount === 0) return
    // Strangers must find their routing key unchanged, so nothing can go to a queue by its name.
    const door = names.homecoming(name)
    await link.answer('an exchange', channel.assertExchange(door, 'headers', { durable: false }))
    for (let shard = 0; shard < shards; shard++) {
      const matching = { 'x-match': 'all-with-x', [SHARD_HEADER]: String(shard) }
      await link.answer('a binding', channel.bindQueue(names.shard(name, shard), door, '', matching))
    }
    await moveAll(link, channel, { dead, door, messageCount, home })
    await link.answer('the end of an exchange', channel.deleteExchange(door))
    let held = 0
    let consumers = 0
    for (let shard = 0; shard < shards; shard++) {
      const queue = await link.answer('a count', channel.checkQueue(names.shard(name, shard)))
      held += queue.messageCount
      consumers += queue.consumerCount
    }
    home.late = consumers > 0 || held > home.count
  } finally {
    if (home.count > 0) cameHome(home)
    await link.closeChannel(channel) // gives back what was rejected, in its order
  }
}

async function moveAll(
  link: Link,
  channel: ConfirmChannel,
  { dead, door, messageCount, home }: { dead: string; door: string; messageCount: number; home: Homecoming },
): Promise<void> {
  let rejected = 0
  for (let left = messageCount; left > 0; left--) {
    const message = await link.answer('a message', channel.get(dead))
    if (!message) break
    const { content, fields, properties } = message
    const headers = properties.headers ?? {}
    if (REJECTED_HEADER in headers) {
      if (++rejected === REJECTED_MAX) break
      continue
    }
    channel.publish(door, fields.routingKey, content, {
      ...properties,
      headers: { [SHARD_HEADER]: '0', ...headers },
      persistent: true,
    })
    await link.answer('a confirmation', channel.waitForConfirms())
    channel.ack(message) // H2
    home.count++
  }
}
