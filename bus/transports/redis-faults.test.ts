/** What can go wrong with a Redis server, on real ones that are killed, cut off, trimmed and emptied. */
import assert from 'node:assert/strict'
import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createClient } from 'redis'
import type { Log } from '../log.ts'
import type { WireMessage } from '../message.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { needs } from '../testing/servers/needs.ts'
import { type ProxyOptions, startProxy } from '../testing/servers/proxy.ts'
import { type RedisOptions, startRedis } from '../testing/servers/redis.ts'
import type { Server } from '../testing/servers/server.ts'
import { inWorld, type World } from '../testing/world.ts'
import type { Delivery, Lease, SubscriptionSpec, Transport } from '../transport.ts'
import { type RedisTransportOptions, redisTransport } from './redis.ts'

const { skip } = await needs('redis')
const TEST_TIMEOUT_MS = 60_000
const SETTLES_WITHIN_MS = 15_000
/** Short, so that a test need not wait long for what a lease decides. */
const LEASE_MS = 900
/** A busy disk can hold a server up for longer than the shorter one, which is for what is silent. */
const REPLY_TIMEOUT_MS = 1_500
const SILENT_AFTER_MS = 500
/** A process may begin so many entries of a shard before the server hears of it (S8). */
const REACH_AHEAD = 16

const everything = (name: string): SubscriptionSpec => ({ name, bindings: [{ kind: 'fanout' }], from: 'beginning' })
const wire = (n: number, keys = 10, body = `${n}`): WireMessage => ({
  id: `id-${n}`,
  type: 'a.b',
  key: `k${n % keys}`,
  headers: {},
  body,
})
const series = (from: number, count: number, keys = 10) =>
  Array.from({ length: count }, (_, index) => wire(from + index, keys))
const settles = <T>(check: () => T | Promise<T>, message: string) =>
  eventually(check, { timeoutMs: SETTLES_WITHIN_MS, message })

type Line = { level: 'info' | 'warn' | 'error'; fields: Record<string, unknown>; text: string }

/** One test's server, what was logged, and a raw client. */
class Place {
  readonly world: World
  readonly server: Server
  readonly lines: Line[] = []

  constructor(world: World, server: Server) {
    this.world = world
    this.server = server
  }

  get log(): Log {
    const line = (level: Line['level']) => (fields: object, text: string) =>
      void this.lines.push({ level, fields: fields as Record<string, unknown>, text })
    return { info: line('info'), warn: line('warn'), error: line('error') }
  }

  said(level: Line['level'], pattern: RegExp): Line | undefined {
    return this.lines.find((line) => line.level === level && pattern.test(line.text))
  }

  make(options: RedisTransportOptions = {}, url = this.server.url): Transport {
    const settings = { prefix: 'p', shards: 2, leaseMs: LEASE_MS, replyTimeoutMs: REPLY_TIMEOUT_MS, log: this.log }
    const transport = redisTransport(url, { ...settings, ...options })
    this.world.defer(() => transport.close())
    return transport
  }

  async open(options?: RedisTransportOptions, url?: string): Promise<Transport> {
    const transport = this.make(options, url)
    // On a busy disk a server's first answer takes longer than REPLY_TIMEOUT_MS: it is asked again, as bus.start() is.
    const asked = () =>
      transport.open().then(
        () => ({ error: null }),
        (error) => (error.code === 'transport_unavailable' ? null : { error }),
      )
    const { error } = (await settles(asked, 'it could not be opened'))!
    if (error) throw error
    return transport
  }

  async proxy(onData?: ProxyOptions['onData']) {
    const proxy = await startProxy({ target: this.server.port, ...(onData && { onData }) })
    this.world.defer(() => proxy[Symbol.asyncDispose]())
    return proxy
  }

