import { crashSuite } from './crash-suite.ts'
import { privateKafka } from './kafka-world.ts'

// Its own: who is killed is missed for a session, and other servers do not allow one this short.
const { server, runner } = await privateKafka({ settings: { 'group.min.session.timeout.ms': '500' } })
if (server) process.env.KAFKA_URL = server.url

crashSuite('kafka × sqlite', { module: new URL('./kafka-crash-world.ts', import.meta.url), occurrences: [3] }, runner)
