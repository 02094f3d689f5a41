/**
 * How long a message is under way at 500 messages a second which wait for no answer: through each transport beside its raw
 * client on the same server in the same run, confirmed and acknowledged alike; and through a whole bus (state and outbox
 * committed, relayed, inbox and effect committed). And what an idle bus with ten subscriptions costs.
 *
 * The peers are the shortest programs that promise as much: RabbitMQ, one quorum queue, each publication confirmed and each
 * delivery acknowledged; Redis, XADD each, XREADGROUP that blocks, XACK; Kafka, acks=all, idempotent, one request at a time
 * with whatever has come meanwhile, since that client breaks the order otherwise, and offsets committed every 100 ms; embedded,
 * whatever comes in one turn of the event loop is one commit (synchronous=FULL), and is read after it.
 */
import { randomUUID } from 'node:crypto'
import { DatabaseSync } from 'node:sqlite'
import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { createBus, event, type Schema, sqliteStore, sqliteTransport, type Transport } from '@shopsphere/bus'
import { kafkaTransport } from '@shopsphere/bus/kafka'
import { rabbitmqTransport } from '@shopsphere/bus/rabbitmq'
import { redisTransport } from '@shopsphere/bus/redis'
import { eraseRabbitmq, startKafka, startRabbitmq, startRedis } from '@shopsphere/bus/testing'
import { connect } from 'amqplib'
import { createClient } from 'redis'
import { inFolder } from './folder.ts'
import { type Bench, compare, median, type Pair, percentile, type Result } from './result.ts'

const RATE = 500
const WARM_UP_MESSAGES = 250
const MESSAGES = 750
const KEYS = 1_000
const BODY = 'n'.repeat(380)
const IDLE_MS = 4_000
/** For any single wait: what never comes ends the benchmark and says what it was. */
const WAIT_MAX_MS = 30_000
const PARTITIONS = 4
const IDLE_SUBSCRIPTIONS = 10

/** A way for messages, opened: `send` resolves when one is confirmed, `onReceived` hears of each that arrives. */
type Way = { send(n: number, body: string): Promise<unknown>; close(): Promise<unknown> }
type Open = (onReceived: (body: string) => void) => Promise<Way>
type Broker = { readonly name: string; readonly durability: string; readonly ours: () => Transport; readonly raw: Open }
type Times = { readonly medianMs: number; readonly p99Ms: number }

export const run: Bench = async ({ runs, note }) => {
  const results: Result[] = []
  await using rabbitmq = await startRabbitmq()
  await using kafka = await startKafka({ partitions: PARTITIONS })
  await using redis = await startRedis({ appendfsync: 'everysec' })
  await inFolder(async (directory) => {
    for (const broker of [rabbitmqAt(rabbitmq.url), redisAt(redis.url), kafkaAt(kafka.url), embeddedIn(directory)]) {
      note(broker.name)
      results.push(...(await besideRaw(broker, runs, note)))
    }
  })
  note('an idle bus')
  results.push(...(await idle(rabbitmq.url, kafka.url, redis.url)))
  return results
}

async function besideRaw(broker: Broker, runs: number, note: (text: string) => void): Promise<Result[]> {
  const medians: Pair[] = []
  const slowest: Pair[] = []
  const whole: Pair[] = []
  for (let round = 1; round <= runs; round++) {
    // Each goes first every other time.
    const oursFirst = round % 2 === 0
    const early = oursFirst ? await measure(through(broker.ours)) : await measure(broker.raw)
    const late = oursFirst ? await measure(broker.raw) : await measure(through(broker.ours))
    const [ours, raw] = oursFirst ? [early, late] : [late, early]
    const bus = await inFolder((directory) => measure(throughBus(directory, broker.ours)))
    note(
      `  run ${round} of ${runs}: ${ours.medianMs.toFixed(2)} ms, raw ${raw.medianMs.toFixed(2)} ms, whole bus ${bus.medianMs.toFixed(2)} ms`,
    )
    medians.push({ ours: ours.medianMs, peer: raw.medianMs })
    slowest.push({ ours: ours.p99Ms, peer: raw.p99Ms })
    whole.push({ ours: bus.medianMs, peer: raw.medianMs })
  }
  const { name, durability } = broker
  const against = 'the raw client'
  return [
    compare(medians, { what: `${name} median`, unit: 'ms', against, durability }, true),
    compare(slowest, { what: `${name} p99`, unit: 'ms', against, durability }, true),
    compare(
      whole,
      { what: `${name} whole bus, median`, unit: 'ms', against, durability: `${durability}; two SQLite commits` },
      true,
    ),
  ]
}

