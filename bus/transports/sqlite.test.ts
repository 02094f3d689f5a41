import assert from 'node:assert/strict'
import { once } from 'node:events'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { createBus } from '../bus.ts'
import { silentLog } from '../log.ts'
import type { WireMessage } from '../message.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import { virtualClock } from '../testing/virtual-clock.ts'
import { inWorld, type World } from '../testing/world.ts'
import type { Delivery, Transport } from '../transport.ts'
import { type SqliteTransportOptions, sqliteTransport } from './sqlite.ts'
import { Log } from './sqlite-log.ts'

/** Where the broker's file of this world is. */
const fileIn = (world: World) => join(world.directory, 'broker.db')

transportSuite('sqlite', {
  leasesFollowClock: true,
  open: (world, { clock }) => sqliteTransport(fileIn(world), { clock }),
})

const RETENTION_MS = 20_000
const wire = (n: number): WireMessage => ({
  id: `id-${n}`,
  type: 'a.b',
  key: `k${n % 5}`,
  headers: {},
  body: 'x'.repeat(1_000),
})
const series = (from: number, count: number) => Array.from({ length: count }, (_, index) => wire(from + index))

/** A process on that file; it ends with the world. */
async function open(world: World, options: SqliteTransportOptions = {}): Promise<Transport> {
  const transport = sqliteTransport(fileIn(world), options)
  world.defer(() => transport.close())
  await transport.open()
  return transport
}

/** One whose subscription `all` takes everything. */
async function openWithAll(world: World, options: SqliteTransportOptions = {}): Promise<Transport> {
  const transport = await open(world, options)
  await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'beginning' })
  return transport
}

/** How many rows the log has, counted by another connection. */
function rowsIn(path: string): number {
  const database = new DatabaseSync(path, { readOnly: true })
  const { count } = database.prepare('select count(*) as count from log').get() as { count: number }
  database.close()
  return count
}

test('B10 the log forgets after retentionMs what every subscription acknowledged, and nothing else', () =>
  inWorld(async (world) => {
    const path = fileIn(world)
    const clock = virtualClock()
    const transport = await open(world, { clock, retentionMs: RETENTION_MS })
    for (const name of ['quick', 'slow'])
      await transport.declare({ name, bindings: [{ kind: 'fanout' }], from: 'beginning' })
    await transport.publish(series(0, 5_000))
    const quick = await consume(transport, 'quick')
    await quick.until(5_000)
    await clock.advance(2 * RETENTION_MS)
    assert.equal(rowsIn(path), 5_000, 'one subscription has not had them')
    const slow = await consume(transport, 'slow')
    await slow.until(5_000)
    await clock.advance(60_000)
    await eventually(() => rowsIn(path) === 0, { message: 'the log was not trimmed' })
    await transport.publish(series(5_000, 10))
    await slow.until(5_010)
    assert.equal(new Set(slow.ids()).size, 5_010, 'positions did not begin anew')
  }))

test('B10 beyond logBytesMax publishing is refused as log_full, and taken again once there is room', () =>
  inWorld(async (world) => {
    const clock = virtualClock()
    const transport = await openWithAll(world, { clock, retentionMs: 1, logBytesMax: 500_000 })
    await transport.publish(series(0, 1_000))
    await clock.advance(5_000)
    await assert.rejects(transport.publish(series(1_000, 1)), { code: 'log_full', name: 'UnavailableError' })
    const all = await consume(transport, 'all')
    await all.until(1_000)
    const accepted = async () => {
      await clock.advance(5_000)
      return transport.publish(series(1_000, 1)).then(
        () => true,
        () => false,
      )
    }
    await eventually(accepted, { message: 'there was room, and publishing was still refused' })
    await all.until(1_001)
  }))

