import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  cartAbandoned,
  notificationFailed,
  notificationSent,
  orderCancellationRejected,
  orderCancelled,
  orderConfirmed,
  orderDelivered,
  orderPlaced,
  orderRefunded,
  orderShipped,
  paymentActionRequired,
  paymentFailed,
  returnClosed,
  userDeleted,
  userRegistered,
  userUpdated,
} from '@shopsphere/contracts'
import { openService, type ServiceBench } from '../testing.ts'
import { notification } from './service.ts'

const user = userRegistered.example!
const ada = { userId: user.userId, roles: ['customer'] }
const bob = { userId: 'usr_bob', roles: ['customer'] }
const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const { orderId } = orderPlaced.example!

const stepsTold = async (bench: ServiceBench) => (await bench.told(notificationSent)).map(({ step }) => step)
const list = async (bench: ServiceBench, query = '', as = ada) =>
  (await bench.ask(`GET /api/notifications${query}`, { as })).body.items

test('I6: an order makes one mail for each step, each once, however often it is said', async () => {
  await using bench = await openService(notification)
  for (let time = 0; time < 2; time++) {
    await bench.say(orderPlaced, orderPlaced.example!)
    await bench.say(orderConfirmed, orderConfirmed.example!)
    await bench.say(orderShipped, orderShipped.example!)
    await bench.say(orderDelivered, orderDelivered.example!)
  }
  assert.deepEqual(await stepsTold(bench), ['order.placed', 'order.confirmed', 'order.shipped', 'order.delivered'])
  const [first] = await bench.told(notificationSent)
  assert.deepEqual(
    { ...first, notificationId: '' },
    {
      notificationId: '',
      recipient: 'ada@example.org',
      userId: user.userId,
      orderId,
      step: 'order.placed',
      channel: 'email',
      subject: 'We have received your order',
    },
  )
  assert.equal((await list(bench)).length, 4)
})

test('every other step has its mail, too', async () => {
  await using bench = await openService(notification)
  await bench.say(userRegistered, user)
  await bench.say(cartAbandoned, cartAbandoned.example!)
  await bench.say(orderCancelled, orderCancelled.example!)
  await bench.say(orderCancellationRejected, orderCancellationRejected.example!)
  await bench.say(returnClosed, { ...returnClosed.example!, outcome: 'rejected', reason: 'It was worn.' })
  assert.deepEqual(await stepsTold(bench), [
    'user.registered',
    'cart.abandoned',
    'order.cancelled',
    'order.cancellation_rejected',
    `return.closed:${returnClosed.example!.returnId}`,
  ])
})

test('each refund and each attempt to pay is told, a repeat of it is not', async () => {
  await using bench = await openService(notification)
  const refund = orderRefunded.example!
  const refunds = [refund, refund, { ...refund, refundId: 'rfd_2', refundedTotalPence: 510 }]
  for (const one of refunds) await bench.say(orderRefunded, one)
  for (const attempt of [1, 1, 2]) await bench.say(paymentFailed, { ...paymentFailed.example!, attempt })
  await bench.say(paymentActionRequired, { ...paymentActionRequired.example!, attempt: 3 })
  assert.deepEqual(await stepsTold(bench), [
    'order.refunded',
    'order.refunded:rfd_2',
    'payment.failed',
    'payment.failed:2',
    'payment.action_required:3',
  ])
})

test('a return that was refunded is told by its refund alone', async () => {
  await using bench = await openService(notification)
  await bench.say(returnClosed, returnClosed.example!)
  assert.deepEqual(await stepsTold(bench), [])
})