async function measure(open: Open): Promise<Times> {
  const tookMs: number[] = []
  const first = Promise.withResolvers<void>()
  const all = Promise.withResolvers<void>()
  let received = 0
  const onReceived = (body: string) => {
    received += 1
    first.resolve()
    if (received > 1 + WARM_UP_MESSAGES) tookMs.push(performance.now() - Number.parseFloat(body))
    if (received === 1 + WARM_UP_MESSAGES + MESSAGES) all.resolve()
  }
  const way = await inTime(open(onReceived), () => 'the way was not open')
  try {
    // A consumer may take its time to begin: that is no message's.
    await inTime(way.send(0, `${performance.now()} ${BODY}`), () => 'the first message was not confirmed')
    await inTime(first.promise, () => 'the first message did not arrive')
    await atFixedRate((n) => way.send(n, `${performance.now()} ${BODY}`))
    await inTime(all.promise, () => `${received} of ${1 + WARM_UP_MESSAGES + MESSAGES} messages had arrived`)
    return { medianMs: median(tookMs), p99Ms: percentile(tookMs, 0.99) }
  } finally {
    await inTime(way.close(), () => 'the way was not closed')
  }
}

async function inTime<T>(work: Promise<T>, how: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`after ${WAIT_MAX_MS} ms ${how()}`)), WAIT_MAX_MS)
  })
  return Promise.race([work, late]).finally(() => clearTimeout(timer))
}

async function atFixedRate(send: (n: number) => Promise<unknown>): Promise<void> {
  const total = WARM_UP_MESSAGES + MESSAGES
  const sent: Promise<unknown>[] = []
  const begin = performance.now()
  const everySent = Promise.withResolvers<void>()
  const timer = setInterval(() => {
    const due = Math.min(total, ((performance.now() - begin) * RATE) / 1_000)
    while (sent.length < due) sent.push(send(sent.length))
    if (sent.length === total) everySent.resolve()
  }, 1)
  await everySent.promise
  clearInterval(timer)
  await inTime(Promise.all(sent), () => 'not every message was confirmed')
}

// --- ours ---

function through(make: () => Transport): Open {
  return async (onReceived) => {
    const transport = make()
    await transport.open()
    await transport.declare({ name: 'all', bindings: [{ kind: 'topic', pattern: 'reading.*' }], from: 'now' })
    const consumer = await transport.consume('all', {
      windowMax: 1_000,
      receive(deliveries) {
        for (const { message } of deliveries) onReceived(message.body as string)
        consumer.ack(deliveries)
      },
    })
    return {
      send: (n, body) =>
        transport.publish([{ id: randomUUID(), type: 'reading.taken', key: `s${n % KEYS}`, headers: {}, body }]),
      async close() {
        await transport.remove('all')
        await transport.close()
      },
    }
  }
}

type Reading = { readonly sensor: string; readonly body: string }
const anyReading: Schema<Reading> = {
  '~standard': { version: 1, vendor: 'bench', validate: (value) => ({ value: value as Reading }) },
}
const readingTaken = event('reading.taken', {
  version: 1,
  owner: 'sensors',
  schema: anyReading,
  key: ({ sensor }: Reading) => sensor,
})

function throughBus(directory: string, make: () => Transport): Open {
  return async (onReceived) => {
    const transport = make()
    const store = (name: string) => sqliteStore(`${directory}/${name}.db`)
    const sensors = createBus({ service: 'sensors', transport, store: store('sensors'), events: [readingTaken] })
    const archive = createBus({ service: 'archive', transport, store: store('archive') })
    archive.subscribe(readingTaken, ({ body }) => onReceived(body), { from: 'now' }) // what others measured is no part of it
    await archive.start()
    await sensors.start()
    return {
      send: (n, body) => sensors.publish(readingTaken, { sensor: `s${n % KEYS}`, body }),
      async close() {
        for (const bus of [sensors, archive]) await bus.close()
        await transport.remove('archive')
        await transport.close()
        for (const bus of [sensors, archive]) await bus.store.close()
      },
    }
  }
}