test('B11 a broker file that another program locks for a while: the process lives on, and publishing resumes', () =>
  inWorld(async (world) => {
    const clock = virtualClock()
    const transport = await openWithAll(world, { clock, leaseMs: 6_000 })
    const all = await consume(transport, 'all')
    await transport.publish(series(0, 10))
    await all.until(10)
    const other = new DatabaseSync(fileIn(world))
    world.defer(() => other.close())
    other.exec('begin immediate')
    const publishing = transport.publish(series(10, 10))
    await clock.advance(2_000) // a heartbeat finds the lock
    other.exec('commit')
    await publishing
    await transport.publish(series(20, 10))
    await clock.advance(10_000)
    await all.until(30)
    assert.equal(new Set(all.ids()).size, 30)
  }))

/** So many positions a process may read before the file hears of it, or twice what it has just read (E7). */
const AHEAD_MIN = 2_000
const LEASE_MS = 5_000

/** Two processes on one file; the first stands still as soon as its clock does. */
async function heirs(world: World) {
  const [dyingClock, clock] = [virtualClock(), virtualClock()]
  const dying = await openWithAll(world, { clock: dyingClock, leaseMs: LEASE_MS })
  const options = { clock, leaseMs: LEASE_MS }
  const [live, last] = [await open(world, options), await open(world, options)]
  return { dying, live, last, dyingClock, clock }
}

test('B11 B12 a bus that closes while the file is locked closes all the same, and what it had is delivered again', () =>
  inWorld(async (world) => {
    const leaving = await open(world, { leaseMs: 1_500 })
    const store = sqliteStore(':memory:')
    world.defer(() => store.close())
    const bus = createBus({ service: 'leaving', transport: leaving, store, log: silentLog })
    for (const name of ['one', 'two']) bus.subscribe('#', () => {}, { name })
    await bus.start()
    const names = await leaving.subscriptions()
    assert.equal(names.length, 2)
    const reading = await openWithAll(world) // its process has another subscription, and lives
    const other = new DatabaseSync(fileIn(world))
    other.exec('begin immediate')
    await bus.close()
    other.exec('rollback')
    other.close()
    await reading.publish(series(0, 64))
    const ofAll = (found: { ids(): string[] }, who: string) =>
      eventually(() => new Set(found.ids()).size === 64, { timeoutMs: 10_000, message: `${who} has all` })
    await ofAll(await consume(reading, names[0]!), 'another process')
    await ofAll(await consume(leaving, names[1]!), 'the same process')
  }))

test('E7 B8 only what a dead process may have begun is marked redelivered, and all of that', () =>
  inWorld(async (world) => {
    const [windowMax, early, late] = [20, 6_000, 30_000]
    const { dying, live, dyingClock, clock } = await heirs(world)
    const messages = series(0, early + late)
    await dying.publish(messages.slice(0, early))
    // Its first message is never done, so the cursor of that shard stays; everything else goes on far beyond the window.
    const begun = await consume(dying, 'all', { ack: false, windowMax })
    await begun.until(1)
    const stuck = begun.ids()[0]!
    const acked = new Set<string>()
    for (let seen = 0; begun.deliveries.length < early; ) {
      const done = begun.deliveries.slice(seen).filter(({ message: { id } }) => id !== stuck)
      seen = begun.deliveries.length
      for (const { message } of done) acked.add(message.id)
      begun.consumer.ack(done)
      await dyingClock.advance(25)
      if (begun.deliveries.length < early) await begun.until(Math.min(early, seen + 1))
    }
    const unfinished = begun.ids().filter((id) => !acked.has(id))
    assert.ok(unfinished.length > 1 && unfinished.length <= windowMax)
    await live.publish(messages.slice(early))
    const taker = await consume(live, 'all')
    await clock.advance(dyingClock.now() - clock.now() + 2 * LEASE_MS)
    const wanted = [...unfinished, ...messages.slice(early).map(({ id }) => id)]
    await taker.untilIds((seen) => wanted.every((id) => seen.has(id)))
    const marked = new Set(taker.deliveries.filter(({ redelivered }) => redelivered).map(({ message }) => message.id))
    assert.deepEqual(
      unfinished.filter((id) => !marked.has(id)),
      [],
      'the process may have died of these',
    )
    const innocent = messages.slice(early).filter(({ id }) => marked.has(id))
    assert.ok(innocent.length <= 2 * AHEAD_MIN, `${innocent.length} of ${late} came after it had died`)
  }))

