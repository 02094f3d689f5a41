/** Several brokers behind one address are told apart by the name that a client asks for as it begins to encrypt (SNI). */
import assert from 'node:assert/strict'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { createServer } from 'node:tls'
import type { BusError } from '../errors.ts'
import { inWorld } from '../testing/world.ts'
import type { Transport } from '../transport.ts'
import { kafkaTransport } from './kafka.ts'
import { rabbitmqTransport } from './rabbitmq.ts'
import { redisTransport } from './redis.ts'

const transports: Record<string, (place: string) => Transport> = {
  rabbitmq: (place) => rabbitmqTransport(`amqps://${place}`),
  kafka: (place) => kafkaTransport(`kafka://${place}?tls=true`),
  redis: (place) => redisTransport(`rediss://${place}`),
}

for (const [name, at] of Object.entries(transports)) {
  test(`${name}: the server is asked for by its name, and never by an IP address`, () =>
    inWorld(async (world) => {
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
        const transport = at(`${host}:${port}`)
        world.defer(() => transport.close())
        connections = 0
        await assert.rejects(transport.open(), ({ code }: BusError) => code.startsWith('transport_'))
        assert.ok(connections > 0, `${host} was not connected to`)
      }
      assert.deepEqual([...asked], ['localhost'])
    }))
}
