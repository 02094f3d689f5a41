/** What PostgreSQL refuses, what it takes away for a while, and what its concurrent transactions do to an order. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { Client } from 'pg'
import { createBus } from '../bus.ts'
import { seededRandom } from '../clock.ts'
import { UnavailableError } from '../errors.ts'
import { event } from '../event.ts'
import { append, readAll } from '../event-store.ts'
import { sql } from '../sql.ts'
import { schemaOf } from '../testing/bus-stage.ts'
import { eventually } from '../testing/eventually.ts'
import { postgresIn, sharedPostgresUrl } from '../testing/postgres-world.ts'
import { createWorld, inWorld } from '../testing/world.ts'
import { memoryBroker, memoryTransport } from '../transports/memory.ts'
import { postgresStore } from './postgres.ts'

const WRITERS = 64
/** POSTGRES_MESSAGES=1000000 for a long one. */
const MESSAGES = Number(process.env.POSTGRES_MESSAGES ?? 20_000)
const DELAY_MAX_MS = 4
const KEYS = 64
const ROLLED_BACK = 0.1

type Count = { key: string; n: number }
const counted = event<Count>('writer.counted', {
  version: 1,
  key: ({ key }) => key,
  schema: schemaOf<Count>(() => null),
})

/** A client of its own in the middle of a transaction that it never ends. */
async function standsStill(schema: string, statement: string): Promise<Client> {
  const client = new Client({ connectionString: sharedPostgresUrl, options: `-c search_path=${schema}` })
  client.on('error', () => {})
  await client.connect()
  await client.query('begin')
  await client.query(statement)
  return client
}

test(`F3 B1 ${WRITERS} writers with delays and roll-backs beside transactions that stand still: nothing skipped, each key in order`, async () => {
  await using world = await createWorld()
  const broker = memoryBroker({})
  const writerStore = postgresIn(world, 'writer', { poolMax: 8 })
  const hearerStore = postgresIn(world, 'hearer')
  const writer = createBus({
    service: 'writer',
    store: writerStore,
    transport: memoryTransport(broker),
    events: [counted],
  })
  const hearer = createBus({ service: 'hearer', store: hearerStore, transport: memoryTransport(broker) })
  world.defer(async () => {
    await Promise.all([writer.close(), hearer.close()])
    await Promise.all([writerStore.close(), hearerStore.close()])
  })
  await hearerStore.open()
  await hearerStore.migrate(
    'heard',
    'create table heard (place bigint generated always as identity primary key, key text not null, n bigint not null)',
  )
  hearer.subscribe(counted, async ({ key, n }, { tx }) => {
    await tx.insert('heard', [{ key, n }])
  })
  await hearer.declare()
  await writer.start()
  await hearer.start()

  const insert = `insert into bus_outbox (id, type, headers, body, at) values ('stands still', 'none', '{}', '', 0)`
  const forEver = await standsStill(`${world.name}_writer`, insert)
  world.defer(() => forEver.end())

  const random = seededRandom(7)
  const committed = new Map<string, number[]>()
  const undone = new Error('undone')
  const each = Math.ceil(MESSAGES / WRITERS)
  const write = async (key: string) => {
    const done: number[] = []
    committed.set(key, done)
    for (let n = 1; done.length < each; n++) {
      const failing = random() < ROLLED_BACK
      const delayMs = random() < 0.1 ? random() * DELAY_MAX_MS : 0
      try {
        await writer.transaction(async ({ tx, publish }) => {
          publish(counted, { key, n })
          await tx.get(sql`select 1 as one`)
          if (delayMs > 0) await pause(delayMs)
          if (failing) throw undone
        })
        done.push(n)
      } catch (error) {
        if (error !== undone) throw error
      }
    }
  }
  await Promise.all(Array.from({ length: WRITERS }, (_, index) => write(`k${index % KEYS}`)))
  const total = WRITERS * each
  const heardCount = async () =>
    (await hearerStore.read((reader) => reader.get<{ count: number }>(sql`select count(*) as count from heard`)))!.count
  await eventually(async () => (await heardCount()) >= total, {
    timeoutMs: 60_000,
    message: 'messages were passed over',
  })
  const heard = await hearerStore.read((reader) => reader.all<Count>(sql`select key, n from heard order by place`))
  assert.equal(heard.length, total)
  for (const [key, numbers] of committed) {
    const ofKey = heard.filter((row) => row.key === key).map(({ n }) => n)
    assert.deepEqual(ofKey, numbers, `order of ${key}`)
  }
})

