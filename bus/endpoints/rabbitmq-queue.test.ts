import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Channel, connect, type GetMessage } from 'amqplib'
import { createBus } from '../bus.ts'
import type { Endpoint } from '../endpoint.ts'
import { silentLog } from '../log.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { bridgeSuite } from '../testing/bridge-suite.ts'
import { eventually } from '../testing/eventually.ts'
import { needs } from '../testing/servers/needs.ts'
import { startProxy } from '../testing/servers/proxy.ts'
import { startRabbitmq } from '../testing/servers/rabbitmq.ts'
import { strangers } from '../testing/strangers.ts'
import { inWorld, type World } from '../testing/world.ts'
import { memoryTransport } from '../transports/memory.ts'
import { rabbitmqQueue } from './rabbitmq-queue.ts'

const { url, skip } = await needs('rabbitmq')

/** A channel of the raw client, in which nothing of ours takes part. */
async function rawChannel(at: string): Promise<{ channel: Channel; close: () => Promise<void> }> {
  const connection = await connect(at)
  connection.on('error', () => {}) // its server may be killed
  const channel = await connection.createChannel()
  channel.on('error', () => {})
  return { channel, close: () => connection.close().catch(() => {}) }
}

bridgeSuite('rabbitmq queue', {
  url,
  skip,
  startServer: () => startRabbitmq(),
  endpoint: (at, queue) => rabbitmqQueue(at, { queue }),
  stranger: strangers.rabbitmq.open,
  keeps: true,
})

function rabbitmqTest(title: string, run: (world: World, channel: Channel) => Promise<void>): void {
  test(`rabbitmq queue: ${title}`, { skip, timeout: 60_000 }, () =>
    inWorld(async (world) => {
      const { channel, close } = await rawChannel(url)
      world.defer(close)
      await run(world, channel)
    }),
  )
}

/** A bus whose bridge takes whole numbers; each is held until it is let go. */
async function openNumbers(world: World, endpoint: Endpoint, prefetch: number, concurrency = prefetch) {
  const held: { number: number; go: () => void }[] = []
  const done: number[] = []
  const store = sqliteStore(':memory:')
  const bus = createBus({ service: 'numbers', transport: memoryTransport(), store })
  bus.bridge<number, void>({
    name: 'numbers',
    endpoint,
    receive: {
      prefetch,
      concurrency,
      read: ({ body }) => (/^\d+$/.test(String(body)) ? { data: Number(String(body)) } : null),
      handle: {
        outside: (number) => new Promise<void>((go) => held.push({ number, go })),
        handle: (number) => void done.push(number),
      },
    },
  })
  await bus.start()
  world.defer(async () => {
    for (const { go } of held) go()
    await bus.close()
    await store.close()
  })
  return { bus, held, done }
}

rabbitmqTest(
  'prefetch 1: the next note is handed over only after the work on this one is committed',
  async (world, channel) => {
    const queue = world.name
    const { held, done } = await openNumbers(world, rabbitmqQueue(url, { queue }), 1)
    world.defer(() => channel.deleteQueue(queue))
    for (const number of ['1', '2', '3']) channel.sendToQueue(queue, Buffer.from(number))
    for (const number of [1, 2, 3]) {
      await eventually(() => held.length === number, { message: `number ${number} is in hand` })
      await eventually(async () => (await channel.checkQueue(queue)).messageCount === 3 - number, {
        message: `the queue itself keeps ${3 - number}`,
      })
      assert.deepEqual(done, [1, 2, 3].slice(0, number - 1))
      held[number - 1]!.go()
    }
    await eventually(() => done.length === 3)
  },
)

rabbitmqTest(
  'G3 what is not understood is rejected without requeue: its own dead-letter exchange gets it',
  async (world, channel) => {
    const queue = world.name
    const dead = `${world.name}.dead`
    const queueArguments = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead }
    await channel.assertQueue(dead, { durable: false })
    await channel.assertQueue(queue, { durable: false, arguments: queueArguments })
    world.defer(() => Promise.all([channel.deleteQueue(queue), channel.deleteQueue(dead)]))
    const { bus } = await openNumbers(world, rabbitmqQueue(url, { queue, arguments: queueArguments }), 1)
    channel.sendToQueue(queue, Buffer.from('not a number'))
    const found = await eventually(() => channel.get(dead, { noAck: true }), { message: 'it was rejected' })
    const rejected = found as GetMessage
    assert.equal(rejected.content.toString(), 'not a number')
    assert.equal(rejected.properties.headers!['x-death']![0]!.reason, 'rejected')
    const [letter] = await bus.deadLetters.list()
    assert.equal(Buffer.from(letter!.body).toString(), 'not a number')
  },
)

rabbitmqTest(
  'G2 a repeat under the same message id has no second effect; without an id it has',
  async (world, channel) => {
    const queue = world.name
    const { held, done } = await openNumbers(world, rabbitmqQueue(url, { queue }), 1)
    world.defer(() => channel.deleteQueue(queue))
    for (const messageId of ['a', 'a', 'b', undefined, undefined])
      channel.sendToQueue(queue, Buffer.from('7'), { ...(messageId && { messageId }) })
    const letGo = eventually(() => {
      for (const { go } of held) go()
      return done.length === 4 && done
    })
    assert.deepEqual(await letGo, [7, 7, 7, 7])
    await eventually(async () => (await channel.checkQueue(queue)).messageCount === 0)
  },
)

