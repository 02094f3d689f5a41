import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBus } from './bus.ts'
import { UnavailableError } from './errors.ts'
import { event, type Schema } from './event.ts'
import { silentLog } from './log.ts'
import type { Store } from './store.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { virtualClock } from './testing/virtual-clock.ts'
import { memoryBroker, memoryTransport } from './transports/memory.ts'

type Order = { readonly orderId: string }
const anything: Schema<Order> = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value: value as Order }) },
}
const placed = event('order.placed', { version: 1, schema: anything, key: ({ orderId }) => orderId })
/** More than any number of looks that a second needs, and fewer than a loop without a pause comes to. */
const TURNS = 500

test('C9 a retry that is due while the database takes no writes waits, and does not keep the process busy', async () => {
  const clock = virtualClock()
  const inner = sqliteStore(':memory:')
  let isFull = false
  const transaction: Store['transaction'] = async (work) => {
    if (isFull) throw new UnavailableError('store_unavailable', 'the disk is full')
    return inner.transaction(work)
  }
  const store: Store = { ...inner, transaction }
  let warnings = 0
  const warn = () => {
    warnings += 1
  }
  const log = { ...silentLog, warn }
  const transport = memoryTransport(memoryBroker({ clock }))
  const bus = createBus({ service: 'order', transport, store, clock, log })
  let isFailing = true
  let handled = 0
  const handle = () => {
    if (isFailing) throw new Error('not today')
    handled += 1
  }
  bus.subscribe(placed, handle, { backoff: { firstMs: 1_000, jitter: false } })
  await bus.start()
  await bus.publish(placed, { orderId: 'o' })
  await clock.advanceUntil(() => warnings > 0)
  isFailing = false
  isFull = true
  warnings = 0
  await clock.advance(1_000)
  for (let turn = 0; turn < TURNS; turn++) await new Promise((resolve) => setImmediate(resolve))
  assert.ok(warnings <= 2, `${warnings} warnings while the clock stood still`)
  isFull = false
  await clock.advanceUntil(() => handled === 1)
  await bus.close()
  await inner.close()
  await transport.close()
})