  /** What an operator could do by hand. */
  async raw(...args: string[]): Promise<unknown> {
    const client = createClient({ url: this.server.url, RESP: 2, socket: { reconnectStrategy: false } })
    client.on('error', () => {})
    await client.connect()
    try {
      return await client.sendCommand(args)
    } finally {
      client.destroy()
    }
  }
}

function check(title: string, run: (place: Place) => Promise<void>, options?: RedisOptions): void {
  test(`redis: ${title}`, { timeout: TEST_TIMEOUT_MS, skip }, () =>
    inWorld(async (world) => {
      const server = await startRedis(options)
      world.defer(() => server[Symbol.asyncDispose]())
      await run(new Place(world, server))
    }),
  )
}

function assertOrderPerKey(deliveries: readonly Delivery[]): void {
  const last = new Map<string | null, number>()
  const seen = new Set<string>()
  for (const { message } of deliveries) {
    if (seen.has(message.id)) continue
    seen.add(message.id)
    const n = Number(message.body)
    assert.ok(n > (last.get(message.key) ?? -1), `${message.key}: ${n} after ${last.get(message.key)}`)
    last.set(message.key, n)
  }
}

// Trimming ------------------------------------------------------------------------------------------------------------

check('F12 entries that somebody trims before they were read are missed at once, counted and named', async (place) => {
  const transport = await place.open({ shards: 1 })
  await transport.declare(everything('all'))
  await transport.publish(series(0, 100))
  await place.raw('XTRIM', '{p}:log:0', 'MAXLEN', '30')
  const inbox = await consume(transport, 'all')
  await inbox.until(30)
  const line = (await settles(() => place.said('error', /removed before/), 'nothing was said about the loss'))!
  assert.equal(line.fields.lost, 70)
  assert.equal(line.fields.stream, '{p}:log:0')
  assert.equal(line.fields.after, '0-0')
  assert.deepEqual(
    inbox.ids(),
    series(70, 30).map(({ id }) => id),
  )
})

check(
  'F12 trimmed under a consumer whose window is full: it hears of the loss, and of every message left',
  async (place) => {
    const transport = await place.open({ shards: 1 })
    await transport.declare(everything('all'))
    await transport.publish(series(0, 100))
    const inbox = await consume(transport, 'all', { windowMax: 10, ack: false })
    await inbox.until(10)
    await place.raw('XTRIM', '{p}:log:0', 'MAXLEN', '20')
    inbox.acksItself()
    inbox.consumer.ack(inbox.deliveries)
    await inbox.untilIds((seen) => seen.has('id-99'))
    const counted = () => {
      const lost = place.lines.reduce((sum, { fields }) => sum + Number(fields.lost ?? 0), 0)
      return (
        lost + inbox.deliveries.length === 100 || assert.fail(`${lost} counted, ${inbox.deliveries.length} arrived`)
      )
    }
    await settles(counted, 'what was lost was not counted')
  },
)

check('B10 its own trimming takes what all have acknowledged and is old, and nothing else', async (place) => {
  const transport = await place.open({ shards: 1, leaseMs: 300, retentionMs: 1 })
  for (const name of ['quick', 'slow']) await transport.declare(everything(name))
  await transport.publish(series(0, 1_000))
  const quick = await consume(transport, 'quick')
  await quick.until(1_000)
  await settles(async () => (await transport.backlog('quick')).waiting === 0, 'not acknowledged')
  const length = async () => (await place.raw('XLEN', '{p}:log:0')) as number
  await transport.publish(series(1_000, 1))
  await quick.until(1_001)
  assert.equal(await length(), 1_001, 'one subscription has not had them')
  const slow = await consume(transport, 'slow')
  await slow.until(1_001)
  await settles(async () => (await length()) < 200, 'the stream was not trimmed')
  await transport.publish(series(1_001, 10))
  await slow.until(1_011)
  assert.equal(new Set(slow.ids()).size, 1_011)
  assert.equal(place.said('error', /removed/), undefined, 'its own trimming is no loss')
})

