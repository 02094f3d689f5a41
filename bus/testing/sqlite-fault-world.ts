/** The embedded broker as `faultSuite` opens it. */
import { join } from 'node:path'
import { sqliteTransport } from '../transports/sqlite.ts'
import { planted } from './fault-bugs.ts'
import type { FaultPlace } from './fault-services.ts'
import { eraseStores, openStoreOf } from './fault-stores.ts'

export const open = (place: FaultPlace) => ({
  transport: planted(sqliteTransport(join(place.directory, 'broker.db'), { leaseMs: 900 }), place.settings.bug),
  openStore: openStoreOf(place),
})
export const erase = eraseStores
