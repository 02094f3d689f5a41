import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  cartCheckedOut,
  inventoryUpdateFailed,
  notificationSent,
  orderCancellationRejected,
  orderCancellationRequested,
  orderCancelled,
  orderCompleted,
  orderConfirmed,
  orderPlaced,
  orderRefunded,
  productDiscontinued,
  productPriceUpdated,
  productUpdated,
  returnRequested,
  shipmentCancellationRefused,
  shipmentCancelled,
  userDeleted,
  userRegistered,
  userUpdated,
} from '@shopsphere/contracts'
import type { ServiceBench } from '../testing.ts'
import {
  about,
  ada,
  address,
  checkOut,
  confirm,
  deliver,
  openShop,
  operator,
  placeOrder,
  returnWindowMs,
  stalledMs,
} from './played.ts'

async function read(shop: ServiceBench, orderId: string) {
  const { status, body } = await shop.ask(`GET /api/orders/${orderId}`, { as: operator })
  assert.equal(status, 200)
  return body
}

const axesOf = ({ order, payment, fulfilment }: { order: string; payment: string; fulfilment: string }) =>
  `${order} ${payment} ${fulfilment}`

test('an order goes from placed to completed, and says so at each step once', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop, {
    lines: [{ sku: 'lantern', quantity: 2 }],
    paymentMethod: 'pm_card_visa',
    address,
  })
  const [placed] = await shop.told(orderPlaced)
  const lines = [{ lineNo: 1, sku: 'lantern', name: 'White metal lantern', quantity: 2, unitPence: 339 }]
  const bought = { orderId, customerId: ada.userId, email: 'ada@example.org', currency: 'GBP', lines, totalPence: 678 }
  const placedAt = shop.clock.now()
  assert.deepEqual(placed, {
    ...bought,
    placedAt,
    paymentMethod: 'pm_card_visa',
    address,
    channel: 'direct',
    placedBy: ada.userId,
  })
  await deliver(shop, orderId)
  assert.deepEqual(await shop.told(orderConfirmed), [{ ...bought, placedAt, address }])
  assert.equal(axesOf(await read(shop, orderId)), 'confirmed captured delivered')
  await shop.pass(returnWindowMs - 1)
  assert.equal((await shop.told(orderCompleted)).length, 0)
  await shop.pass(1)
  assert.deepEqual(await shop.told(orderCompleted), [
    { orderId, customerId: ada.userId, currency: 'GBP', totalPence: 678 },
  ])
  assert.equal((await read(shop, orderId)).status, 'completed')
  await shop.pass(3 * returnWindowMs)
  assert.equal((await shop.told(orderCompleted)).length, 1)
  assert.equal(await shop.deadLetters(), 0)
})

test('payment and stock are joined in whichever order they come, also when each comes twice', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const { reserved, allocated, paid } = about(shop, orderId)
  for (const said of [reserved, allocated, allocated, paid, paid, reserved]) await said()
  assert.equal((await shop.told(orderConfirmed)).length, 1)
  assert.equal((await read(shop, orderId)).fulfilment, 'allocated')
})

test('a cart that is checked out becomes the order that it named, once', async () => {
  await using shop = await openShop()
  const orderId = 'ord_of_the_cart'
  await checkOut(shop, orderId, { email: null })
  await checkOut(shop, orderId, { email: null })
  const placed = await shop.told(orderPlaced)
  assert.equal(placed.length, 1)
  assert.deepEqual(
    [placed[0]!.channel, placed[0]!.email, placed[0]!.totalPence],
    ['cart', 'ada@example.org', cartCheckedOut.example!.totalPence],
  )
  assert.equal((await read(shop, orderId)).status, 'processing')
})

test('out of stock: cancelled, naming what was short', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  await about(shop, orderId).outOfStock()
  const [cancelled] = await shop.told(orderCancelled)
  assert.deepEqual(cancelled, {
    orderId,
    customerId: ada.userId,
    email: 'ada@example.org',
    reason: 'out_of_stock',
    currency: 'GBP',
    totalPence: 678,
    wasConfirmed: false,
    short: [{ sku: 'lantern', wanted: 2, available: 1 }],
  })
})

test('card refused for good: cancelled; refused for now: it stands until its hold runs out', async () => {
  await using shop = await openShop()
  const first = await placeOrder(shop)
  await about(shop, first).reserved()
  await about(shop, first).refused(false)
  const second = await placeOrder(shop)
  await about(shop, second).reserved()
  await about(shop, second).refused(true)
  assert.equal((await read(shop, second)).status, 'payment_failed')
  await about(shop, second).expired()
  const reasons = (await shop.told(orderCancelled)).map(({ orderId, reason }) => [orderId, reason])
  assert.deepEqual(reasons, [
    [first, 'payment_failed'],
    [second, 'expired'],
  ])
})

