import { join } from 'node:path'
import { test } from 'node:test'
import { sqliteStore } from '../stores/sqlite.ts'
import { redisTransport } from '../transports/redis.ts'
import { busSuite } from './bus-suite.ts'
import { withoutTrace } from './redis-place.ts'
import { needs } from './servers/needs.ts'

const { url, skip } = await needs('redis')

if (skip) test('redis + sqlite store: bus suite', { skip })
else
  busSuite('redis + sqlite store', {
    openTransport: (world) => {
      withoutTrace(world, url)
      return redisTransport(url, { prefix: world.name })
    },
    openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
  })
