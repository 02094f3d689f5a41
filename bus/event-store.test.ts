import { join } from 'node:path'
import { sqliteStore } from './stores/sqlite.ts'
import { eventStoreSuite } from './testing/event-store-suite.ts'

eventStoreSuite('sqlite', { open: (world) => sqliteStore(join(world.directory, 'store.db')) })
eventStoreSuite('sqlite in memory', { open: (world) => world.share('store', () => sqliteStore(':memory:')) })
