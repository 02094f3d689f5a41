import { test } from 'node:test'
import { rabbitmqPrefix } from '../testing/rabbitmq-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import { rabbitmqTransport } from './rabbitmq.ts'

const { url, skip } = await needs('rabbitmq')

if (skip) test('rabbitmq: transport suite', { skip })
else
  transportSuite('rabbitmq', {
    // Leases end when the broker drops a connection, by its own clock: leasesFollowClock is false.
    open: (world, { clock }) => rabbitmqTransport(url, { clock, prefix: rabbitmqPrefix(world, url) }),
  })
