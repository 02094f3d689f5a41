/** What RabbitMQ does in silence, each shown on a real server. */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Channel, connect } from 'amqplib'
import { idMaker, systemClock, type WireMessage } from '../index.ts'
import { silentLog } from '../log.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { rabbitmqPrefix } from '../testing/rabbitmq-place.ts'
import type { RabbitmqSharePlan, RabbitmqShareReport } from '../testing/rabbitmq-share-child.ts'
import { needs } from '../testing/servers/needs.ts'
import { startProxy } from '../testing/servers/proxy.ts'
import { startRabbitmq } from '../testing/servers/rabbitmq.ts'
import { inWorld, type World } from '../testing/world.ts'
import type { Lease } from '../transport.ts'
import { type RabbitmqTransportOptions, rabbitmqTransport } from './rabbitmq.ts'
import { surplusOf } from './rabbitmq-reader.ts'

const { url, skip } = await needs('rabbitmq')
const newId = idMaker(systemClock, Math.random)
const FACT = { timeoutMs: 20_000 }

const check = (title: string, run: (world: World) => Promise<void>) =>
  test(`rabbitmq: ${title}`, { skip, timeout: 120_000 }, () => inWorld(run))

async function opened(world: World, options: RabbitmqTransportOptions = {}, at = url) {
  const transport = rabbitmqTransport(at, { prefix: rabbitmqPrefix(world, url), ...options })
  world.defer(() => transport.close())
  await transport.open()
  return transport
}

/** A channel of a program that knows nothing of us. */
async function stranger(world: World): Promise<Channel> {
  const model = await connect(url)
  world.defer(() => model.close())
  const channel = await model.createConfirmChannel()
  channel.on('error', () => {})
  return channel
}

const everything = (name: string) => ({ name, bindings: [{ kind: 'fanout' } as const], from: 'now' as const })
const message = (n: number, key = 'k'): WireMessage => ({
  id: newId(),
  type: 'order.placed',
  key,
  headers: {},
  body: `${n}`,
})
const series = (count: number, keys = 1) => Array.from({ length: count }, (_, n) => message(n, `k${n % keys}`))
const ids = (messages: readonly WireMessage[]) => messages.map(({ id }) => id)
const proxyTo = async (world: World, onData?: Parameters<typeof startProxy>[0]['onData']) => {
  const proxy = await startProxy({ target: Number(new URL(url).port || 5672), ...(onData && { onData }) })
  world.defer(() => proxy[Symbol.asyncDispose]())
  return proxy
}

check('B6 unroutable is confirmed: what no subscription wants is counted and said once a type', async (world) => {
  const said: object[] = []
  const log = { ...silentLog, info: (fields: object) => void said.push(fields) }
  const transport = await opened(world, { log })
  const messages = series(3)
  await transport.publish(messages)
  assert.equal(transport.unwantedCount, 3)
  assert.deepEqual(said, [{ type: 'order.placed', messageId: messages[0]!.id }])
})

check('F2 queues deleted under a publisher: the batch is unavailable, published again it arrives', async (world) => {
  const transport = await opened(world)
  await transport.declare(everything('gone'))
  const channel = await stranger(world)
  const prefix = rabbitmqPrefix(world, url)
  for (const queue of ['gone.0', 'gone.1', 'gone.2', 'gone.3', 'gone.dead']) await channel.deleteQueue(prefix + queue)
  const messages = series(20, 10)
  await assert.rejects(transport.publish(messages), { name: 'UnavailableError', code: 'transport_unavailable' })
  await transport.publish(messages)
  const inbox = await consume(transport, 'gone')
  await inbox.until(20)
  assert.deepEqual(inbox.ids().sort(), ids(messages).sort())
})

check('F2 one queue deleted while another subscription takes the same: nothing is lost', async (world) => {
  const transport = await opened(world)
  await transport.declare(everything('whole'))
  await transport.declare(everything('holed'))
  const channel = await stranger(world)
  await channel.deleteQueue(`${rabbitmqPrefix(world, url)}holed.2`)
  const messages = series(40, 40)
  await transport.publish(messages)
  await transport.declare(everything('holed'))
  const inbox = await consume(transport, 'holed')
  await inbox.untilIds((seen) => seen.size === 40)
})

