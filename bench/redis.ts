/**
 * The Redis transport beside the raw client, and beside BullMQ, each on the same private server in the same run: one server a
 * run, emptied before each figure. Messages of 500 bytes and 1,000 keys; node-redis for all of them.
 */
import { join } from 'node:path'
import { type Bus, createBus, sqliteStore, type Transport } from '@shopsphere/bus'
import { redisTransport } from '@shopsphere/bus/redis'
import { startRedis } from '@shopsphere/bus/testing'
import { Queue, Worker } from 'bullmq'
import { createClient } from 'redis'
import { inFolder } from './folder.ts'
import { readingTaken } from './reading.ts'
import { type Bench, compare, type Pair, type Result } from './result.ts'

const MESSAGES = 60_000
const JOBS = 20_000
const BATCH = 1_000
const KEYS = 1_000
const BODY = 'x'.repeat(500)
const TYPE = 'reading.taken'
/** Jobs that BullMQ has in hand at once: on node-redis, the quickest of 20, 100, 200 and 1,000. */
const BULLMQ_CONCURRENCY = 20
/** Publishers that each wait for their confirmation, as services do. */
const PUBLISHERS = 64

const durability = 'appendonly yes, appendfsync everysec: a crash of the server may cost the last second'

type Place = { url: string; directory: string; raw: Awaited<ReturnType<typeof rawClient>> }

export const run: Bench = async ({ runs, note }) => {
  const pairs: Record<'publish' | 'consume' | 'transport' | 'bus', Pair[]> = {
    publish: [],
    consume: [],
    transport: [],
    bus: [],
  }
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    await inPlace(async (place) => {
      const measure = async (name: keyof typeof pairs, ours: number, peer: number) => {
        if (round > 0) pairs[name].push({ ours, peer })
      }
      await measure('publish', await publish(place), await rawPublish(place))
      await measure('consume', await consume(place), await rawConsume(place))
      const jobs = await bullmq(place)
      await measure('transport', await publishToHandled(place), jobs)
      await measure('bus', await busPublishToHandled(place), jobs)
    })
  }
  const against = 'BullMQ, added to processed'
  return [
    compare(pairs.publish, {
      what: 'publish',
      unit: 'messages/s',
      against: `raw XADD, ${BATCH} in a pipeline`,
      durability,
    }),
    compare(pairs.consume, {
      what: 'consume with acks',
      unit: 'messages/s',
      against: `raw XREADGROUP and XACK of ${BATCH}`,
      durability,
    }),
    compare(pairs.transport, { what: 'publish to handled, transport', unit: 'messages/s', against, durability }),
    compare(pairs.bus, { what: 'publish to handled, whole bus', unit: 'messages/s', against, durability }),
  ] satisfies Result[]
}

async function inPlace(work: (place: Place) => Promise<void>): Promise<void> {
  await using server = await startRedis({ appendfsync: 'everysec' })
  const raw = await rawClient(server.url)
  try {
    await inFolder((directory) => work({ url: server.url, directory, raw }))
  } finally {
    raw.destroy()
  }
}

async function rawClient(url: string) {
  const client = createClient({ url, RESP: 2 })
  await client.connect()
  return client
}

const perSecond = (count: number, begin: number) => count / ((performance.now() - begin) / 1_000)
const idOf = (n: number) => `01a1fc68-0935-7000-8000-${`${n}`.padStart(12, '0')}`
const wire = (n: number) => ({ id: idOf(n), type: TYPE, key: `s${n % KEYS}`, headers: {}, body: BODY })
const batches = (count: number) => Array.from({ length: count / BATCH }, (_, index) => index * BATCH)
const numbers = (first: number) => Array.from({ length: BATCH }, (_, index) => first + index)

async function withTransport<T>(place: Place, work: (transport: Transport) => Promise<T>): Promise<T> {
  await place.raw.flushAll()
  const transport = redisTransport(place.url)
  await transport.open()
  try {
    return await work(transport)
  } finally {
    await transport.close()
  }
}

const subscription = { name: 'archive', bindings: [{ kind: 'fanout' }], from: 'beginning' } as const

function publish(place: Place): Promise<number> {
  return withTransport(place, async (transport) => {
    await transport.declare(subscription)
    const begin = performance.now()
    await publishAll(transport, MESSAGES)
    return perSecond(MESSAGES, begin)
  })
}

/** As the relay does: a batch at a time, each confirmed before the next. */
async function publishAll(transport: Transport, count: number): Promise<void> {
  for (const first of batches(count)) await transport.publish(numbers(first).map(wire))
}

async function rawPublish({ raw }: Place): Promise<number> {
  await raw.flushAll()
  const begin = performance.now()
  await rawPublishAll(raw)
  return perSecond(MESSAGES, begin)
}

