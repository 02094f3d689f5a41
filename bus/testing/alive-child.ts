/**
 * A process that hears and does nothing else: it says when its event loop has nothing left to wait for. Arguments: the
 * broker's URL, a prefix for names there, and a folder.
 */
import { join } from 'node:path'
import { createBus } from '../bus.ts'
import { event, type Schema } from '../event.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import type { Transport } from '../transport.ts'
import { kafkaTransport } from '../transports/kafka.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { redisTransport } from '../transports/redis.ts'
import { sqliteTransport } from '../transports/sqlite.ts'

/** Long enough for a loop with nothing to wait for to end. */
const DELAY_MS = 300

const [url, prefix, folder] = process.argv.slice(2) as [string, string, string]
const transports: Record<string, () => Transport> = {
  'sqlite:': () => sqliteTransport(join(folder, 'broker.db')),
  'amqp:': () => rabbitmqTransport(url, { prefix }),
  'kafka:': () => kafkaTransport(url, { prefix }),
  'redis:': () => redisTransport(url, { prefix }),
}
const transport = transports[new URL(url).protocol]!()

const anything = {
  '~standard': { version: 1, vendor: 'alive-kit', validate: (value: unknown) => ({ value }) },
} satisfies Schema<unknown>
const rang = event('worker.rang', { version: 1, schema: anything, key: () => 'bell' })

process.once('beforeExit', () => console.log('nothing keeps it alive'))
const bus = createBus({ service: 'worker', transport, store: sqliteStore(join(folder, 'worker.db')), events: [rang] })
const heard = Promise.withResolvers<void>()
bus.subscribe(rang, () => heard.resolve())
await bus.start()
await bus.transaction(({ publish }) => void publish(rang, null, { delayMs: DELAY_MS }))
void heard.promise.then(async () => {
  console.log('heard')
  await bus.close()
  await transport.close()
  await bus.store.close()
})
