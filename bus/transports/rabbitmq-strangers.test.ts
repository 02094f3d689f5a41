/** What programs that know nothing of us publish, on a real server. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect } from 'amqplib'
import { consume } from '../testing/inbox.ts'
import { rabbitmqPrefix } from '../testing/rabbitmq-place.ts'
import { needs } from '../testing/servers/needs.ts'
import { inWorld } from '../testing/world.ts'
import { rabbitmqTransport } from './rabbitmq.ts'

const { url, skip } = await needs('rabbitmq')

test("rabbitmq: Q5 a stranger's message without an id does not stop an ephemeral subscription", { skip }, () =>
  inWorld(async (world) => {
    const prefix = rabbitmqPrefix(world, url)
    const transport = rabbitmqTransport(url, { prefix })
    world.defer(() => transport.close())
    await transport.open()
    await transport.declare({ name: 'live', bindings: [{ kind: 'fanout' }], from: 'now', ephemeral: true })
    const inbox = await consume(transport, 'live')
    const model = await connect(url)
    world.defer(() => model.close())
    const channel = await model.createConfirmChannel()
    channel.publish(`${prefix}platform-events`, 'order.created', Buffer.from('Order #123 created'))
    await channel.waitForConfirms()
    await transport.publish([{ id: 'ours', type: 'order.placed', key: 'k', headers: {}, body: '{}' }])
    await inbox.until(2)
    assert.deepEqual(
      inbox.deliveries.map(({ message }) => message.type),
      ['order.created', 'order.placed'],
    )
    assert.notEqual(inbox.ids()[0], '')
  }),
)
