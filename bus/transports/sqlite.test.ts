import assert from 'node:assert/strict'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import type { WireMessage } from '../message.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import { virtualClock } from '../testing/virtual-clock.ts'
import { inWorld } from '../testing/world.ts'
import { sqliteTransport } from './sqlite.ts'

transportSuite('sqlite', {
  leasesFollowClock: true,
  open: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
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

/** How many rows the log has, counted by another connection. */
function rowsIn(path: string): number {
  const database = new DatabaseSync(path, { readOnly: true })
  const { count } = database.prepare('select count(*) as count from log').get() as { count: number }
  database.close()
  return count
}

test('B10 the log forgets after retentionMs what every subscription acknowledged, and nothing else', () =>
  inWorld(async (world) => {
    const path = join(world.directory, 'broker.db')
    const clock = virtualClock()
    const transport = sqliteTransport(path, { clock, retentionMs: RETENTION_MS })
    world.defer(() => transport.close())
    await transport.open()
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
    const transport = sqliteTransport(join(world.directory, 'broker.db'), {
      clock,
      retentionMs: 1,
      logBytesMax: 500_000,
    })
    world.defer(() => transport.close())
    await transport.open()
    await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'beginning' })
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
    const path = join(world.directory, 'broker.db')
    const clock = virtualClock()
    const transport = sqliteTransport(path, { clock, leaseMs: 6_000 })
    world.defer(() => transport.close())
    await transport.open()
    await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'beginning' })
    const all = await consume(transport, 'all')
    await transport.publish(series(0, 10))
    await all.until(10)
    const other = new DatabaseSync(path)
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
