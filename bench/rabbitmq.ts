/**
 * The RabbitMQ transport beside raw amqplib on the same server in the same run: persistent messages of 400 bytes, confirmed
 * by quorum queues, 1,000 unconfirmed at a time; then consumed, ours with acknowledgements up to the lowest unfinished, raw
 * with one for each message.
 */
import { randomUUID } from 'node:crypto'
import type { Delivery, WireMessage } from '@shopsphere/bus'
import { rabbitmqTransport } from '@shopsphere/bus/rabbitmq'
import { eraseRabbitmq, needs } from '@shopsphere/bus/testing'
import { type ChannelModel, connect } from 'amqplib'
import { type Bench, compare, type Pair, type Result } from './result.ts'

const MESSAGES = 20_000
const BATCH = 500
const KEYS = 1_000
const WINDOW = 1_000
const PREFETCH = 2_000
const BODY = JSON.stringify({ note: 'n'.repeat(390) })
const durability = 'persistent, confirmed by quorum queues of one node'

export const run: Bench = async ({ runs, note }) => {
  const { url, skip } = await needs('rabbitmq')
  if (skip) throw new Error(skip)
  const publish: Pair[] = []
  const consume: Pair[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    // Each goes first every other time.
    const first = round % 2 === 0 ? 'ours' : 'raw'
    const measured: Partial<Record<'ours' | 'raw', Rates>> = {}
    for (const which of first === 'ours' ? (['ours', 'raw'] as const) : (['raw', 'ours'] as const))
      measured[which] = which === 'ours' ? await ours(url) : await raw(url)
    if (round === 0) continue
    publish.push({ ours: measured.ours!.publish, peer: measured.raw!.publish })
    consume.push({ ours: measured.ours!.consume, peer: measured.raw!.consume })
  }
  return [
    compare(publish, {
      what: 'publish',
      unit: 'messages/s',
      against: `raw amqplib, ${WINDOW} unconfirmed, one quorum queue`,
      durability,
    }),
    compare(consume, {
      what: 'consume with acks',
      unit: 'messages/s',
      against: 'raw amqplib with single acks, one quorum queue',
      durability,
    }),
  ] satisfies Result[]
}

type Rates = { publish: number; consume: number }

const perSecond = (begin: number) => MESSAGES / ((performance.now() - begin) / 1_000)

async function ours(url: string): Promise<Rates> {
  const prefix = `bench-${randomUUID().slice(0, 8)}.`
  const transport = rabbitmqTransport(url, { prefix, publishWindowMax: WINDOW })
  await transport.open()
  try {
    await transport.declare({ name: 'archive', bindings: [{ kind: 'fanout' }], from: 'now' })
    const messages = Array.from({ length: MESSAGES }, (_, n): WireMessage => {
      return { id: randomUUID(), type: 'reading.taken', key: `s${n % KEYS}`, headers: {}, body: BODY }
    })
    const begin = performance.now()
    const batches = Array.from({ length: MESSAGES / BATCH }, (_, n) => messages.slice(n * BATCH, (n + 1) * BATCH))
    await Promise.all(batches.map((batch) => transport.publish(batch)))
    const publish = perSecond(begin)

    const all = Promise.withResolvers<void>()
    let received = 0
    const consumeBegin = performance.now()
    const receive = (deliveries: Delivery[]) => {
      received += deliveries.length
      consumer.ack(deliveries)
      if (received === MESSAGES) all.resolve()
    }
    const consumer = await transport.consume('archive', { windowMax: PREFETCH, receive })
    await all.promise
    await consumer.close() // acknowledged on the broker too
    return { publish, consume: perSecond(consumeBegin) }
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
    return { publish: await rawPublish(model, queue), consume: await rawConsume(model, queue) }
  } finally {
    await channel.deleteQueue(queue)
    await model.close()
  }
}

async function rawPublish(model: ChannelModel, queue: string): Promise<number> {
  const channel = await model.createConfirmChannel()
  const done = Promise.withResolvers<void>()
  let sent = 0
  let confirmed = 0
  const fill = () => {
    for (; sent < MESSAGES && sent - confirmed < WINDOW; sent++)
      channel.sendToQueue(queue, Buffer.from(BODY), { persistent: true, messageId: randomUUID() }, onConfirm)
  }
  const onConfirm = (error: unknown) => {
    if (error) done.reject(error)
    if (++confirmed === MESSAGES) done.resolve()
    else fill()
  }
  const begin = performance.now()
  fill()
  await done.promise
  const rate = perSecond(begin)
  await channel.close()
  return rate
}

async function rawConsume(model: ChannelModel, queue: string): Promise<number> {
  const begin = performance.now()
  const channel = await model.createChannel()
  await channel.prefetch(PREFETCH)
  const all = Promise.withResolvers<void>()
  let received = 0
  await channel.consume(queue, (message) => {
    if (!message) return
    channel.ack(message)
    if (++received === MESSAGES) all.resolve()
  })
  await all.promise
  await channel.close() // acknowledged on the broker too
  return perSecond(begin)
}
