/** What the transport writes into the log, under the names that the log knows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { silentLog } from '../log.ts'
import { eventually } from '../testing/eventually.ts'
import { rabbitmqPrefix } from '../testing/rabbitmq-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { startProxy } from '../testing/servers/proxy.ts'
import { inWorld } from '../testing/world.ts'
import { rabbitmqTransport } from './rabbitmq.ts'

const { url, skip } = await needs('rabbitmq')

test('rabbitmq: the log says why a connection was lost, and not only that', { skip }, () =>
  inWorld(async (world) => {
    const proxy = await startProxy({ target: Number(new URL(url).port || 5672) })
    world.defer(() => proxy[Symbol.asyncDispose]())
    const warned: { err?: unknown }[] = []
    const log = { ...silentLog, warn: (fields: object) => void warned.push(fields) }
    const transport = rabbitmqTransport(proxy.through(url), { prefix: rabbitmqPrefix(world, url), log })
    world.defer(() => transport.close())
    await transport.open()
    proxy.cut()
    await eventually(() => warned.length === 2)
    for (const { err } of warned) assert.ok(err instanceof Error && err.message !== '')
    proxy.restore()
    await eventually(() => transport.state().ready)
  }),
)