check(
  'B10 beyond logEntriesMax publishing is refused as log_full, whole, and taken again once there is room',
  async (place) => {
    const transport = await place.open({ shards: 1, leaseMs: 300, retentionMs: 1, logEntriesMax: 300 })
    await transport.declare(everything('all'))
    await transport.publish(series(0, 290))
    await assert.rejects(transport.publish(series(290, 20)), { code: 'log_full', name: 'UnavailableError' })
    assert.equal(await place.raw('XLEN', '{p}:log:0'), 290, 'nothing of a refused batch is written')
    const all = await consume(transport, 'all')
    await all.until(290)
    const accepted = () =>
      transport.publish(series(290, 20)).then(
        () => true,
        () => false,
      )
    await settles(accepted, 'there was room, and publishing was still refused')
    await all.until(310)
  },
)

check('B10 a server without memory refuses the batch whole, as log_full, and loses nothing', async (place) => {
  const transport = await place.open({ shards: 1 })
  await transport.declare(everything('all'))
  await transport.publish(series(0, 10))
  await place.raw('CONFIG', 'SET', 'maxmemory', '1mb')
  await assert.rejects(transport.publish(series(10, 10)), { code: 'log_full', name: 'UnavailableError' })
  await place.raw('CONFIG', 'SET', 'maxmemory', '0')
  assert.equal(await place.raw('XLEN', '{p}:log:0'), 10)
  await transport.publish(series(10, 10))
  const all = await consume(transport, 'all')
  await all.until(20)
  assertOrderPerKey(all.deliveries)
})

// What a crash costs ---------------------------------------------------------------------------------------------------

check('B11 appendfsync always: it says durable, and warns of nothing', async (place) => {
  const transport = await place.open({ requireDurable: true })
  assert.equal(transport.capabilities.durable, true)
  assert.equal(place.said('warn', /crash/), undefined)
})

check(
  'B11 appendfsync everysec: it says not durable, warns what a crash may cost, and requireDurable refuses',
  async (place) => {
    const transport = await place.open()
    assert.equal(transport.capabilities.durable, false)
    assert.ok(place.said('warn', /appendfsync everysec: the last second/))
    await assert.rejects(place.open({ requireDurable: true }), { code: 'transport_refused', message: /requireDurable/ })
  },
  { appendfsync: 'everysec' },
)

check(
  'B11 appendonly no: it says not durable, warns that a crash may cost everything, and requireDurable refuses',
  async (place) => {
    const transport = await place.open()
    assert.equal(transport.capabilities.durable, false)
    assert.ok(place.said('warn', /appendonly no: .*everything/))
    await assert.rejects(place.open({ requireDurable: true }), { code: 'transport_refused', message: /appendonly yes/ })
  },
  { appendonly: false },
)

check('B11 waitReplicas: without the replica nothing is confirmed', async (place) => {
  const transport = await place.open({ waitReplicas: 1 })
  await assert.rejects(transport.publish(series(0, 1)), { code: 'transport_unavailable', message: /0 of 1 replicas/ })
})

check('F12 killed twice under 10,000 messages: nothing is lost, the order of each key stands', async (place) => {
  const transport = await place.open()
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all', { windowMax: 200 })
  const publishAll = async () => {
    for (let from = 0; from < 10_000; from += 100) {
      const batch = series(from, 100, 50)
      await settles(
        () =>
          transport.publish(batch).then(
            () => true,
            (error) => assert.equal(error.code, 'transport_unavailable'),
          ),
        'publishing did not come back',
      )
    }
  }
  const publishing = publishAll()
  for (const mark of [2_000, 6_000]) {
    await inbox.until(() => inbox.deliveries.length >= mark)
    await place.server.kill()
    await place.server.start()
  }
  await publishing
  await inbox.untilIds((seen) => seen.size === 10_000)
  assertOrderPerKey(inbox.deliveries)
  await settles(async () => (await transport.backlog('all')).waiting === 0, 'something still waits')
  assert.equal(place.said('error', /./), undefined, 'nothing was lost, so nothing is called lost')
})

