/** Programs of others talk to the shop, and the shop to them. They use their broker's own client and know nothing of us. */
import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createWorld, eventually, inWorld, needs, type World } from '@shopsphere/bus/testing'
import { strangers } from '@shopsphere/bus/testing/strangers'
import { orderPlaced } from '@shopsphere/contracts'
import { createLog } from '@shopsphere/runtime/log'
import { type Channel, connect } from 'amqplib'
import { type Shop, startShop } from '../shop.ts'

const run = promisify(execFile)
const rabbitmq = await needs('rabbitmq')
const log = createLog('silent')
const operator = { userId: 'usr_operator', roles: ['operator'] }
const TIMEOUT_MS = 60_000
const PROGRAM_TIMEOUT_MS = 30_000
const soon = async <T>(check: () => T | Promise<T>, message: string) =>
  (await eventually(check, { timeoutMs: 20_000, message })) as Exclude<T, false | null | undefined>

/** Some services of a shop, with their databases in the world's folder, on real time. */
async function openShop(world: World, environment: Record<string, string>): Promise<Shop> {
  const shop = await startShop({
    environment: { DATA_DIR: world.directory, ADMIN_PASSWORD: 'a long enough password', SEED: '1', ...environment },
    headless: true,
    log,
  })
  world.defer(() => shop.close())
  return shop
}

async function ask(shop: Shop, path: string): Promise<any> {
  const { token } = await shop.tokens.issue(operator)
  const answer = await shop.app.request(path, { headers: { authorization: `Bearer ${token}` } })
  assert.equal(answer.status, 200, path)
  return answer.json()
}

const mailsOf = async (shop: Shop): Promise<{ recipient: string; at: number; notificationId: string }[]> =>
  (await ask(shop, '/api/notifications')).items.toReversed()

const bare = (number: number | string) =>
  JSON.stringify({
    order_id: `3f8b2c66-1c5e-4a39-9d55-b1f0c5a0000${number}`,
    customer_email: `ada${number}@example.org`,
    timestamp: `2010-12-01T08:26:0${number}.123456+00:00`,
  })

// --- (a) bare JSON on order_events, said and heard by a program in another language ---

/** Debian's python3-pika, whichever Python of this machine has it. */
const python = ['python3', '/usr/bin/python3'].find(
  (program) => spawnSync(program, ['-c', 'import pika'], { timeout: PROGRAM_TIMEOUT_MS }).status === 0,
)
const required = (process.env.REQUIRE ?? '').split(',').includes('rabbitmq')
const skipPython =
  rabbitmq.skip || (python || required ? false : 'needs pika, an AMQP client for Python: apt-get install python3-pika')

const program = (name: string) => fileURLToPath(new URL(`./foreign/${name}`, import.meta.url))

function publish(queue: string, lines: readonly string[]): Promise<unknown> {
  assert.ok(python, 'REQUIRE names rabbitmq, and its foreign program needs pika: apt-get install python3-pika')
  const child = run(python, [program('publish.py'), rabbitmq.url, queue], { timeout: PROGRAM_TIMEOUT_MS })
  child.child.stdin!.end(lines.map((line) => `${line}\n`).join(''))
  return child
}

async function consume(queue: string, count: number): Promise<string[]> {
  assert.ok(python, 'REQUIRE names rabbitmq, and its foreign program needs pika: apt-get install python3-pika')
  const parameters = [program('consume.py'), rabbitmq.url, queue, String(count)]
  const { stdout } = await run(python, parameters, { timeout: PROGRAM_TIMEOUT_MS })
  return stdout.trim().split('\n')
}

async function openQueue(world: World, queue: string): Promise<Channel> {
  const connection = await connect(rabbitmq.url)
  const channel = await connection.createChannel()
  world.defer(async () => {
    await channel.deleteQueue(queue)
    await connection.close()
  })
  return channel
}
const waitingIn = async (channel: Channel, queue: string) => (await channel.checkQueue(queue)).messageCount

function pikaTest(title: string, work: (world: World, queue: string, channel: Channel) => Promise<void>): void {
  test(`order_events: ${title}`, { skip: skipPython, timeout: TIMEOUT_MS }, () =>
    inWorld(async (world) => {
      const queue = `${world.name}.order_events`
      const channel = await openQueue(world, queue)
      await work(world, queue, channel)
    }),
  )
}

