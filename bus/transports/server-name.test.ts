/** Several brokers behind one address are told apart by the name that a client asks for as it begins to encrypt (SNI). */
import assert from 'node:assert/strict'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { createServer } from 'node:tls'
import type { Endpoint } from '../endpoint.ts'
import { kafkaTopic } from '../endpoints/kafka-topic.ts'
import { rabbitmqQueue } from '../endpoints/rabbitmq-queue.ts'
import { redisChannel } from '../endpoints/redis-channel.ts'
import type { BusError } from '../errors.ts'
import { silentLog } from '../log.ts'
import { inWorld, type World } from '../testing/world.ts'
import type { Transport } from '../transport.ts'
import { kafkaTransport } from './kafka.ts'
import { rabbitmqTransport } from './rabbitmq.ts'
import { redisTransport } from './redis.ts'

const transports: Record<string, (place: string) => Transport> = {
  rabbitmq: (place) => rabbitmqTransport(`amqps://${place}`),
  kafka: (place) => kafkaTransport(`kafka://${place}?tls=true`),
  redis: (place) => redisTransport(`rediss://${place}`),
}

/** Which name the client asked for at each of these hosts of one server. */
async function askedFor(world: World, tryAt: (place: string) => Promise<void>): Promise<string[]> {
  const asked = new Set<string>()
  const server = createServer({
    SNICallback: (host, done) => {
      asked.add(host)
      done(new Error('it has no certificate'))
    },
  })
  let connections = 0
  server.on('connection', () => connections++)
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  world.defer(() => server.close())
  const { port } = server.address() as AddressInfo
  for (const host of ['localhost', '127.0.0.1']) {
    connections = 0
    await tryAt(`${host}:${port}`)
    assert.ok(connections > 0, `${host} was not connected to`)
  }
  return [...asked]
}

for (const [name, at] of Object.entries(transports)) {
  test(`${name}: the server is asked for by its name, and never by an IP address`, () =>
    inWorld(async (world) => {
      const asked = await askedFor(world, async (place) => {
        const transport = at(place)
        world.defer(() => transport.close())
        await assert.rejects(transport.open(), ({ code }: BusError) => code.startsWith('transport_'))
      })
      assert.deepEqual(asked, ['localhost'])
    }))
}

const endpoints: Record<string, (place: string) => Endpoint> = {
  rabbitmq: (place) => rabbitmqQueue(`amqps://${place}`, { queue: 'theirs' }),
  kafka: (place) => kafkaTopic(`kafka://${place}?tls=true`, { topic: 'theirs' }),
  redis: (place) => redisChannel(`rediss://${place}`, { channel: 'theirs' }),
}

for (const [name, at] of Object.entries(endpoints)) {
  test(`${name}: so is the server of another program`, () =>
    inWorld(async (world) => {
      const asked = await askedFor(world, async (place) => {
        const endpoint = at(place)
        world.defer(() => endpoint.close())
        await endpoint.open({ log: silentLog }).catch(({ code }: BusError) => assert.equal(code, 'transport_refused'))
        assert.equal(endpoint.state().ready, false)
      })
      assert.deepEqual(asked, ['localhost'])
    }))
}
