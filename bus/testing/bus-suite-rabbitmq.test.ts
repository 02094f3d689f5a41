import { join } from 'node:path'
import { test } from 'node:test'
import { sqliteStore } from '../stores/sqlite.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { busSuite } from './bus-suite.ts'
import { rabbitmqPrefix } from './rabbitmq-place.ts'
import { needs } from './servers/needs.ts'

const { url, skip } = await needs('rabbitmq')

if (skip) test('rabbitmq + sqlite store: bus suite', { skip })
else
  busSuite('rabbitmq + sqlite store', {
    openTransport: (world, { clock }) => rabbitmqTransport(url, { clock, prefix: rabbitmqPrefix(world, url) }),
    openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
  })
