/** The embedded pair as `crashSuite` and `processesSuite` open it in their child processes. */
import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { sqliteTransport } from '../transports/sqlite.ts'
import type { CrashWorld } from './crash-suite.ts'

export async function open(directory: string, options: { leaseMs?: number } = {}): Promise<CrashWorld> {
  return {
    transport: sqliteTransport(join(directory, 'broker.db'), options),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