pikaTest(
  'bare JSON of a Python program is a confirmation by mail, once; what is no JSON is a dead letter',
  async (world, queue, channel) => {
    const shop = await openShop(world, { SERVICES: 'notification', ORDER_EVENTS_FROM: `${rabbitmq.url}#${queue}` })
    const noAddress = JSON.stringify({ order_id: 'ORD-4', timestamp: 'now' })
    await publish(queue, [bare(1), 'this is not JSON', bare(2), bare(1), noAddress, bare(3)])
    const mails = await soon(async () => {
      const all = await mailsOf(shop)
      return all.length >= 3 && all
    }, 'three mails')
    assert.deepEqual(
      mails.map(({ recipient }) => recipient),
      ['ada1@example.org', 'ada2@example.org', 'ada3@example.org'],
    )
    const mail = await ask(shop, `/api/notifications/${mails[0]!.notificationId}`)
    assert.match(mail.text, /Thank you for your order 3f8b2c66-1c5e-4a39-9d55-b1f0c5a00001\./)
    assert.deepEqual(await letterTexts(shop), ['this is not JSON', JSON.parse(noAddress)])
    assert.equal(await soon(async () => (await waitingIn(channel, queue)) === 0, 'the queue is empty'), true)
  },
)

/** What stands in the dead letters of the services that run here. */
async function letterTexts(shop: Shop): Promise<unknown[]> {
  const { items } = await ask(shop, '/api/operations/dead-letters')
  const letters = await Promise.all(
    items.map(({ service, id }: { service: string; id: string }) =>
      ask(shop, `/api/operations/dead-letters/${service}/${id}`),
    ),
  )
  return letters.map(({ message }) => message?.text ?? message)
}

pikaTest('an order of ours is bare JSON that a Python program reads', async (world, queue) => {
  const shop = await openShop(world, { SERVICES: 'order', ORDER_EVENTS_TO: `${rabbitmq.url}#${queue}` })
  const { bus } = shop.services.get('order')!
  const placed = { ...orderPlaced.example!, placedAt: 1_291_191_960_000 }
  const heard = consume(queue, 2)
  await bus.publish(orderPlaced, { ...placed, orderId: 'ord_1' })
  await bus.publish(orderPlaced, { ...placed, orderId: 'ord_nobody', email: null })
  await bus.publish(orderPlaced, { ...placed, orderId: 'ord_2' })
  assert.deepEqual((await heard).toSorted(), [
    'ord_1 ada@example.org 2010-12-01T08:26:00.000Z',
    'ord_2 ada@example.org 2010-12-01T08:26:00.000Z',
  ])
})

pikaTest(
  'three orders at once, each mail takes a second; orders flow on while the consumer is down, and wait for it',
  async (world, queue, channel) => {
    const environment = {
      SERVICES: 'notification',
      ORDER_EVENTS_FROM: `${rabbitmq.url}#${queue}`,
      MAILER_DELAY_MS: '1000',
    }
    const shop = await openShop(world, environment)
    await publish(queue, [bare(1), bare(2), bare(3)])
    // One is in hand, the others wait on the queue itself, where another consumer could take them.
    await soon(async () => (await waitingIn(channel, queue)) === 2, 'two wait')
    const mails = await soon(async () => {
      const all = await mailsOf(shop)
      return all.length === 3 && all
    }, 'three mails')
    const gaps = mails.slice(1).map(({ at }, index) => at - mails[index]!.at)
    assert.ok(
      gaps.every((gap) => gap >= 990),
      `one after the other, a second each: ${gaps}`,
    )
    await shop.close()

    await publish(queue, [bare(4), bare(5)])
    await publish(queue, [bare(6)])
    assert.equal(await waitingIn(channel, queue), 3)
    const again = await openShop(world, environment)
    const all = await soon(async () => {
      const told = await mailsOf(again)
      return told.length === 6 && told
    }, 'six mails')
    assert.deepEqual(
      all.map(({ recipient }) => recipient),
      [1, 2, 3, 4, 5, 6].map((number) => `ada${number}@example.org`),
    )
  },
)

// --- (c) a line of text on a queue, a topic, a channel ---