test('E7 B8 nothing is begun beyond what the file says, however fast it is read', () =>
  inWorld(async (world) => {
    const { dying, live, clock } = await heirs(world)
    const messages = series(0, 40_000)
    // It takes everything into its hand as it comes, and dies before it is done with any.
    const begun = await consume(dying, 'all', { ack: false, windowMax: messages.length })
    await live.publish(messages)
    await begun.until(messages.length / 2)
    const read = new Set(begun.ids())
    const taker = await consume(live, 'all')
    await clock.advance(2 * LEASE_MS)
    await taker.until(messages.length)
    const unmarked = taker.deliveries.filter(({ redelivered }) => !redelivered)
    assert.deepEqual(
      unmarked.filter(({ message }) => read.has(message.id)).map(({ message }) => message.id),
      [],
    )
  }))

test('E7 B8 what a dead process may have begun stays marked where the next one leaves before it', () =>
  inWorld(async (world) => {
    const { dying, live, last, clock } = await heirs(world)
    const messages = series(0, 4_000).map((message) => ({ ...message, key: 'one' }))
    await dying.publish(messages.slice(0, 100))
    const begun = await consume(dying, 'all', { ack: false, windowMax: 100 })
    await begun.until(100)
    await live.publish(messages.slice(100))
    const between = await consume(live, 'all', { ack: false, windowMax: 1 })
    await clock.advance(2 * LEASE_MS)
    await between.until(1)
    between.consumer.ack(between.deliveries)
    await between.until(2)
    between.consumer.ack(between.deliveries)
    await between.close()
    const heir = await consume(last, 'all')
    await heir.untilIds((seen) => seen.has(messages.at(-1)!.id))
    const first = messages.findIndex(({ id }) =>
      heir.deliveries.some((one) => one.message.id === id && !one.redelivered),
    )
    assert.ok(first >= 100 && first <= 100 + AHEAD_MIN, `message ${first} is the first without a mark`)
  }))

test('E7 who leaves in order leaves nothing that is suspected, whatever was still being written', () =>
  inWorld(async (world) => {
    const transport = await openWithAll(world)
    for (let round = 0; round < 20; round++) {
      await transport.publish(series(round * 50, 50))
      const one = await consume(transport, 'all')
      await one.until(50)
      // Its cursors are on their way to the file with what is published.
      const publishing = transport.publish(series(100_000 + round, 1))
      await new Promise((resolve) => setImmediate(resolve))
      await one.close()
      await publishing
      assert.deepEqual(
        one.deliveries.filter(({ redelivered }) => redelivered),
        [],
        `round ${round}`,
      )
      const rest = await consume(transport, 'all')
      await rest.until(1)
      await rest.close()
      assert.ok(new Set(rest.ids()).size <= 1, 'what was acknowledged does not come again')
    }
  }))

