import { test } from 'node:test'
import { withoutTrace } from '../testing/redis-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import { redisTransport } from './redis.ts'

const { url, skip } = await needs('redis')

if (skip) test('redis: transport suite', { skip })
else
  transportSuite('redis', {
    // Leases and deadlines are the server's and the network's business, so the transport keeps real time.
    open: (world) => {
      withoutTrace(world, url)
      return redisTransport(url, { prefix: world.name })
    },
  })
