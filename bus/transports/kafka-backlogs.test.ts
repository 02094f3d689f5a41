/** Backlogs of several topics, larger than what is held of them at a time. */
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