test('the address is that of the event, or else the account’s; who has none gets nothing', async () => {
  await using bench = await openService(notification)
  await bench.say(userRegistered, { ...user, email: null })
  await bench.say(orderPlaced, { ...orderPlaced.example!, email: null })
  await bench.say(orderPlaced, { ...orderPlaced.example!, orderId: 'ord_guest', customerId: null, email: null })
  assert.deepEqual(await stepsTold(bench), [])
  await bench.say(userUpdated, { ...userUpdated.example!, email: 'new@example.org' })
  await bench.say(orderConfirmed, { ...orderConfirmed.example!, email: null })
  await bench.say(orderPlaced, {
    ...orderPlaced.example!,
    orderId: 'ord_2',
    customerId: null,
    email: 'guest@example.org',
  })
  assert.deepEqual(
    (await bench.told(notificationSent)).map(({ recipient }) => recipient),
    ['new@example.org', 'guest@example.org'],
  )
  const [mail] = await list(bench)
  const { body } = await bench.ask(`GET /api/notifications/${mail.notificationId}`, { as: ada })
  assert.match(body.text, /^Hello Ada King,/)
})

test('an order that is heard of before its customer’s account is told when the account is there', async () => {
  await using bench = await openService(notification)
  await bench.say(orderPlaced, { ...orderPlaced.example!, email: null })
  assert.deepEqual(await stepsTold(bench), [])
  await bench.say(userRegistered, user)
  await bench.pass(2_000)
  assert.deepEqual((await stepsTold(bench)).sort(), ['order.placed', 'user.registered'])
})

test('an order of an account that never comes is given up, and is no dead letter', async () => {
  await using bench = await openService(notification)
  await bench.say(orderPlaced, { ...orderPlaced.example!, email: null })
  await bench.pass(10_000)
  assert.deepEqual(await stepsTold(bench), [])
  assert.equal(await bench.deadLetters(), 0)
})

test('who wants no mails gets only what must be told', async () => {
  await using bench = await openService(notification)
  const preferences = '/api/notifications/preferences'
  assert.deepEqual((await bench.ask(`GET ${preferences}`, { as: ada })).body, { email: true })
  const off = await bench.ask(`PUT ${preferences}`, { as: ada, body: { email: false } })
  assert.deepEqual(off.body, { email: false })
  await bench.say(userRegistered, user)
  await bench.say(orderPlaced, orderPlaced.example!)
  await bench.say(orderConfirmed, orderConfirmed.example!)
  await bench.say(orderShipped, orderShipped.example!)
  await bench.say(orderRefunded, orderRefunded.example!)
  assert.deepEqual(await stepsTold(bench), ['order.confirmed', 'order.refunded'])
  await bench.ask(`PUT ${preferences}`, { as: ada, body: { email: true } })
  await bench.say(orderDelivered, orderDelivered.example!)
  assert.deepEqual((await stepsTold(bench)).at(-1), 'order.delivered')
  assert.equal((await bench.ask(`PUT ${preferences}`, { as: ada, body: { sms: true } })).status, 400)
  assert.equal((await bench.ask(`PUT ${preferences}`, { body: { email: true } })).status, 401)
})

test('a mail server that fails now and then makes mails late, and none twice', async () => {
  await using bench = await openService(notification, { environment: { MAILER_FAILURE_RATE: '0.6' } })
  const ids = Array.from({ length: 20 }, (_, index) => `ord_${index}`)
  for (const id of ids) await bench.say(orderPlaced, { ...orderPlaced.example!, orderId: id })
  await bench.pass(600_000)
  const told = await bench.told(notificationSent)
  assert.deepEqual(told.map((one) => one.orderId).sort(), ids.toSorted())
  assert.equal(new Set(told.map(({ notificationId }) => notificationId)).size, ids.length)
  for (const { notificationId } of told) {
    const { body } = await bench.ask(`GET /api/notifications/${notificationId}`, { as: ada })
    assert.match(body.text, /Thank you for your order/)
  }
})