check(
  'H1 B3 what found no queue is brought home before what comes later, and its order is not in doubt',
  async (world) => {
    const said: { outOfOrderMax?: number; count?: number }[] = []
    const transport = await opened(world, { log: { ...silentLog, warn: (fields: object) => void said.push(fields) } })
    await transport.declare(everything('all'))
    const channel = await stranger(world)
    const prefix = rabbitmqPrefix(world, url)
    for (const shard of [0, 1, 2, 3]) await channel.deleteQueue(`${prefix}all.${shard}`)
    const homeless = series(20, 5)
    await transport.publish(homeless)
    await transport.declare(everything('all'))
    const later = series(20, 5)
    await transport.publish(later)
    const inbox = await consume(transport, 'all')
    await inbox.until(40)
    const wanted = [...homeless, ...later]
    for (const key of ['k0', 'k1', 'k2', 'k3', 'k4']) {
      const ofKey = new Set(ids(wanted.filter((one) => one.key === key)))
      assert.deepEqual(
        inbox.ids().filter((id) => ofKey.has(id)),
        [...ofKey],
        key,
      )
    }
    assert.deepEqual(
      said.map(({ count, outOfOrderMax }) => [count, outOfOrderMax]),
      [[20, 0]],
    )
  },
)

check('S1 what was acknowledged leaves without more to come: after a cut nothing of it is there', async (world) => {
  const acknowledgement = Buffer.from([0, 60, 0, 80]) // basic.ack
  let received = 0
  let left = false
  const proxy = await proxyTo(world, (chunk, direction) => {
    if (direction === 'to server' && received === 3 && chunk.includes(acknowledgement)) left = true
  })
  const transport = await opened(world, { shards: 1 }, proxy.through(url))
  await transport.declare(everything('all'))
  await transport.publish(series(3))
  const consumer = await transport.consume('all', {
    windowMax: 10,
    receive(deliveries) {
      received += deliveries.length
      consumer.ack(deliveries)
    },
  })
  await eventually(() => left, FACT)
  proxy.cut()
  const channel = await stranger(world)
  const queue = `${rabbitmqPrefix(world, url)}all.0`
  await eventually(async () => (await channel.checkQueue(queue)).consumerCount === 0, FACT)
  assert.equal((await channel.checkQueue(queue)).messageCount, 0)
  proxy.restore()
})

check('F1 cut between publish and confirm: unavailable, and published again it arrives', async (world) => {
  let cut = () => {}
  const proxy = await proxyTo(world, (chunk, direction) => {
    // The broker gets it; its confirmation does not come back.
    if (direction === 'to server' && chunk.includes('cut after this')) setImmediate(() => cut())
  })
  const transport = await opened(world, {}, proxy.through(url))
  await transport.declare(everything('all'))
  const messages = [...series(5), { ...message(5), body: 'cut after this' }]
  cut = () => proxy.cut()
  const published = transport.publish(messages)
  await assert.rejects(published, { name: 'UnavailableError' })
  assert.equal(transport.state().ready, false)
  assert.match(transport.state().reason!, /tried again/)
  cut = () => {}
  proxy.restore()
  await eventually(() => transport.state().ready, FACT)
  await transport.publish(messages)
  const inbox = await consume(transport, 'all')
  await inbox.untilIds((seen) => seen.size === 6)
})

