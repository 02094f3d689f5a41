import { after, test } from 'node:test'
import { createClient } from 'redis'
import { keysOf } from '../transports/redis-keys.ts'
import { crashOn, eraseCrashPlaces } from './crash-fault-world.ts'
import { crashSuite } from './crash-suite.ts'
import { startFaultBroker } from './fault-broker.ts'
import type { FaultPlace } from './fault-services.ts'
import { faultSuite, STORE_MATTERS } from './fault-suite.ts'
import { needs } from './servers/needs.ts'
import { startRedis } from './servers/redis.ts'

const module = new URL('./redis-fault-world.ts', import.meta.url)
const { skip } = await needs('redis')

/** What an operator could do by hand. */
async function command({ url }: FaultPlace, ...args: string[]): Promise<void> {
  const client = createClient({ url, socket: { reconnectStrategy: false } })
  client.on('error', () => {})
  await client.connect()
  try {
    await client.sendCommand(args)
  } finally {
    client.destroy()
  }
}
const streamOf = ({ name }: FaultPlace) => keysOf(name, 1).streams[0]!

if (skip) test('redis: fault suite', { skip })
else {
  const broker = await startFaultBroker(startRedis)
  after(() => broker[Symbol.asyncDispose]())
  const deletions = {
    'a stream': (place: FaultPlace) => command(place, 'DEL', streamOf(place)),
    'a group': (place: FaultPlace) => command(place, 'XGROUP', 'DESTROY', streamOf(place), 'scribe'),
    'the whole database': (place: FaultPlace) => command(place, 'FLUSHALL'),
  }
  const refusals = {
    'a server without memory': async (place: FaultPlace) => {
      await command(place, 'CONFIG', 'SET', 'maxmemory', '1mb')
      return () => command(place, 'CONFIG', 'SET', 'maxmemory', '0')
    },
  }
  faultSuite('redis × sqlite', { module, broker, deletions, refusals, settings: { store: 'sqlite' } })
  const postgres = await needs('postgres')
  const settings = { store: 'postgres', postgresUrl: postgres.url }
  if (postgres.skip) test('redis × postgres: fault suite', { skip: postgres.skip })
  else {
    faultSuite('redis × postgres', { module, broker, settings }, { only: STORE_MATTERS })
    const crash = crashOn({ module: module.href, url: broker.server.url, settings })
    crashSuite('redis × postgres', { ...crash, occurrences: [2] })
    after(eraseCrashPlaces)
  }
}
