import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  notificationFailed,
  notificationSent,
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPlaced,
  orderRefunded,
  orderShipped,
  paymentFailed,
  userDeleted,
  userRegistered,
} from '@shopsphere/contracts'
import { openService } from '../testing.ts'
import { notification } from './service.ts'
import { pounds, templates } from './templates.ts'

const ada = { userId: 'usr_1', roles: ['customer'] }
const eve = { userId: 'usr_2', roles: ['customer'] }
const merchant = { userId: 'usr_9', roles: ['merchant'] }
const placed = { ...orderPlaced.example!, orderId: 'ord_1', customerId: 'usr_1', email: 'ada@example.org' }
const delivered = { orderId: 'ord_1', customerId: 'usr_1', email: 'ada@example.org', deliveredAt: 1 }
const registered = { ...userRegistered.example!, userId: 'usr_1', email: 'ada@example.org' }

test('every template makes a notice of its event’s example, with a step that fits the contract', () => {
  for (const { event, template } of templates) {
    const notice = (template as (data: unknown) => ReturnType<typeof template>)(event.example)
    if (notice === null) continue
    assert.ok(notice.step.startsWith(event.type) && notice.step.length <= 64, notice.step)
    assert.ok(notice.subject.length > 0 && notice.subject.length <= 200)
    assert.ok(notice.text.length > 0)
  }
})

test('pence are written as pounds, exactly', () => {
  assert.deepEqual([0, 5, 99, 100, 123_456, 18_493_135].map(pounds), [
    '£0.00',
    '£0.05',
    '£0.99',
    '£1.00',
    '£1,234.56',
    '£184,931.35',
  ])
})

test('I6 the customer is told at each step, once, however often the step is heard', async () => {
  await using service = await openService(notification)
  await service.say(orderPlaced, placed)
  await service.say(orderConfirmed, {
    ...orderConfirmed.example!,
    orderId: 'ord_1',
    customerId: 'usr_1',
    email: 'ada@example.org',
  })
  await service.say(orderShipped, {
    ...orderShipped.example!,
    orderId: 'ord_1',
    customerId: 'usr_1',
    email: 'ada@example.org',
  })
  await service.say(orderDelivered, delivered)
  await service.say(orderDelivered, delivered) // under another message id
  const told = await service.told(notificationSent)
  assert.deepEqual(
    told.map(({ step }) => step),
    ['order.placed', 'order.confirmed', 'order.shipped', 'order.delivered'],
  )
  assert.ok(
    told.every(
      ({ recipient, userId, orderId }) => recipient === 'ada@example.org' && userId === 'usr_1' && orderId === 'ord_1',
    ),
  )
  assert.equal(await service.deadLetters(), 0)
})

test('each refund and each retryable refusal of an order has a mail of its own', async () => {
  await using service = await openService(notification)
  const refund = { ...orderRefunded.example!, orderId: 'ord_1' }
  await service.say(orderRefunded, { ...refund, refundId: 'rfd_1' })
  await service.say(orderRefunded, { ...refund, refundId: 'rfd_2' })
  const refused = { ...paymentFailed.example!, orderId: 'ord_1', retryable: true }
  await service.say(paymentFailed, { ...refused, attempt: 1 })
  await service.say(paymentFailed, { ...refused, attempt: 2 })
  await service.say(paymentFailed, { ...refused, attempt: 3, retryable: false })
  const told = await service.told(notificationSent)
  assert.deepEqual(
    told.map(({ step }) => step),
    ['order.refunded#rfd_1', 'order.refunded#rfd_2', 'payment.failed#1', 'payment.failed#2'],
  )
})

test('a guest without an e-mail is told nothing; an account without one in the event gets it at its own address', async () => {
  await using service = await openService(notification)
  await service.say(orderDelivered, { ...delivered, orderId: 'ord_2', customerId: null, email: null })
  assert.deepEqual(await service.told(notificationSent), [])
  await service.say(userRegistered, registered)
  await service.say(orderDelivered, { ...delivered, email: null })
  const told = await service.told(notificationSent)
  assert.deepEqual(
    told.map(({ step, recipient }) => [step, recipient]),
    [
      ['user.registered', 'ada@example.org'],
      ['order.delivered', 'ada@example.org'],
    ],
  )
})