check('F1 B11 half open: publishing settles in its time, the consumer is revoked and comes back', async (world) => {
  const proxy = await proxyTo(world)
  const transport = await opened(world, { confirmMaxMs: 1_000, answerMaxMs: 1_000 }, proxy.through(url))
  await transport.declare(everything('all'))
  const revoked: Lease[] = []
  const inbox = await consume(transport, 'all', { revoked: (lease) => revoked.push(lease) })
  await transport.publish(series(1))
  await inbox.until(1)
  proxy.silence()
  const startedMs = performance.now()
  await assert.rejects(transport.publish([message(1)]), { name: 'UnavailableError' })
  assert.ok(performance.now() - startedMs < 3_000, 'publishing must settle within its limit')
  await eventually(() => revoked.length === 4, { ...FACT, message: 'the leases were not revoked' })
  proxy.restore()
  const again = message(2)
  const sent = () => transport.publish([again]).then(() => true)
  await eventually(sent, FACT)
  await inbox.untilIds((seen) => seen.has(again.id))
})

check('B12 F1 closing over a connection that fell silent ends while a process has time to', async (world) => {
  const proxy = await proxyTo(world)
  const transport = await opened(world, {}, proxy.through(url))
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all')
  await transport.publish(series(1))
  await inbox.until(1)
  proxy.silence()
  const startedMs = performance.now()
  await transport.close()
  const tookMs = performance.now() - startedMs
  assert.ok(tookMs < 12_000, `it took ${tookMs} ms of the 15,000 that SIGTERM has`)
})

check('a server of an older version is refused with both versions', async (world) => {
  // What it says of itself, made older on its way: `version`, S, four bytes of length, the text.
  const proxy = await proxyTo(world, (chunk, direction) => {
    const at = chunk.indexOf('versionS')
    if (direction === 'to client' && at >= 0) chunk.write('3.09', at + 12, 'latin1')
  })
  const error = await opened(world, {}, proxy.through(url)).catch((refused: unknown) => refused)
  assert.match(String(error), /the server is RabbitMQ 3\.09\S+: use RabbitMQ 3\.10 or later/)
  assert.equal((error as { code: string }).code, 'transport_refused')
})

check(
  'P5 B3 the next message of a key is sent once the one before is confirmed, those of other keys at once',
  async (world) => {
    const transport = await opened(world, { shards: 1 })
    const channel = await stranger(world)
    const { queue } = await channel.assertQueue('', { exclusive: true })
    await channel.bindQueue(queue, `${rabbitmqPrefix(world, url)}platform-events`, '#')
    const arrived: string[] = []
    await channel.consume(queue, (seen) => seen && arrived.push(seen.content.toString()), { noAck: true })
    await transport.publish([message(0, 'k'), message(1, 'k'), message(2, 'k'), message(3, 'other'), message(4, 'k')])
    await eventually(() => arrived.length === 5, FACT)
    assert.deepEqual(arrived, ['0', '3', '1', '2', '4'])
  },
)

check(
  'P5 F2 B3 where a full queue refuses a message nothing later of its key was sent; published again, the order stands',
  async (world) => {
    const transport = await opened(world)
    await transport.declare(everything('all'))
    const inbox = await consume(transport, 'all')
    const channel = await stranger(world)
    const { queue } = await channel.assertQueue('', {
      exclusive: true,
      arguments: { 'x-max-length': 2, 'x-overflow': 'reject-publish' },
    })
    await channel.bindQueue(queue, `${rabbitmqPrefix(world, url)}platform-events`, '#')
    const messages = series(6)
    await assert.rejects(transport.publish(messages), { name: 'UnavailableError', message: /a queue is full/ })
    await inbox.until(3) // two and the refused one, which found room here
    await channel.deleteQueue(queue)
    const published = () =>
      transport.publish(messages).then(
        () => true,
        () => false, // the connection is being made again
      )
    await eventually(published, FACT)
    await inbox.until(9)
    const [first, again] = [inbox.ids().slice(0, 3), inbox.ids().slice(3)]
    assert.deepEqual([first, again], [ids(messages).slice(0, 3), ids(messages)])
  },
)

