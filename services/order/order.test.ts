import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PermanentError, seededRandom } from '@shopsphere/bus'
import { customerStatus } from './axes.ts'
import { type Command, decide, evolve, heard, initial, isWatched, NotCancellable, type OrderState } from './order.ts'

const orderId = 'ord_1'
const buyer = { customerId: 'usr_1', email: 'ada@example.org' }
const lines = [{ lineNo: 1, sku: 'A', name: 'Lantern', quantity: 4, unitPence: 250 }]
const returned = [{ lineNo: 1, sku: 'A', quantity: 1, unitPence: 250 }]
const currency = 'GBP' as const

const place: Command = {
  type: 'place',
  data: {
    customerId: 'usr_1',
    placedAt: 1,
    currency,
    lines,
    totalPence: 1_000,
    paymentMethod: 'pm_card_visa',
    channel: 'direct',
    placedBy: 'usr_1',
  },
}
const cancel: Command = { type: 'cancel', data: { requestedBy: 'usr_1', requestedAt: 5 } }
const windowOver: Command = { type: 'close_return_window', data: {} }
const reserved: Command = { type: 'inventory.reserved', data: { orderId, holdExpiresAt: 99 } }
const short = [{ sku: 'A', wanted: 4, available: 1 }]
const outOfStock: Command = { type: 'inventory.reservation_failed', data: { orderId, short } }
const expired: Command = { type: 'inventory.reservation_expired', data: { orderId, expiredAt: 99 } }
const allocated: Command = { type: 'inventory.updated', data: { orderId, allocatedUnits: 4 } }
const stockLost: Command = { type: 'inventory.update_failed', data: { orderId, reason: 'stock_lost', short } }
const released: Command = { type: 'inventory.released', data: { orderId, was: 'held', releasedUnits: 4 } }
const paid = (attempt = 1): Command => ({
  type: 'payment.processed',
  data: { orderId, paymentId: 'pay_1', authorizedPence: 1_000, currency, attempt },
})
const refused = (retryable: boolean, attempt = 1): Command => ({
  type: 'payment.failed',
  data: { orderId, paymentId: 'pay_1', ...buyer, reason: 'card_declined', retryable, attempt },
})
const actionRequired: Command = {
  type: 'payment.action_required',
  data: { orderId, paymentId: 'pay_1', ...buyer, actionUrl: 'https://bank.example', decisionDueAt: 9, attempt: 1 },
}
const voided: Command = {
  type: 'payment.voided',
  data: { orderId, paymentId: 'pay_1', voidedPence: 1_000, currency, reason: 'order_cancelled' },
}
const captured: Command = {
  type: 'payment.captured',
  data: { orderId, paymentId: 'pay_1', shipmentId: 'shp_1', currency, capturedPence: 1_000, capturedTotalPence: 1_000 },
}
const refunded = (refundId: string, refundedPence: number, refundedTotalPence: number): Command => ({
  type: 'payment.refunded',
  data: {
    orderId,
    paymentId: 'pay_1',
    refundId,
    returnId: null,
    reason: 'return',
    currency,
    refundedPence,
    refundedTotalPence,
    capturedTotalPence: 1_000,
    lines: [],
  },
})
const refundFailed = (attempt: number, willRetry = true): Command => ({
  type: 'payment.refund_failed',
  data: {
    orderId,
    paymentId: 'pay_1',
    refundId: 'rfd_1',
    currency,
    refundPence: 1_000,
    reason: 'closed',
    attempt,
    willRetry,
  },
})
const disputed = (status: 'opened' | 'won' | 'lost'): Command => ({
  type: 'payment.disputed',
  data: { orderId, paymentId: 'pay_1', disputeId: 'dsp_1', status, currency, disputedPence: 1_000, reason: 'Not me.' },
})
const parcel = (shipmentId: string) => ({ shipmentId, carrier: 'simulated', trackingNumber: 'S1', shippedAt: 7 })
const shippedPart = (shipmentId: string): Command => ({
  type: 'order.partially_shipped',
  data: { orderId, ...buyer, ...parcel(shipmentId), lines: returned },
})
const shipped = (shipmentId = 'shp_1'): Command => ({
  type: 'order.shipped',
  data: { orderId, ...buyer, ...parcel(shipmentId) },
})
const delivered: Command = { type: 'order.delivered', data: { orderId, ...buyer, deliveredAt: 8 } }
const sentBack: Command = {
  type: 'shipment.returned',
  data: { shipmentId: 'shp_1', orderId, lines: returned, reason: 'address_unknown', returnedAt: 8 },
}
const exception: Command = {
  type: 'shipment.exception',
  data: { shipmentId: 'shp_1', orderId, kind: 'no_news', detail: null, occurredAt: 8 },
}
const shippingStopped: Command = { type: 'shipment.cancelled', data: { orderId } }
const shippingRefused: Command = {
  type: 'shipment.cancellation_refused',
  data: { orderId, shipmentId: 'shp_1', reason: 'already_shipped' },
}
const returnRequested: Command = {
  type: 'return.requested',
  data: {
    returnId: 'ret_1',
    orderId,
    customerId: 'usr_1',
    lines: returned,
    reason: null,
    requestedBy: 'usr_1',
    requestedAt: 9,
  },
}
const returnApproved: Command = {
  type: 'return.approved',
  data: { returnId: 'ret_1', orderId, ...buyer, lines: returned },
}
const returnReceived: Command = {
  type: 'return.received',
  data: {
    returnId: 'ret_1',
    orderId,
    customerId: 'usr_1',
    lines: [{ ...returned[0]!, restock: true }],
    currency,
    refundPence: 250,
    receivedAt: 10,
  },
}
const returnClosed = (outcome: 'refunded' | 'rejected' | 'not_received'): Command => ({
  type: 'return.closed',
  data: { returnId: 'ret_1', orderId, ...buyer, outcome, reason: null },
})

