import { eventStoreSuite } from '../testing/event-store-suite.ts'
import { postgresIn } from '../testing/postgres-world.ts'
import { storeSuite } from '../testing/store-suite.ts'

storeSuite('postgres', { open: (world) => postgresIn(world) })
eventStoreSuite('postgres', { open: (world) => postgresIn(world) })