check('P6 B6 a message larger than the server takes is refused by name, and only its batch with it', async (world) => {
  const server = await startRabbitmq({ settings: { max_message_size: '10000' } })
  world.defer(() => server[Symbol.asyncDispose]())
  const transport = rabbitmqTransport(server.url)
  world.defer(() => transport.close())
  await transport.open()
  await transport.declare(everything('all'))
  const large = { ...message(1, 'large'), body: 'x'.repeat(10_001) }
  await assert.rejects(transport.publish([message(0), large, message(2)]), {
    code: 'message_too_large',
    message: new RegExp(`${large.id} .* has 10001 bytes .* takes 10000: raise its max_message_size`),
  })
  const small = message(3)
  await eventually(() => transport.publish([small]).then(() => true), FACT)
  await assert.rejects(transport.publish([message(4), large]), { code: 'message_too_large' })
  await transport.publish([message(5)]) // it was not sent again to be refused: the connection stands
  const inbox = await consume(transport, 'all')
  await inbox.untilIds((seen) => seen.has(small.id))
})

check('B11 a queue that is deleted cancels its consumer: it is made again, under a greater epoch', async (world) => {
  const transport = await opened(world)
  await transport.declare(everything('all'))
  const revoked: Lease[] = []
  const inbox = await consume(transport, 'all', { revoked: (lease) => revoked.push(lease) })
  await transport.publish(series(64, 64))
  await inbox.until(64)
  const channel = await stranger(world)
  await channel.deleteQueue(`${rabbitmqPrefix(world, url)}all.1`)
  await eventually(() => revoked.some(({ shard }) => shard === 1), FACT)
  const later = series(64, 64)
  await transport.publish(later)
  await inbox.untilIds((seen) => later.every(({ id }) => seen.has(id)))
  const after = series(64, 64)
  const epochOfShard1 = () => inbox.deliveries.findLast(({ lease }) => lease.shard === 1)!.lease.epoch
  const moved = async () => {
    await transport.publish(after)
    return epochOfShard1() > revoked[0]!.epoch
  }
  await eventually(moved, FACT)
})

check('F8 B3 returned again and again, neighbours stay in the queue and in order', async (world) => {
  const transport = await opened(world)
  await transport.declare(everything('looping'))
  const messages = series(100)
  await transport.publish(messages)
  for (let death = 0; death < 25; death++) {
    // Whoever dies has different windows, and was handed some; the rest was only sent ahead.
    const dying = await consume(transport, 'looping', { ack: false, windowMax: 1 + ((death * 7) % 30) })
    await dying.until(1)
    await dying.close()
  }
  assert.deepEqual(await transport.brokerDeadLetters(), [], 'no delivery limit may count against them')
  const inbox = await consume(transport, 'looping')
  await inbox.until(100)
  assert.deepEqual(inbox.ids(), ids(messages))
  assert.ok(inbox.deliveries.every(({ redelivered }) => redelivered))
})

check('B6 what the broker rejects is kept in <subscription>.dead, at least once, and counted', async (world) => {
  const transport = await opened(world)
  await transport.declare(everything('picky'))
  const prefix = rabbitmqPrefix(world, url)
  const channel = await stranger(world)
  await transport.publish(series(3, 3))
  for (let shard = 0; shard < 4; shard++)
    await channel.consume(`${prefix}picky.${shard}`, (one) => one && channel.nack(one, false, false))
  const isKept = async () => (await transport.brokerDeadLetters())[0]?.count === 3
  await eventually(isKept, { ...FACT, intervalMs: 50, message: 'what was rejected is lost' })
  const queue = `${prefix}picky.dead`
  assert.deepEqual(await transport.brokerDeadLetters(), [{ subscription: 'picky', queue, count: 3, first: [] }])
  const first = await channel.get(queue)
  assert.ok(first)
  assert.equal(first.properties.headers!['x-first-death-reason'], 'rejected')
  // At most once would be the broker's default, and is another queue to it.
  const lesser = {
    'x-queue-type': 'quorum',
    'x-single-active-consumer': true,
    'x-dead-letter-exchange': `${prefix}platform-events.dead`,
    'x-dead-letter-routing-key': `${prefix}picky`,
    'x-overflow': 'reject-publish',
  }
  await assert.rejects(channel.assertQueue(`${prefix}picky.0`, { durable: true, arguments: lesser }), {
    message: /x-dead-letter-strategy.*none.*at-least-once/,
  })
})

