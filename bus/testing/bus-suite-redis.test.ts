import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { redisTransport } from '../transports/redis.ts'
import { busSuite } from './bus-suite.ts'
import { redisUrl, withoutTrace } from './redis-place.ts'

// Leases and deadlines are the server's and the network's business, so the transport keeps real time.
busSuite('redis + sqlite store', {
  openTransport: (world) => {
    withoutTrace(world)
    return redisTransport(redisUrl, { prefix: world.name })
  },
  openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
})
