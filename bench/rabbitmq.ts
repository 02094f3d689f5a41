/**
 * The RabbitMQ transport beside raw amqplib on the same server in the same run: persistent messages of 400 bytes, confirmed
 * by quorum queues, 1,000 unconfirmed at a time; then consumed, timed from the first that arrives until the last is acknowledged, ours
 * with acknowledgements up to the lowest unfinished, raw with one for each message.
 *
 * Raw publishes in three ways: through the default exchange to one queue, which is the least that a server can be asked for;
 * through a topic exchange to one queue, as a program does that lets others bind by type; and routed as ours are, through a
 * topic exchange and a headers exchange to as many queues, which leaves between the two what our side of the wire costs.
 */
import { randomUUID } from 'node:crypto'
import type { Delivery, WireMessage } from '@shopsphere/bus'
import { rabbitmqTransport } from '@shopsphere/bus/rabbitmq'
import { eraseRabbitmq, needs } from '@shopsphere/bus/testing'
import { type ChannelModel, connect } from 'amqplib'
import { type Bench, compare, type Pair, type Result } from './result.ts'

const MESSAGES = 120_000
const BATCH = 500
/** Batches that are being published at a time: the window is never short of them. */
const PUBLISHERS = 8
/** Many more than the window: of one key a single message is on its way, so few keys would measure the wait for them. */
const KEYS = 10_000
const WINDOW = 1_000
const PREFETCH = 2_000
const SHARDS = 4
const BODY = JSON.stringify({ note: 'n'.repeat(390) })
const durability = 'persistent, confirmed by quorum queues of one node'

type Way = 'ours' | 'raw' | 'topic' | 'routed'

export const run: Bench = async ({ runs, note }) => {
  const { url, skip } = await needs('rabbitmq')
  if (skip) throw new Error(skip)
  const ways: readonly Way[] = ['ours', 'routed', 'topic', 'raw']
  const rounds: Record<Way, Rates>[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    const measured: Partial<Record<Way, Rates>> = {}
    const first = round % ways.length // so each goes first in its turn
    for (const way of [...ways.slice(first), ...ways.slice(0, first)]) measured[way] = await measure[way](url)
    if (round > 0) rounds.push(measured as Record<Way, Rates>)
  }
  const beside = (peer: Way, what: keyof Rates): Pair[] =>
    rounds.map((measured) => ({ ours: measured.ours[what], peer: measured[peer][what] }))
  const window = `${WINDOW} unconfirmed`
  return [
    compare(beside('raw', 'publish'), {
      what: 'publish',
      unit: 'messages/s',
      against: `raw amqplib, ${window}, default exchange, one quorum queue`,
      durability,
    }),
    compare(beside('topic', 'publish'), {
      what: 'publish',
      unit: 'messages/s',
      against: `raw amqplib, ${window}, topic exchange, one quorum queue`,
      durability,
    }),
    compare(beside('routed', 'publish'), {
      what: 'publish',
      unit: 'messages/s',
      against: `raw amqplib, ${window}, topic and headers exchange, ${SHARDS} quorum queues`,
      durability,
    }),
    compare(beside('raw', 'consume'), {
      what: 'consume with acks',
      unit: 'messages/s',
      against: 'raw amqplib with single acks, one quorum queue',
      durability,
    }),
    compare(beside('routed', 'consume'), {
      what: 'consume with acks',
      unit: 'messages/s',
      against: `raw amqplib with single acks, ${SHARDS} quorum queues`,
      durability,
    }),
  ] satisfies Result[]
}

const measure: Record<Way, (url: string) => Promise<Rates>> = { ours, raw, topic, routed }

type Rates = { publish: number; consume: number }

/** When it began, and how many messages had come by then. */
type Clock = { begin: number; before: number }

const perSecond = ({ begin, before }: Clock) => (MESSAGES - before) / ((performance.now() - begin) / 1_000)

async function ours(url: string): Promise<Rates> {
  const prefix = `bench-${randomUUID().slice(0, 8)}.`
  const transport = rabbitmqTransport(url, { prefix, publishWindowMax: WINDOW, shards: SHARDS })
  await transport.open()
  try {
    await transport.declare({ name: 'archive', bindings: [{ kind: 'fanout' }], from: 'now' })
    const begin = performance.now()
    let next = 0
    const publishing = async () => {
      while (next < MESSAGES) {
        const batch = Array.from({ length: BATCH }, reading)
        await transport.publish(batch)
      }
    }
    const reading = (): WireMessage => ({
      id: randomUUID(),
      type: 'reading.taken',
      key: `s${next++ % KEYS}`,
      headers: {},
      body: BODY,
    })
    await Promise.all(Array.from({ length: PUBLISHERS }, publishing))
    const publish = perSecond({ begin, before: 0 })

    const all = Promise.withResolvers<void>()
    let received = 0
    let clock: Clock | undefined
    const receive = (deliveries: Delivery[]) => {
      received += deliveries.length
      clock ??= { begin: performance.now(), before: received }
      consumer.ack(deliveries)
      if (received === MESSAGES) all.resolve()
    }
    const consumer = await transport.consume('archive', { windowMax: PREFETCH, receive })
    await all.promise
    await consumer.close() // acknowledged on the broker too
    return { publish, consume: perSecond(clock!) }
  } finally {
    await transport.close()
    await eraseRabbitmq(url, prefix)
  }
}

