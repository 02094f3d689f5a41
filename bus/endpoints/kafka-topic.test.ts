import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Arrival } from '../endpoint.ts'
import { silentLog } from '../log.ts'
import { bridgeSuite } from '../testing/bridge-suite.ts'
import { eventually } from '../testing/eventually.ts'
import { createAuthority } from '../testing/servers/certificates.ts'
import { startKafka } from '../testing/servers/kafka.ts'
import { needs } from '../testing/servers/needs.ts'
import { freePort } from '../testing/servers/server.ts'
import { strangers } from '../testing/strangers.ts'
import { inWorld } from '../testing/world.ts'
import { kafkaTopic } from './kafka-topic.ts'

const { url, skip } = await needs('kafka')

bridgeSuite('kafka topic', {
  url,
  skip,
  startServer: () => startKafka(),
  endpoint: (at, topic) => kafkaTopic(at, { topic, group: topic }),
  stranger: strangers.kafka.open,
  keeps: true,
})

test(
  'kafka topic: W2 what is settled out of order is committed up to the lowest that is not',
  { skip, timeout: 60_000 },
  () =>
    inWorld(async (world) => {
      const topic = world.name
      const they = await strangers.kafka.open(url, topic)
      world.defer(() => they[Symbol.asyncDispose]())
      for (const text of ['0', '1', '2', '3']) await they.say(text)

      const take = async (windowMax: number) => {
        const inHand: Arrival[] = []
        const endpoint = kafkaTopic(url, { topic, group: topic })
        await endpoint.open({ log: silentLog })
        await endpoint.receive({
          name: 'x',
          windowMax,
          receive: (arrivals) => void inHand.push(...arrivals),
          lost: () => {},
        })
        return { endpoint, inHand }
      }
      const first = await take(3)
      await eventually(() => first.inHand.length === 3, { timeoutMs: 20_000, message: 'the window is full' })
      for (const index of [0, 2]) first.endpoint.settle(first.inHand[index]!, 'taken')
      await eventually(() => first.inHand.length === 4, { message: 'there is room again' })
      await first.endpoint.close()

      const second = await take(10)
      world.defer(() => second.endpoint.close())
      await eventually(() => second.inHand.length === 3, { timeoutMs: 20_000, message: 'the rest comes again' })
      assert.deepEqual(
        second.inHand.map(({ body }) => String(body)),
        ['1', '2', '3'],
      )
      // W2, G2: a record is the same record, however often it is read.
      assert.deepEqual(
        second.inHand.map(({ id }) => id),
        first.inHand.slice(1).map(({ id }) => id),
      )
    }),
)

test('credentials and encryption stand in the address; what it does not know is refused', () => {
  for (const address of ['kafka://ada:secret@h?sasl=none', 'kafka://h?ssl=true', 'kafka+ssl://h', 'kafka://ada:%@h'])
    assert.throws(
      () => kafkaTopic(address, { topic: 'x' }),
      (error: Error & { code: string }) => error.code === 'invalid_argument' && !error.message.includes('secret'),
      address,
    )
})

test(
  'kafka topic: brokers that are reached by a name and known by IP addresses take what is sent, over TLS',
  {
    skip,
    timeout: 120_000,
  },
  () =>
    inWorld(async (world) => {
      const { certificate, key } = createAuthority(world.directory).issue('127.0.0.1')
      const pem = join(world.directory, 'server.pem')
      writeFileSync(pem, readFileSync(key, 'utf8') + readFileSync(certificate, 'utf8'))
      const port = await freePort()
      const server = await startKafka({
        listeners: { ENCRYPTED: { port, protocol: 'SSL', host: '127.0.0.1' } },
        settings: { 'ssl.keystore.type': 'PEM', 'ssl.keystore.location': pem },
      })
      world.defer(() => server[Symbol.asyncDispose]())
      // Whom a certificate is for is another test's: this one is for the address, and the server is reached by a name.
      const { NODE_TLS_REJECT_UNAUTHORIZED: before } = process.env
      process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
      world.defer(() => {
        if (before === undefined) delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
        else process.env.NODE_TLS_REJECT_UNAUTHORIZED = before
      })
      const endpoint = kafkaTopic(`kafka://localhost:${port}?tls=true`, { topic: world.name })
      world.defer(() => endpoint.close())
      await endpoint.open({ log: silentLog })
      const note = { body: Buffer.from('Order #1 created'), headers: {}, id: '1', key: null }
      await eventually(
        () =>
          endpoint.send(note).then(
            () => true,
            () => false,
          ),
        { timeoutMs: 60_000 },
      )
    }),
)