rabbitmqTest(
  'a queue that others declared otherwise is refused, saying how to say what they say',
  async (world, channel) => {
    const queue = world.name
    await channel.assertQueue(queue, { durable: true })
    world.defer(() => channel.deleteQueue(queue))
    const refused = rabbitmqQueue(url, { queue })
    await assert.rejects(refused.open({ log: silentLog }), {
      code: 'transport_refused',
      message:
        /PRECONDITION.*inequivalent arg 'durable'.*say what the others say, or take it as it is with declare: false/s,
    })
    await refused.close()
    for (const options of [{ durable: true }, { declare: false }]) {
      const endpoint = rabbitmqQueue(url, { queue, ...options })
      await endpoint.open({ log: silentLog })
      assert.deepEqual(endpoint.state(), { ready: true, reason: null })
      await endpoint.close()
    }
  },
)

rabbitmqTest(
  'a wrong password or virtual host is refused, the password not in the message; a missing host is only away',
  async (world) => {
    const wrong = new URL(url)
    wrong.password = 'not-the-password'
    const endpoint = rabbitmqQueue(String(wrong), { queue: world.name })
    const error = await endpoint
      .open({ log: silentLog })
      .catch((refused: unknown) => refused as Error & { code: string })
    assert.equal(error!.code, 'transport_refused')
    assert.match(error!.message, /check the user, the password/)
    assert.doesNotMatch(error!.message, /not-the-password/)
    await endpoint.close()
    const missing = new URL(url)
    missing.pathname = '/missing'
    const elsewhere = rabbitmqQueue(String(missing), { queue: world.name })
    const refused = {
      code: 'transport_refused',
      message: /refused \(the virtual host 'missing'\): check .* the virtual host/,
    }
    await assert.rejects(elsewhere.open({ log: silentLog }), refused)
    await elsewhere.close()
    const nowhere = rabbitmqQueue('amqp://127.0.0.1:1', { queue: world.name })
    await nowhere.open({ log: silentLog })
    assert.match(nowhere.state().reason!, /is away/)
    await assert.rejects(nowhere.send({ body: Buffer.from('x'), headers: {}, id: null, key: null }), {
      code: 'transport_unavailable',
    })
    await nowhere.close()
  },
)

rabbitmqTest('Q2 a queue that is deleted under us is declared again, and both ways go on', async (world, channel) => {
  const queue = world.name
  const endpoint = rabbitmqQueue(url, { queue })
  const { bus, held } = await openNumbers(world, endpoint, 10)
  world.defer(() => channel.deleteQueue(queue))
  await channel.deleteQueue(queue)
  await eventually(() => !bus.bridges()[0]!.ready, { message: 'the loss is noticed' })
  await eventually(() => bus.bridges()[0]!.ready, { message: 'it is there again' })
  await endpoint.send({ body: Buffer.from('8'), headers: {}, id: 'x', key: null })
  await eventually(() => held.length === 1)
  assert.equal(held[0]!.number, 8)
})

rabbitmqTest(
  'G1 what is in hand when the connection is lost and was not begun is handled once, by the next',
  async (world, channel) => {
    const queue = world.name
    const proxy = await startProxy({ target: Number(new URL(url).port) })
    world.defer(() => proxy[Symbol.asyncDispose]())
    const { bus, held, done } = await openNumbers(world, rabbitmqQueue(proxy.through(url), { queue }), 100, 1)
    world.defer(() => channel.deleteQueue(queue))
    for (let number = 0; number < 20; number++) channel.sendToQueue(queue, Buffer.from(`${number}`))
    await eventually(async () => (await bus.status()).subscriptions[0]!.inFlight === 20, { message: 'all are in hand' })
    assert.equal(held.length, 1, 'one is begun')
    proxy.cut()
    await eventually(() => !bus.bridges()[0]!.ready, { message: 'the loss is noticed' })
    proxy.restore()
    await eventually(
      () => {
        for (const { go } of held) go()
        return done.length >= 21
      },
      { timeoutMs: 20_000, message: 'all are done' },
    )
    await eventually(async () => (await channel.checkQueue(queue)).messageCount === 0)
    // They have no ids, so the one that was begun is done twice (G2), and no other.
    assert.deepEqual(
      done.toSorted((one, other) => one - other),
      [0, ...Array(20).keys()],
    )
  },
)

rabbitmqTest(
  'Q2 a connection that falls silent is noticed by its heartbeat, and what we say then is said on the next',
  async (world, channel) => {
    const queue = world.name
    const proxy = await startProxy({ target: Number(new URL(url).port) })
    world.defer(() => proxy[Symbol.asyncDispose]())
    const endpoint = rabbitmqQueue(`${proxy.through(url)}?heartbeat=1`, { queue })
    world.defer(() => channel.deleteQueue(queue))
    world.defer(() => endpoint.close())
    await endpoint.open({ log: silentLog })
    proxy.silence()
    const note = { body: Buffer.from('9'), headers: {}, id: 'x', key: null }
    await assert.rejects(endpoint.send(note), { code: 'transport_unavailable', message: /is sent again/ })
    await eventually(() => !endpoint.state().ready, { message: 'the silence is noticed' })
    proxy.restore()
    await eventually(() => endpoint.state().ready, { timeoutMs: 20_000, message: 'it is there again' })
    await endpoint.send(note)
    await eventually(async () => (await channel.checkQueue(queue)).messageCount === 1, { message: 'it arrived' })
  },
)