const confirmedOrder = [place, reserved, paid(), allocated]
const deliveredOrder = [...confirmedOrder, shipped(), captured, delivered]

/** Where the commands lead, and which events each of them made. */
function after(...commands: Command[]) {
  let state: OrderState = initial
  const events: string[][] = []
  for (const command of commands) {
    const decided = decide(state, command)
    state = decided.reduce(evolve, state)
    events.push(decided.map(({ type }) => type))
  }
  const { order, payment, fulfilment } = state
  return { state, last: events.at(-1), axes: `${order} ${payment} ${fulfilment}`, events: events.flat() }
}

test('the way it should go', () => {
  const { events, axes, state } = after(...deliveredOrder, windowOver)
  assert.deepEqual(events, [
    'placed',
    'stock_reserved',
    'payment_authorized',
    'stock_allocated',
    'confirmed',
    'parcel_shipped',
    'payment_captured',
    'delivered',
    'completed',
  ])
  assert.equal(axes, 'completed captured delivered')
  assert.equal(state.events, events.length)
  assert.equal(isWatched(state), false)
})

test('heard events stand under their own types', () => {
  for (const [type, event] of Object.entries(heard)) assert.equal(event.type, type)
})

test('an order is confirmed once, whichever of payment and stock comes first', () => {
  assert.deepEqual(after(place, reserved, paid(), allocated).last, ['stock_allocated', 'confirmed'])
  assert.deepEqual(after(place, reserved, allocated, paid()).last, ['payment_authorized', 'confirmed'])
  assert.deepEqual(after(place, paid(), allocated).last, ['stock_allocated', 'confirmed'])
  assert.deepEqual(after(...confirmedOrder, allocated, paid()).events, after(...confirmedOrder).events)
})

/** What does not depend on the course that led there. */
function endOf({ events: _, shownSince: __, holdExpiresAt: ___, ...end }: OrderState) {
  return end
}

test('anything twice, late or out of order: the same end', () => {
  const random = seededRandom(7)
  const goods = [returnRequested, returnApproved, returnReceived, returnClosed('refunded')]
  const all = [reserved, paid(), allocated, shipped(), captured, delivered, refunded('rfd_1', 250, 250), ...goods]
  const wanted = endOf(after(place, ...all).state)
  for (let round = 0; round < 300; round++) {
    const shuffled = [...all, ...all, ...all]
      .map((command) => ({ command, turn: random() }))
      .sort((a, b) => a.turn - b.turn)
      .map(({ command }) => command)
    const { state, events } = after(place, ...shuffled)
    assert.deepEqual(endOf(state), wanted)
    assert.equal(events.filter((type) => type === 'confirmed').length, 1)
  }
})

test('a fact about an order that was never placed is refused for good', () => {
  assert.throws(() => decide(initial, paid()), PermanentError)
})

// --- what is called off before confirmation ---

