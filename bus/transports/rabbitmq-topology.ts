/**
 * What stands on the broker. Every name begins with the prefix; `<s>` is a subscription's name.
 *
 *   platform-events (topic) ──type──▶ <s> (headers) ──x-shard──▶ <s>.0 … <s>.3 (quorum, single active consumer)
 *      │ '#'                            │ else                       ▲ 0            │ what the broker rejects
 *      ▼                                └──▶ <s>.unsharded (fanout) ─┘              ▼
 *   platform-events.headers (headers) ──▶ <s>       │ no such queue      platform-events.dead (direct) ──▶ <s>.dead
 *                                                   └──▶ <s>.homeless (fanout) ──────────────────────────▶ <s>.dead
 *
 * T1 A message that several bindings take reaches <s> once, because an exchange hands on a message once.
 * T2 Bindings are made before those that they replace are taken away, so nothing that both take is missed.
 * T3 What comes without `x-shard`, from a stranger, belongs to shard 0; where a queue is missing, <s>.0 or <s>.dead has
 *    it until the queue is made again (rabbitmq-homeless.ts).
 * T4 No delivery limit: a process that dies returns all that it was handed, and each return would count against its
 *    innocent neighbours. Attempts are counted in the service's database, for the one message that was begun.
 *
 * Beside them <s>.members, a queue that stays empty: every process that shares the subscription consumes it, so that the
 * number of its consumers is theirs. (A queue with a single active consumer does not count those who wait in line.)
 *
 * An ephemeral subscription is one exclusive queue, bound directly.
 */
import type { Channel } from 'amqplib'
import { BusError } from '../errors.ts'
import type { Binding } from '../transport.ts'
import { SHARD_HEADER } from './rabbitmq-wire.ts'

export type Names = ReturnType<typeof namesOf>

export function namesOf(prefix: string, exchange: string) {
  const events = `${prefix}${exchange}`
  return {
    prefix,
    events,
    /** Fed with everything, once a subscription is bound by headers. */
    headers: `${events}.headers`,
    dead: `${events}.dead`,
    control: `${events}.control`,
    registry: `${events}.registry`,
    lock: `${events}.lock`,
    subscription: (name: string) => `${prefix}${name}`,
    shard: (name: string, shard: number) => `${prefix}${name}.${shard}`,
    unsharded: (name: string) => `${prefix}${name}.unsharded`,
    homeless: (name: string) => `${prefix}${name}.homeless`,
    /** Only while messages are brought home. */
    homecoming: (name: string) => `${prefix}${name}.homecoming`,
    members: (name: string) => `${prefix}${name}.members`,
    deadQueue: (name: string) => `${prefix}${name}.dead`,
    ephemeral: (name: string, member: string) => `${prefix}${name}.${member}`,
  }
}

/** Arguments of every quorum queue here. From 4.0 on there is a delivery limit unless one says no (T4). */
export function quorumArguments(major: number): Record<string, unknown> {
  return { 'x-queue-type': 'quorum', ...(major >= 4 && { 'x-delivery-limit': -1 }) }
}

/** The exchanges that all subscriptions share. */
export async function declareShared(channel: Channel, names: Names): Promise<void> {
  await channel.assertExchange(names.events, 'topic', { durable: true })
  await channel.assertExchange(names.dead, 'direct', { durable: true })
  await channel.assertExchange(names.control, 'direct', { durable: true })
}