for (const broker of ['rabbitmq', 'kafka', 'redis'] as const) {
  const { url, skip } = await needs(broker)
  const { place, open } = strangers[broker]

  test(
    `order_created: a line of text on a ${place} is an event that audit shows, with where it came from`,
    { skip, timeout: TIMEOUT_MS },
    () =>
      inWorld(async (world) => {
        const at = `${world.name}.orders`
        const shop = await openShop(world, { SERVICES: 'order,audit', ORDER_CREATED_FROM: `${url}#${at}` })
        const stranger = await open(url, at)
        world.defer(() => stranger[Symbol.asyncDispose]())
        await stranger.say('Order #123 created')
        await stranger.say('Hello?')
        const found = await soon(async () => {
          const { items } = await ask(shop, '/api/audit/events?type=foreign.order_created')
          return items.length > 0 && items
        }, 'audit has heard it')
        const { data, source, key } = await ask(shop, `/api/audit/events/${found[0].id}`)
        assert.deepEqual(
          { data, source, key },
          {
            data: { orderNumber: '123', text: 'Order #123 created', from: `${broker} ${place} ${at}` },
            source: 'order',
            key: 'foreign:123',
          },
        )
        await soon(async () => (await letterTexts(shop)).length === 1, 'the other one is a dead letter')
        assert.deepEqual(await letterTexts(shop), ['Hello?'])
        const { bridges } = (await ask(shop, '/health/ready')) as { bridges: object[] }
        assert.deepEqual(bridges, [
          { name: `order_created.${broker}.${at}`, endpoint: `${broker} ${place} ${at}`, ready: true, reason: null },
        ])
      }),
  )

  test(`order_created: an order of ours is a line of text on a ${place}`, { skip, timeout: TIMEOUT_MS }, () =>
    inWorld(async (world) => {
      const at = `${world.name}.orders`
      const stranger = await open(url, at)
      world.defer(() => stranger[Symbol.asyncDispose]())
      await stranger.listen()
      const shop = await openShop(world, { SERVICES: 'order', ORDER_CREATED_TO: `${url}#${at}` })
      await shop.services.get('order')!.bus.publish(orderPlaced, { ...orderPlaced.example!, orderId: 'ord_7' })
      await soon(() => stranger.heard.length > 0, 'it is heard')
      assert.deepEqual(stranger.heard, ['Order #ord_7 created'])
    }),
  )
}

// --- what is wrong with the settings ---

test('a place that would hear itself, or that nobody can read, is refused at the start', async () => {
  await using world = await createWorld()
  const place = 'amqp://guest:secret@127.0.0.1:5672#order_events'
  const wrong: [Record<string, string>, RegExp][] = [
    [{ ORDER_EVENTS_FROM: place, ORDER_EVENTS_TO: place }, /would hear itself/],
    [
      { ORDER_EVENTS_FROM: 'order_events' },
      /ORDER_EVENTS_FROM is 'order_events': expected addresses .*amqp:\/\/host#queue/,
    ],
    [{ ORDER_EVENTS_TO: 'redis://127.0.0.1:6379#order_events' }, /expected addresses separated by commas, as amqp:/],
    [{ ORDER_CREATED_FROM: `${place}?durable=perhaps` }, /durable=yes/],
    [{ ORDER_CREATED_FROM: `${place}?prefetch=0` }, /prefetch=1/],
    [{ WIRE_FORMAT: 'xml' }, /WIRE_FORMAT is 'xml': expected one of json, message-pack, envelope/],
  ]
  for (const [environment, message] of wrong) {
    const error = await openShop(world, environment).catch((refused: Error) => refused)
    assert.match((error as Error).message, message)
    assert.doesNotMatch((error as Error).message, /secret/)
  }
})

test('a queue that others declared otherwise refuses the start, saying what to write', { skip: rabbitmq.skip }, () =>
  inWorld(async (world) => {
    const queue = `${world.name}.order_events`
    const channel = await openQueue(world, queue)
    await channel.assertQueue(queue, { durable: true })
    const at = { SERVICES: 'notification', ORDER_EVENTS_FROM: `${rabbitmq.url}#${queue}` }
    await assert.rejects(openShop(world, at), {
      name: 'StartError',
      message: /^ORDER_EVENTS_FROM: .*declared otherwise than durable false/,
    })
    for (const query of ['durable=yes', 'declare=no']) {
      const shop = await openShop(world, { ...at, ORDER_EVENTS_FROM: `${at.ORDER_EVENTS_FROM}?${query}` })
      await shop.close()
    }
  }),
)