test('stock lost after payment: cancelled, then shown as refunded when the money is back', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const { reserved, paid, captured, refunded } = about(shop, orderId)
  await reserved()
  await paid()
  await shop.say(inventoryUpdateFailed, { orderId, reason: 'hold_gone', short: [] })
  assert.equal((await shop.told(orderCancelled))[0]?.reason, 'inventory_lost')
  assert.equal((await read(shop, orderId)).status, 'cancelled_refund_pending')
  await captured()
  await refunded(600, 600)
  await refunded(78, 678)
  await refunded(78, 678)
  const told = await shop.told(orderRefunded)
  assert.deepEqual(
    told.map(({ refundedPence, refundedTotalPence, full, email }) => [refundedPence, refundedTotalPence, full, email]),
    [
      [600, 600, false, 'ada@example.org'],
      [78, 678, true, 'ada@example.org'],
    ],
  )
  assert.equal((await read(shop, orderId)).status, 'cancelled_refunded')
})

test('a payment that comes late is shown on the cancelled order until it is given up', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const { reserved, expired, paid, voided } = about(shop, orderId)
  await reserved()
  await expired()
  await paid()
  assert.equal((await read(shop, orderId)).status, 'cancelled_refund_pending')
  await shop.pass(stalledMs)
  assert.equal((await read(shop, orderId)).stalled, true)
  await voided()
  const { status, stalled } = await read(shop, orderId)
  assert.deepEqual([status, stalled], ['cancelled', false])
  assert.equal((await shop.told(orderCancelled)).length, 1)
})

test('called off before confirmation: locked until payment has answered; shipping is not asked', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  await about(shop, orderId).reserved()
  const locked = await shop.ask(`POST /api/orders/${orderId}/cancel`, { as: ada })
  assert.deepEqual([locked.status, locked.body.status], [202, 'cancelling'])
  assert.equal((await shop.told(orderCancelled)).length, 0)
  await about(shop, orderId).paid()
  const [cancelled] = await shop.told(orderCancelled)
  assert.deepEqual([cancelled?.reason, cancelled?.wasConfirmed], ['customer', false])
  assert.equal((await shop.told(orderCancellationRequested)).length, 0)
})

test('called off after confirmation: shipping decides', async () => {
  await using shop = await openShop()
  for (const answer of ['stopped', 'too late'] as const) {
    const orderId = await placeOrder(shop)
    await confirm(shop, orderId)
    const locked = await shop.ask(`POST /api/orders/${orderId}/cancel`, { as: ada })
    assert.deepEqual([locked.status, locked.body.status], [202, 'cancelling'])
    const request = (await shop.told(orderCancellationRequested)).at(-1)
    assert.deepEqual(request, {
      orderId,
      customerId: ada.userId,
      reason: 'customer',
      requestedBy: ada.userId,
      requestedAt: shop.clock.now(),
    })
    if (answer === 'stopped') await shop.say(shipmentCancelled, { orderId })
    else await shop.say(shipmentCancellationRefused, { orderId, shipmentId: 'shp_1', reason: 'already_shipped' })
    const { order } = await read(shop, orderId)
    assert.equal(order, answer === 'stopped' ? 'cancelled' : 'confirmed')
  }
  const [cancelled] = await shop.told(orderCancelled)
  assert.deepEqual([cancelled?.reason, cancelled?.wasConfirmed], ['customer', true])
  const [rejected] = await shop.told(orderCancellationRejected)
  assert.deepEqual([rejected?.reason, rejected?.email], ['already_shipped', 'ada@example.org'])
})

test('an order that stands still is shown as such until it moves (T9)', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const moving = await placeOrder(shop)
  const stalledIds = async () => {
    const { body } = await shop.ask('GET /api/orders?stalled=true', { as: operator })
    return body.items.map((item: { orderId: string }) => item.orderId)
  }
  await shop.pass(stalledMs / 2)
  await about(shop, moving).reserved()
  await shop.pass(stalledMs / 2)
  assert.deepEqual(await stalledIds(), [orderId])
  await shop.pass(stalledMs)
  assert.deepEqual(await stalledIds(), [moving, orderId])
  await about(shop, orderId).reserved()
  assert.deepEqual(await stalledIds(), [moving])
})

test('what is delivered stands in its return window, however long T9 is', async () => {
  await using shop = await openShop({ ORDER_STALLED_MS: '1000' })
  const orderId = await placeOrder(shop)
  await deliver(shop, orderId)
  await shop.pass(returnWindowMs - 1)
  assert.equal((await read(shop, orderId)).stalled, false)
  await shop.pass(1)
  assert.equal((await read(shop, orderId)).order, 'completed')
})

