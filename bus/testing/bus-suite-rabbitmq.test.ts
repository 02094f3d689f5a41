import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { busSuite } from './bus-suite.ts'
import { rabbitmqPrefix, rabbitmqUrl } from './rabbitmq-place.ts'

busSuite('rabbitmq + sqlite store', {
  openTransport: (world, { clock }) => rabbitmqTransport(rabbitmqUrl, { clock, prefix: rabbitmqPrefix(world) }),
  openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
})
