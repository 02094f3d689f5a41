/** The places of other programs, behind a certificate that nobody vouches for. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { createServer } from 'node:tls'
import type { Endpoint } from '../endpoint.ts'
import { silentLog } from '../log.ts'
import { type Certificate, createAuthority } from '../testing/servers/certificates.ts'
import { ServerMissing } from '../testing/servers/server.ts'
import { inWorld } from '../testing/world.ts'
import { kafkaTopic } from './kafka-topic.ts'
import { rabbitmqQueue } from './rabbitmq-queue.ts'
import { redisChannel } from './redis-channel.ts'

const endpoints: Record<string, (place: string) => Endpoint> = {
  'a RabbitMQ queue': (place) => rabbitmqQueue(`amqps://${place}`, { queue: 'orders' }),
  'a Kafka topic': (place) => kafkaTopic(`kafka://${place}?tls=true`, { topic: 'orders' }),
  'a Redis channel': (place) => redisChannel(`rediss://${place}`, { channel: 'orders' }),
}

for (const [name, at] of Object.entries(endpoints)) {
  test(`${name}: a certificate that nobody vouches for is refused, and told to set NODE_EXTRA_CA_CERTS`, (context) =>
    inWorld(async (world) => {
      let issued: Certificate
      try {
        issued = createAuthority(world.directory).issue('localhost')
      } catch (error) {
        if (!(error instanceof ServerMissing)) throw error
        return context.skip(error.message)
      }
      const server = createServer({ cert: readFileSync(issued.certificate), key: readFileSync(issued.key) })
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
      world.defer(() => server.close())
      const endpoint = at(`localhost:${(server.address() as AddressInfo).port}`)
      world.defer(() => endpoint.close())
      const refused = { code: 'transport_refused', message: /NODE_EXTRA_CA_CERTS/ }
      await assert.rejects(endpoint.open({ log: silentLog }), refused)
    }))
}
