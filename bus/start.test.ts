import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBus } from './bus.ts'
import { UnavailableError } from './errors.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { memoryBroker, memoryTransport } from './transports/memory.ts'

test('B11 a bus whose broker goes while it starts can be started again: what runs goes on, and the rest begins', async () => {
  const there = memoryTransport(memoryBroker())
  const consumed: string[] = []
  const consume: typeof there.consume = (name, options) => {
    consumed.push(name)
    if (consumed.length === 2) throw new UnavailableError('transport_unavailable', 'it has just gone')
    return there.consume(name, options)
  }
  const transport = Object.create(there, { consume: { value: consume } }) as typeof there
  const bus = createBus({ service: 'shop', transport, store: sqliteStore(':memory:') })
  for (const name of ['first', 'second', 'third']) bus.subscribe('#', () => {}, { name })
  await assert.rejects(bus.start(), { code: 'transport_unavailable' })
  assert.equal(bus.ready(), false)
  await bus.start()
  assert.equal(bus.ready(), true)
  assert.deepEqual(consumed, ['first', 'second', 'second', 'third'])
  await bus.close()
  await bus.store.close()
  await there.close()
})

test('B11 a bus whose broker is not there yet can be started again once it is', async () => {
  const there = memoryTransport(memoryBroker())
  let isThere = false
  const open = async () => {
    if (!isThere) throw new UnavailableError('transport_unavailable', 'not there yet')
    await there.open()
  }
  const transport = Object.create(there, { open: { value: open } }) as typeof there
  const bus = createBus({ service: 'shop', transport, store: sqliteStore(':memory:') })
  await assert.rejects(bus.start(), { code: 'transport_unavailable' })
  assert.equal(bus.ready(), false)
  isThere = true
  await bus.start()
  assert.equal(bus.ready(), true)
  await bus.close()
  await bus.store.close()
  await there.close()
})
