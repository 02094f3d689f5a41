/** What a Kafka of its own is needed for: the traps of brokers, groups and logs, each on the real server. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after } from 'node:test'
import { Admin, Producer, stringSerializers } from '@platformatic/kafka'
import { createBus } from '../bus.ts'
import { systemClock } from '../clock.ts'
import { kafkaTopic } from '../endpoints/kafka-topic.ts'
import { UnavailableError } from '../errors.ts'
import { event, type Schema } from '../event.ts'
import { silentLog } from '../log.ts'
import { idMaker, type WireMessage } from '../message.ts'
import { sql } from '../sql.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { eventually } from '../testing/eventually.ts'
import { consume, type Inbox } from '../testing/inbox.ts'
import { kafkaIn, privateKafka } from '../testing/kafka-world.ts'
import { startProxy } from '../testing/servers/proxy.ts'
import { freePort } from '../testing/servers/server.ts'
import { caseRegistrar } from '../testing/suite-test.ts'
import type { World } from '../testing/world.ts'
import type { Delivery, Lease, SubscriptionSpec } from '../transport.ts'
import type { KafkaOptions } from './kafka.ts'
import { kafkaTransport, topicName } from './kafka.ts'

const SESSION_MS = 1_000
const RECOVERED_MS = 30_000

// Three doors to one server: through the second one, a proxy can cut off one process and leave the others alone; the third
// one asks for credentials.
const [port, behindProxy, guarded, controller] = [
  await freePort(),
  await freePort(),
  await freePort(),
  await freePort(),
]
const proxy = await startProxy({ target: behindProxy })
after(() => proxy[Symbol.asyncDispose]())
const { server, runner } = await privateKafka({
  port,
  settings: {
    listeners: `PLAINTEXT://127.0.0.1:${port},PROXIED://127.0.0.1:${behindProxy},GUARDED://127.0.0.1:${guarded},CONTROLLER://127.0.0.1:${controller}`,
    'controller.quorum.voters': `1@127.0.0.1:${controller}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port},PROXIED://127.0.0.1:${proxy.port},GUARDED://127.0.0.1:${guarded}`,
    'listener.security.protocol.map':
      'PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,GUARDED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT',
    'sasl.enabled.mechanisms': 'PLAIN',
    'listener.name.guarded.plain.sasl.jaas.config':
      'org.apache.kafka.common.security.plain.PlainLoginModule required user_ada="secret" user_bob="nobody";',
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'super.users': 'User:ANONYMOUS;User:ada',
    'auto.create.topics.enable': 'false',
    'group.min.session.timeout.ms': '500',
    'log.cleaner.backoff.ms': '200',
    // A broker that was killed may come back once its last life is over.
    'broker.session.timeout.ms': '1500',
    'broker.heartbeat.interval.ms': '300',
  },
})
const url = server?.url ?? ''
const proxied = `kafka://127.0.0.1:${proxy.port}`
const check = caseRegistrar('kafka', runner)
const newId = idMaker(systemClock, Math.random)

async function open(world: World, options: KafkaOptions = {}, at = url) {
  const transport = kafkaIn(world, at, { sessionTimeoutMs: SESSION_MS, ...options })
  world.defer(() => transport.close())
  await transport.open()
  return transport
}

const all = (name: string): SubscriptionSpec => ({ name, bindings: [{ kind: 'fanout' }], from: 'now' })

function series(count: number, keys: number, type = 'order.placed'): WireMessage[] {
  return Array.from({ length: count }, (_, index) => ({
    id: newId(),
    type,
    key: `key-${index % keys}`,
    headers: {},
    body: `${index}`,
  }))
}

const ids = (messages: readonly { id: string }[]) => messages.map(({ id }) => id)

/** Each message the first time it came: all of them, those of one key as they were published. */
function assertComplete(deliveries: readonly Delivery[], published: readonly WireMessage[]): void {
  const seen = new Set<string>()
  const first = deliveries.filter(({ message }) => !seen.has(message.id) && seen.add(message.id))
  assert.equal(first.length, published.length, 'messages that arrived')
  const arrived = Map.groupBy(first, ({ message }) => message.key)
  for (const [key, expected] of Map.groupBy(published, (one) => one.key))
    assert.deepEqual(ids(arrived.get(key)!.map(({ message }) => message)), ids(expected), `order of ${key}`)
}

