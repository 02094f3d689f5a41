/** How much of what is done the log keeps. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClient } from 'redis'
import type { WireMessage } from '../message.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { withoutTrace } from '../testing/redis-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { inWorld } from '../testing/world.ts'
import { redisTransport } from './redis.ts'

const { url, skip } = await needs('redis')

const series = (from: number, count: number): WireMessage[] =>
  Array.from({ length: count }, (_, n) => ({ id: `id-${from + n}`, type: 'a.b', key: null, headers: {}, body: '{}' }))

test('redis: a log full of what everybody has handled takes more', { skip }, () =>
  inWorld(async (world) => {
    withoutTrace(world, url)
    const prefix = world.name
    const transport = redisTransport(url, { prefix, shards: 1, leaseMs: 300, logEntriesMax: 2_000 })
    world.defer(() => transport.close())
    await transport.open()
    await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'beginning' })
    const all = await consume(transport, 'all')
    await transport.publish(series(0, 1_900))
    await all.until(1_900)
    const accepted = () =>
      transport.publish(series(1_900, 200)).then(
        () => true,
        () => false,
      )
    await eventually(accepted, { message: 'publishing was still refused' })
    await all.until(2_100)
    const raw = createClient({ url })
    await raw.connect()
    world.defer(async () => raw.destroy())
    await transport.publish(series(2_100, 1))
    assert.ok((await raw.xLen(`{${prefix}}:log:0`)) > 500, 'what there is room for is kept for retentionMs')
  }),
)
