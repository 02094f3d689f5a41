/**
 * A process that says one thing and hears it: Node reads NODE_EXTRA_CA_CERTS when it starts. Prints `{ heard }`, or the code
 * and the text of what it was refused with, as JSON. Argument: the URL of a broker or of a database.
 */
import { createBus } from '../bus.ts'
import type { BusError } from '../errors.ts'
import { postgresStore } from '../stores/postgres.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { kafkaTransport } from '../transports/kafka.ts'
import { memoryTransport } from '../transports/memory.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { redisTransport } from '../transports/redis.ts'
import { said } from './bus-stage.ts'

const url = process.argv[2]!
const isDatabase = url.startsWith('postgres:')
const store = isDatabase ? postgresStore(url) : sqliteStore(':memory:')
const transport = isDatabase
  ? memoryTransport()
  : { amqp: rabbitmqTransport, kafka: kafkaTransport, redis: redisTransport }[/^amqp|^kafka|^redis/.exec(url)![0]]!(url)
const bus = createBus({ service: 'shop', transport, store })
const { promise: heard, resolve } = Promise.withResolvers<number>()
bus.subscribe(said, ({ number }) => resolve(number))
try {
  await bus.start()
  await bus.publish(said, { about: 'a', number: 1 })
  console.log(JSON.stringify({ heard: await heard }))
} catch (error) {
  const { code, message } = error as BusError
  console.log(JSON.stringify({ code, message }))
}
await bus.close()
await transport.close()
await store.close()
