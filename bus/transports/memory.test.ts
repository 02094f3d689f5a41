import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../clock.ts'
import type { WireMessage } from '../message.ts'
import { consume } from '../testing/inbox.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import type { Delivery } from '../transport.ts'
import { memoryBroker, memoryTransport } from './memory.ts'

transportSuite('memory', {
  open: (world) => memoryTransport(world.share('broker', () => memoryBroker())),
})

transportSuite('memory, interleaved by a seed', {
  open: (world) => memoryTransport(world.share('broker', () => memoryBroker({ random: seededRandom(7), shards: 5 }))),
})

const wire = (id: string): WireMessage => ({ id, type: 'a.b', key: id, headers: {}, body: id })

test('B10 beyond backlogMessagesMax publishing is refused whole, and taken again once there is room', async () => {
  const transport = memoryTransport({ backlogMessagesMax: 3 })
  await transport.declare({ name: 's', bindings: [{ kind: 'fanout' }], from: 'now' })
  await transport.publish([wire('1'), wire('2')])
  await assert.rejects(transport.publish([wire('3'), wire('4')]), { code: 'log_full', name: 'UnavailableError' })
  assert.equal((await transport.backlog('s')).waiting, 2)
  const first = Promise.withResolvers<Delivery[]>()
  const consumer = await transport.consume('s', { windowMax: 2, receive: first.resolve })
  consumer.ack(await first.promise)
  await transport.publish([wire('3'), wire('4')])
  assert.equal((await transport.backlog('s')).waiting, 2)
  await transport.close()
})

test('B10 history beyond historyMessagesMax is forgotten, the oldest first', async () => {
  const transport = memoryTransport({ historyMessagesMax: 10 })
  await transport.publish(Array.from({ length: 5_000 }, (_, index) => wire(`${index}`)))
  await transport.declare({ name: 's', bindings: [{ kind: 'fanout' }], from: 'beginning' })
  assert.equal((await transport.backlog('s')).waiting, 10)
})

test('M1 an acknowledgement under a lease that is gone opens no window and forgets nothing', async () => {
  const broker = memoryBroker({ shards: 2 })
  const [first, second] = [memoryTransport(broker), memoryTransport(broker)]
  await first.declare({ name: 's', bindings: [{ kind: 'fanout' }], from: 'now' })
  await first.publish(Array.from({ length: 20 }, (_, index) => wire(`${index}`)))
  const held = await consume(first, 's', { windowMax: 20, ack: false })
  await held.until(20)
  const other = await consume(second, 's', { windowMax: 20, ack: false })
  await other.until(1)
  await other.close()
  await held.until(20 + other.deliveries.length)
  const now = new Map(held.deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
  held.consumer.ack(held.deliveries.filter(({ lease }) => lease.epoch < now.get(lease.shard)!))
  assert.equal((await first.backlog('s')).waiting, 20)
  const received = held.deliveries.length
  await first.publish([wire('one more')])
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
  assert.equal(held.deliveries.length, received, 'the window is full')
})

test('the same seed gives the same interleaving', async () => {
  const run = async (seed: number) => {
    const transport = memoryTransport({ random: seededRandom(seed) })
    await transport.declare({ name: 's', bindings: [{ kind: 'fanout' }], from: 'now' })
    await transport.publish(Array.from({ length: 50 }, (_, index) => wire(`${index}`)))
    const batches: string[] = []
    await new Promise<void>((resolve) => {
      let count = 0
      const receive = (deliveries: Delivery[]) => {
        batches.push(deliveries.map(({ message }) => message.id).join(' '))
        count += deliveries.length
        if (count === 50) resolve()
      }
      void transport.consume('s', { windowMax: 50, receive })
    })
    return batches
  }
  assert.deepEqual(await run(1), await run(1))
  assert.notDeepEqual(await run(1), await run(2))
})

test('numbers out of range are refused by name', async () => {
  assert.throws(() => memoryTransport({ shards: 0 }), /shards must be a whole number from 1/)
  const transport = memoryTransport()
  await transport.declare({ name: 's', bindings: [{ kind: 'fanout' }], from: 'now' })
  await assert.rejects(transport.consume('s', { windowMax: 0, receive() {} }), /windowMax/)
})
