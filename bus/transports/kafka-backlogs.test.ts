/** Backlogs larger than what is held of them, or counted, at a time. */
import assert from 'node:assert/strict'
import { systemClock } from '../clock.ts'
import { idMaker, type WireMessage } from '../message.ts'
import { consume } from '../testing/inbox.ts'
import { kafkaIn, kafkaServer } from '../testing/kafka-world.ts'
import { caseRegistrar } from '../testing/suite-test.ts'

const { url, runner } = await kafkaServer()
const check = caseRegistrar('kafka', runner)
const newId = idMaker(systemClock, Math.random)

/** More than is fetched at once (4 MB) and held (10,000), so one topic alone fills the room. */
const BEHIND = 24_000

const series = (type: string, count: number): WireMessage[] =>
  Array.from({ length: count }, (_, index) => ({
    id: newId(),
    type,
    key: `key-${index % 64}`,
    headers: {},
    body: 'a body of so many bytes '.repeat(10),
  }))

check('S4 a long backlog of one topic does not starve a subscription that waits for another', async (world) => {
  const transport = kafkaIn(world, url)
  world.defer(() => transport.close())
  await transport.open()
  await transport.declare({ name: 'all', bindings: [{ kind: 'fanout' }], from: 'now' })
  const messages = [
    ...series('order.placed', BEHIND),
    ...series('payment.processed', BEHIND),
    ...series('shipment.created', BEHIND),
  ]
  for (let start = 0; start < messages.length; start += 6_000)
    await transport.publish(messages.slice(start, start + 6_000))
  const inbox = await consume(transport, 'all')
  await inbox.untilIds((seen) => seen.size === messages.length)
})

check(
  'L1 L2 a backlog of which a third is taken: a good estimate at once, then exact as it grows and shrinks',
  async (world) => {
    const transport = kafkaIn(world, url)
    world.defer(() => transport.close())
    await transport.open()
    const bindings = ['order.placed', 'payment.refunded'].map((type) => ({ kind: 'direct' as const, type }))
    await transport.declare({ name: 'thirds', bindings, from: 'now' })
    const publish = async (count: number, types: readonly string[]) => {
      const messages = series('', count).map((one, index) => ({ ...one, type: types[index % types.length]! }))
      for (let start = 0; start < count; start += 6_000) await transport.publish(messages.slice(start, start + 6_000))
    }
    const waiting = async () => (await transport.backlog('thirds')).waiting
    const near = (count: number, expected: number) =>
      assert.ok(Math.abs(count - expected) < 0.05 * expected, `${count} should be about ${expected}`)

    // Of one topic a third, of another next to nothing, of a third one nothing: each by its own share.
    const before = Date.now()
    await publish(30_000, ['order.placed', 'order.paid', 'order.shipped'])
    await publish(30_000, [...Array(999).fill('payment.processed'), 'payment.refunded'])
    await publish(BEHIND, ['shipment.created'])
    near(await waiting(), 10_030)
    const { oldestAt } = await transport.backlog('thirds')
    assert.ok(oldestAt! >= before && oldestAt! <= Date.now())
    await waiting()
    assert.equal(await waiting(), 10_030, 'exact once all was counted')
    await publish(3_000, ['order.placed', 'order.paid', 'order.shipped'])
    assert.equal(await waiting(), 11_030, 'exact while it grows')

    // As a process sees it that reads nothing itself, and as the one does that reads.
    const watcher = kafkaIn(world, url)
    world.defer(() => watcher.close())
    await watcher.open()
    for (let calls = 0; calls < 4; calls++) await watcher.backlog('thirds')
    const inbox = await consume(transport, 'thirds', { ack: false, windowMax: 3_000 })
    await inbox.until(3_000)
    inbox.consumer.ack(inbox.deliveries.filter((_, index) => index % 2 === 0 || index < 1_000))
    assert.equal(await waiting(), 11_030 - 2_000, 'exact while it shrinks, with holes')
    inbox.consumer.ack(inbox.deliveries)
    await inbox.close()
    assert.equal((await watcher.backlog('thirds')).waiting, 11_030 - inbox.deliveries.length)
  },
)