async function withAdmin<T>(work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = new Admin({ clientId: 'faults', bootstrapBrokers: [`127.0.0.1:${port}`], retries: 3 })
  try {
    return await work(admin)
  } finally {
    await admin.close()
  }
}

const topicOf = (world: World, owner: string) => topicName(`${world.name}.`, owner)

async function untilReady(transport: { state(): { ready: boolean; reason: string | null } }, ready = true) {
  await eventually(() => transport.state().ready === ready, {
    timeoutMs: RECOVERED_MS,
    message: `state().ready should become ${ready}`,
  })
}

async function endOf(world: World, owner: string): Promise<number> {
  const topic = topicOf(world, owner)
  return withAdmin(async (admin) => {
    const [found] = await admin.listOffsets({
      topics: [{ name: topic, partitions: [0, 1, 2, 3].map((partitionIndex) => ({ partitionIndex, timestamp: -1n })) }],
    })
    return found!.partitions.reduce((sum, { offset }) => sum + Number(offset), 0)
  })
}

// --- publishing ---

check('P1 many publications at once: each key in order, each message written once', async (world) => {
  const transport = await open(world)
  await transport.declare(all('once'))
  const messages = series(2_000, 20)
  await Promise.all(messages.map((message) => transport.publish([message])))
  assert.equal(await endOf(world, 'order'), 2_000)
  const inbox = await consume(transport, 'once')
  await inbox.until(2_000)
  assertComplete(inbox.deliveries, messages)
})

check(
  'F1 P3 a half-open connection: publishing settles in time, state() says so, and all recovers by itself',
  async (world) => {
    const transport = await open(world, { publishTimeoutMs: 2_000, requestTimeoutMs: 700 }, proxied)
    const other = await open(world)
    world.defer(() => proxy.restore())
    await transport.declare(all('silent'))
    const inbox = await consume(transport, 'silent')
    const messages = series(30, 3)
    await transport.publish(messages.slice(0, 10))
    await inbox.until(10)
    proxy.silence()
    const began = performance.now()
    await assert.rejects(transport.publish(messages.slice(10, 20)), UnavailableError)
    assert.ok(performance.now() - began < 4_000, 'it must settle within its time limit')
    await untilReady(transport, false)
    assert.match(transport.state().reason!, /.{20}/)
    await other.publish(messages.slice(20))
    proxy.restore()
    await transport.publish(messages.slice(10, 20))
    await untilReady(transport)
    await inbox.untilIds((seen) => seen.size === 30)
  },
)

check('F2 a topic deleted under load is made again, and what is published afterwards arrives', async (world) => {
  const transport = await open(world)
  await transport.declare(all('deleted'))
  const inbox = await consume(transport, 'deleted')
  await transport.publish(series(20, 4))
  await inbox.until(20)
  await withAdmin((admin) => admin.deleteTopics({ topics: [topicOf(world, 'order')] }))
  const after = series(20, 4)
  const published = async () => {
    await transport.publish(after)
    return true
  }
  await eventually(published, { timeoutMs: RECOVERED_MS, message: 'publishing did not recover' })
  await inbox.untilIds((seen) => after.every(({ id }) => seen.has(id)))
})

check('F12 two broker restarts under load: nothing lost, order per key kept', async (world) => {
  const transport = await open(world)
  await transport.declare(all('restarted'))
  const inbox = await consume(transport, 'restarted', { windowMax: 500 })
  const messages = series(10_000, 50)
  let restarts: Promise<void> = Promise.resolve()
  for (let start = 0; start < messages.length; start += 100) {
    if (start === 3_000) restarts = server!.kill().then(() => server!.start())
    if (start === 6_500) restarts = restarts.then(() => server!.kill()).then(() => server!.start())
    const batch = messages.slice(start, start + 100)
    const published = async () => {
      await transport.publish(batch)
      return true
    }
    await eventually(published, { timeoutMs: 2 * RECOVERED_MS, message: 'publishing did not recover' })
  }
  await restarts
  await eventually(() => new Set(inbox.ids()).size === messages.length, {
    timeoutMs: RECOVERED_MS,
    message: 'everything should have arrived',
  })
  assertComplete(inbox.deliveries, messages)
  await untilReady(transport)
})