test('a mail that will never be taken fails at once, and the next ones go on', async () => {
  await using bench = await openService(notification)
  await bench.say(orderPlaced, { ...orderPlaced.example!, email: 'ada@nowhere.invalid' })
  await bench.say(orderConfirmed, orderConfirmed.example!)
  const [failed] = await bench.told(notificationFailed)
  assert.deepEqual([failed!.reason, failed!.attempt, failed!.step], ['mailbox_unknown', 1, 'order.placed'])
  assert.deepEqual(await stepsTold(bench), ['order.confirmed'])
  const shown = (await list(bench)).at(-1)
  assert.deepEqual([shown.state, shown.reason], ['failed', 'mailbox_unknown'])
  const { body } = await bench.ask(`GET /api/notifications/${shown.notificationId}`, { as: ada })
  assert.equal(body.text, null)
})

test('mails of one order wait for each other, also while each takes a second', async () => {
  await using bench = await openService(notification, { environment: { MAILER_DELAY_MS: '1000' } })
  const placing = bench.say(orderPlaced, orderPlaced.example!)
  const confirming = bench.say(orderConfirmed, orderConfirmed.example!)
  await bench.clock.advanceUntil(() => bench.heard.filter(({ type }) => type === notificationSent.type).length === 2)
  await Promise.all([placing, confirming])
  assert.deepEqual(await stepsTold(bench), ['order.placed', 'order.confirmed'])
})

test('everybody reads their own mails, page by page; a merchant reads all, by order or user', async () => {
  await using bench = await openService(notification)
  for (const id of ['ord_1', 'ord_2', 'ord_3']) await bench.say(orderPlaced, { ...orderPlaced.example!, orderId: id })
  await bench.say(orderPlaced, { ...orderPlaced.example!, orderId: 'ord_4', customerId: bob.userId })
  const first = (await bench.ask('GET /api/notifications?limit=2', { as: ada })).body
  assert.deepEqual(
    first.items.map((one: { orderId: string }) => one.orderId),
    ['ord_3', 'ord_2'],
  )
  const second = (await bench.ask(`GET /api/notifications?limit=2&cursor=${first.nextCursor}`, { as: ada })).body
  assert.equal(second.items[0].orderId, 'ord_1')
  assert.equal(second.nextCursor, null)
  assert.equal((await list(bench, '?orderId=ord_2')).length, 1)
  assert.equal((await list(bench, '?orderId=ord_4')).length, 0)
  assert.equal((await list(bench, `?userId=${bob.userId}`)).length, 3)
  assert.equal((await list(bench, '', merchant)).length, 4)
  assert.equal((await list(bench, '?orderId=ord_4', merchant)).length, 1)
  assert.equal((await list(bench, `?userId=${bob.userId}`, merchant)).length, 1)
  const { notificationId } = first.items[0]
  const read = (as: typeof ada | null) => bench.ask(`GET /api/notifications/${notificationId}`, { as })
  for (const who of [ada, merchant]) assert.equal((await read(who)).status, 200)
  assert.equal((await read(bob)).status, 404)
  assert.equal((await read(null)).status, 401)
  assert.equal((await bench.ask('GET /api/notifications/ntf_none', { as: ada })).status, 404)
  assert.equal((await bench.ask('GET /api/notifications?cursor=nonsense', { as: ada })).body.code, 'invalid_cursor')
})

test('what is kept of a deleted account says that it was told, and not what or where', async () => {
  await using bench = await openService(notification)
  await bench.say(userRegistered, user)
  await bench.say(orderPlaced, orderPlaced.example!)
  await bench.say(userDeleted, { userId: user.userId, deletedAt: bench.clock.now() })
  const mails = await list(bench, `?userId=${user.userId}`, merchant)
  assert.equal(mails.length, 2)
  for (const { notificationId, recipient } of mails) {
    assert.equal(recipient, 'deleted')
    assert.equal((await bench.ask(`GET /api/notifications/${notificationId}`, { as: merchant })).body.text, null)
  }
  await bench.say(orderConfirmed, { ...orderConfirmed.example!, email: null })
  assert.equal((await bench.told(notificationSent)).length, 2)
})
