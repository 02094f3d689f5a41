import { join } from 'node:path'
import { transportSuite } from '../testing/transport-suite.ts'
import { sqliteTransport } from './sqlite.ts'

transportSuite('sqlite', {
  leasesFollowClock: true,
  open: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
})
