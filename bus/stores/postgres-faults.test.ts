/** What PostgreSQL refuses, what it takes away for a while, and what its concurrent transactions do to an order. */
import assert from 'node:assert/strict'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
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
import { postgresIn } from '../testing/postgres-world.ts'
import { needs } from '../testing/servers/needs.ts'
import { startPostgres } from '../testing/servers/postgres.ts'
import { createWorld, inWorld } from '../testing/world.ts'
import { memoryBroker, memoryTransport } from '../transports/memory.ts'
import { postgresStore } from './postgres.ts'
import { sqliteStore } from './sqlite.ts'

const { url: sharedUrl, skip } = await needs('postgres')

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
  const client = new Client({ connectionString: sharedUrl, options: `-c search_path=${schema}` })
  client.on('error', () => {})
  await client.connect()
  await client.query('begin')
  await client.query(statement)
  return client
}

test(`F3 B1 ${WRITERS} writers with delays and roll-backs beside transactions that stand still: nothing skipped, each key in order`, {
  skip,
}, async () => {
  await using world = await createWorld()
  const broker = memoryBroker({})
  const writerStore = postgresIn(world, sharedUrl, 'writer', { poolMax: 8 })
  const hearerStore = postgresIn(world, sharedUrl, 'hearer')
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

test('B1 who reads all streams waits for positions that a running transaction took, and passes none over', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = postgresIn(world, sharedUrl)
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

test('G3 a statement that failed and was not undone is the commit’s error, also where nobody awaited it', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = postgresIn(world, sharedUrl)
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

test('G4 of two transactions that wait for each other one is undone as unavailable, the other commits', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = postgresIn(world, sharedUrl)
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

test('C9 a connection that the server ends is unavailable, and the next transaction has another', {
  skip,
}, async () => {
  await using world = await createWorld()
  const store = postgresIn(world, sharedUrl)
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
  test(`${what} is ${code}, and the message says what to do`, { skip }, () =>
    inWorld(async (world) => {
      const store = postgresStore(new URL(url, sharedUrl).href)
      world.defer(() => store.close())
      await assert.rejects(store.open(), (error: Error & { code: string }) => {
        assert.equal(error.code, code)
        assert.match(error.message, says)
        return true
      })
    }),
  )
}

test('a user who may not create the schema is refused, and told to grant it', { skip }, async () => {
  await using world = await createWorld()
  const role = `${world.name}_guest`
  const admin = new Client({ connectionString: sharedUrl })
  await admin.connect()
  world.defer(async () => {
    await admin.query(`drop role if exists ${role}`)
    await admin.end()
  })
  await admin.query(`create role ${role} login`)
  const url = new URL(sharedUrl)
  url.username = role
  const store = postgresStore(url.href, { schema: `${world.name}_other` })
  world.defer(() => store.close())
  await assert.rejects(store.open(), { code: 'store_refused', message: /grant CREATE/ })
})

test('a URL of another kind, a schema that is no name and a limit that is none are refused at once', () => {
  const wrong = { code: 'invalid_argument' }
  assert.throws(() => postgresStore('mysql://localhost/test'), wrong)
  assert.throws(() => postgresStore('postgres://localhost/test', { schema: 'a; drop' }), wrong)
  assert.throws(() => postgresStore('postgres://localhost/test', { poolMax: 0 }), wrong)
  assert.throws(() => postgresStore('postgres://localhost/test', { readersMax: 1 }), /from 2 to/)
  assert.throws(
    () => postgresStore('postgres://localhost/test?sslmod=verify-full'),
    /'sslmod' .* there are ssl, sslmode/,
  )
  assert.throws(
    () => postgresStore('postgres://localhost/test?sslmode=on'),
    /sslmode=on .* there are disable, .*verify-full/,
  )
  void postgresStore('postgres://localhost/test?sslmode=verify-full&application_name=x').close()
})

test('a wrong password is store_refused, and the message says where to correct it', { skip }, async () => {
  await using world = await createWorld()
  const rules = join(world.directory, 'pg_hba.conf')
  await writeFile(rules, 'host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n')
  await chmod(world.directory, 0o755) // the server runs as another user
  await using server = await startPostgres({ settings: { hba_file: rules } })
  const admin = new Client({ connectionString: server.url })
  await admin.connect()
  await admin.query(`create role guest login superuser password 'right'`)
  await admin.end()
  const storeWith = (password: string) => {
    const url = new URL(server.url)
    url.username = 'guest'
    url.password = password
    return postgresStore(url.href)
  }
  const [wrong, right] = [storeWith('wrong'), storeWith('right')]
  world.defer(() => Promise.all([wrong.close(), right.close()]))
  await assert.rejects(wrong.open(), (error: Error & { code: string }) => {
    assert.equal(error.code, 'store_refused')
    assert.match(error.message, /password is wrong: correct it in the URL/)
    assert.doesNotMatch(error.message, /guest:wrong/)
    return true
  })
  await right.open()
})

test('C9 a server that is stopped while a bus runs, and started again: no attempt is counted, each message has one effect', {
  skip,
}, async () => {
  await using world = await createWorld()
  await using server = await startPostgres()
  const broker = memoryBroker({})
  const writerStore = sqliteStore(':memory:')
  const hearerStore = postgresStore(server.url, { schema: 'hearer' })
  const transport = () => memoryTransport(broker)
  const writer = createBus({ service: 'writer', store: writerStore, transport: transport(), events: [counted] })
  const hearer = createBus({ service: 'hearer', store: hearerStore, transport: transport(), events: [counted] })
  world.defer(async () => {
    await Promise.all([writer.close(), hearer.close()])
    await Promise.all([writerStore.close(), hearerStore.close()])
  })
  await hearerStore.open()
  await hearerStore.migrate(
    'heard',
    'create table heard (key text not null, n bigint not null, attempt bigint not null)',
  )
  hearer.subscribe(counted, async ({ key, n }, { tx, attempt }) => {
    await tx.insert('heard', [{ key, n, attempt }])
  })
  await hearer.declare()
  await writer.start()
  await hearer.start()
  const heard = () =>
    hearerStore.read((reader) => reader.all<Count & { attempt: number }>(sql`select * from heard order by key, n`))
  let said = 0
  const say = async (count: number) => {
    for (let n = 0; n < count; n++, said++) await writer.publish(counted, { key: `k${said % 7}`, n: said })
  }
  await say(100)
  await eventually(async () => (await heard()).length > 0, { message: 'nothing was heard' })
  const saying = say(200)
  await server.stop()
  await saying
  await say(1)
  await eventually(() => !hearer.ready(), { message: 'the bus did not notice that its database is away' })
  await server.start()
  await eventually(async () => hearer.ready() && (await heard()).length === said, {
    timeoutMs: 30_000,
    message: 'not everything was heard after the server came back',
  })
  const rows = await heard()
  assert.deepEqual(
    rows.map(({ n }) => n).toSorted((a, b) => a - b),
    Array.from({ length: said }, (_, n) => n),
  )
  assert.ok(rows.every(({ attempt }) => attempt === 1))
  const [subscription] = (await hearer.status()).subscriptions
  assert.deepEqual(
    { failed: subscription!.failedTotal, deferred: subscription!.deferred, dead: subscription!.deadLetters },
    { failed: 0, deferred: 0, dead: 0 },
  )
})
