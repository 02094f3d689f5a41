/** The embedded broker with PostgreSQL stores as `crashSuite` opens them in its child processes. */
import { basename, join } from 'node:path'
import { postgresStore } from '../stores/postgres.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import type { CrashWorld } from './crash-suite.ts'
import { sharedPostgresUrl } from './postgres-world.ts'

/** The directory's name is the world's own, so that schemas can be named after it. */
export async function open(directory: string): Promise<CrashWorld> {
  const prefix = basename(directory)
    .toLowerCase()
    .replaceAll(/[^a-z0-9]/g, '_')
  return {
    transport: sqliteTransport(join(directory, 'broker.db')),
    openStore: (name) => postgresStore(sharedPostgresUrl, { schema: `${prefix}_${name}` }),
  }
}
