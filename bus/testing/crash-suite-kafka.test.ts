import { after } from 'node:test'
import { crashSuite } from './crash-suite.ts'
import { kafkaServer } from './kafka-world.ts'
import { startKafka } from './servers/kafka.ts'

const { skip, runner } = await kafkaServer()

if (!skip) {
  // Its own: who is killed is missed for a session, and other servers do not allow one this short.
  const server = await startKafka({ settings: { 'group.min.session.timeout.ms': '500' } })
  after(() => server[Symbol.asyncDispose]())
  process.env.KAFKA_URL = server.url
}

crashSuite(
  'kafka × sqlite',
  { module: new URL('./kafka-crash-world.ts', import.meta.url), occurrences: [1, 3] },
  runner,
)