/** Queues and exchanges of a durable subscription, without its bindings; `beforeBinding` runs when the queues are there. Throws the server's 406 where one was made otherwise. */
export async function declareQueues(
  channel: Channel,
  names: Names,
  { name, shards, major }: { name: string; shards: number; major: number },
  beforeBinding: () => Promise<unknown>,
): Promise<void> {
  const exchange = names.subscription(name)
  const [dead, homeless, unsharded] = [names.deadQueue(name), names.homeless(name), names.unsharded(name)]
  await channel.assertQueue(dead, { durable: true, arguments: quorumArguments(major) })
  await channel.bindQueue(dead, names.dead, exchange)
  await channel.assertQueue(names.members(name), { durable: true, arguments: quorumArguments(major) })
  await channel.assertExchange(homeless, 'fanout', { durable: true, internal: true })
  await channel.bindQueue(dead, homeless, '')
  await channel.assertExchange(unsharded, 'fanout', { durable: true, internal: true, alternateExchange: homeless })
  await channel.assertExchange(exchange, 'headers', { durable: true, alternateExchange: unsharded })
  for (let shard = 0; shard < shards; shard++) {
    const queue = names.shard(name, shard)
    await channel.assertQueue(queue, {
      durable: true,
      arguments: {
        ...quorumArguments(major),
        'x-single-active-consumer': true,
        'x-dead-letter-exchange': names.dead,
        'x-dead-letter-routing-key': exchange,
        'x-dead-letter-strategy': 'at-least-once',
        'x-overflow': 'reject-publish',
      },
    })
  }
  await beforeBinding()
  for (let shard = 0; shard < shards; shard++) {
    const matching = { 'x-match': 'all-with-x', [SHARD_HEADER]: String(shard) }
    await channel.bindQueue(names.shard(name, shard), exchange, '', matching)
  }
  await channel.bindQueue(names.shard(name, 0), unsharded, '') // T3
}

export async function deleteSubscription(
  channel: Channel,
  names: Names,
  { name, shards }: { name: string; shards: number },
): Promise<void> {
  await channel.deleteExchange(names.subscription(name))
  for (let shard = 0; shard < shards; shard++) await channel.deleteQueue(names.shard(name, shard))
  await channel.deleteExchange(names.unsharded(name))
  await channel.deleteExchange(names.homeless(name))
  await channel.deleteQueue(names.deadQueue(name))
  await channel.deleteQueue(names.members(name))
}

/** Where a subscription's bindings lead: its exchange, or an ephemeral one's queue. */
export type Destination = { readonly kind: 'exchange' | 'queue'; readonly name: string }

/** T2: binds all of `bindings`, then takes away those of `stale` that are not among them. */
export async function bind(
  channel: Channel,
  names: Names,
  to: Destination,
  bindings: readonly Binding[],
  stale: readonly Binding[],
): Promise<void> {
  if (bindings.some(({ kind }) => kind === 'headers')) {
    await channel.assertExchange(names.headers, 'headers', { durable: true })
    await channel.bindExchange(names.headers, names.events, '#')
  }
  const wanted = bindings.map((binding) => place(names, binding))
  for (const { source, key, args } of wanted) {
    if (to.kind === 'exchange') await channel.bindExchange(to.name, source, key, args)
    else await channel.bindQueue(to.name, source, key, args)
  }
  const kept = new Set(wanted.map((one) => JSON.stringify(one)))
  for (const one of stale.map((binding) => place(names, binding))) {
    if (kept.has(JSON.stringify(one))) continue
    if (to.kind === 'exchange') await channel.unbindExchange(to.name, one.source, one.key, one.args)
    else await channel.unbindQueue(to.name, one.source, one.key, one.args)
  }
}

type Place = { source: string; key: string; args: Record<string, string> }

function place(names: Names, binding: Binding): Place {
  switch (binding.kind) {
    case 'topic':
      return { source: names.events, key: binding.pattern, args: {} }
    case 'direct':
      return { source: names.events, key: binding.type, args: {} }
    case 'fanout':
      return { source: names.events, key: '#', args: {} }
    case 'headers': {
      const sorted = Object.entries(binding.headers).sort(([one], [other]) => (one < other ? -1 : 1))
      return {
        source: names.headers,
        key: '',
        args: { 'x-match': `${binding.match}-with-x`, ...Object.fromEntries(sorted) },
      }
    }
  }
}

/** Queue and exchange names are short strings of AMQP. */
const NAME_BYTES_MAX = 255

export function validateName(names: Names, name: string): void {
  if (name !== '' && Buffer.byteLength(names.unsharded(name)) <= NAME_BYTES_MAX) return
  throw new BusError('invalid_argument', `subscription '${name}': its name must have 1 to ${NAME_BYTES_MAX} bytes`)
}