const calledOff: [string, Command[], string, string][] = [
  ['out of stock', [outOfStock], 'out_of_stock', 'cancelled pending unfulfilled'],
  ['card refused for good', [reserved, refused(false)], 'payment_failed', 'cancelled failed reserved'],
  ['hold runs out', [reserved, refused(true), expired], 'expired', 'cancelled failed unfulfilled'],
  ['hold runs out after payment', [reserved, paid(), expired], 'expired', 'cancelled authorized unfulfilled'],
  ['stock lost after payment', [reserved, paid(), stockLost], 'inventory_lost', 'cancelled authorized unfulfilled'],
  ['stock lost, said before payment', [reserved, stockLost], 'inventory_lost', 'cancelled pending unfulfilled'],
  ['authorisation given up', [reserved, paid(), voided], 'payment_failed', 'cancelled voided reserved'],
]
for (const [name, commands, reason, axes] of calledOff) {
  test(`${name}: cancelled (${reason}), and a repeat changes nothing`, () => {
    const end = after(place, ...commands)
    assert.equal(end.axes, axes)
    assert.equal(end.state.cancellation?.reason, reason)
    assert.equal(end.state.wasConfirmed, false)
    assert.deepEqual(after(place, ...commands, commands.at(-1)!).last, [])
  })
}

test('out of stock tells what was short', () => {
  assert.deepEqual(after(place, outOfStock).state.cancellation?.short, short)
})

test('a refusal that may be tried again leaves the order standing, and a new attempt counts', () => {
  const { axes, state } = after(place, reserved, refused(true))
  assert.equal(axes, 'placed failed reserved')
  assert.equal(customerStatus(state), 'payment_failed')
  assert.equal(state.refusal, 'card_declined')
  assert.equal(after(place, reserved, refused(true), paid(2), allocated).axes, 'confirmed authorized allocated')
  assert.equal(after(place, reserved, refused(true), refused(false, 2)).axes, 'cancelled failed reserved')
})

test('what an earlier attempt says late is left out', () => {
  assert.deepEqual(after(place, reserved, paid(2), refused(false, 1)).last, [])
  assert.deepEqual(after(place, reserved, refused(true, 2), paid(1)).last, [])
  assert.deepEqual(after(place, reserved, paid(), actionRequired).last, [])
})

test('a payment that was given up as overdue and succeeds after all counts', () => {
  assert.equal(after(place, reserved, refused(true), paid(1), allocated).axes, 'confirmed authorized allocated')
})

test('the customer must act at their bank, until the payment is decided', () => {
  const { state } = after(place, reserved, actionRequired)
  assert.equal(customerStatus(state), 'payment_action_required')
  assert.deepEqual(state.action, { url: 'https://bank.example', decisionDueAt: 9 })
  assert.equal(after(place, reserved, actionRequired, paid()).state.action, null)
})

test('a payment that comes late shows as money on a dead order, until it has gone back', () => {
  const late = after(place, reserved, expired, paid())
  assert.equal(late.axes, 'cancelled authorized unfulfilled')
  assert.equal(customerStatus(late.state), 'cancelled_refund_pending')
  assert.equal(isWatched(late.state), true)
  const settled = after(place, reserved, expired, paid(), voided)
  assert.equal(customerStatus(settled.state), 'cancelled')
  assert.equal(isWatched(settled.state), false)
  const back = after(place, reserved, expired, paid(), captured, refunded('rfd_1', 1_000, 1_000))
  assert.equal(customerStatus(back.state), 'cancelled_refunded')
})

test('stock that is given back after a cancellation is no longer reserved', () => {
  assert.equal(after(place, reserved, refused(false), released).axes, 'cancelled failed unfulfilled')
  assert.deepEqual(after(place, reserved, released).last, [])
  assert.deepEqual(after(place, outOfStock, reserved).last, [])
})

// --- the customer calls it off ---

test('before confirmation, with nothing in flight, an order is off at once', () => {
  for (const before of [[], [reserved, refused(true)], [reserved, actionRequired], [reserved, paid()]]) {
    const { last, state } = after(place, ...before, cancel)
    assert.deepEqual(last, ['cancellation_requested', 'cancelled'])
    assert.deepEqual(state.cancellation, { reason: 'customer', requestedBy: 'usr_1', requestedAt: 5, short: [] })
  }
})