async function raw(url: string): Promise<Rates> {
  const model = await connect(url, { noDelay: true })
  const queue = `bench-${randomUUID().slice(0, 8)}`
  const channel = await model.createChannel()
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  try {
    return { publish: await rawPublish(model, () => ['', queue]), consume: await rawConsume(model, [queue]) }
  } finally {
    await channel.deleteQueue(queue)
    await model.close()
  }
}

async function topic(url: string): Promise<Rates> {
  const model = await connect(url, { noDelay: true })
  const name = `bench-${randomUUID().slice(0, 8)}`
  const [events, queue] = [`${name}.events`, `${name}.archive`]
  const channel = await model.createChannel()
  await channel.assertExchange(events, 'topic', { durable: true })
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  await channel.bindQueue(queue, events, 'reading.*')
  try {
    return {
      publish: await rawPublish(model, () => [events, 'reading.taken']),
      consume: await rawConsume(model, [queue]),
    }
  } finally {
    await channel.deleteQueue(queue)
    await channel.deleteExchange(events)
    await model.close()
  }
}

/** What stands on the broker for a subscription of ours, written by hand. */
async function routed(url: string): Promise<Rates> {
  const model = await connect(url, { noDelay: true })
  const name = `bench-${randomUUID().slice(0, 8)}`
  const [events, subscription, dead] = [`${name}.events`, `${name}.archive`, `${name}.dead`]
  const queues = Array.from({ length: SHARDS }, (_, shard) => `${subscription}.${shard}`)
  const channel = await model.createChannel()
  try {
    await channel.assertExchange(events, 'topic', { durable: true })
    await channel.assertExchange(dead, 'direct', { durable: true })
    await channel.assertExchange(subscription, 'headers', { durable: true })
    await channel.bindExchange(subscription, events, '#')
    for (const [shard, queue] of queues.entries()) {
      await channel.assertQueue(queue, {
        durable: true,
        arguments: {
          'x-queue-type': 'quorum',
          'x-single-active-consumer': true,
          'x-dead-letter-exchange': dead,
          'x-dead-letter-routing-key': subscription,
          'x-dead-letter-strategy': 'at-least-once',
          'x-overflow': 'reject-publish',
        },
      })
      await channel.bindQueue(queue, subscription, '', { 'x-match': 'all-with-x', 'x-shard': `${shard}` })
    }
    const publish = await rawPublish(model, (n) => [events, 'reading.taken', { 'x-shard': `${n % SHARDS}` }])
    return { publish, consume: await rawConsume(model, queues) }
  } finally {
    for (const queue of queues) await channel.deleteQueue(queue)
    for (const exchange of [subscription, dead, events]) await channel.deleteExchange(exchange)
    await model.close()
  }
}

type Target = [exchange: string, routingKey: string, headers?: Record<string, string>]

async function rawPublish(model: ChannelModel, target: (n: number) => Target): Promise<number> {
  const channel = await model.createConfirmChannel()
  const done = Promise.withResolvers<void>()
  channel.on('return', () => done.reject(new Error('a message was returned')))
  let sent = 0
  let confirmed = 0
  const fill = () => {
    for (; sent < MESSAGES && sent - confirmed < WINDOW; sent++) {
      const [exchange, routingKey, headers] = target(sent)
      const properties = { persistent: true, mandatory: true, messageId: randomUUID(), headers }
      channel.publish(exchange, routingKey, Buffer.from(BODY), properties, onConfirm)
    }
  }
  const onConfirm = (error: unknown) => {
    if (error) done.reject(error)
    if (++confirmed === MESSAGES) done.resolve()
    else fill()
  }
  const begin = performance.now()
  fill()
  await done.promise
  const rate = perSecond({ begin, before: 0 })
  await channel.close()
  return rate
}

async function rawConsume(model: ChannelModel, queues: readonly string[]): Promise<number> {
  let clock: Clock | undefined
  const channel = await model.createChannel()
  await channel.prefetch(PREFETCH)
  const all = Promise.withResolvers<void>()
  let received = 0
  for (const queue of queues)
    await channel.consume(queue, (message) => {
      if (!message) return
      channel.ack(message)
      received++
      clock ??= { begin: performance.now(), before: received }
      if (received === MESSAGES) all.resolve()
    })
  await all.promise
  await channel.close() // acknowledged on the broker too
  return perSecond(clock!)
}