test('E7 B8 what members that join and leave under load are given lies within what the file says of it', () =>
  inWorld(async (world) => {
    const options = { leaseMs: 600 }
    const speaker = await openWithAll(world, options)
    const guests = [await open(world, options), await open(world, options)]
    const file = new DatabaseSync(fileIn(world), { readOnly: true })
    world.defer(() => file.close())
    const shareOf = file.prepare("select epoch, position, reach from share where subscription = 'all' and shard = ?")
    const seen = new Set<string>()
    const wrong: string[] = []
    const before = new Map<number, { epoch: number; position: number; reach: number }>()
    const look = (deliveries: Delivery[]) => {
      for (const { message, lease } of deliveries) {
        seen.add(message.id)
        const share = shareOf.get(lease.shard) as { epoch: number; position: number; reach: number }
        const position = Number(message.id.slice('id-'.length)) + 1 // one publisher, and nothing was there before
        if (share.epoch === lease.epoch && position > share.reach) wrong.push(`${position} is beyond ${share.reach}`)
        const earlier = before.get(lease.shard)
        if (earlier?.epoch === share.epoch && (share.position < earlier.position || share.reach < earlier.reach))
          wrong.push(`${JSON.stringify(share)} after ${JSON.stringify(earlier)}`)
        before.set(lease.shard, share)
      }
    }
    const COUNT = 60_000
    const publishing = (async () => {
      for (let from = 0; from < COUNT; from += 2_000) await speaker.publish(series(from, 2_000))
    })()
    const staying = await consume(speaker, 'all', { windowMax: 4_000, onReceive: look })
    for (let round = 0; seen.size < COUNT && round < 1_000; round++) {
      // It is done with nothing, so what it was given lies far behind what the others have read.
      const guest = await consume(guests[round % 2]!, 'all', {
        windowMax: 4_000,
        onReceive: look,
        ack: false,
      })
      await Promise.race([guest.until(1_000), publishing])
      await guest.close()
    }
    await publishing
    await staying.until(() => seen.size === COUNT)
    assert.deepEqual(wrong, [])
  }))

test('E7 B8 where the log is full, what is in it is read on, however often publishing is tried', () =>
  inWorld(async (world) => {
    const clock = virtualClock()
    const transport = await openWithAll(world, { clock, logBytesMax: 500_000 })
    const all = await consume(transport, 'all', { ack: false, windowMax: 10 })
    await transport.publish(series(0, 3 * AHEAD_MIN))
    await all.until(10)
    await clock.advance(LEASE_MS)
    let refused = 0
    let over = false
    world.defer(() => {
      over = true
    })
    const trying = (async () => {
      while (!over) await transport.publish(series(0, 1)).catch(() => (refused += 1))
    })()
    all.acksItself()
    all.consumer.ack(all.deliveries)
    await all.until(3 * AHEAD_MIN)
    over = true
    await trying
    assert.ok(refused > 0)
  }))

test('E7 a file of the version before reaches were kept: several processes open it at the same time', () =>
  inWorld(async (world) => {
    const OPENERS = 4
    const opener = `
      import { workerData } from 'node:worker_threads'
      import { Log } from ${JSON.stringify(new URL('sqlite-log.ts', import.meta.url).href)}
      const { path, ready } = workerData
      Atomics.add(ready, 0, 1)
      while (Atomics.load(ready, 0) < ${OPENERS});
      Log.open(path).database.close()`
    for (let round = 0; round < 10; round++) {
      const path = join(world.directory, `broker-${round}.db`)
      Log.open(path).database.close()
      const old = new DatabaseSync(path)
      old.exec('alter table share drop column reach')
      old.close()
      const ready = new Int32Array(new SharedArrayBuffer(4))
      const exits = Array.from({ length: OPENERS }, async () => {
        const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(opener)}`), {
          workerData: { path, ready },
        })
        await once(worker, 'exit')
      })
      await Promise.all(exits)
      const now = new DatabaseSync(path)
      assert.ok(now.prepare("select 1 from pragma_table_info('share') where name = 'reach'").get())
      now.close()
    }
  }))

test('E7 B11 positions that were trimmed are a gap, and what stands behind it is delivered', () =>
  inWorld(async (world) => {
    const transport = await openWithAll(world)
    const all = await consume(transport, 'all')
    const other = new DatabaseSync(fileIn(world))
    world.defer(() => other.close())
    other.exec("update sqlite_sequence set seq = 1000000 where name = 'log'")
    if (other.prepare('select 1 from sqlite_sequence').get() === undefined)
      other.exec("insert into sqlite_sequence (name, seq) values ('log', 1000000)")
    await transport.publish(series(0, 100))
    await all.until(100)
  }))
