import assert from 'node:assert/strict'
import { test } from 'node:test'
import { effectsTree, inCausalOrder } from './causality.ts'
import { elapsed, sequenceDiagram } from './diagram.ts'

const event = (
  id: string,
  time: number,
  causationId: string | null = null,
  source = 'order',
  type = `order.${id}`,
) => ({
  id,
  time,
  causationId,
  correlationId: 'request-1',
  source,
  type,
})

const ids = (events: readonly { id: string }[]) => events.map(({ id }) => id).join(' ')

test('events stand in the order of their times', () => {
  assert.equal(ids(inCausalOrder([event('c', 3), event('a', 1), event('b', 2)])), 'a b c')
})

test('a cause stands before its effect, also where its clock was ahead', () => {
  const events = [event('effect', 5, 'cause'), event('cause', 9, 'root'), event('root', 1), event('other', 6)]
  assert.equal(ids(inCausalOrder(events)), 'root cause effect other')
})

test('a cause that is not known changes nothing, and a circle ends', () => {
  assert.equal(ids(inCausalOrder([event('b', 2, 'nobody'), event('a', 1, 'b')])), 'b a')
  assert.equal(inCausalOrder([event('a', 1, 'b'), event('b', 2, 'a')]).length, 2)
})

test('effects are a tree, in causal order, without what belongs to others', () => {
  const root = event('root', 1)
  const tree = effectsTree(root, [
    event('grandchild', 4, 'second'),
    event('second', 3, 'root'),
    event('first', 2, 'root'),
    event('stranger', 2, 'elsewhere'),
  ])
  assert.equal(ids(tree.effects), 'first second')
  assert.equal(ids(tree.effects[1]!.effects), 'grandchild')
  assert.deepEqual(tree.effects[0]!.effects, [])
})

test('the diagram draws an arrow to each service that reacted, and a note where none did', () => {
  const diagram = sequenceDiagram('ord_1', [
    event('1', 1_000, null, 'order', 'order.placed'),
    event('2', 1_020, '1', 'inventory', 'inventory.reserved'),
    event('3', 1_030, '1', 'notification', 'notification.sent'),
    event('4', 3_500, '2', 'payment', 'payment.processed'),
    event('5', 3_600, null, 'order', 'order.cancelled'),
    { ...event('6', 4_000, null, 'shipping', 'return.requested'), correlationId: 'request-2' },
    { ...event('7', 4_000, null, 'shipping', 'return.received'), correlationId: 'request-2' },
  ])
  assert.equal(
    diagram,
    `---
title: "ord_1"
---
sequenceDiagram
  autonumber
  actor caller
  participant order
  participant inventory
  participant notification
  participant payment
  participant shipping
  caller->>order: request
  order->>inventory: order.placed (+0 ms)
  order->>notification: order.placed (+0 ms)
  inventory->>payment: inventory.reserved (+20 ms)
  Note over notification: notification.sent (+30 ms)
  Note over payment: payment.processed (+2.5 s)
  Note over order: order.cancelled (+2.6 s)
  caller->>shipping: request
  Note over shipping: return.requested (+3 s)
  Note over shipping: return.received (+3 s)
`,
  )
})

test('times are told at a glance', () => {
  assert.deepEqual([0, 999, 1_500, 90_000, 5_400_000, 30 * 86_400_000].map(elapsed), [
    '+0 ms',
    '+999 ms',
    '+1.5 s',
    '+1.5 min',
    '+1.5 h',
    '+30 d',
  ])
})