test('who wants no news still hears what has to be said', async () => {
  await using service = await openService(notification)
  await service.say(userRegistered, registered)
  const answer = await service.ask('PUT /api/notifications/preferences', { as: ada, body: { news: false } })
  assert.equal(answer.status, 200)
  await service.say(orderDelivered, delivered)
  await service.say(orderCancelled, {
    ...orderCancelled.example!,
    orderId: 'ord_1',
    customerId: 'usr_1',
    email: 'ada@example.org',
  })
  const steps = (await service.told(notificationSent)).map(({ step }) => step)
  assert.deepEqual(steps, ['user.registered', 'order.cancelled'])
})

test('a mail server that is away is tried again until it is back; nobody is told twice', async () => {
  await using service = await openService(notification, { environment: { MAILER_FAILURE_RATE: '0.7' } })
  for (let n = 0; n < 10; n++) await service.say(orderDelivered, { ...delivered, orderId: `ord_${n}` })
  for (let round = 0; round < 20 && (await service.told(notificationSent)).length < 10; round++)
    await service.pass(20_000)
  const orders = (await service.told(notificationSent)).map(({ orderId }) => orderId)
  assert.equal(new Set(orders).size, orders.length)
  assert.equal(orders.length + (await service.deadLetters()), 10, 'each is told or a dead letter')
})

test('a mailbox that nobody knows is a failed notification, and nothing waits for it', async () => {
  await using service = await openService(notification)
  await service.say(orderPlaced, { ...placed, email: 'unknown@example.org' })
  await service.say(orderDelivered, { ...delivered, email: 'ada@example.org' })
  assert.deepEqual(
    (await service.told(notificationFailed)).map(({ reason }) => reason),
    ['mailbox_unknown'],
  )
  assert.deepEqual(
    (await service.told(notificationSent)).map(({ step }) => step),
    ['order.delivered'],
  )
})

test('people read what was sent to them, and nothing of others; merchants read all', async () => {
  await using service = await openService(notification)
  await service.say(orderPlaced, placed)
  await service.say(orderDelivered, delivered)
  await service.say(orderPlaced, { ...placed, orderId: 'ord_7', customerId: 'usr_2', email: 'eve@example.org' })
  const mine = await service.ask('GET /api/notifications?limit=1', { as: ada })
  assert.deepEqual(
    mine.body.items.map((item: { step: string }) => item.step),
    ['order.delivered'],
  )
  const next = await service.ask(`GET /api/notifications?limit=1&cursor=${mine.body.nextCursor}`, { as: ada })
  assert.deepEqual(
    next.body.items.map((item: { step: string }) => item.step),
    ['order.placed'],
  )
  assert.equal(next.body.nextCursor, null)
  const id = next.body.items[0].notificationId
  const one = await service.ask(`GET /api/notifications/${id}`, { as: ada })
  assert.match(one.body.text, /£35\.64/)
  assert.equal((await service.ask(`GET /api/notifications/${id}`, { as: eve })).status, 404)
  assert.deepEqual((await service.ask('GET /api/notifications?orderId=ord_1', { as: eve })).body.items, [])
  assert.equal((await service.ask('GET /api/notifications', { as: merchant })).body.items.length, 3)
  assert.equal((await service.ask('GET /api/notifications')).status, 401)
})

test('after an account is deleted nobody can read what it was told', async () => {
  await using service = await openService(notification)
  await service.say(userRegistered, registered)
  await service.say(orderPlaced, placed)
  await service.say(userDeleted, { userId: 'usr_1', deletedAt: 2 })
  const all = await service.ask('GET /api/notifications', { as: merchant })
  assert.equal(all.body.items.length, 2)
  assert.ok(!JSON.stringify(all.body).includes('ada@example.org'))
})