// --- groups ---

check('S1 an unfinished message is never committed past, whatever is finished behind it', async (world) => {
  const transport = await open(world)
  await transport.declare(all('holes'))
  const messages = series(20, 1)
  await transport.publish(messages)
  const inbox = await consume(transport, 'holes', { ack: false })
  await inbox.until(20)
  inbox.consumer.ack([...inbox.deliveries.slice(0, 5), ...inbox.deliveries.slice(6)])
  const committed = async () =>
    withAdmin(async (admin) => {
      const [group] = await admin.listConsumerGroupOffsets({ groups: [`${world.name}.holes`] })
      const partitions = group!.topics.flatMap(({ partitions }) => partitions)
      return Math.max(...partitions.map(({ committedOffset }) => Number(committedOffset)))
    })
  await eventually(async () => (await committed()) === 5, { message: 'offset 5 should be committed' })
  assert.equal((await transport.backlog('holes')).waiting, 1)
  await inbox.close()
  assert.equal(await committed(), 5, 'also when it is closed')
})

check('a handler that takes longer than a session does not lose the group', async (world) => {
  const transport = await open(world)
  await transport.declare(all('long'))
  const revoked: Lease[] = []
  const inbox = await consume(transport, 'long', { ack: false, revoked: (lease) => revoked.push(lease) })
  await transport.publish(series(10, 5))
  await inbox.until(10)
  const heldFrom = performance.now()
  await eventually(() => performance.now() - heldFrom > 3 * SESSION_MS, { timeoutMs: 10_000 })
  inbox.consumer.ack(inbox.deliveries)
  await eventually(async () => (await transport.backlog('long')).waiting === 0)
  assert.deepEqual(revoked, [])
  assert.equal(inbox.deliveries.length, 10, 'nothing came again')
})