check(
  "B6 the oldest of what the broker set aside is shown, with the broker's reason, and stays where it is",
  async (world) => {
    const transport = await opened(world)
    await transport.declare(everything('picky'))
    const prefix = rabbitmqPrefix(world, url)
    const channel = await stranger(world)
    const [rejected] = series(1)
    await transport.publish([rejected!])
    for (let shard = 0; shard < 4; shard++) {
      await channel.consume(`${prefix}picky.${shard}`, (one) => one && channel.nack(one, false, false))
    }
    const look = async (firstMax: number) => (await transport.brokerDeadLetters({ firstMax }))[0]
    const counted = (count: number) => eventually(async () => (await look(0))?.count === count, FACT)
    await counted(1)
    // A stranger's, without an id, while the queue for it is gone: it lies with those that no queue took.
    await channel.deleteQueue(`${prefix}picky.0`)
    channel.publish(`${prefix}platform-events`, 'order.foreign', Buffer.from([0xff, 0x00]), { persistent: true })
    await counted(2)
    const first = [
      { id: rejected!.id, type: 'order.placed', reason: 'rejected', body: Buffer.from('0') },
      { id: null, type: 'order.foreign', reason: 'no queue', body: Buffer.from([0xff, 0x00]) },
    ]
    const queue = `${prefix}picky.dead`
    assert.deepEqual(await look(5), { subscription: 'picky', queue, count: 2, first })
    await counted(2) // given back
    assert.deepEqual((await look(1))!.first, first.slice(0, 1), 'and in order')
    await counted(2)
    assert.deepEqual((await look(0))!.first, [])
  },
)

check('B7 a foreign program binds to platform-events by order.* and reads what AMQP has a place for', async (world) => {
  const transport = await opened(world, { clock: { ...systemClock, now: () => 1_700_000_000_123 } })
  const channel = await stranger(world)
  const { queue } = await channel.assertQueue('', { exclusive: true })
  await channel.bindQueue(queue, `${rabbitmqPrefix(world, url)}platform-events`, 'order.*')
  const sent = { ...message(1, 'ord_1'), headers: { country: 'GB' }, body: '{"a":1}' }
  await transport.publish([{ ...sent, id: newId(), type: 'user.registered' }, sent])
  const got = Promise.withResolvers<import('amqplib').ConsumeMessage>()
  await channel.consume(queue, (one) => one && got.resolve(one), { noAck: true })
  const { content, fields, properties } = await got.promise
  assert.equal(content.toString(), '{"a":1}')
  assert.equal(fields.routingKey, 'order.placed')
  assert.equal(properties.messageId, sent.id)
  assert.equal(properties.type, 'order.placed')
  assert.equal(properties.contentType, 'application/cloudevents+json')
  assert.equal(properties.deliveryMode, 2)
  assert.equal(properties.timestamp, 1_700_000_000)
  assert.equal(properties.headers!.country, 'GB')
  assert.equal(properties.headers!['x-key'], 'ord_1')
})

check('B6 a foreign message arrives with its bytes; without an id it is given one, and keeps it', async (world) => {
  const transport = await opened(world)
  await transport.declare({ name: 'orders', bindings: [{ kind: 'topic', pattern: 'order.*' }], from: 'now' })
  await transport.declare(everything('others'))
  const channel = await stranger(world)
  const exchange = `${rabbitmqPrefix(world, url)}platform-events`
  const bytes = Buffer.from([0xff, 0x00, 0xfe])
  channel.publish(exchange, 'order.noted', bytes, { messageId: 'theirs-1', headers: { count: 3, 'x-key': 'ours' } })
  channel.publish(exchange, 'order.noted', Buffer.from('Order #123 created'))
  channel.publish(exchange, 'user.noted', Buffer.from('not for orders'))
  const first = await consume(transport, 'orders', { ack: false })
  await first.until(2)
  const named = first.deliveries.find(({ message }) => message.id === 'theirs-1')!.message
  assert.deepEqual(
    { ...named, body: Buffer.from(named.body) },
    {
      id: 'theirs-1',
      type: 'order.noted',
      key: 'ours',
      headers: { count: '3' },
      body: bytes,
    },
  )
  const nameless = first.deliveries.find(({ message }) => message.id !== 'theirs-1')!.message
  assert.equal(nameless.type, 'order.noted')
  assert.equal(Buffer.from(nameless.body).toString(), 'Order #123 created')
  assert.match(nameless.id, /^[0-9a-f-]{36}$/)
  await first.close()
  const second = await consume(transport, 'orders')
  await second.until(2)
  assert.deepEqual(second.ids().sort(), first.ids().sort(), 'delivered again, it is the same message')
  assert.equal((await transport.backlog('others')).waiting, 3, 'the others have their own three, not four')
})

