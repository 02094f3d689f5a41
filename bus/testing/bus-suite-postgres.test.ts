import { join } from 'node:path'
import { sqliteTransport } from '../transports/sqlite.ts'
import { busSuite } from './bus-suite.ts'
import { postgresIn } from './postgres-world.ts'

busSuite('embedded broker, postgres', {
  openTransport: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
  openStore: (world, service) => postgresIn(world, service),
})
