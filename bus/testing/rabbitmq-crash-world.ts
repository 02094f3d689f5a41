/** RabbitMQ, at RABBITMQ_URL, with embedded stores, as `crashSuite` opens them in its child processes. */
import { basename, join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import type { CrashWorld } from './crash-suite.ts'

/** Of the worlds that this process has opened. */
export const prefixes = new Set<string>()

export async function open(directory: string): Promise<CrashWorld> {
  const prefix = `${basename(directory)}.` // the folder is the world's own, and so is its name
  prefixes.add(prefix)
  return {
    transport: rabbitmqTransport(process.env.RABBITMQ_URL!, { prefix }),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