check(
  'B6 S1 a message without an id is not acknowledged with those behind it before it was published again',
  async (world) => {
    const transport = await opened(world, { shards: 1 })
    await transport.declare(everything('all'))
    const revoked: Lease[] = []
    const inbox = await consume(transport, 'all', { revoked: (lease) => revoked.push(lease) })
    const channel = await stranger(world)
    for (let n = 0; n < 20; n++) {
      const say = (messageId?: string) =>
        channel.publish(`${rabbitmqPrefix(world, url)}platform-events`, 'order.placed', Buffer.from('hello'), {
          ...(messageId && { messageId }),
        })
      say()
      say(`named-${n}`)
      await inbox.until(2 * (n + 1))
    }
    await eventually(async () => (await transport.backlog('all')).waiting === 0, FACT)
    assert.deepEqual(revoked, [], 'the broker closes a channel that acknowledges twice')
  },
)

check('refused for good: credentials, virtual host, a queue made otherwise; and what is no URL', async (world) => {
  const prefix = rabbitmqPrefix(world, url)
  const wrong = new URL(url)
  wrong.password = 'wrong'
  await assert.rejects(rabbitmqTransport(wrong.href).open(), { code: 'transport_refused', message: /password/ })
  const elsewhere = new URL(url)
  elsewhere.pathname = '/nowhere'
  await assert.rejects(rabbitmqTransport(elsewhere.href).open(), {
    code: 'transport_refused',
    message: /the virtual host 'nowhere'/,
  })
  assert.throws(() => rabbitmqTransport('http://localhost'), { code: 'invalid_argument' })
  const channel = await stranger(world)
  await channel.assertQueue(`${prefix}other.1`, { durable: true })
  const transport = await opened(world)
  await assert.rejects(transport.declare(everything('other')), {
    code: 'transport_refused',
    message: /inequivalent arg '[a-z-]+' for queue '.*other\.1'.*; remove what was made otherwise/,
  })
  await channel.deleteQueue(`${prefix}other.1`)
  await transport.declare(everything('other'))
})

check('B11 a broker that is not there is unavailable, and opened again once it is', async (world) => {
  const proxy = await proxyTo(world)
  proxy.cut()
  const transport = rabbitmqTransport(proxy.through(url), { prefix: rabbitmqPrefix(world, url) })
  world.defer(() => transport.close())
  await assert.rejects(transport.open(), { name: 'UnavailableError', code: 'transport_unavailable' })
  assert.equal(transport.state().ready, false)
  proxy.restore()
  await transport.open()
  assert.deepEqual(transport.state(), { ready: true, reason: null })
})

