import { after, test } from 'node:test'
import { Admin } from '@platformatic/kafka'
import { topicName } from '../transports/kafka.ts'
import { crashOn, eraseCrashPlaces } from './crash-fault-world.ts'
import { crashSuite } from './crash-suite.ts'
import { startFaultBroker } from './fault-broker.ts'
import type { FaultPlace } from './fault-services.ts'
import { faultSuite, STORE_MATTERS } from './fault-suite.ts'
import { startKafka } from './servers/kafka.ts'
import { needs } from './servers/needs.ts'

const module = new URL('./kafka-fault-world.ts', import.meta.url)
const { skip } = await needs('kafka')

if (skip) test('kafka: fault suite', { skip })
else {
  // Who is killed is missed for a session, and a server as it is delivered does not allow one this short.
  const short = { 'group.min.session.timeout.ms': '500' }
  const broker = await startFaultBroker((at) => startKafka({ ...at, settings: short }))
  after(() => broker[Symbol.asyncDispose]())
  const deletions = {
    'a topic': async ({ url, name }: FaultPlace) => {
      const admin = new Admin({ clientId: 'fault-suite', bootstrapBrokers: [new URL(url).host], retries: 1 })
      try {
        await admin.deleteTopics({ topics: [topicName(`${name}.`, 'teller')] })
      } finally {
        await admin.close()
      }
    },
  }
  faultSuite('kafka × sqlite', { module, broker, deletions, settings: { store: 'sqlite' } })
  const postgres = await needs('postgres')
  const settings = { store: 'postgres', postgresUrl: postgres.url }
  if (postgres.skip) test('kafka × postgres: fault suite', { skip: postgres.skip })
  else {
    faultSuite('kafka × postgres', { module, broker, settings }, { only: STORE_MATTERS })
    const crash = crashOn({ module: module.href, url: broker.server.url, settings })
    crashSuite('kafka × postgres', { ...crash, occurrences: [2] })
    after(eraseCrashPlaces)
  }
}
