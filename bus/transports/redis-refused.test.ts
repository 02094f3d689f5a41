/** A bus whose limit is higher than that of its Redis (`proto-max-bulk-len`, `client-query-buffer-limit`). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClient } from 'redis'
import { createBus } from '../bus.ts'
import { jsonCodec } from '../codecs/json.ts'
import { type BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { OUTBOX } from '../refused.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { type Saying, said } from '../testing/bus-stage.ts'
import { eventually } from '../testing/eventually.ts'
import { consume } from '../testing/inbox.ts'
import { needs } from '../testing/servers/needs.ts'
import { startRedis } from '../testing/servers/redis.ts'
import { inWorld, type World } from '../testing/world.ts'
import type { Transport } from '../transport.ts'
import { redisTransport } from './redis.ts'

const { skip } = await needs('redis')
const FACT = { timeoutMs: 30_000 }
const MEGABYTE = 2 ** 20
const LARGE = 'x'.repeat(MEGABYTE + 1)

const wire = (n: number, body = `${n}`): WireMessage => ({ id: `id-${n}`, type: 'a.b', key: 'k', headers: {}, body })

type Place = { world: World; url: string; raw(...command: string[]): Promise<unknown> }

function check(title: string, settings: Record<string, string>, run: (place: Place) => Promise<void>): void {
  test(`redis: ${title}`, { timeout: 60_000, skip }, () =>
    inWorld(async (world) => {
      const server = await startRedis({ settings })
      world.defer(() => server[Symbol.asyncDispose]())
      const operator = createClient({ url: server.url })
      operator.on('error', () => {})
      await operator.connect()
      world.defer(() => operator.destroy())
      await run({ world, url: server.url, raw: (...command) => operator.sendCommand(command) })
    }),
  )
}

async function opened({ world, url }: Pick<Place, 'world' | 'url'>): Promise<Transport> {
  const transport = redisTransport(url)
  world.defer(() => transport.close())
  await transport.open()
  await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'beginning' })
  return transport
}

/** Publishes until the server takes it or refuses it for good; answers the refusal. */
async function outcome(transport: Transport, messages: readonly WireMessage[]): Promise<BusError | null> {
  const once = () =>
    transport.publish(messages).then(
      () => ({ refusal: null }),
      (error: BusError) => (error instanceof UnavailableError ? null : { refusal: error }),
    )
  return (await eventually(once, FACT))!.refusal
}

for (const [setting, bytesMax] of [
  ['proto-max-bulk-len', MEGABYTE],
  ['client-query-buffer-limit', MEGABYTE - 2],
] as const) {
  check(
    `B6 Z1 a message over ${setting} is refused by name and sizes, and nothing else with it`,
    { [setting]: '1mb' },
    async (place) => {
      const transport = await opened(place)
      await transport.publish([wire(1)])
      const [fits, large] = [wire(2, 'x'.repeat(bytesMax)), wire(3, 'x'.repeat(bytesMax + 1))]
      await transport.publish([fits])
      await assert.rejects(transport.publish([wire(9), large]), {
        code: 'message_too_large',
        message: new RegExp(
          `id-3 \\(a\\.b\\) has ${bytesMax + 1} bytes .* takes ${bytesMax}: raise its ${setting}, or`,
        ),
      })
      await assert.rejects(transport.publish([wire(3, '£'.repeat(MEGABYTE / 2 + 1))]), { code: 'message_too_large' })
      await transport.publish([wire(4)]) // it was not sent: the connection stands
      const inbox = await consume(transport, 'all')
      await inbox.until(3)
      assert.deepEqual(inbox.ids(), ['id-1', 'id-2', 'id-4'])
    },
  )
}

check('B6 Z1 a limit that is lowered holds from the next connection on', {}, async (place) => {
  const transport = await opened(place)
  await transport.publish([wire(1, LARGE)])
  await place.raw('CONFIG', 'SET', 'proto-max-bulk-len', '1mb')
  assert.match((await outcome(transport, [wire(2, LARGE)]))!.message, /raise its proto-max-bulk-len/)
})

check(
  'B6 Z2 where CONFIG is forbidden, what the connection is cut over again and again is refused',
  { 'proto-max-bulk-len': '1mb' },
  async ({ world, url, raw }) => {
    await raw('ACL', 'SETUSER', 'guest', 'on', 'nopass', '~*', '+@all', '-config')
    const transport = await opened({ world, url: url.replace('redis://', 'redis://guest:any@') })
    const batch = [wire(1), wire(2, LARGE), wire(3)]
    const refusal = await outcome(transport, batch)
    assert.equal(refusal?.code, 'message_too_large')
    assert.match(refusal.message, /id-2 .* has 1048577 bytes .* cuts the connection over it/)
    await transport.publish([wire(1), wire(3)])
    await assert.rejects(transport.publish([wire(4, LARGE)]), { code: 'message_too_large' })
    await transport.publish([wire(5)]) // what is as large was not sent again: the connection stands
    const inbox = await consume(transport, 'all')
    await inbox.untilIds((seen) => seen.has('id-5'))
    assert.deepEqual([...new Set(inbox.ids())], ['id-1', 'id-3', 'id-5'])
    await raw('CONFIG', 'SET', 'proto-max-bulk-len', '2mb')
    await transport.publish([wire(6, 'x'.repeat(MEGABYTE))])
  },
)

check(
  'B6 R5 a message over proto-max-bulk-len stops nothing behind it in the outbox, and goes once the limit is raised',
  { 'proto-max-bulk-len': '1mb' },
  async ({ world, url, raw }) => {
    const transport = redisTransport(url)
    world.defer(() => transport.close())
    const store = sqliteStore(':memory:')
    world.defer(() => store.close())
    const bus = createBus({ service: 'shop', transport, store, limits: { messageBytesMax: 8 * MEGABYTE } })
    world.defer(() => bus.close())
    const heard: Saying[] = []
    bus.subscribe(said, (data) => void heard.push(data))
    await bus.start()
    await bus.transaction(({ publish }) => {
      for (let number = 1; number <= 30; number++)
        publish(said, { about: 'a', number, ...(number % 10 === 5 ? { note: LARGE } : {}) })
    })
    const quiet = () =>
      eventually(async () => (await bus.status()).outbox.waiting === 0 && (await bus.isIdle()), {
        ...FACT,
        message: 'the outbox did not empty',
      })
    await quiet()
    const all = Array.from({ length: 30 }, (_, index) => index + 1)
    const numbers = () => heard.map(({ number }) => number)
    assert.deepEqual(
      numbers(),
      all.filter((number) => number % 10 !== 5),
    )
    const letters = await bus.deadLetters.list()
    const found = letters.map(({ subscription, code, body }) => [subscription, code, jsonCodec.decode(body).data])
    const refused = (number: number) => [OUTBOX, 'message_too_large', { about: 'a', number, note: LARGE }]
    assert.deepEqual(found, [5, 15, 25].map(refused))

    await raw('CONFIG', 'SET', 'proto-max-bulk-len', '2mb')
    await bus.deadLetters.redrive('all', { by: 'operator', why: 'the limit is raised' })
    await quiet()
    assert.deepEqual(numbers().slice(-3), [5, 15, 25])
    assert.deepEqual(await bus.deadLetters.list(), [])
  },
)
