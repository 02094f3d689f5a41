import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { type Channel, connect } from 'amqplib'
import { namesOf } from '../transports/rabbitmq-topology.ts'
import { crashOn, eraseCrashPlaces } from './crash-fault-world.ts'
import { crashSuite } from './crash-suite.ts'
import { eventually } from './eventually.ts'
import { startFaultBroker } from './fault-broker.ts'
import type { FaultPlace } from './fault-services.ts'
import { faultSuite, STORE_MATTERS } from './fault-suite.ts'
import { needs } from './servers/needs.ts'
import { startRabbitmq } from './servers/rabbitmq.ts'
import { freePort } from './servers/server.ts'

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
  // Policies are set over HTTP; the bus itself needs no plugin.
  const plugins = ['rabbitmq_management']
  const httpPort = await freePort()
  const settings = { 'management.tcp.ip': '127.0.0.1', 'management.tcp.port': `${httpPort}` }
  const broker = await startFaultBroker((at) => startRabbitmq({ ...at, plugins, settings }))
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
  const http = async (method: string, path: string, body?: object): Promise<Record<string, unknown>> => {
    const response = await fetch(`http://127.0.0.1:${httpPort}/api/${path}`, {
      method,
      headers: { authorization: `Basic ${btoa('guest:guest')}`, 'content-type': 'application/json' },
      signal: AbortSignal.timeout(10_000),
      ...(body && { body: JSON.stringify(body) }),
    })
    assert.ok(response.ok, `${method} ${path}: ${response.status}`)
    const text = await response.text()
    return text === '' ? {} : JSON.parse(text)
  }
  const refusals = {
    'a queue that is full and rejects': async (place: FaultPlace) => {
      const limitTo = async (count: number) => {
        await http('PUT', `policies/%2F/${place.name}`, {
          pattern: `^${place.name}\\.scribe\\.[0-9]+$`,
          definition: { 'max-length': count },
          'apply-to': 'queues',
        })
        const queue = `queues/%2F/${namesIn(place).shard('scribe', 0)}`
        const holds = async () => JSON.stringify(await http('GET', queue)).includes(`"max-length":${count}`)
        await eventually(holds, { timeoutMs: 15_000, message: 'the policy had no effect' })
      }
      await limitTo(5)
      // Where the policy is only taken away, a quorum queue of 3.10 was seen to go on rejecting.
      return () => limitTo(100_000)
    },
  }
  faultSuite('rabbitmq × sqlite', { module, broker, deletions, refusals, settings: { store: 'sqlite' } })
  const postgres = await needs('postgres')
  const stores = { store: 'postgres', postgresUrl: postgres.url }
  if (postgres.skip) test('rabbitmq × postgres: fault suite', { skip: postgres.skip })
  else {
    faultSuite('rabbitmq × postgres', { module, broker, settings: stores }, { only: STORE_MATTERS })
    const crash = crashOn({ module: module.href, url: broker.server.url, settings: stores })
    crashSuite('rabbitmq × postgres', { ...crash, occurrences: [2] })
    after(eraseCrashPlaces)
  }
}