test('B1 who reads all streams waits for positions that a running transaction took, and passes none over', async () => {
  await using world = await createWorld()
  const store = postgresIn(world)
  world.defer(() => store.close())
  await store.open()
  const at = 1
  const gate = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  const slow = store.transaction(async (tx) => {
    await append(tx, 'slow', [{ type: 'first', data: 1 }], { expectedVersion: 'none', at })
    begun.resolve()
    await gate.promise
  })
  await begun.promise
  await store.transaction((tx) => append(tx, 'quick', [{ type: 'second', data: 2 }], { expectedVersion: 'none', at }))
  const look = (afterPosition: number) => store.read((reader) => readAll(reader, { afterPosition, limit: 10 }))
  const before = await look(0)
  assert.deepEqual(before.events, [], 'the later position is there, and the earlier one is still to come')
  gate.resolve()
  await slow
  const after = await look(before.position)
  assert.deepEqual(
    after.events.map(({ stream }) => stream),
    ['slow', 'quick'],
  )
})

test('G3 a statement that failed and was not undone is the commit’s error, also where nobody awaited it', async () => {
  await using world = await createWorld()
  const store = postgresIn(world)
  world.defer(() => store.close())
  await store.open()
  await store.migrate('item', 'create table item (id text primary key)')
  const swallowing = store.transaction(async (tx) => {
    await tx.insert('item', [{ id: 'a' }])
    await Promise.resolve(tx.insert('item', [{ id: 'a' }])).catch(() => {})
  })
  await assert.rejects(swallowing, /duplicate key/)
  const careless = store.transaction((tx) => {
    void tx.run(sql`insert into no_such_table (id) values (${'a'})`)
  })
  await assert.rejects(careless, /no_such_table/)
  const rows = await store.read((reader) => reader.all(sql`select id from item`))
  assert.deepEqual(rows, [])
})

test('G4 of two transactions that wait for each other one is undone as unavailable, the other commits', async () => {
  await using world = await createWorld()
  const store = postgresIn(world)
  world.defer(() => store.close())
  await store.open()
  await store.migrate('item', 'create table item (id text primary key, n bigint not null)')
  await store.transaction((tx) =>
    tx.insert('item', [
      { id: 'a', n: 0 },
      { id: 'b', n: 0 },
    ]),
  )
  const bothHold = Promise.withResolvers<void>()
  let holding = 0
  const cross = (first: string, second: string) =>
    store.transaction(async (tx) => {
      await tx.run(sql`update item set n = n + 1 where id = ${first}`)
      if (++holding === 2) bothHold.resolve()
      await bothHold.promise
      await tx.run(sql`update item set n = n + 1 where id = ${second}`)
    })
  const outcomes = await Promise.allSettled([cross('a', 'b'), cross('b', 'a')])
  const refused = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason)
  assert.equal(refused.length, 1)
  assert.ok(refused[0] instanceof UnavailableError)
  assert.equal(refused[0].code, 'store_unavailable')
})

test('C9 a connection that the server ends is unavailable, and the next transaction has another', async () => {
  await using world = await createWorld()
  const store = postgresIn(world)
  world.defer(() => store.close())
  await store.open()
  const ended = store.transaction(async (tx) => {
    await tx.run(sql`select pg_terminate_backend(pg_backend_pid())`)
  })
  await assert.rejects(ended, { name: 'UnavailableError', code: 'store_unavailable' })
  const row = await store.transaction((tx) => tx.get<{ one: number }>(sql`select 1 as one`))
  assert.equal(row?.one, 1)
})

const refusals: [what: string, url: string, code: string, says: RegExp][] = [
  ['a missing database', '/no_such_database', 'store_refused', /createdb/],
  ['a port where nobody listens', 'postgres://postgres@127.0.0.1:1/test', 'store_unavailable', /start it/],
]
for (const [what, url, code, says] of refusals) {
  test(`${what} is ${code}, and the message says what to do`, () =>
    inWorld(async (world) => {
      const store = postgresStore(new URL(url, sharedPostgresUrl).href)
      world.defer(() => store.close())
      await assert.rejects(store.open(), (error: Error & { code: string }) => {
        assert.equal(error.code, code)
        assert.match(error.message, says)
        return true
      })
    }))
}

test('a user who may not create the schema is refused, and told to grant it', async () => {
  await using world = await createWorld()
  const role = `${world.name}_guest`
  const admin = new Client({ connectionString: sharedPostgresUrl })
  await admin.connect()
  world.defer(async () => {
    await admin.query(`drop role if exists ${role}`)
    await admin.end()
  })
  await admin.query(`create role ${role} login`)
  const url = new URL(sharedPostgresUrl)
  url.username = role
  const store = postgresStore(url.href, { schema: `${world.name}_other` })
  world.defer(() => store.close())
  await assert.rejects(store.open(), { code: 'store_refused', message: /grant CREATE/ })
})

test('a URL of another kind, a schema that is no name and a limit that is none are refused at once', () => {
  const wrong = { code: 'invalid_argument' }
  assert.throws(() => postgresStore('mysql://localhost/test'), wrong)
  assert.throws(() => postgresStore(sharedPostgresUrl, { schema: 'a; drop' }), wrong)
  assert.throws(() => postgresStore(sharedPostgresUrl, { poolMax: 0 }), wrong)
})
