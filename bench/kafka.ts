/**
 * The Kafka transport beside the raw client (@platformatic/kafka) on the same private server, in the same run: the same
 * records (400-byte bodies, 1,000 keys, an id and a type as headers, read as text), topics of the same number of
 * partitions, acks=all, idempotent, batches of 1,000 one after another. Consuming, the raw client commits after every
 * 1,000 messages and reads on meanwhile, one commit at a time; ours writes down what was acknowledged as it does always. Latency at 500 messages a second that wait for
 * no answer.
 */

import { Admin, Consumer, type Message, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { idMaker, systemClock, type Transport, type WireMessage } from '@shopsphere/bus'
import { kafkaTransport } from '@shopsphere/bus/kafka'
import { needs } from '@shopsphere/bus/testing'
import { type Bench, compare, median, type Pair, type Result } from './result.ts'

const MESSAGES = 200_000
const BATCH = 1_000
const KEYS = 1_000
const PARTITIONS = 8
const WINDOW = 2_000
const BODY = JSON.stringify({ note: 'n'.repeat(380) })
const LATENCY_RATE = 500
const LATENCY_MESSAGES = 1_000
const durability = 'acks=all, one broker, page cache'

type Text = Message<string, string, string, string>
type Raw = { readonly topic: string; readonly producer: Producer<string, string, string, string> }

export const run: Bench = async ({ runs, note }) => {
  const { url, skip } = await needs('kafka')
  if (skip) throw new Error(skip)
  const publish: Pair[] = []
  const consume: Pair[] = []
  const latency: Pair[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    const prefix = `bench-${process.pid}-${round}.`
    try {
      const figures = await inTurn(url, prefix, round)
      if (round === 0) continue
      publish.push(figures.publish)
      consume.push(figures.consume)
      latency.push(figures.latency)
    } finally {
      await deleteTopics(url, prefix)
    }
  }
  const against = 'the raw client'
  return [
    compare(publish, { what: 'publish', unit: 'messages/s', against, durability }),
    compare(consume, {
      what: 'consume',
      unit: 'messages/s',
      against: `${against}, a commit every ${BATCH}`,
      durability,
    }),
    compare(latency, { what: `latency at ${LATENCY_RATE}/s`, unit: 'ms median', against, durability }, true),
  ] satisfies Result[]
}

/** Whoever goes first changes from round to round, so that neither profits by a warm server. */
async function inTurn(url: string, prefix: string, round: number) {
  const raw = await openRaw(url, `${prefix}raw`)
  const ours = kafkaTransport(url, { prefix, partitions: PARTITIONS })
  await ours.open()
  try {
    await ours.declare({ name: 'all', bindings: [{ kind: 'topic', pattern: 'reading.*' }], from: 'now' })
    const both = async (measureOurs: () => Promise<number>, measureRaw: () => Promise<number>): Promise<Pair> => {
      if (round % 2 === 0) return { ours: await measureOurs(), peer: await measureRaw() }
      const peer = await measureRaw()
      return { ours: await measureOurs(), peer }
    }
    return {
      publish: await both(
        () => publishOurs(ours),
        () => publishRaw(raw),
      ),
      consume: await both(
        () => consumeOurs(ours),
        () => consumeRaw(url, raw),
      ),
      latency: await both(
        () => latencyOurs(ours),
        () => latencyRaw(url, raw),
      ),
    }
  } finally {
    await ours.close()
    await raw.producer.close()
  }
}

const perSecond = (count: number, begin: number) => count / ((performance.now() - begin) / 1_000)
const newId = idMaker(systemClock, Math.random)

function wire(n: number, body = BODY): WireMessage {
  return { id: newId(), type: 'reading.taken', key: `s${n % KEYS}`, headers: {}, body }
}

async function publishOurs(transport: Transport): Promise<number> {
  const begin = performance.now()
  for (let n = 0; n < MESSAGES; n += BATCH) {
    await transport.publish(Array.from({ length: BATCH }, (_, index) => wire(n + index)))
  }
  return perSecond(MESSAGES, begin)
}

async function consumeOurs(transport: Transport): Promise<number> {
  const all = Promise.withResolvers<void>()
  let got = 0
  let begin = 0
  const consumer = await transport.consume('all', {
    windowMax: WINDOW,
    receive(deliveries) {
      begin ||= performance.now()
      got += deliveries.length
      consumer.ack(deliveries)
      if (got >= MESSAGES) all.resolve()
    },
  })
  await all.promise
  await consumer.close() // what was acknowledged is written then
  return perSecond(MESSAGES, begin)
}

async function latencyOurs(transport: Transport): Promise<number> {
  const tookMs: number[] = []
  const all = Promise.withResolvers<void>()
  const consumer = await transport.consume('all', {
    windowMax: WINDOW,
    receive(deliveries) {
      for (const { message } of deliveries) note(tookMs, all, message.body as string)
      consumer.ack(deliveries)
    },
  })
  await atFixedRate((n) => transport.publish([wire(n, stamp())]), all.promise)
  await consumer.close()
  return median(tookMs)
}

// --- the raw client ---

async function openRaw(url: string, topic: string): Promise<Raw> {
  const bootstrapBrokers = [new URL(url).host]
  const admin = new Admin({ clientId: 'bench', bootstrapBrokers })
  await admin.createTopics({ topics: [topic], partitions: PARTITIONS, replicas: 1 })
  await admin.close()
  const producer = new Producer({
    clientId: 'bench',
    bootstrapBrokers,
    serializers: stringSerializers,
    idempotent: true,
    acks: -1,
  })
  return { topic, producer }
}

async function publishRaw({ topic, producer }: Raw): Promise<number> {
  const begin = performance.now()
  for (let n = 0; n < MESSAGES; n += BATCH) {
    const messages = Array.from({ length: BATCH }, (_, index) => ({
      topic,
      key: `s${(n + index) % KEYS}`,
      value: BODY,
      headers: { id: newId(), type: 'reading.taken' },
    }))
    await producer.send({ messages, acks: -1 })
  }
  return perSecond(MESSAGES, begin)
}

async function withRawStream(
  url: string,
  topic: string,
  use: (messages: AsyncIterable<Text>, consumer: Consumer<string, string, string, string>) => Promise<void>,
): Promise<void> {
  const consumer = new Consumer({
    clientId: 'bench',
    groupId: topic,
    bootstrapBrokers: [new URL(url).host],
    deserializers: stringDeserializers,
  })
  try {
    const mode = 'committed'
    const stream = await consumer.consume({
      topics: [topic],
      mode,
      fallbackMode: 'earliest',
      autocommit: false,
      maxWaitTime: 500,
    })
    await use(stream, consumer)
    await stream.close()
  } finally {
    await consumer.close(true)
  }
}

async function consumeRaw(url: string, { topic }: Raw): Promise<number> {
  let rate = 0
  await withRawStream(url, topic, async (messages, consumer) => {
    let got = 0
    let begin = 0
    const last = new Map<number, bigint>()
    let committing: Promise<unknown> = Promise.resolve()
    for await (const { partition, offset } of messages) {
      begin ||= performance.now()
      last.set(partition, offset)
      got += 1
      if (got % BATCH === 0) {
        const offsets = [...last].map(([index, at]) => ({ topic, partition: index, offset: at + 1n, leaderEpoch: -1 }))
        committing = committing.then(() => consumer.commit({ offsets }))
        last.clear()
      }
      if (got === MESSAGES) break
    }
    await committing
    rate = perSecond(MESSAGES, begin)
  })
  return rate
}

async function latencyRaw(url: string, { topic, producer }: Raw): Promise<number> {
  const tookMs: number[] = []
  await withRawStream(url, topic, async (messages) => {
    const all = Promise.withResolvers<void>()
    const reading = (async () => {
      for await (const { value } of messages) {
        note(tookMs, all, value)
        if (tookMs.length === LATENCY_MESSAGES) return
      }
    })()
    const send = (n: number) => {
      const headers = { id: newId(), type: 'reading.taken' }
      return producer.send({ messages: [{ topic, key: `s${n % KEYS}`, value: stamp(), headers }], acks: -1 })
    }
    await atFixedRate(send, all.promise)
    await reading
  })
  return median(tookMs)
}

// --- a load that waits for no answer ---

const stamp = () => `${performance.now()} ${BODY}`

function note(tookMs: number[], all: PromiseWithResolvers<void>, body: string): void {
  tookMs.push(performance.now() - Number.parseFloat(body))
  if (tookMs.length === LATENCY_MESSAGES) all.resolve()
}

async function atFixedRate(publish: (n: number) => Promise<unknown>, all: Promise<void>): Promise<void> {
  const sent: Promise<unknown>[] = []
  const begin = performance.now()
  const ticking = Promise.withResolvers<void>()
  const timer = setInterval(() => {
    const due = Math.min(LATENCY_MESSAGES, ((performance.now() - begin) * LATENCY_RATE) / 1_000)
    while (sent.length < due) sent.push(publish(sent.length))
    if (sent.length === LATENCY_MESSAGES) ticking.resolve()
  }, 1)
  await ticking.promise
  clearInterval(timer)
  await Promise.all(sent)
  await all
}

async function deleteTopics(url: string, prefix: string): Promise<void> {
  const admin = new Admin({ clientId: 'bench', bootstrapBrokers: [new URL(url).host] })
  const topics = (await admin.listTopics()).filter((topic) => topic.startsWith(prefix))
  if (topics.length > 0) await admin.deleteTopics({ topics })
  await admin.close()
}