check(
  'B11 a server that comes back empty: it is said loudly, subscriptions are made anew, and messages flow',
  async (place) => {
    const transport = await place.open()
    await transport.declare(everything('all'))
    const inbox = await consume(transport, 'all')
    await transport.publish(series(0, 50))
    await inbox.until(50)
    const epochs = new Map(inbox.deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
    await place.server.kill()
    await place.server.start()
    await settles(() => transport.publish(series(50, 50)).then(() => true), 'publishing did not come back')
    await inbox.untilIds((seen) => seen.size === 100)
    const line = (await settles(() => place.said('error', /the server lost what it held/), 'nothing was said'))!
    assert.match(line.text, /'all' is made anew/)
    for (const { lease } of inbox.deliveries.slice(50))
      assert.ok(lease.epoch > epochs.get(lease.shard)!, 'or everything would be fenced for ever')
  },
  { appendonly: false },
)

check(
  'F11 a server that comes back without its last entries: it is said, and nothing new is skipped',
  async (place) => {
    const transport = await place.open({ shards: 1 })
    await transport.declare(everything('all'))
    const inbox = await consume(transport, 'all')
    await transport.publish(series(0, 50))
    await inbox.until(50)
    await settles(async () => (await transport.backlog('all')).waiting === 0, 'not acknowledged')
    const [, folder] = (await place.raw('CONFIG', 'GET', 'dir')) as [string, string]
    await place.server.stop()
    await cp(join(folder, 'appendonlydir'), join(folder, 'earlier'), { recursive: true })
    await place.server.start()
    await settles(() => transport.publish(series(50, 50)).then(() => true), 'publishing did not come back')
    await inbox.untilIds((seen) => seen.size === 100)
    await place.server.kill()
    await rm(join(folder, 'appendonlydir'), { recursive: true })
    await cp(join(folder, 'earlier'), join(folder, 'appendonlydir'), { recursive: true })
    await place.server.start()
    await settles(() => place.said('error', /came back without its last entries/), 'nothing was said')
    await settles(() => transport.publish(series(100, 50)).then(() => true), 'publishing did not come back')
    await inbox.untilIds((seen) => seen.size === 150)
  },
)

check('F2 a stream deleted under load: it is said, its group is made anew, and messages flow', async (place) => {
  const transport = await place.open()
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all')
  await transport.publish(series(0, 50))
  await inbox.until(50)
  await place.raw('DEL', '{p}:log:0')
  await transport.publish(series(50, 50))
  await inbox.untilIds((seen) => seen.size === 100)
  assert.ok(await settles(() => place.said('error', /\{p\}:log:0, or its group, is gone/), 'nothing was said'))
})

check('F2 a group destroyed under load: it is said, and messages flow', async (place) => {
  const transport = await place.open({ shards: 1 })
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all')
  await transport.publish(series(0, 50))
  await inbox.until(50)
  await place.raw('XGROUP', 'DESTROY', '{p}:log:0', 'all')
  await transport.publish(series(50, 50))
  await inbox.untilIds((seen) => seen.size === 100)
  assert.ok(await settles(() => place.said('error', /group, is gone/), 'nothing was said'))
})

// The network ----------------------------------------------------------------------------------------------------------

check('F1 a connection that is silently half open: publishing settles, and comes back in order', async (place) => {
  const proxy = await place.proxy()
  const transport = await place.open({ replyTimeoutMs: SILENT_AFTER_MS }, proxy.through(place.server.url))
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all')
  await transport.publish(series(0, 10, 1))
  await inbox.until(10)
  proxy.silence()
  const begun = performance.now()
  await assert.rejects(transport.publish(series(10, 10, 1)), { code: 'transport_unavailable' })
  assert.ok(performance.now() - begun < 4 * SILENT_AFTER_MS, 'it took too long to settle')
  assert.equal(transport.state().ready, false)
  await assert.rejects(transport.publish(series(10, 10, 1)), { code: 'transport_unavailable' })
  proxy.restore()
  await settles(() => transport.publish(series(10, 10, 1)).then(() => true), 'publishing did not come back')
  await inbox.untilIds((seen) => seen.size === 20)
  assertOrderPerKey(inbox.deliveries)
  await settles(() => transport.state().ready, 'it does not say that it is ready again')
})

check(
  'F1 the connection is cut after the batch arrived and before its confirm: it may be published again',
  async (place) => {
    let cutting = false
    const proxy = await place.proxy((chunk, direction) => {
      if (!cutting || direction !== 'to client' || !chunk.toString().startsWith(':10')) return
      cutting = false
      proxy.cut()
    })
    const transport = await place.open({}, proxy.through(place.server.url))
    await transport.declare(everything('all'))
    cutting = true
    await assert.rejects(transport.publish(series(0, 10, 1)), { code: 'transport_unavailable' })
    proxy.restore()
    await settles(() => transport.publish(series(0, 20, 1)).then(() => true), 'publishing did not come back')
    const inbox = await consume(transport, 'all')
    await inbox.untilIds((seen) => seen.size === 20)
    assert.equal(inbox.deliveries.length, 30, 'the batch had arrived the first time')
    assertOrderPerKey(inbox.deliveries)
  },
)

check(
  'F5 a process that is cut off loses its shards, learns of it when it is back, and its epochs are old',
  async (place) => {
    const proxy = await place.proxy()
    const frozen = await place.open({}, proxy.through(place.server.url))
    await frozen.declare(everything('all'))
    const revoked: Lease[] = []
    const lost = await consume(frozen, 'all', { ack: false, revoked: (lease) => revoked.push(lease) })
    await frozen.publish(series(0, 50))
    await lost.until(50)
    proxy.silence()
    const live = await place.open()
    const taker = await consume(live, 'all')
    await taker.untilIds((seen) => seen.size === 50)
    const epochs = new Map(lost.deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
    for (const { lease, redelivered } of taker.deliveries) {
      assert.ok(lease.epoch > epochs.get(lease.shard)!, 'the epoch must grow')
      assert.ok(redelivered, 'the process that was lost may have begun on it')
    }
    proxy.restore()
    await settles(() => revoked.length >= epochs.size, 'the process that was cut off was not told')
    await live.publish(series(50, 50))
    await settles(() => new Set([...taker.ids(), ...lost.ids()]).size === 100, 'they do not share the work')
  },
)

check('S8 B8 only what a dead process may have begun is marked redelivered, and all of that', async (place) => {
  const [shards, windowMax, early, late] = [2, 20, 400, 400]
  const proxy = await place.proxy()
  const dying = await place.open({ shards }, proxy.through(place.server.url))
  await dying.declare(everything('all'))
  // Its first message is never done, so the cursor of that shard stays; everything else goes on far beyond the window.
  const begun = await consume(dying, 'all', { ack: false, windowMax })
  await dying.publish(series(0, early))
  const unfinished = new Set(['id-0'])
  const acked = new Set<string>()
  while (begun.deliveries.length < early) {
    const count = begun.deliveries.length
    const done = begun.deliveries
      .filter(({ message: { id } }) => id !== 'id-0' && !acked.has(id))
      .slice(0, windowMax / 2)
    for (const { message } of done) acked.add(message.id)
    begun.consumer.ack(done)
    await begun.until(count + 1)
  }
  for (const id of begun.ids()) if (!acked.has(id)) unfinished.add(id)
  assert.ok(unfinished.size > 1 && unfinished.size <= windowMax)
  proxy.silence()
  const live = await place.open({ shards })
  await live.publish(series(early, late))
  const taker = await consume(live, 'all')
  await taker.untilIds((seen) => [...unfinished].every((id) => seen.has(id)) && seen.has(`id-${early + late - 1}`))
  await settles(async () => (await live.backlog('all')).waiting === 0, 'something was left')
  const marked = new Set(taker.deliveries.filter(({ redelivered }) => redelivered).map(({ message }) => message.id))
  assert.deepEqual(
    [...unfinished].filter((id) => !marked.has(id)),
    [],
    'the process may have died of these',
  )
  const innocent = [...marked].filter((id) => Number(id.slice(3)) >= early)
  assert.ok(innocent.length <= shards * REACH_AHEAD, `${innocent.length} of ${late} came after it had died`)
})

check(
  'S8 B8 while its bindings change nobody knows how far a process got: all up to the end is marked',
  async (place) => {
    const proxy = await place.proxy()
    const dying = await place.open({}, proxy.through(place.server.url))
    const some: SubscriptionSpec = { name: 'all', bindings: [{ kind: 'direct', type: 'a.b' }], from: 'beginning' }
    await dying.declare(some)
    const begun = await consume(dying, 'all', { ack: false })
    await dying.publish(series(0, 1))
    await begun.until(1)
    proxy.silence()
    const live = await place.open()
    await live.declare(everything('all'))
    await live.publish(series(1, 200))
    const taker = await consume(live, 'all')
    await taker.untilIds((seen) => seen.size === 201)
    const epochs = new Map(begun.deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
    const ofDead = taker.deliveries.filter(({ lease }) => epochs.has(lease.shard))
    assert.ok(ofDead.length > REACH_AHEAD)
    assert.ok(ofDead.every(({ redelivered }) => redelivered))
  },
)

check('B2 an ephemeral subscription of a process that died is forgotten once its lease is over', async (place) => {
  const proxy = await place.proxy()
  const maker = await place.open({}, proxy.through(place.server.url))
  await maker.declare({ ...everything('passing'), ephemeral: true })
  const other = await place.open()
  await other.backlog('passing')
  proxy.cut()
  await settles(
    () =>
      other.backlog('passing').then(
        () => false,
        (error) => error.code === 'not_found',
      ),
    'it is still there',
  )
})

check(
  'F6 members join and leave all the time, done out of order: nothing is lost, each key keeps its order',
  async (place) => {
    const COUNT = 6_000
    const publisher = await place.open({ shards: 8 })
    await publisher.declare(everything('all'))
    const seen: Delivery[] = []
    /** Done in any order, a few at a time. */
    const join = async () => {
      const transport = await place.open({ shards: 8 })
      const waiting: Delivery[] = []
      const inbox = await consume(transport, 'all', {
        windowMax: 50,
        ack: false,
        into: seen,
        onReceive: (deliveries) => void waiting.push(...deliveries),
      })
      const work = setInterval(() => {
        const done = Array.from({ length: 10 }, () => waiting.splice(Math.floor(Math.random() * waiting.length), 1))
        inbox.consumer.ack(done.flat())
      }, 1)
      place.world.defer(() => clearInterval(work))
      return {
        got: () => inbox.deliveries.length,
        async leave() {
          await transport.close()
          clearInterval(work)
        },
      }
    }
    const arrived = () => new Set(seen.map(({ message }) => message.id)).size
    const stays = await join()
    const publishing = (async () => {
      for (let from = 0; from < COUNT; from += 50) await publisher.publish(series(from, 50, 60))
    })()
    for (let round = 0; round < 5; round++) {
      const comer = await join()
      // It has its share once it gets something; the others go on meanwhile.
      await settles(() => comer.got() > 20 || arrived() === COUNT, 'the newcomer got no share')
      await comer.leave()
    }
    await publishing
    await settles(() => arrived() === COUNT || assert.fail(`${arrived()} arrived`), 'something is lost')
    assert.ok(stays.got() > 0)
    assertOrderPerKey(seen)
    await settles(async () => (await publisher.backlog('all')).waiting === 0, 'something still waits')
    assert.equal(place.said('error', /./), undefined)
  },
)

check('B2 an ephemeral subscription that was forgotten while its process was cut off is made again', async (place) => {
  const proxy = await place.proxy()
  const maker = await place.open({}, proxy.through(place.server.url))
  await maker.declare({ ...everything('passing'), ephemeral: true })
  const inbox = await consume(maker, 'passing')
  const other = await place.open()
  await other.publish(series(0, 10))
  await inbox.until(10)
  proxy.silence()
  const isThere = () =>
    other.backlog('passing').then(
      () => true,
      () => false,
    )
  await settles(async () => !(await isThere()), 'it is still there')
  proxy.restore()
  await settles(isThere, 'it was not made again')
  await other.publish(series(10, 10))
  await inbox.untilIds((seen) => seen.has('id-19'))
})

check('one connection for each consumed subscription, and one more', async (place) => {
  const transport = await place.open()
  for (const name of ['one', 'two', 'three']) {
    await transport.declare(everything(name))
    await consume(transport, name)
  }
  const connections = async () => ((await place.raw('CLIENT', 'LIST')) as string).trim().split('\n').length - 1
  await settles(async () => (await connections()) === 4, 'not four')
})

// Bad input ------------------------------------------------------------------------------------------------------------

check('a server that is not there is waited for: UnavailableError, then open() works', async (place) => {
  await place.server.stop()
  const transport = place.make()
  await assert.rejects(transport.open(), { code: 'transport_unavailable', name: 'UnavailableError' })
  await place.server.start()
  await transport.open()
  await transport.publish(series(0, 1))
})

check('wrong or missing credentials are refused, and the password is not shown', async (place) => {
  await place.raw('CONFIG', 'SET', 'requirepass', 'open sesame')
  const address = (password: string) => place.server.url.replace('redis://', `redis://:${password}@`)
  for (const url of [place.server.url, address('hunter2')]) {
    const opened = place.open({}, url)
    await assert.rejects(opened, { code: 'transport_refused', message: /user name and password/ })
    assert.equal((await opened.catch((error: Error) => error.message)).toString().includes('hunter2'), false)
  }
  await place.open({}, address('open%20sesame'))
})

check('a user without the rights is refused, and it is said which command', async (place) => {
  await place.raw('ACL', 'SETUSER', 'poor', 'on', '>secret', '~*', '+@all', '-evalsha', '-eval')
  const url = place.server.url.replace('redis://', 'redis://poor:secret@')
  await assert.rejects(place.open({}, url), { code: 'transport_refused', message: /evalsha.*ACL SETUSER/ })
})

check('a key that something else made is refused by its name', async (place) => {
  await place.raw('SET', '{p}:log:1', 'mine')
  await assert.rejects(place.open(), { code: 'transport_refused', message: /'\{p\}:log:1' holds a string/ })
})

check('a replica is refused: it takes no writes', async (place) => {
  const replica = await startRedis()
  place.world.defer(() => replica[Symbol.asyncDispose]())
  const client = createClient({ url: replica.url })
  await client.connect()
  await client.sendCommand(['REPLICAOF', '127.0.0.1', `${place.server.port}`])
  client.destroy()
  await assert.rejects(place.open({}, replica.url), { code: 'transport_refused', message: /replica.*primary/ })
})

check('a server that may evict streams is refused', async (place) => {
  await place.raw('CONFIG', 'SET', 'maxmemory', '100mb', 'maxmemory-policy', 'allkeys-lru')
  await assert.rejects(place.open(), { code: 'transport_refused', message: /allkeys-lru .*noeviction/ })
})

for (const [what, real, other, expected] of [
  ['an old version', 'redis_version:7', 'redis_version:6', /7\.0 or later/],
  ['cluster mode', 'cluster_enabled:0', 'cluster_enabled:1', /not in cluster mode/],
] as const) {
  check(`${what} is refused`, async (place) => {
    const proxy = await place.proxy((chunk, direction) => {
      const at = direction === 'to client' ? chunk.indexOf(real) : -1
      if (at >= 0) chunk.write(other, at)
    })
    const opened = place.open({}, proxy.through(place.server.url))
    await assert.rejects(opened, { code: 'transport_refused', message: expected })
  })
}

check('a database that is not there, and an address that is none, are refused', async (place) => {
  await assert.rejects(place.open({}, `${place.server.url}/99`), { code: 'transport_refused', message: /number/ })
  await assert.rejects(place.open({}, 'http://127.0.0.1'), { code: 'invalid_argument' })
})

check('B6 what a stranger wrote into a stream arrives under a stable id, with its bytes', async (place) => {
  const transport = await place.open({ shards: 1 })
  await transport.declare(everything('all'))
  const bare = await place.raw('XADD', '{p}:log:0', '*', 'payload', 'Order #123 created')
  const typed = await place.raw('XADD', '{p}:log:0', '*', 'type', 'a.b', 'headers', '[1]', 'text', '{}')
  await transport.publish([wire(1)])
  const inbox = await consume(transport, 'all')
  await inbox.until(3)
  const [first, second, third] = inbox.deliveries.map(({ message }) => message)
  assert.equal(first!.id, `{p}:log:0/${bare}`)
  assert.equal(first!.type, 'unknown')
  assert.equal(Buffer.from(first!.body as Uint8Array).toString(), 'Order #123 created')
  assert.deepEqual(second, { id: `{p}:log:0/${typed}`, type: 'a.b', key: null, headers: {}, body: '{}' })
  assert.equal(third!.id, 'id-1')
  assert.ok(place.said('warn', /not written by this bus/))
})

check(
  'B10 the backlog of a filtered subscription is exact up to 20,000 a shard, and an estimate beyond',
  async (place) => {
    const transport = await place.open({ shards: 1 })
    await transport.declare({ name: 'some', bindings: [{ kind: 'direct', type: 'a.c' }], from: 'beginning' })
    const mixed = (from: number, count: number) =>
      series(from, count).map((message, index) => (index % 4 === 0 ? { ...message, type: 'a.c' } : message))
    await transport.publish(mixed(0, 10_000))
    assert.equal((await transport.backlog('some')).waiting, 2_500)
    await transport.publish(mixed(10_000, 30_000))
    assert.equal((await transport.backlog('some')).waiting, 10_000)
  },
)

check('who opens first decides about shards; others follow', async (place) => {
  const first = await place.open({ shards: 3 })
  const second = await place.open({ shards: 8 })
  await second.declare(everything('all'))
  const inbox = await consume(first, 'all')
  await second.publish(series(0, 100, 50))
  await inbox.until(100)
  assert.deepEqual([...new Set(inbox.deliveries.map(({ lease }) => lease.shard))].sort(), [0, 1, 2])
})

check('XINFO GROUPS, and whatever scales by it, sees the backlog as lag; nothing is ever pending', async (place) => {
  const transport = await place.open({ shards: 1 })
  await transport.declare(everything('all'))
  await transport.publish(series(0, 100))
  const group = async () => {
    const [flat] = (await place.raw('XINFO', 'GROUPS', '{p}:log:0')) as [(string | number)[]]
    return { lag: flat[flat.indexOf('lag') + 1], pending: flat[flat.indexOf('pending') + 1] }
  }
  assert.deepEqual(await group(), { lag: 100, pending: 0 })
  const inbox = await consume(transport, 'all', { ack: false })
  await inbox.until(100)
  inbox.consumer.ack(inbox.deliveries.slice(0, 40))
  await settles(async () => (await group()).lag === 60, 'the lag is not what is unfinished')
  assert.equal((await group()).pending, 0)
})