async function rawPublishAll(raw: Place['raw']): Promise<void> {
  for (const first of batches(MESSAGES))
    await Promise.all(
      numbers(first).map((n) => {
        const { id, type, key, body } = wire(n)
        return raw.sendCommand(['XADD', 'raw', '*', 'id', id, 'type', type, 'key', key, 'text', body])
      }),
    )
}

function consume(place: Place): Promise<number> {
  return withTransport(place, async (transport) => {
    await transport.declare(subscription)
    await publishAll(transport, MESSAGES)
    const begin = performance.now()
    await consumed(transport, MESSAGES)
    return perSecond(MESSAGES, begin)
  })
}

/** Everything is acknowledged and written down. */
async function consumed(transport: Transport, count: number): Promise<void> {
  const all = Promise.withResolvers<void>()
  let received = 0
  const consumer = await transport.consume(subscription.name, {
    windowMax: 2 * BATCH,
    receive: (deliveries) => {
      consumer.ack(deliveries)
      received += deliveries.length
      if (received >= count) all.resolve()
    },
  })
  await all.promise
  await consumer.close()
}

async function rawConsume({ raw }: Place): Promise<number> {
  await raw.flushAll()
  await rawPublishAll(raw)
  await raw.sendCommand(['XGROUP', 'CREATE', 'raw', 'group', '0'])
  const read = ['XREADGROUP', 'GROUP', 'group', 'one', 'COUNT', `${BATCH}`, 'STREAMS', 'raw', '>']
  const begin = performance.now()
  for (let count = 0; count < MESSAGES; ) {
    const [[, entries]] = (await raw.sendCommand(read)) as unknown as [[string, [string, string[]][]]]
    await raw.sendCommand(['XACK', 'raw', 'group', ...entries.map(([id]) => id)])
    count += entries.length
  }
  return perSecond(MESSAGES, begin)
}

function publishToHandled(place: Place): Promise<number> {
  return withTransport(place, async (transport) => {
    await transport.declare(subscription)
    const begin = performance.now()
    const handled = consumed(transport, MESSAGES)
    await publishAll(transport, MESSAGES)
    await handled
    return perSecond(MESSAGES, begin)
  })
}

const NOTE = 'n'.repeat(300)

/** Outbox, relay, Redis, inbox and the handler's transaction, each on its own SQLite database, synced with every commit. */
async function busPublishToHandled({ url, directory, raw }: Place): Promise<number> {
  await raw.flushAll()
  const transport = redisTransport(url)
  const make = (service: string): Bus =>
    createBus({ service, transport, store: sqliteStore(join(directory, `${service}.db`)), events: [readingTaken] })
  const [publisher, consumer] = [make('sensors'), make('archive')]
  const all = Promise.withResolvers<void>()
  let handled = 0
  consumer.subscribe(readingTaken, () => {
    if (++handled === JOBS) all.resolve()
  })
  await consumer.start()
  await publisher.start()
  const begin = performance.now()
  let next = 0
  const publishOne = async () => {
    for (let n = next++; n < JOBS; n = next++)
      await publisher.publish(readingTaken, { sensor: `s${n % KEYS}`, n, note: NOTE })
  }
  await Promise.all([...Array.from({ length: PUBLISHERS }, publishOne), all.promise])
  const rate = perSecond(JOBS, begin)
  await consumer.idle()
  for (const bus of [publisher, consumer]) await bus.close()
  await transport.close()
  for (const bus of [publisher, consumer]) await bus.store.close()
  return rate
}

/** Added in bulk and processed meanwhile; a job carries what a message carries. */
async function bullmq({ url, raw }: Place): Promise<number> {
  await raw.flushAll()
  const clients = [createClient({ url }), createClient({ url })]
  for (const client of clients) await client.connect()
  const [connection, workerConnection] = clients as never[]
  const queue = new Queue('readings', { connection: connection! })
  const all = Promise.withResolvers<void>()
  let processed = 0
  const worker = new Worker(
    'readings',
    async () => {
      if (++processed === JOBS) all.resolve()
    },
    { connection: workerConnection!, concurrency: BULLMQ_CONCURRENCY },
  )
  worker.on('error', (error) => all.reject(error))
  await worker.waitUntilReady()
  const begin = performance.now()
  for (const first of batches(JOBS))
    await queue.addBulk(
      numbers(first).map((n) => {
        const { id, key, body } = wire(n)
        return { name: TYPE, data: { id, key, body }, opts: { removeOnComplete: true } }
      }),
    )
  await all.promise
  const rate = perSecond(JOBS, begin)
  await worker.close()
  await queue.close()
  for (const client of clients) if (client.isOpen) client.destroy()
  return rate
}
