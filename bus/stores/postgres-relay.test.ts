/** R4, R6, L3: what a relay on PostgreSQL sends where transactions and processes stand beside each other. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { Client } from 'pg'
import { seededRandom, systemClock } from '../clock.ts'
import { jsonCodec } from '../codecs/json.ts'
import { limitsWith } from '../limits.ts'
import type { WireMessage } from '../message.ts'
import { Relay } from '../relay.ts'
import { sql } from '../sql.ts'
import type { Store, Tx } from '../store.ts'
import { eventually } from '../testing/eventually.ts'
import { postgresIn } from '../testing/postgres-world.ts'
import { needs } from '../testing/servers/needs.ts'
import { startPostgres } from '../testing/servers/postgres.ts'
import { createWorld, type World } from '../testing/world.ts'
import { memoryBroker, memoryTransport } from '../transports/memory.ts'
import { type PostgresStoreOptions, postgresStore } from './postgres.ts'

const { url, skip } = await needs('postgres')

type Publish = (messages: readonly WireMessage[]) => Promise<void>

async function openStore(world: World, options?: PostgresStoreOptions): Promise<Store> {
  const store = postgresIn(world, url, 'writer', options)
  world.defer(() => store.close())
  await store.open()
  return store
}

function relayOf(world: World, store: Store, publish: Publish) {
  const failures: unknown[] = []
  const relay = new Relay({
    store,
    transport: { ...memoryTransport(memoryBroker({})), publish },
    clock: systemClock,
    limits: limitsWith({ relayBatchMax: 500 }),
    codec: jsonCodec,
    tracing: undefined,
    newId: () => crypto.randomUUID(),
    onStep: () => {},
    onFailure: (error) => void failures.push(error),
    onRecovery: () => {},
    onSent: () => {},
    onRefused: () => {},
  })
  world.defer(() => relay.stop())
  return { relay, failures }
}

const say = (tx: Tx, key: string, numbers: readonly number[]) =>
  tx.insert(
    'bus_outbox',
    numbers.map((n) => ({ id: `${key} ${n}`, type: 'word', message_key: key, headers: '{}', body: `${n}`, at: 0 })),
  )

const upTo = (count: number, from = 0) => Array.from({ length: count }, (_, index) => from + index)

async function left(store: Store): Promise<number> {
  const row = await store.read((reader) => reader.get<{ count: number }>(sql`select count(*) as count from bus_outbox`))
  return row!.count
}

test('R4 rows far below what was sent become visible: each goes out once, and those of its key behind it', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = await openStore(world, { poolMax: 20, idleInTransactionTimeoutMs: 120_000 })
  const sent: WireMessage[] = []
  const { relay } = relayOf(world, store, async (messages) => void sent.push(...messages))
  relay.start()
  const random = seededRandom(3)
  const told = new Map<string, number>()
  const undone = new Error('undone')

  const roundOf = (key: string, count: number, held: Promise<unknown>, fails: boolean) => {
    const from = told.get(key) ?? 0
    if (!fails) told.set(key, from + count)
    return store
      .transaction(async (tx) => {
        await say(tx, key, upTo(count, from))
        await held
        if (fails) throw undone
      })
      .catch((error) => assert.equal(error, undone))
  }
  for (let round = 0; round < 6; round++) {
    const passed = Promise.withResolvers<void>()
    // Each has rows from before the others', more than a batch takes, is committed after thousands of them, and says more
    // as soon as it is.
    const late = ['late1', 'late2', 'gives up'].map(async (key) => {
      await roundOf(key, 700, passed.promise, key === 'gives up')
      await roundOf(key, 3, Promise.resolve(), false)
    })
    await Promise.all(
      upTo(12).map(async (writer) => {
        for (let turn = 0; turn < 25; turn++)
          await roundOf(`w${writer}`, 20, pause(random() < 0.3 ? random() * 4 : 0), random() < 0.1)
        relay.wake()
      }),
    )
    await eventually(async () => (await left(store)) === 0, { timeoutMs: 30_000 })
    passed.resolve()
    await Promise.all(late)
    relay.wake()
    await eventually(async () => (await left(store)) === 0, { timeoutMs: 30_000 })
  }
  const highest = sent.length
  assert.ok(relay.bookmark > highest / 2, `the low-water mark moved: ${relay.bookmark} of about ${highest}`)
  const heard = Map.groupBy(sent, ({ key }) => key!)
  assert.deepEqual([...heard.keys()].sort(), [...told.keys()].sort())
  for (const [key, count] of told)
    assert.deepEqual(
      heard.get(key)!.map(({ id }) => id),
      upTo(count).map((n) => `${key} ${n}`),
    )
})

test('R4 a reader that stays open: what was sent long ago is not walked again', { skip }, async () => {
  await using world = await createWorld()
  const store = await openStore(world)
  const backup = new Client({ connectionString: url, options: `-c search_path=${world.name}_writer` })
  await backup.connect()
  world.defer(() => backup.end())
  await backup.query('begin isolation level repeatable read')
  await backup.query('select count(*) from bus_outbox')
  const { relay } = relayOf(world, store, async () => {})
  relay.start()
  // There is no moment without a writer: each ends after the next has begun.
  let before = Promise.withResolvers<void>()
  let ended = Promise.resolve()
  for (let turn = 0; relay.bookmark <= 10_000; turn++) {
    assert.ok(turn < 400, `the low-water mark stands at ${relay.bookmark}`)
    const [wrote, next] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const previous = ended
    ended = store.transaction(async (tx) => {
      await say(tx, 'k', upTo(500, turn * 500))
      wrote.resolve()
      await next.promise
    })
    await wrote.promise
    before.resolve()
    before = next
    await previous
    relay.wake()
  }
  before.resolve()
  await ended
  await eventually(() => relay.idle)
  const pagesFrom = async (position: number) => {
    const plan = await store.read((reader) =>
      reader.all<{ 'QUERY PLAN': string }>(
        sql`explain (analyze, buffers, timing off) select id from bus_outbox where position > ${position} order by position limit 1`,
      ),
    )
    return Number(/Buffers: shared hit=(\d+)/.exec(plan.map((row) => row['QUERY PLAN']).join('\n'))?.[1])
  }
  const [fromStart, fromMark] = [await pagesFrom(0), await pagesFrom(relay.bookmark)]
  assert.ok(fromMark < fromStart / 2, `${fromMark} pages from the mark, ${fromStart} from the start`)
})

test('R6 three processes on one outbox: nothing goes out twice', { skip }, async () => {
  await using world = await createWorld()
  const sent: WireMessage[] = []
  const stores = [await openStore(world), await openStore(world), await openStore(world)]
  const relays = stores.map((store) => {
    const { relay } = relayOf(world, store, async (messages) => {
      await pause(2)
      sent.push(...messages)
    })
    relay.start()
    return relay
  })
  await Promise.all(
    upTo(9).map(async (writer) => {
      const which = writer % stores.length
      for (let turn = 0; turn < 60; turn++) {
        await stores[which]!.transaction((tx) => say(tx, `w${writer}`, [turn]))
        relays[which]!.wake()
      }
    }),
  )
  await eventually(async () => (await left(stores[0]!)) === 0, { timeoutMs: 30_000 })
  for (const [key, heard] of Map.groupBy(sent, ({ key }) => key!))
    assert.deepEqual(
      heard.map(({ id }) => id),
      upTo(60).map((n) => `${key} ${n}`),
    )
  assert.equal(sent.length, 9 * 60)
  for (const [which, store] of stores.entries()) {
    await store.transaction((tx) => say(tx, 'last', [which]))
    relays[which]!.wake()
    await eventually(async () => (await left(store)) === 0, { timeoutMs: 3_000, message: 'a turn is not given on' })
  }
})

test('R6 a process that stands still while it sends loses its turn after some seconds, and nothing else goes out twice', {
  skip,
}, async () => {
  await using world = await createWorld()
  const sent: string[] = []
  const stores = [await openStore(world), await openStore(world), await openStore(world)]
  const [begun, goesOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  world.defer(() => goesOn.resolve())
  const [still, ...others] = stores.map((store, which) =>
    relayOf(world, store, async (messages) => {
      if (which === 0) begun.resolve()
      await (which === 0 ? goesOn.promise : pause(5))
      sent.push(...messages.map(({ id }) => id))
    }),
  )
  await stores[0]!.transaction((tx) => say(tx, 'k', [1]))
  still!.relay.start()
  await begun.promise
  await stores[0]!.transaction((tx) => say(tx, 'k', [2]))
  for (const { relay } of others) relay.start()
  await eventually(async () => (await left(stores[1]!)) === 0, { timeoutMs: 15_000 })
  assert.deepEqual(sent, ['k 1', 'k 2'])
  goesOn.resolve()
  await eventually(() => still!.relay.idle && still!.relay.healthy, { message: 'it goes on' })

  await Promise.all(
    stores.map(async (store, which) => {
      for (let turn = 0; turn < 100; turn++) {
        await store.transaction((tx) => say(tx, `w${which}`, [turn]))
        ;[still!, ...others][which]!.relay.wake()
      }
    }),
  )
  await eventually(async () => (await left(stores[0]!)) === 0, { timeoutMs: 30_000 })
  await eventually(() => [still!, ...others].every(({ relay }) => relay.idle))
  const twice = [...Map.groupBy(sent, (id) => id)].filter(([, all]) => all.length > 1).map(([id]) => id)
  assert.deepEqual(twice, ['k 1'])
  assert.equal(sent.length, 3 * 100 + 3)
  for (const { failures } of [still!, ...others]) assert.deepEqual(failures, [])
})

test('R6 B11 a batch that takes long to be confirmed is sent once, whatever the store allows transactions', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = await openStore(world, { idleInTransactionTimeoutMs: 200, poolMax: 1 })
  const sent: string[] = []
  const [begun, goesOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const { relay, failures } = relayOf(world, store, async (messages) => {
    sent.push(...messages.map(({ id }) => id))
    begun.resolve()
    await goesOn.promise
  })
  world.defer(() => goesOn.resolve())
  await store.transaction((tx) => say(tx, 'k', upTo(500)))
  relay.start()
  await begun.promise
  for (let turn = 0; turn < 3; turn++) {
    await store.transaction((tx) => say(tx, 'k', [500 + turn])) // with the only connection that writes
    await pause(200)
  }
  goesOn.resolve()
  await eventually(async () => (await left(store)) === 0, { timeoutMs: 15_000 })
  await eventually(() => relay.idle)
  assert.deepEqual(
    sent,
    upTo(503).map((n) => `k ${n}`),
  )
  assert.deepEqual(failures, [])
})

test('R4 L3 a server that was put back to an earlier state gives positions again, and what has them goes out', {
  skip,
}, async () => {
  await using world = await createWorld()
  const server = await startPostgres()
  world.defer(() => server[Symbol.asyncDispose]())
  const store = postgresStore(server.url)
  world.defer(() => store.close())
  await store.open()
  const sent: string[] = []
  const { relay } = relayOf(world, store, async (messages) => void sent.push(...messages.map(({ id }) => id)))
  relay.start()
  await eventually(
    async () => {
      await store.transaction((tx) => say(tx, 'k', upTo(500, sent.length)))
      relay.wake()
      return relay.bookmark > 4_000
    },
    { timeoutMs: 30_000, message: 'the low-water mark should move' },
  )
  await eventually(async () => (await left(store)) === 0, { timeoutMs: 15_000 })
  await server.restart()
  const operator = new Client({ connectionString: server.url })
  await operator.connect()
  await operator.query('alter table bus_outbox alter column position restart with 1000')
  await operator.end()
  const lost = ['lost 1', 'lost 2', 'lost 3']
  const saying = () =>
    store
      .transaction((tx) => say(tx, 'lost', [1, 2, 3]))
      .then(
        () => true,
        () => false,
      )
  await eventually(saying, { timeoutMs: 15_000, message: 'the server is back' })
  relay.wake()
  await eventually(() => lost.every((id) => sent.includes(id)), { timeoutMs: 15_000, message: 'they were passed over' })
})