check('F12 B11 a broker that is restarted twice under load loses nothing', async (world) => {
  const server = await startRabbitmq()
  world.defer(() => server[Symbol.asyncDispose]())
  const transport = rabbitmqTransport(server.url, { confirmMaxMs: 5_000 })
  world.defer(() => transport.close())
  await transport.open()
  await transport.declare(everything('all'))
  const inbox = await consume(transport, 'all')
  const messages = series(2_000, 50)
  for (let start = 0; start < messages.length; start += 100) {
    const batch = messages.slice(start, start + 100)
    if (start === 500 || start === 1_200) {
      await server.stop()
      await assert.rejects(transport.publish(batch), { name: 'UnavailableError' })
      await server.start()
    }
    await eventually(() => transport.publish(batch).then(() => true), { timeoutMs: 40_000, intervalMs: 50 })
  }
  await inbox.untilIds((seen) => seen.size === 2_000)
  const seen = new Set<string>()
  const firsts = inbox.deliveries.map((one) => one.message).filter(({ id }) => !seen.has(id) && seen.add(id))
  for (const [key, expected] of Map.groupBy(messages, (one) => one.key))
    assert.deepEqual(ids(firsts.filter((one) => one.key === key)), ids(expected), `order of ${key}`)
})

check(
  'F5 B8 a process that freezes loses its shards within seconds, to a greater epoch, and is told',
  async (world) => {
    const heartbeatSeconds = 1
    const transport = await opened(world, { heartbeatSeconds })
    await transport.declare(everything('shared'))
    const messages = series(64, 64)
    await transport.publish(messages)
    const plan = { url, prefix: rabbitmqPrefix(world, url), heartbeatSeconds, subscription: 'shared' }
    const { child, reports } = frozenChild(world, plan)
    const received = () => reports.filter((report) => report.kind === 'received')
    await eventually(() => received().length === 64, { ...FACT, message: 'the child did not get them' })
    const before = new Map(received().map(({ shard, epoch }) => [shard, epoch]))
    const taker = await consume(transport, 'shared')
    child.kill('SIGSTOP')
    const startedMs = performance.now()
    await taker.untilIds((seen) => seen.size === 64)
    assert.ok(performance.now() - startedMs < 6_000, 'within two to three heartbeats, and a little')
    for (const { lease } of taker.deliveries) assert.ok(lease.epoch > before.get(lease.shard)!, 'the epoch must grow')
    child.kill('SIGCONT')
    const isTold = () =>
      new Set(reports.filter(({ kind }) => kind === 'revoked').map((one) => JSON.stringify(one))).size >= 4
    await eventually(isTold, { ...FACT, message: 'the frozen process did not learn of it' })
  },
)

function frozenChild(world: World, plan: RabbitmqSharePlan): { child: ChildProcess; reports: RabbitmqShareReport[] } {
  const program = fileURLToPath(new URL('../testing/rabbitmq-share-child.ts', import.meta.url))
  const child = fork(program, [JSON.stringify(plan)])
  const reports: RabbitmqShareReport[] = []
  child.on('message', (report) => void reports.push(report as RabbitmqShareReport))
  const ended = new Promise((resolve) => child.once('exit', resolve))
  world.defer(() => {
    child.kill('SIGKILL')
    return ended
  })
  return { child, reports }
}

test('R3 parts differ by one at most, and whoever has too much gives to whoever has too little', () => {
  const line = (...members: string[]) => members
  const all = (lines: string[][]) => {
    const members = [...new Set(lines.flat())]
    return members.map((member) => ({
      member,
      epochs: Object.fromEntries(
        lines.flatMap((one, shard) => (one.includes(member) ? [[shard, one.indexOf(member) + 1]] : [])),
      ),
    }))
  }
  const joined = all([line('a', 'b', 'c'), line('a', 'b', 'c'), line('a', 'b', 'c'), line('a', 'b', 'c')])
  assert.deepEqual(surplusOf('a', joined, 4), [0, 1], 'a keeps 2 of 4 with three members')
  assert.deepEqual(surplusOf('b', joined, 4), [])
  const second = all([line('b', 'c', 'a'), line('b', 'c', 'a'), line('a', 'b', 'c'), line('a', 'b', 'c')])
  assert.deepEqual(surplusOf('b', second, 4), [0])
  const settled = all([line('c', 'a', 'b'), line('b', 'c', 'a'), line('a', 'b', 'c'), line('a', 'b', 'c')])
  for (const member of ['a', 'b', 'c']) assert.deepEqual(surplusOf(member, settled, 4), [])
})
