import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import { busSuite } from './bus-suite.ts'

busSuite('embedded', {
  openTransport: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
  openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
})
