import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import type { CarrierNews } from './carrier.ts'
import {
  type BookingOutcome,
  type Command,
  Contradiction,
  decide,
  evolve,
  type Fact,
  type Fulfilment,
  parcelsToBook,
  readReference,
  referenceOf,
  unknownOrder,
} from './fulfilment.ts'

const HOUR_MS = 3_600_000
const limits = { linesPerParcelMax: 1, unitsPerParcelMax: 100 }
const part = (lineNo: number) => ({ lineNo, sku: `S${lineNo}`, quantity: 2, unitPence: 100 })

/** Two lines, of which each goes in a parcel of its own. */
const confirmed: Fulfilment = {
  ...unknownOrder('ord_1'),
  customerId: 'usr_1',
  confirmedAt: 1_000,
  status: 'waiting',
  lines: [part(1), part(2)],
}

const booked: BookingOutcome = { kind: 'booked', trackingNumber: 'SIM1', nextNewsAtMs: 5_000 }
const unavailable: BookingOutcome = { kind: 'unavailable' }
const refused: BookingOutcome = { kind: 'refused', problem: 'address_unknown', detail: 'no such street' }

function sending(state: Fulfilment, outcomes: BookingOutcome[], at = 2_000): Command {
  const parcels = parcelsToBook(state, limits).map((parcel, index) => ({
    ...parcel,
    shipmentId: `shp_${parcel.no}`,
    outcome: outcomes[index]!,
  }))
  return { type: 'send', parcels, carrier: 'simulated', shippingDeadlineMs: 48 * HOUR_MS, at }
}

const after = (state: Fulfilment, command: Command) => decide(state, command).reduce(evolve, state)
const typesOf = (facts: readonly Fact[]) => facts.map(({ type }) => type)
const sent = after(confirmed, sending(confirmed, [booked, booked]))
const hearing = (shipmentId: string, ...history: CarrierNews[]): Command => ({
  type: 'hear',
  shipmentId,
  history,
  nextNewsAtMs: null,
  at: 9_000,
})
const news = (status: CarrierNews['status'], occurredAt: number): CarrierNews => ({ status, place: null, occurredAt })

test('each parcel is made, then sent; only with the last one the order is shipped', () => {
  const facts = decide(confirmed, sending(confirmed, [booked, booked]))
  assert.deepEqual(
    typesOf(facts).filter((type) => type.includes('.')),
    [
      'shipment.created',
      'shipment.created',
      'shipment.dispatched',
      'order.partially_shipped',
      'shipment.dispatched',
      'order.shipped',
    ],
  )
  assert.deepEqual(
    facts.flatMap((fact) => (fact.type === 'shipment.dispatched' ? [fact.data.last] : [])),
    [false, true],
  )
  assert.equal(sent.status, 'sent')
})

test('what the carrier could not take is tried again later, ever more seldom; the rest has left', () => {
  const first = decide(confirmed, sending(confirmed, [unavailable, booked]))
  assert.deepEqual(first.find(({ type }) => type === 'booking_postponed')?.data, {
    shipmentId: 'shp_1',
    againAt: 62_000,
    deadlineAt: 1_000 + 48 * HOUR_MS,
  })
  let state = first.reduce(evolve, confirmed)
  assert.equal(state.status, 'partly_sent')
  const waits: number[] = []
  for (let tries = 0; tries < 8; tries++) {
    const [fact] = decide(state, sending(state, [unavailable], 0))
    assert.equal(fact?.type, 'booking_postponed')
    if (fact?.type !== 'booking_postponed') return
    assert.equal(fact.data.deadlineAt, null)
    waits.push(fact.data.againAt / 60_000)
    state = evolve(state, fact)
  }
  assert.deepEqual(waits, [2, 4, 8, 16, 32, 60, 60, 60])
  assert.equal(after(state, sending(state, [booked])).status, 'sent')
})

test('a parcel that the carrier refuses is not offered again before a person has looked', () => {
  const state = after(confirmed, sending(confirmed, [refused, booked]))
  assert.deepEqual(parcelsToBook(state, limits), [])
  const mended = after(state, { type: 'send_again', shipmentId: 'shp_1', address: null })
  assert.deepEqual(
    parcelsToBook(mended, limits).map(({ no, sending }) => [no, sending]),
    [[1, 2]],
  )
})

test('an order may be called off until its first parcel has left', () => {
  for (const state of [
    unknownOrder('ord_1'),
    confirmed,
    after(confirmed, sending(confirmed, [unavailable, refused])),
  ]) {
    assert.deepEqual(typesOf(decide(state, { type: 'cancel' })), ['shipment.cancelled'])
    const off = after(state, { type: 'cancel' })
    assert.equal(off.status, 'cancelled')
    assert.deepEqual(parcelsToBook(off, limits), [])
    assert.deepEqual(decide(off, { ...sending(confirmed, [booked, booked]) }), [])
    assert.deepEqual(typesOf(decide(off, { type: 'cancel' })), ['shipment.cancelled'])
  }
  const partly = after(confirmed, sending(confirmed, [unavailable, booked]))
  for (const state of [partly, sent]) {
    assert.deepEqual(typesOf(decide(state, { type: 'cancel' })), ['shipment.cancellation_refused'])
    assert.deepEqual(decide(state, { type: 'call_off' }), [])
  }
})

