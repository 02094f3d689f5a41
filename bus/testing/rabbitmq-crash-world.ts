/** RabbitMQ with embedded stores as `crashSuite` opens them in its child processes. */
import { basename, join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import type { CrashWorld } from './crash-suite.ts'
import { rabbitmqUrl } from './rabbitmq-place.ts'

/** The folder is the world's own, and so is its name. */
export const prefixOf = (directory: string) => `${basename(directory)}.`

export async function open(directory: string): Promise<CrashWorld> {
  return {
    transport: rabbitmqTransport(rabbitmqUrl, { prefix: prefixOf(directory) }),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
