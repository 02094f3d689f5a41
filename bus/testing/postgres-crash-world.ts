/** The embedded broker with PostgreSQL stores as `crashSuite` opens them in its child processes; POSTGRES_URL says where. */
import { basename, join } from 'node:path'
import { postgresStore } from '../stores/postgres.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import type { CrashWorld } from './crash-suite.ts'
import { dropSchemas } from './postgres-world.ts'

const opened = new Set<string>()

/** The directory's name is the world's own, so the schemas are named after it. */
export async function open(directory: string): Promise<CrashWorld> {
  const prefix = basename(directory)
    .toLowerCase()
    .replaceAll(/[^a-z0-9]/g, '_')
  return {
    transport: sqliteTransport(join(directory, 'broker.db')),
    openStore(name) {
      const schema = `${prefix}_${name}`
      opened.add(schema)
      return postgresStore(process.env.POSTGRES_URL!, { schema })
    },
  }
}

/** Drops the schemas that were opened in this process: the test's own, after its children are gone. */
export async function dropCrashSchemas(): Promise<void> {
  await dropSchemas([...opened], process.env.POSTGRES_URL!)
  opened.clear()
}
