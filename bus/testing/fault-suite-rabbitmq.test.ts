import { after, test } from 'node:test'
import { type Channel, connect } from 'amqplib'
import { namesOf } from '../transports/rabbitmq-topology.ts'
import { crashOn, eraseCrashPlaces } from './crash-fault-world.ts'
import { crashSuite } from './crash-suite.ts'
import { startFaultBroker } from './fault-broker.ts'
import type { FaultPlace } from './fault-services.ts'
import { faultSuite, STORE_MATTERS } from './fault-suite.ts'
import { needs } from './servers/needs.ts'
import { startRabbitmq } from './servers/rabbitmq.ts'

const module = new URL('./rabbitmq-fault-world.ts', import.meta.url)
const { skip } = await needs('rabbitmq')

/** What an operator could do by hand. */
async function byHand({ url }: FaultPlace, act: (channel: Channel) => Promise<unknown>): Promise<void> {
  const model = await connect(url)
  try {
    await act(await model.createChannel())
  } finally {
    await model.close()
  }
}
const namesIn = ({ name }: FaultPlace) => namesOf(`${name}.`, 'platform-events')

if (skip) test('rabbitmq: fault suite', { skip })
else {
  const broker = await startFaultBroker(startRabbitmq)
  after(() => broker[Symbol.asyncDispose]())
  const deletions = {
    'a queue': (place: FaultPlace) =>
      byHand(place, (channel) => channel.deleteQueue(namesIn(place).shard('scribe', 1))),
    'the queue that stands in for others': (place: FaultPlace) =>
      byHand(place, (channel) => channel.deleteQueue(namesIn(place).shard('scribe', 0))),
    'a binding': (place: FaultPlace) =>
      byHand(place, (channel) =>
        channel.unbindExchange(namesIn(place).subscription('scribe'), namesIn(place).events, 'teller.said'),
      ),
    "the subscription's exchange": (place: FaultPlace) =>
      byHand(place, (channel) => channel.deleteExchange(namesIn(place).subscription('scribe'))),
    'the exchange of all events': (place: FaultPlace) =>
      byHand(place, (channel) => channel.deleteExchange(namesIn(place).events)),
  }
  faultSuite('rabbitmq × sqlite', { module, broker, deletions, settings: { store: 'sqlite' } })
  const postgres = await needs('postgres')
  const settings = { store: 'postgres', postgresUrl: postgres.url }
  if (postgres.skip) test('rabbitmq × postgres: fault suite', { skip: postgres.skip })
  else {
    faultSuite('rabbitmq × postgres', { module, broker, settings }, { only: STORE_MATTERS })
    const crash = crashOn({ module: module.href, url: broker.server.url, settings })
    crashSuite('rabbitmq × postgres', { ...crash, occurrences: [2] })
    after(eraseCrashPlaces)
  }
}
