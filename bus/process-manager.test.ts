import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBus } from './bus.ts'
import { event, type Schema } from './event.ts'
import { processManager, say, timer } from './process-manager.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { virtualClock } from './testing/virtual-clock.ts'
import { memoryBroker, memoryTransport } from './transports/memory.ts'

type OrderData = { readonly orderId: string }

const anything: Schema<OrderData> = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value: value as OrderData }) },
}
const define = (type: string) => event(type, { version: 1, schema: anything, key: (data) => data.orderId })

const placed = define('order.placed')
const paid = define('order.paid')
const timedOut = define('order.timed_out')
const confirmed = define('order.confirmed')
const cancelled = define('order.cancelled')

const TIMEOUT_MS = 600_000

test('on the bus: timers wait in the store, an answer calls them off, and what is said is heard', async () => {
  const clock = virtualClock()
  await using store = { value: sqliteStore(':memory:'), [Symbol.asyncDispose]: () => store.value.close() }
  const transport = memoryTransport(memoryBroker({ clock }))
  await using bus = createBus({ service: 'order', transport, store: store.value, clock, random: () => 0.5 })
  const orderId = (order: OrderData) => order.orderId
  const manager = processManager(bus, {
    name: 'payment',
    version: 1,
    initial: { paid: false },
    on: (when) => [
      when(placed, orderId, (_state, order) => ({ timers: [timer('answer', timedOut, order, TIMEOUT_MS)] })),
      when(paid, orderId, (_state, order) => ({ state: { paid: true }, publish: [say(confirmed, order)], done: true })),
      when(timedOut, orderId, (_state, order) => ({ publish: [say(cancelled, order)], done: true })),
    ],
  })
  const heard: string[] = []
  for (const event of [confirmed, cancelled]) {
    bus.subscribe(event, async (order) => void heard.push(`${event.type} ${order.orderId}`), { name: 'listener' })
  }
  await bus.start()
  for (const orderId of ['o1', 'o2']) await bus.publish(placed, { orderId })
  await bus.idle()
  assert.equal((await bus.status()).timers, 2)
  await bus.publish(paid, { orderId: 'o1' })
  await bus.idle()
  assert.equal((await bus.status()).timers, 1)
  await clock.advance(TIMEOUT_MS - 1)
  await bus.idle()
  assert.deepEqual(heard, ['order.confirmed o1'])
  await clock.advanceUntil(() => heard.length === 2)
  assert.deepEqual(heard, ['order.confirmed o1', 'order.cancelled o2'])
  await bus.publish(paid, { orderId: 'o2' })
  await bus.idle()
  assert.equal(heard.length, 2)
  const process = await store.value.read((reader) => manager.load(reader, 'o2'))
  assert.deepEqual([process?.state, process?.done], [{ paid: false }, true])
})