test('before confirmation, the payment’s answer in flight unlocks it', () => {
  const locked = after(place, reserved, cancel)
  assert.equal(locked.axes, 'cancelling pending reserved')
  for (const answer of [paid(), refused(true), refused(false), actionRequired, expired, outOfStock, stockLost]) {
    const { state } = after(place, reserved, cancel, answer)
    assert.equal(state.order, 'cancelled')
    assert.equal(state.cancellation?.reason, 'customer')
  }
  assert.equal(after(place, reserved, cancel, allocated).axes, 'cancelling pending allocated')
  assert.equal(after(place, reserved, cancel, allocated, paid()).axes, 'cancelled authorized allocated')
  assert.deepEqual(after(place, reserved, cancel, shippingStopped).last, [])
  assert.deepEqual(after(place, reserved, cancel, cancel).last, [])
})

test('after confirmation shipping decides', () => {
  assert.equal(after(...confirmedOrder, cancel).axes, 'cancelling authorized allocated')
  const stopped = after(...confirmedOrder, cancel, shippingStopped)
  assert.equal(stopped.axes, 'cancelled authorized allocated')
  assert.equal(stopped.state.wasConfirmed, true)
  const late = after(...confirmedOrder, cancel, shippingRefused)
  assert.deepEqual(late.last, ['cancellation_rejected'])
  assert.equal(late.axes, 'confirmed authorized allocated')
  assert.equal(late.state.cancellation, null)
  assert.deepEqual(after(...confirmedOrder, shippingRefused).last, [])
  assert.deepEqual(after(...confirmedOrder, cancel, shippingStopped, shippingStopped).last, [])
})

test('a parcel that leaves a locked order is an answer, too', () => {
  const { last, state } = after(...confirmedOrder, cancel, shipped())
  assert.deepEqual(last, ['parcel_shipped', 'cancellation_rejected'])
  assert.equal(state.order, 'confirmed')
  assert.deepEqual(after(...confirmedOrder, cancel, shipped(), shippingRefused).last, [])
})

test('an order whose parcel has left cannot be called off; one that came back may be', () => {
  for (const way of [[shippedPart('shp_1')], [shipped()], [shipped(), delivered], [shipped(), delivered, windowOver]])
    assert.throws(() => after(...confirmedOrder, ...way, cancel), NotCancellable)
  assert.equal(after(...confirmedOrder, shipped(), sentBack, cancel).state.order, 'cancelling')
})

test('stock lost and authorisation given up after confirmation: shipping is asked', () => {
  assert.deepEqual(after(...confirmedOrder, stockLost).last, ['stock_lost', 'cancellation_requested'])
  assert.equal(after(...confirmedOrder, stockLost, shippingStopped).state.cancellation?.reason, 'inventory_lost')
  assert.equal(after(...confirmedOrder, stockLost, shippingStopped).axes, 'cancelled authorized unfulfilled')
  assert.deepEqual(after(...confirmedOrder, voided).last, ['payment_voided', 'cancellation_requested'])
  assert.deepEqual(after(...confirmedOrder, shipped(), stockLost).last, [])
})

// --- parcels ---

test('an order of two parcels is shipped with the last, in whichever order they are told', () => {
  const first = shippedPart('shp_1')
  const last = shipped('shp_2')
  assert.equal(after(...confirmedOrder, first).state.fulfilment, 'partially_shipped')
  for (const way of [
    [first, last],
    [last, first],
  ]) {
    const { state } = after(...confirmedOrder, ...way)
    assert.equal(state.fulfilment, 'shipped')
    assert.equal(state.parcels.length, 2)
  }
})

test('a parcel that comes back waits for a person, and may be sent again', () => {
  const back = after(...confirmedOrder, shipped(), exception, sentBack)
  assert.equal(back.axes, 'confirmed authorized returned_to_sender')
  assert.equal(back.state.exception?.kind, 'no_news')
  assert.equal(isWatched(back.state), true)
  assert.deepEqual(after(...confirmedOrder, shipped(), exception, exception).last, [])
  assert.deepEqual(after(...confirmedOrder, shipped(), sentBack, sentBack).last, [])
  for (const shipmentId of ['shp_1', 'shp_2']) {
    const again = after(...confirmedOrder, shipped(), sentBack, shipped(shipmentId))
    assert.equal(again.state.fulfilment, 'shipped')
    assert.equal(after(...confirmedOrder, shipped(), sentBack, shipped(shipmentId), delivered).state.order, 'confirmed')
  }
})

