/** A bus whose limit is higher than that of its topics (`max.message.bytes`). */
import assert from 'node:assert/strict'
import { createBus } from '../bus.ts'
import { jsonCodec } from '../codecs/json.ts'
import { OUTBOX } from '../refused.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { type Saying, said } from '../testing/bus-stage.ts'
import { eventually } from '../testing/eventually.ts'
import { kafkaIn, kafkaServer } from '../testing/kafka-world.ts'
import { caseRegistrar } from '../testing/suite-test.ts'

const { url, runner } = await kafkaServer()
const check = caseRegistrar('kafka', runner)

check('B6 R5 a message over max.message.bytes stops nothing behind it in the outbox', async (world) => {
  const transport = kafkaIn(world, url)
  world.defer(() => transport.close())
  const store = sqliteStore(':memory:')
  world.defer(() => store.close())
  const bus = createBus({ service: 'shop', transport, store, limits: { messageBytesMax: 8_388_608 } })
  world.defer(() => bus.close())
  const heard: Saying[] = []
  bus.subscribe(said, (data) => void heard.push(data))
  await bus.start()
  // Chance, since Kafka counts what is left after compression.
  const long = Array.from({ length: 3_000_000 }, () => String.fromCharCode(33 + Math.random() * 58)).join('')
  await bus.transaction(({ publish }) => {
    for (let number = 1; number <= 30; number++)
      publish(said, { about: 'a', number, ...(number % 10 === 5 ? { note: long } : {}) })
  })
  await eventually(async () => (await bus.status()).outbox.waiting === 0 && (await bus.isIdle()), {
    timeoutMs: 30_000,
    message: 'the outbox did not empty',
  })
  const expected = Array.from({ length: 30 }, (_, index) => index + 1).filter((number) => number % 10 !== 5)
  assert.deepEqual([...new Set(heard.map(({ number }) => number))], expected)
  const letters = await bus.deadLetters.list()
  const found = letters.map(({ subscription, code, body }) => [subscription, code, jsonCodec.decode(body).data])
  const refused = (number: number) => [OUTBOX, 'message_too_large', { about: 'a', number, note: long }]
  assert.deepEqual(found, [5, 15, 25].map(refused))
})
