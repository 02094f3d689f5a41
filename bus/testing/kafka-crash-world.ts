/** Kafka with the SQLite store, as `crashSuite` opens it in its child processes; KAFKA_URL names the server. */
import { basename, join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { kafkaTransport } from '../transports/kafka.ts'
import type { CrashWorld } from './crash-suite.ts'

export async function open(directory: string): Promise<CrashWorld> {
  return {
    transport: kafkaTransport(process.env.KAFKA_URL!, {
      prefix: `${basename(directory)}.`,
      partitions: 2,
      // Each life waits for the session of the one before.
      sessionTimeoutMs: 1_000,
    }),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
