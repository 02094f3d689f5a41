import { join } from 'node:path'
import { storeSuite } from '../testing/store-suite.ts'
import { sqliteStore } from './sqlite.ts'

storeSuite('sqlite', { open: (world) => sqliteStore(join(world.directory, 'service.db')) })

storeSuite('sqlite in memory', {
  open: () => sqliteStore(':memory:'),
  capabilities: { acrossProcesses: false, readsBesideWrites: false },
})