test('an order has arrived with its last parcel, at the later time', () => {
  const one = after(sent, hearing('shp_2', news('delivered', 8_000)))
  assert.equal(one.status, 'sent')
  const facts = decide(one, hearing('shp_1', news('delivered', 7_000)))
  assert.deepEqual(typesOf(facts).slice(-1), ['order.delivered'])
  assert.equal(facts.reduce(evolve, one).deliveredAt, 8_000)
})

test('nothing arrives before it left, whatever the carrier’s clock says', () => {
  const [fact] = decide(sent, hearing('shp_1', news('delivered', 10)))
  assert.deepEqual(fact?.data, { shipmentId: 'shp_1', orderId: 'ord_1', deliveredAt: 2_000 })
})

test('histories in any order, cut anywhere, come to the same end, and tell nothing twice', () => {
  const whole = [
    news('accepted', 3_000),
    news('in_transit', 4_000),
    news('lost', 5_000),
    news('in_transit', 6_000),
    news('delivered', 7_000),
    news('in_transit', 7_500),
  ]
  const random = seededRandom(11)
  for (let round = 0; round < 200; round++) {
    let state = sent
    const told: string[] = []
    for (let call = 0; call < 6; call++) {
      const known = call === 5 ? whole.length : Math.floor(random() * whole.length)
      const facts = decide(state, hearing('shp_1', ...whole.slice(0, known)))
      state = facts.reduce(evolve, state)
      told.push(...typesOf(facts).filter((type) => type.includes('.')))
    }
    assert.deepEqual(told, [
      'shipment.tracking_updated',
      'shipment.tracking_updated',
      'shipment.exception',
      'shipment.tracking_updated',
      'shipment.delivered',
    ])
    const parcel = state.parcels[0]!
    assert.deepEqual([parcel.status, parcel.problem, parcel.watched], ['delivered', null, false])
  }
})

test('T5 and T6 are alerts only while they are true', () => {
  const late = { type: 'miss_dispatch', shipmentId: 'shp_1', detail: 'late', at: 1 } as const
  const silent = { type: 'miss_news', shipmentId: 'shp_1', detail: 'silent', at: 1 } as const
  const waiting = after(confirmed, sending(confirmed, [unavailable, booked]))
  assert.deepEqual(typesOf(decide(waiting, late)), ['shipment.exception'])
  assert.deepEqual(decide(after(waiting, late), late), [])
  assert.deepEqual(decide(sent, late), [])
  assert.deepEqual(decide(after(confirmed, { type: 'cancel' }), late), [])
  assert.deepEqual(typesOf(decide(sent, silent)), ['shipment.exception'])
  assert.deepEqual(decide(after(sent, silent), silent), [])
  assert.deepEqual(decide(after(sent, hearing('shp_1', news('delivered', 8_000))), silent), [])
})

test('a person refunds what is in trouble and sends again what came back, and nothing else', () => {
  const back = after(sent, hearing('shp_1', news('returned', 8_000)))
  const lost = after(sent, hearing('shp_1', news('lost', 8_000)))
  const arrived = after(sent, hearing('shp_1', news('delivered', 8_000)))
  const again = { type: 'send_again', shipmentId: 'shp_1', address: null } as const
  const refund = { type: 'refund', shipmentId: 'shp_1', at: 1 } as const
  assert.ok(decide(back, again))
  for (const state of [lost, arrived, sent]) assert.throws(() => decide(state, again), Contradiction)
  for (const state of [back, lost]) assert.ok(decide(state, refund))
  for (const state of [arrived, sent, after(back, refund)]) assert.throws(() => decide(state, refund), Contradiction)
  assert.throws(() => decide(sent, { ...refund, shipmentId: 'shp_9' }), Contradiction)
})

test('an order has arrived when the rest of it was refunded', () => {
  const arrived = after(sent, hearing('shp_1', news('delivered', 8_000)))
  const lost = after(arrived, hearing('shp_2', news('lost', 8_500)))
  assert.equal(lost.status, 'sent')
  assert.equal(after(lost, { type: 'refund', shipmentId: 'shp_2', at: 9_000 }).status, 'delivered')
})

test('a reference of ours can be read back; others cannot', () => {
  assert.deepEqual(readReference(referenceOf('ord_1', { no: 12, sending: 3 })), {
    orderId: 'ord_1',
    no: 12,
    sending: 3,
  })
  for (const text of ['', 'ord_1', 'ord_1:1', 'ord_1:a:1', 'ord_1:1:1:1', ':1:1'])
    assert.equal(readReference(text), null)
})
