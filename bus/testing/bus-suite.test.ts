import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { memoryBroker, memoryTransport } from '../transports/memory.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import { busSuite } from './bus-suite.ts'

busSuite('in memory', {
  openTransport: (world, { clock }) => memoryTransport(world.share('broker', () => memoryBroker({ clock }))),
  openStore: () => sqliteStore(':memory:'),
  storeCapabilities: { acrossProcesses: false, readsBesideWrites: false },
})

busSuite('embedded', {
  openTransport: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
  openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
})