test('what got lost or came back and was refunded whole ends as cancelled, once shipping agrees', () => {
  const back = refunded('rfd_1', 1_000, 1_000)
  for (const trouble of [exception, sentBack]) {
    const way: Command[] = [...confirmedOrder, shipped(), captured, trouble]
    assert.deepEqual(after(...way, refunded('rfd_1', 250, 250)).last, ['payment_refunded'])
    assert.deepEqual(after(...way, back).last, ['payment_refunded', 'cancellation_requested'])
    const ended: OrderState = after(...way, back, shippingStopped).state
    assert.equal(customerStatus(ended), 'cancelled_refunded')
    assert.equal(isWatched(ended), false)
  }
  assert.deepEqual(after(...confirmedOrder, shipped(), captured, back).last, ['payment_refunded'])
  assert.deepEqual(after(...deliveredOrder, back).last, ['payment_refunded'])
})

test('the return window ends only what is delivered', () => {
  assert.deepEqual(after(...confirmedOrder, windowOver).last, [])
  assert.deepEqual(after(...deliveredOrder, windowOver, windowOver).last, [])
})

// --- money and goods that come back ---

test('a return goes from requested to closed; its money is the payment’s', () => {
  const asked = after(...deliveredOrder, returnRequested)
  assert.deepEqual(asked.state.returns, [{ returnId: 'ret_1', state: 'requested', units: 1, refundPence: 250 }])
  assert.equal(customerStatus(asked.state), 'return_in_progress')
  const back = after(
    ...deliveredOrder,
    returnRequested,
    returnApproved,
    returnReceived,
    refunded('rfd_1', 250, 250),
    returnClosed('refunded'),
  )
  assert.equal(back.axes, 'confirmed partially_refunded delivered')
  assert.equal(back.state.returns[0]?.state, 'closed')
  assert.equal(customerStatus(back.state), 'partially_refunded')
  const rejected = after(...deliveredOrder, returnRequested, returnClosed('rejected'))
  assert.equal(rejected.state.returns[0]?.state, 'rejected')
  assert.equal(customerStatus(rejected.state), 'delivered')
  assert.deepEqual(after(...deliveredOrder, returnRequested, returnClosed('rejected'), returnReceived).last, [])
})

test('refunds add up to the whole, each counted once', () => {
  const first = refunded('rfd_1', 250, 250)
  const second = refunded('rfd_2', 750, 1_000)
  assert.equal(after(...deliveredOrder, first, second).state.payment, 'refunded')
  assert.equal(after(...deliveredOrder, second, first).state.payment, 'refunded')
  assert.deepEqual(after(...deliveredOrder, first, first).last, [])
})

test('a refund that fails is never shown as refunded before it is', () => {
  const failing = after(...deliveredOrder, refundFailed(1), refundFailed(2, false))
  assert.equal(failing.state.payment, 'captured')
  assert.deepEqual(failing.state.refundProblem, { refundId: 'rfd_1', reason: 'closed', attempt: 2, willRetry: false })
  assert.deepEqual(after(...deliveredOrder, refundFailed(2), refundFailed(1)).last, [])
  const back = after(...deliveredOrder, refundFailed(1), refunded('rfd_1', 1_000, 1_000))
  assert.equal(back.state.refundProblem, null)
  assert.equal(back.state.payment, 'refunded')
  assert.deepEqual(after(...deliveredOrder, refunded('rfd_1', 1_000, 1_000), refundFailed(1)).last, [])
})

test('a dispute stands over the money until it is won', () => {
  assert.equal(after(...deliveredOrder, disputed('opened')).state.payment, 'disputed')
  assert.equal(after(...deliveredOrder, disputed('opened'), disputed('won')).state.payment, 'captured')
  assert.equal(after(...deliveredOrder, disputed('opened'), disputed('lost')).state.payment, 'disputed')
  assert.deepEqual(after(...deliveredOrder, disputed('won'), disputed('opened')).last, [])
})

test('giving up the rest of a captured authorisation calls nothing off', () => {
  assert.deepEqual(after(...confirmedOrder, captured, voided).last, [])
})

// --- T9 ---

const check = (sinceVersion: number): Command => ({ type: 'check_progress', data: { sinceVersion } })

test('an order that has not moved is shown as stalled, once, until it moves', () => {
  assert.deepEqual(after(place, check(1)).last, ['stalled'])
  assert.deepEqual(after(place, check(1), check(2)).last, [])
  assert.deepEqual(after(place, reserved, check(1)).last, [])
  assert.equal(after(place, check(1), reserved).state.stalled, false)
  assert.deepEqual(after(...deliveredOrder, check(99)).last, [])
  assert.deepEqual(after(place, outOfStock, check(99)).last, [])
  assert.deepEqual(after(place, reserved, expired, paid(), check(99)).last, ['stalled'])
})