check(
  'F5 B8 a process that is cut off loses its share within seconds, learns of it by itself, and comes back',
  async (world) => {
    const [frozen, live] = [await open(world, { requestTimeoutMs: 700 }, proxied), await open(world)]
    world.defer(() => proxy.restore())
    await live.declare(all('shared'))
    const revoked: Lease[] = []
    const lost = await consume(frozen, 'shared', { ack: false, revoked: (lease) => revoked.push(lease) })
    await live.publish(series(64, 64))
    await lost.until(64)
    proxy.silence()
    const taker = await consume(live, 'shared')
    await taker.until(64)
    const epochs = new Map(lost.deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
    for (const { lease, redelivered } of taker.deliveries) {
      assert.ok(lease.epoch > epochs.get(lease.shard)!, 'the epoch must grow')
      assert.ok(redelivered, 'the process that was lost may have begun on it')
    }
    await eventually(() => revoked.length >= epochs.size, { timeoutMs: RECOVERED_MS, message: 'it was not told' })
    proxy.restore()
    const back = lost.deliveries.length
    lost.acksItself()
    const again = async () => {
      await live.publish(series(16, 16))
      return lost.deliveries.length > back
    }
    await eventually(again, { timeoutMs: RECOVERED_MS, intervalMs: 200, message: 'it did not come back' })
  },
)

/** So many offsets of a shard a process may begin before the broker hears of it, or twice what it has just begun (S7). */
const AHEAD_MIN = 32

check('S7 B8 only what a dead process may have begun is marked redelivered, and all of that', async (world) => {
  const [shards, windowMax, early, late] = [4, 20, 400, 4_000]
  const [dying, live] = [await open(world, {}, proxied), await open(world)]
  world.defer(() => proxy.restore())
  await dying.declare(all('marked'))
  // Its first message is never done, so the offset of that shard stays; everything else goes on far beyond the window.
  const begun = await consume(dying, 'marked', { ack: false, windowMax })
  const messages = series(early + late, 10)
  await dying.publish(messages.slice(0, early))
  await begun.until(1)
  const stuck = begun.ids()[0]!
  const acked = new Set<string>()
  while (begun.deliveries.length < early) {
    const count = begun.deliveries.length
    const done = begun.deliveries
      .filter(({ message: { id } }) => id !== stuck && !acked.has(id))
      .slice(0, windowMax / 2)
    for (const { message } of done) acked.add(message.id)
    begun.consumer.ack(done)
    await begun.until(count + 1)
  }
  const unfinished = begun.ids().filter((id) => !acked.has(id))
  assert.ok(unfinished.length > 1 && unfinished.length <= windowMax)
  proxy.silence()
  await live.publish(messages.slice(early))
  const taker = await consume(live, 'marked')
  const wanted = [...unfinished, ...ids(messages.slice(early))]
  await taker.untilIds((seen) => wanted.every((id) => seen.has(id)))
  const marked = new Set(taker.deliveries.filter(({ redelivered }) => redelivered).map(({ message }) => message.id))
  assert.deepEqual(
    unfinished.filter((id) => !marked.has(id)),
    [],
    'the process may have died of these',
  )
  const innocent = messages.slice(early).filter(({ id }) => marked.has(id))
  assert.ok(innocent.length <= 2 * early + shards * AHEAD_MIN, `${innocent.length} of ${late} came after it had died`)
})

check('S7 B8 what a dead process may have begun stays marked where the next one leaves before it', async (world) => {
  const [dying, next, last] = [await open(world, {}, proxied), await open(world), await open(world)]
  world.defer(() => proxy.restore())
  await dying.declare(all('heirs'))
  const messages = series(1_000, 1)
  await dying.publish(messages.slice(0, 100))
  const begun = await consume(dying, 'heirs', { ack: false, windowMax: 100 })
  await begun.until(100)
  proxy.silence()
  await next.publish(messages.slice(100))
  const between = await consume(next, 'heirs', { ack: false, windowMax: 1 })
  await between.until(1)
  between.consumer.ack(between.deliveries)
  await between.until(2)
  between.consumer.ack(between.deliveries)
  await between.close()
  const heir = await consume(last, 'heirs')
  await heir.untilIds((seen) => seen.has(messages.at(-1)!.id))
  const unmarked = heir.deliveries.filter(({ redelivered }) => !redelivered).map(({ message }) => message)
  const first = messages.findIndex(({ id }) => id === unmarked[0]?.id)
  assert.ok(first >= 100 && first < 1_000, `message ${first} is the first without a mark`)
})

type Count = { key: string; n: number }
const anyCount = {
  '~standard': { version: 1, vendor: 'faults', validate: (value: unknown) => ({ value: value as Count }) },
} satisfies Schema<Count>
const counted = event('counter.said', { version: 1, schema: anyCount, key: ({ key }: Count) => key })

check('F6 members join and leave, completions out of order: every effect once, order per key kept', async (world) => {
  const MESSAGES = 900
  const KEYS = 40
  const member = async (turn: number) => {
    const transport = await open(world, { handOverMs: 500 })
    const store = sqliteStore(join(world.directory, 'clerk.db'))
    const bus = createBus({ service: 'clerk', transport, store, events: [counted] })
    bus.subscribe(counted, async ({ key, n }, { tx }) => {
      const last = await tx.get<{ place: number | null }>(sql`select max(place) as place from heard`)
      await tx.run(sql`insert into heard (place, said, n) values (${Number(last?.place ?? 0) + 1}, ${key}, ${n})`)
    })
    await store.open()
    if (turn === 0) await store.migrate('heard', 'create table heard (place bigint primary key, said text, n bigint)')
    await bus.start()
    return {
      bus,
      close: async () => {
        await bus.close()
        await transport.close()
        await store.close()
      },
    }
  }
  const first = await member(0)
  const says = await open(world)
  const source = createBus({
    service: 'counter',
    transport: says,
    store: sqliteStore(join(world.directory, 'counter.db')),
    events: [counted],
  })
  await source.start()
  const members = [first]
  for (let n = 0; n < MESSAGES; n += 150) {
    const saying = Array.from({ length: 150 }, (_, index) => n + index)
    for (const one of saying) await source.publish(counted, { key: `k${one % KEYS}`, n: one })
    // Whoever is longest here goes, and another comes.
    members.push(await member(1))
    if (members.length > 3) await members.shift()!.close()
  }
  const { store } = members[0]!.bus
  const heard = () =>
    store.read((reader) => reader.all<{ said: string; n: number }>(sql`select said, n from heard order by place`))
  await eventually(async () => (await heard()).length >= MESSAGES, { timeoutMs: RECOVERED_MS, intervalMs: 100 })
  const rows = await heard()
  assert.equal(rows.length, MESSAGES, 'each effect once')
  assert.equal(new Set(rows.map(({ n }) => Number(n))).size, MESSAGES)
  for (let key = 0; key < KEYS; key++) {
    const ofKey = rows.filter(({ said }) => said === `k${key}`).map(({ n }) => Number(n))
    assert.deepEqual(
      ofKey,
      [...ofKey].sort((a, b) => a - b),
      `order of k${key}`,
    )
  }
  for (const one of members) await one.close()
  await source.close()
  await source.store.close()
})

// --- logs ---

check('offsets have gaps: what transactions took back never comes, their markers count as nothing', async (world) => {
  const transport = await open(world)
  await transport.declare({ ...all('gaps'), bindings: [{ kind: 'topic', pattern: 'order.#' }] })
  const producer = new Producer({
    clientId: 'stranger',
    bootstrapBrokers: [`127.0.0.1:${port}`],
    serializers: stringSerializers,
    idempotent: true,
    transactionalId: `${world.name}-stranger`,
  })
  world.defer(() => producer.close(true))
  const topic = topicOf(world, 'order')
  for (const kept of [true, false, true]) {
    const transaction = await producer.beginTransaction()
    await transaction.send({ messages: [{ topic, key: 'k', value: kept ? 'kept' : 'taken back' }] })
    await (kept ? transaction.commit() : transaction.abort())
  }
  const last = series(1, 1)
  await transport.publish(last)
  assert.equal((await transport.backlog('gaps')).waiting, 3)
  const inbox = await consume(transport, 'gaps')
  await inbox.until(3)
  const texts = inbox.deliveries.map(({ message }) => Buffer.from(message.body).toString())
  assert.deepEqual(texts.sort(), ['0', 'kept', 'kept'])
  await eventually(async () => (await transport.backlog('gaps')).waiting === 0)
})

check('offsets have gaps: a compacted topic is read to its end', async (world) => {
  const topic = topicOf(world, 'order')
  await withAdmin((admin) =>
    admin.createTopics({
      topics: [topic],
      partitions: 4,
      replicas: 1,
      configs: [
        { name: 'cleanup.policy', value: 'compact' },
        { name: 'min.cleanable.dirty.ratio', value: '0.01' },
        { name: 'segment.ms', value: '200' },
        { name: 'max.compaction.lag.ms', value: '200' },
      ],
    }),
  )
  const transport = await open(world)
  await transport.declare({ ...all('compacted'), from: 'beginning' })
  const early = series(200, 1)
  await transport.publish(early)
  // A segment is closed by what comes after it; then it can be compacted.
  const rest = async () => {
    await transport.publish(series(1, 1))
    const { waiting } = await transport.backlog('compacted')
    return waiting < 100
  }
  await eventually(rest, { timeoutMs: RECOVERED_MS, intervalMs: 300, message: 'the broker did not compact' })
  const inbox = await consume(transport, 'compacted')
  const last = series(1, 1)
  await transport.publish(last)
  await inbox.untilIds((seen) => seen.has(last[0]!.id))
  await eventually(async () => (await transport.backlog('compacted')).waiting === 0)
})

check('messages that the topic kept too short are told of, and the rest is delivered', async (world) => {
  const told: object[] = []
  const log = { info() {}, warn() {}, error: (fields: object) => void told.push(fields) }
  const transport = await open(world, { log })
  await transport.declare(all('late'))
  await transport.publish(series(40, 1))
  const inboxes: Inbox[] = [await consume(transport, 'late', { ack: false, windowMax: 1 })]
  await inboxes[0]!.until(1)
  await inboxes[0]!.close()
  const topic = topicOf(world, 'order')
  await withAdmin(async (admin) => {
    const partitions = [0, 1, 2, 3].map((partition) => ({ partition, offset: -1n }))
    await admin.deleteRecords({ topics: [{ name: topic, partitions }] })
  })
  const after = series(5, 1)
  await transport.publish(after)
  const inbox = await consume(transport, 'late')
  await inbox.until(5)
  assert.deepEqual(inbox.ids(), ids(after))
  assert.ok(
    told.some((fields) => (fields as { lost?: number }).lost === 40),
    `told: ${JSON.stringify(told)}`,
  )
})

check("a stranger's message is delivered as it is, under an id that stays", async (world) => {
  const transport = await open(world)
  await transport.declare({ ...all('strange'), bindings: [{ kind: 'topic', pattern: 'orders.#' }] })
  const producer = new Producer({ clientId: 'stranger', bootstrapBrokers: [`127.0.0.1:${port}`] })
  world.defer(() => producer.close(true))
  const value = Buffer.from([0xff, 0x00, 0x7b])
  const topic = topicOf(world, 'orders')
  await producer.send({
    messages: [
      { topic, partition: 2, key: Buffer.from('k'), value, headers: new Map([[Buffer.from('a'), Buffer.from('b')]]) },
    ],
  })
  for (const name of ['strange', 'strange']) {
    const inbox = await consume(transport, name, { ack: false })
    await inbox.until(1)
    const { id, type, key, body } = inbox.deliveries[0]!.message
    assert.deepEqual({ id, type, key }, { id: `${topic}/2/0`, type: 'orders', key: 'k' })
    assert.deepEqual([...(body as Uint8Array)], [0xff, 0x00, 0x7b])
    await inbox.close()
  }
})

// --- what is refused ---

check('a topic with another number of partitions is refused, and the error says what to set', async (world) => {
  const four = await open(world)
  await four.publish(series(1, 1))
  const eight = kafkaIn(world, url, { partitions: 8 })
  world.defer(() => eight.close())
  const refused = { code: 'transport_refused', message: /has 4 partitions.*partitions=4/ }
  await assert.rejects(eight.open(), refused)
  await withAdmin((admin) => admin.createTopics({ topics: [topicOf(world, 'cart')], partitions: 2, replicas: 1 }))
  await assert.rejects(four.publish(series(1, 1, 'cart.emptied')), { code: 'transport_refused' })
  await four.publish(series(1, 1))
})

check('more copies than there are brokers are refused', async (world) => {
  const transport = await open(world, { replicas: 1 })
  const greedy = kafkaIn(world, url, { replicas: 3 })
  world.defer(() => greedy.close())
  await greedy.open() // the register is there already
  await assert.rejects(greedy.publish(series(1, 1)), { code: 'transport_refused', message: /replicas/ })
  await transport.publish(series(1, 1))
})

check('a broker that is not there is waited for: unavailable, then open', async (world) => {
  const late = await freePort()
  const transport = kafkaTransport(`kafka://127.0.0.1:${late}`, { prefix: `${world.name}.`, partitions: 4 })
  world.defer(() => transport.close())
  await assert.rejects(transport.open(), UnavailableError)
  assert.equal(transport.state().ready, false)
  const both = kafkaTransport(`kafka://127.0.0.1:${late},127.0.0.1:${port}`, {
    prefix: `${world.name}.`,
    partitions: 4,
  })
  world.defer(() => both.close())
  await both.open()
  await both.publish(series(1, 1))
  assert.deepEqual(both.state(), { ready: true, reason: null })
})

check('wrong credentials are refused, right ones are not, and none are told of', async (world) => {
  const at = (user: string) => `kafka://${user}127.0.0.1:${guarded}`
  const settings = { prefix: `${world.name}.`, partitions: 4 }
  const wrong = kafkaTransport(at('ada:wrong@'), settings)
  world.defer(() => wrong.close())
  await assert.rejects(wrong.open(), { code: 'transport_refused', message: /credentials/ })
  const unknown = kafkaTransport(`${at('ada:secret@')}?sasl=scram-sha-256`, settings)
  world.defer(() => unknown.close())
  await assert.rejects(unknown.open(), { code: 'transport_refused', message: /credentials/ })
  const none = kafkaTransport(at(''), settings)
  world.defer(() => none.close())
  await assert.rejects(none.open(), { message: /whether it wants credentials/ })
  const right = kafkaTransport(at('ada:secret@'), settings)
  world.defer(() => right.close())
  await right.open()
  assert.deepEqual(await right.subscriptions(), [])
})

check('a topic of other programs behind credentials: the right ones are let in, wrong ones refused', async (world) => {
  const at = (user: string) => kafkaTopic(`kafka://${user}@127.0.0.1:${guarded}`, { topic: world.name })
  const wrong = at('ada:wrong')
  world.defer(() => wrong.close())
  await assert.rejects(wrong.open({ log: silentLog }), { code: 'transport_refused', message: /credentials/ })
  await withAdmin((admin) => admin.createTopics({ topics: [world.name], partitions: 1, replicas: 1 }))
  const right = at('ada:secret')
  world.defer(() => right.close())
  await right.open({ log: silentLog })
  const texts: string[] = []
  await right.receive({
    name: world.name,
    windowMax: 10,
    receive: (arrivals) => void texts.push(...arrivals.map(({ body }) => Buffer.from(body).toString())),
    lost: () => {},
  })
  await right.send({ body: Buffer.from('let in'), headers: {}, id: null, key: null })
  await eventually(() => texts.length === 1, { timeoutMs: RECOVERED_MS, message: 'it should arrive' })
  assert.deepEqual(texts, ['let in'])
})

check('a user without rights is told which ones to ask for', async (world) => {
  const denied = { code: 'transport_refused', message: /AUTHORIZATION_FAILED.*(Give this user the right|rights)/ }
  const transport = kafkaTransport(`kafka://bob:nobody@127.0.0.1:${guarded}`, { prefix: `${world.name}.` })
  world.defer(() => transport.close())
  await assert.rejects(transport.open(), denied)
  const endpoint = kafkaTopic(`kafka://bob:nobody@127.0.0.1:${guarded}`, { topic: world.name })
  world.defer(() => endpoint.close())
  await assert.rejects(endpoint.open({ log: silentLog }), { code: 'transport_refused', message: /the rights/ })
})

check(
  'where topics do not come into being by themselves, ours are made, and that of others is asked for',
  async (world) => {
    const transport = await open(world)
    await transport.publish(series(1, 1))
    const topic = `${world.name}-others`
    const endpoint = kafkaTopic(`kafka://127.0.0.1:${port}`, { topic })
    world.defer(() => endpoint.close())
    await endpoint.open({ log: silentLog })
    assert.match(endpoint.state().reason!, new RegExp(`${topic} .*create it`))
    await withAdmin((admin) => admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 }))
    await untilReady(endpoint)
  },
)

check('credentials that nobody asked for, or an address that cannot be read, are refused', async () => {
  for (const address of [
    'amqp://x',
    'kafka://',
    'kafka://h:99999',
    'kafka://h?sasl=plain',
    'kafka://h?x=1',
    'kafka://h?partitions=0',
  ])
    assert.throws(() => kafkaTransport(address), { code: 'invalid_argument' }, address)
  assert.throws(
    () => kafkaTransport('kafka://ada:secret@h?sasl=none'),
    (error: Error) => !error.message.includes('secret'),
  )
})
