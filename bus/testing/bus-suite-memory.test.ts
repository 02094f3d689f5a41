import { sqliteStore } from '../stores/sqlite.ts'
import { memoryBroker, memoryTransport } from '../transports/memory.ts'
import { busSuite } from './bus-suite.ts'

busSuite('in memory', {
  openTransport: (world, { clock }) => memoryTransport(world.share('broker', () => memoryBroker({ clock }))),
  openStore: () => sqliteStore(':memory:'),
  storeCapabilities: { acrossProcesses: false, readsBesideWrites: false },
})
