/** `{type, data, metadata}` on the topic exchange `platform-events`, both ways, with a stranger who has only the raw client. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Channel, connect } from 'amqplib'
import { type Bus, createBus } from '../bus.ts'
import { event } from '../event.ts'
import type { Message } from '../message.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { schemaOf } from '../testing/bus-stage.ts'
import { eventually } from '../testing/eventually.ts'
import { rabbitmqPrefix } from '../testing/rabbitmq-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { inWorld, type World } from '../testing/world.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { foreignEnvelopeCodec } from './json.ts'

const { url, skip } = await needs('rabbitmq')

type Order = { orderId: string }
const schema = schemaOf<Order>(({ orderId }) => (typeof orderId === 'string' ? null : 'orderId must be text'))
const orderPlaced = event<Order>('order.placed', {
  version: 2,
  key: ({ orderId }) => orderId,
  schema,
  upcast: { 1: (old) => old },
})

async function openBus(world: World, prefix: string, service: string, wire: (bus: Bus) => void): Promise<Bus> {
  const transport = rabbitmqTransport(url, { prefix })
  const store = sqliteStore(`${world.directory}/${service}.db`)
  const bus = createBus({ service, transport, store, events: [orderPlaced], codec: foreignEnvelopeCodec })
  wire(bus)
  await bus.start()
  world.defer(async () => {
    await bus.close()
    await store.close()
    await transport.close()
  })
  return bus
}

async function rawChannel(world: World): Promise<Channel> {
  const connection = await connect(url)
  world.defer(() => connection.close())
  return connection.createChannel()
}

const options = { skip, timeout: 60_000 }

test(
  'B13 a stranger who binds order.* to platform-events gets our events in the envelope that they know',
  options,
  () =>
    inWorld(async (world) => {
      const prefix = rabbitmqPrefix(world, url)
      const bus = await openBus(world, prefix, 'order', () => {})
      const channel = await rawChannel(world)
      const { queue } = await channel.assertQueue('', { exclusive: true })
      await channel.bindQueue(queue, `${prefix}platform-events`, 'order.*')
      const heard: { key: string; envelope: any }[] = []
      await channel.consume(queue, (message) => {
        heard.push({ key: message!.fields.routingKey, envelope: JSON.parse(message!.content.toString()) })
        channel.ack(message!)
      })
      const id = await bus.publish(orderPlaced, { orderId: 'ord_1' })
      await eventually(() => heard.length === 1, { timeoutMs: 20_000, message: 'it is heard' })
      const [{ key, envelope }] = heard as [{ key: string; envelope: any }]
      assert.equal(key, 'order.placed')
      assert.deepEqual([envelope.type, envelope.data], ['order.placed', { orderId: 'ord_1' }])
      const { eventId, source, version, timestamp } = envelope.metadata
      assert.deepEqual([eventId, source, version], [id, 'order', '2.0'])
      assert.ok(Math.abs(Date.parse(timestamp) - Date.now()) < 60_000)
    }),
)

test(
  'B2 C11 a stranger who publishes such envelopes there is heard, once for each event id, with or without a message id',
  options,
  () =>
    inWorld(async (world) => {
      const prefix = rabbitmqPrefix(world, url)
      const heard: Message<Order>[] = []
      const bus = await openBus(world, prefix, 'notification', (opened) =>
        opened.subscribe(orderPlaced, (_, { message }) => void heard.push(message)),
      )
      const channel = await rawChannel(world)
      const say = (eventId: string, properties: object = {}, type = 'order.placed') => {
        const metadata = { eventId, timestamp: '2010-12-01T08:26:00.000Z', source: 'order-service', version: '1.0' }
        const body = JSON.stringify({ type, data: { orderId: `ord_${eventId}` }, metadata })
        channel.publish(`${prefix}platform-events`, 'order.placed', Buffer.from(body), properties)
      }
      say('a')
      say('a')
      say('b', { messageId: 'm-1', persistent: true })
      say('b', { messageId: 'm-2', headers: { attempt: 2 } })
      say('x', {}, 'order.other')
      await eventually(async () => heard.length >= 2 && (await bus.deadLetters.list()).length === 1, {
        timeoutMs: 20_000,
        message: 'two are heard, one is refused',
      })
      await bus.idle()
      assert.deepEqual(heard.map(({ id }) => id).sort(), ['a', 'b'])
      const { type, version, source, time, key, data } = heard.find(({ id }) => id === 'a')!
      assert.deepEqual(
        { type, version, source, time, key, data },
        {
          type: 'order.placed',
          version: 1,
          source: 'order-service',
          time: 1_291_191_960_000,
          key: 'ord_a',
          data: { orderId: 'ord_a' },
        },
      )
      assert.match((await bus.deadLetters.list())[0]!.cause, /says it is 'order.other'/)
    }),
)