// --- the raw clients, confirmed and acknowledged as ours ---

function rabbitmqAt(url: string): Broker {
  const prefix = `latency-${randomUUID().slice(0, 8)}.`
  return {
    name: 'rabbitmq',
    durability: 'persistent, confirmed by quorum queues of one node',
    ours: () => rabbitmqTransport(url, { prefix }),
    async raw(onReceived) {
      const model = await connect(url, { noDelay: true })
      const channel = await model.createConfirmChannel()
      const queue = `${prefix}raw`
      await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
      await channel.prefetch(1_000)
      await channel.consume(queue, (message) => {
        if (!message) return // the queue is being deleted
        onReceived(message.content.toString())
        channel.ack(message)
      })
      return {
        send: (_, body) =>
          new Promise<void>((resolve, reject) => {
            const options = { persistent: true, messageId: randomUUID() }
            channel.sendToQueue(queue, Buffer.from(body), options, (error) => (error ? reject(error) : resolve()))
          }),
        async close() {
          await channel.deleteQueue(queue)
          await model.close()
          await eraseRabbitmq(url, prefix)
        },
      }
    },
  }
}

function redisAt(url: string): Broker {
  return {
    name: 'redis',
    durability: 'appendonly, appendfsync everysec',
    ours: () => redisTransport(url, { prefix: 'latency' }),
    async raw(onReceived) {
      const stream = 'latency:raw'
      const writer = await createClient({ url }).connect()
      const reader = await createClient({ url }).connect()
      await writer.xGroupCreate(stream, 'all', '$', { MKSTREAM: true })
      let closed = false
      const reading = (async () => {
        while (!closed) {
          const answer = await reader.xReadGroup('all', 'one', { key: stream, id: '>' }, { BLOCK: 500, COUNT: 100 })
          const [got] = (answer ?? []) as { messages: { id: string; message: Record<string, string> }[] }[]
          if (!got) continue
          for (const { message } of got.messages) onReceived(message.body!)
          void writer.xAck(
            stream,
            'all',
            got.messages.map(({ id }) => id),
          )
        }
      })()
      return {
        send: (n, body) => writer.xAdd(stream, '*', { id: randomUUID(), key: `s${n % KEYS}`, body }),
        async close() {
          closed = true
          await reading
          await writer.del(stream)
          reader.destroy()
          writer.destroy()
        },
      }
    },
  }
}

function kafkaAt(url: string): Broker {
  const prefix = 'latency.'
  const bootstrapBrokers = [new URL(url).host]
  return {
    name: 'kafka',
    durability: 'acks=all, one broker, page cache',
    ours: () => kafkaTransport(url, { prefix, partitions: PARTITIONS }),
    async raw(onReceived) {
      const topic = `raw-${randomUUID()}`
      const admin = new Admin({ clientId: 'bench', bootstrapBrokers })
      await admin.createTopics({ topics: [topic], partitions: PARTITIONS, replicas: 1 })
      await admin.close()
      const strings = { serializers: stringSerializers, deserializers: stringDeserializers }
      const producer = new Producer({ clientId: 'bench', bootstrapBrokers, ...strings, idempotent: true, acks: -1 })
      const consumer = new Consumer({ clientId: 'bench', bootstrapBrokers, ...strings, groupId: topic })
      const from = { mode: 'committed', fallbackMode: 'earliest' } as const
      const stream = await consumer.consume({ topics: [topic], ...from, autocommit: 100, maxWaitTime: 500 })
      const reading = (async () => {
        for await (const { value } of stream) onReceived(value)
      })()
      type Sent = Parameters<typeof producer.send>[0]['messages'][number]
      let waiting: Sent[] = []
      let next: Promise<unknown> | undefined
      let last: Promise<unknown> = Promise.resolve()
      const sendWaiting = () => {
        const messages = waiting
        waiting = []
        next = undefined
        return producer.send({ messages, acks: -1 })
      }
      return {
        send(n, value) {
          waiting.push({ topic, key: `s${n % KEYS}`, value, headers: { id: randomUUID(), type: 'reading.taken' } })
          next ??= last = last.then(sendWaiting)
          return next
        },
        async close() {
          await stream.close()
          await reading
          await consumer.close(true)
          await producer.close()
        },
      }
    },
  }
}

