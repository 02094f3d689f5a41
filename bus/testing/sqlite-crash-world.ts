/** The embedded pair as `crashSuite` opens it in its child processes. */
import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import type { CrashWorld } from './crash-suite.ts'

export async function open(directory: string): Promise<CrashWorld> {
  return {
    transport: sqliteTransport(join(directory, 'broker.db')),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