test('the catalogue is followed: prices, names, what is no longer sold', async () => {
  await using shop = await openShop()
  const change = { sku: 'lantern', pricePence: 400, previousPricePence: 339, currency: 'GBP' as const }
  await shop.say(productPriceUpdated, change)
  await shop.say(productUpdated, { sku: 'lantern', name: 'Grey lantern', description: null, category: null })
  await placeOrder(shop)
  const [placed] = await shop.told(orderPlaced)
  assert.deepEqual([placed!.totalPence, placed!.lines[0]!.name], [800, 'Grey lantern'])
  await shop.say(productDiscontinued, { sku: 'lantern' })
  await assert.rejects(placeOrder(shop), /no longer sold: lantern/)
})

test('the account’s e-mail and address are used where the order names none', async () => {
  await using shop = await openShop()
  await shop.say(userUpdated, {
    userId: ada.userId,
    email: 'king@example.org',
    name: 'Ada King',
    country: 'GB',
    address,
  })
  await placeOrder(shop)
  const [placed] = await shop.told(orderPlaced)
  assert.deepEqual([placed!.email, placed!.address], ['king@example.org', address])
})

test('an order that was quicker than the news of its account gets the e-mail later', async () => {
  await using shop = await openShop()
  const late = { userId: 'usr_late', roles: ['customer'] }
  const orderId = await placeOrder(shop, undefined, { as: late })
  assert.equal((await shop.told(orderPlaced))[0]!.email, null)
  await shop.say(userRegistered, { ...userRegistered.example!, userId: late.userId, email: 'late@example.org' })
  await confirm(shop, orderId)
  assert.equal((await shop.told(orderConfirmed))[0]!.email, 'late@example.org')
})

test('a deleted account: open orders run on without a name, and nothing personal stays', async () => {
  await using shop = await openShop()
  const bought = { lines: [{ sku: 'lantern', quantity: 2 }], paymentMethod: 'pm_card_visa', address }
  const [done, open] = [await placeOrder(shop, bought), await placeOrder(shop, bought)]
  await deliver(shop, done)
  await shop.say(userDeleted, { userId: ada.userId, deletedAt: shop.clock.now() })
  const { email, address: kept, customerId } = await read(shop, done)
  assert.deepEqual([email, kept, customerId], [null, null, ada.userId])
  await confirm(shop, open)
  const confirmed = (await shop.told(orderConfirmed)).at(-1)!
  assert.deepEqual([confirmed.email, confirmed.address], [null, address])
  await about(shop, open).shipped()
  await about(shop, open).delivered()
  assert.equal((await read(shop, open)).address, null)
  const again = await shop.ask('POST /api/orders', { as: ada, body: bought, headers: { 'idempotency-key': 'gone' } })
  assert.deepEqual([again.status, again.body.code], [409, 'conflict'])
})

test('the timeline tells what happened, why, and what the customer was sent', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const because = await about(shop, orderId).reserved()
  await shop.pass(1_000)
  const sent = { ...notificationSent.example!, userId: ada.userId, orderId, step: 'order.placed' }
  await shop.say(notificationSent, sent)
  await shop.say(notificationSent, sent)
  await shop.say(notificationSent, { ...sent, notificationId: 'ntf_other', orderId: null })
  const { status, body } = await shop.ask(`GET /api/orders/${orderId}/timeline`, { as: ada })
  assert.equal(status, 200)
  const shown = body.events.map(({ version, type, cause }: { version: number; type: string; cause: unknown }) => [
    version,
    type,
    cause,
  ])
  assert.deepEqual(shown, [
    [1, 'placed', null],
    [2, 'stock_reserved', { type: 'inventory.reserved', messageId: because }],
  ])
  assert.equal(JSON.stringify(body).includes('pm_card_visa'), false)
  assert.deepEqual(body.notifications, [
    {
      notificationId: sent.notificationId,
      step: 'order.placed',
      channel: 'email',
      subject: sent.subject,
      sentAt: shop.clock.now(),
    },
  ])
})

test('what is said of an order that was never placed becomes a dead letter', async () => {
  await using shop = await openShop()
  await about(shop, 'ord_unknown').paid()
  assert.equal(await shop.deadLetters(), 1)
})

test('a return is shown on the order', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  await deliver(shop, orderId)
  await shop.say(returnRequested, { ...returnRequested.example!, orderId, customerId: ada.userId })
  const { status, returns } = await read(shop, orderId)
  assert.equal(status, 'return_in_progress')
  assert.deepEqual(returns, [
    { returnId: returnRequested.example!.returnId, state: 'requested', units: 1, refundPence: 255 },
  ])
})