function embeddedIn(directory: string): Broker {
  return {
    name: 'embedded',
    durability: 'synchronous=FULL, write-ahead log',
    ours: () => sqliteTransport(`${directory}/broker.db`),
    async raw(onReceived) {
      const database = new DatabaseSync(`${directory}/raw-${randomUUID()}.db`)
      database.exec('pragma journal_mode = wal; pragma synchronous = full')
      database.exec('create table log (position integer primary key, id text, key text, body text)')
      database.exec('create table cursor (position integer); insert into cursor values (0)')
      const insert = database.prepare('insert into log (id, key, body) values (?, ?, ?)')
      const read = database.prepare('select position, body from log where position > ? order by position')
      const acknowledge = database.prepare('update cursor set position = ?')
      let position = 0
      let waiting: { key: string; body: string; resolve: () => void }[] = []
      const commit = () => {
        const batch = waiting
        waiting = []
        database.exec('begin immediate')
        acknowledge.run(position) // what was received before
        for (const { key, body } of batch) insert.run(randomUUID(), key, body)
        database.exec('commit')
        for (const { resolve } of batch) resolve()
        for (const row of read.all(position) as { position: number; body: string }[]) {
          position = row.position
          onReceived(row.body)
        }
      }
      return {
        send: (n, body) =>
          new Promise<void>((resolve) => {
            if (waiting.push({ key: `s${n % KEYS}`, body, resolve }) === 1) setImmediate(commit)
          }),
        close: async () => database.close(),
      }
    },
  }
}

// --- idle ---

const IDLE_CPU_MAX_PERCENT = 2

/** Processor time of this process while a bus with ten subscriptions has nothing to do; servers are not counted. */
async function idle(rabbitmqUrl: string, kafkaUrl: string, redisUrl: string): Promise<Result[]> {
  const results: Result[] = []
  const make: Record<string, (directory: string) => Transport> = {
    embedded: (directory) => sqliteTransport(`${directory}/broker.db`),
    rabbitmq: () => rabbitmqTransport(rabbitmqUrl, { prefix: 'idle.', shards: 2 }),
    kafka: () => kafkaTransport(kafkaUrl, { prefix: 'idle.', partitions: 2 }),
    redis: () => redisTransport(redisUrl, { prefix: 'idle' }),
  }
  for (const [name, open] of Object.entries(make)) {
    const percent = await inFolder((directory) => idlePercent(directory, open(directory)))
    results.push(
      compare(
        [{ ours: percent, peer: IDLE_CPU_MAX_PERCENT }],
        {
          what: `${name} idle, ${IDLE_SUBSCRIPTIONS} subscriptions`,
          unit: '% of one processor',
          against: 'the limit that we set ourselves',
          durability: 'nothing is written',
        },
        true,
      ),
    )
  }
  return results
}

async function idlePercent(directory: string, transport: Transport): Promise<number> {
  const bus = createBus({ service: 'archive', transport, store: sqliteStore(`${directory}/archive.db`) })
  for (let n = 0; n < IDLE_SUBSCRIPTIONS; n++) bus.subscribe(readingTaken, () => {}, { name: `idle-${n}` })
  try {
    await bus.start()
    await new Promise((resolve) => setTimeout(resolve, IDLE_MS)) // what starting set off comes to rest
    const before = process.cpuUsage()
    await new Promise((resolve) => setTimeout(resolve, IDLE_MS))
    const { user, system } = process.cpuUsage(before)
    return ((user + system) / 1_000 / IDLE_MS) * 100
  } finally {
    await bus.close()
    for (let n = 0; n < IDLE_SUBSCRIPTIONS; n++) await transport.remove(`idle-${n}`)
    await transport.close()
    await bus.store.close()
  }
}
