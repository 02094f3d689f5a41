import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import { virtualClock } from '@shopsphere/bus/testing'
import { orderConfirmed } from '@shopsphere/contracts'
import { CarrierRefusal } from './carrier.ts'
import { createCarrierSimulator } from './carrier-simulator.ts'

function simulate({ delayMs = 1_000, failureRate = 0, seed = 1 } = {}) {
  const clock = virtualClock()
  const carrier = createCarrierSimulator({ clock, random: seededRandom(seed), failureRate, delayMs, seed })
  const book = (reference: string, postcode?: string) =>
    carrier.book({
      reference,
      collectAtMs: clock.now(),
      units: 1,
      address: postcode === undefined ? null : { ...orderConfirmed.example!.address!, postcode },
    })
  return { clock, carrier, book }
}

test('the same reference is the same booking; another is another', async () => {
  const { book, clock } = simulate()
  const first = await book('ord_1:1:1')
  await clock.advance(5_000)
  assert.deepEqual(await book('ord_1:1:1'), first)
  assert.notEqual((await book('ord_2:1:1')).trackingNumber, first.trackingNumber)
})

test('each answer tells the whole history so far, and when there will be more', async () => {
  const { book, clock, carrier } = simulate()
  const { trackingNumber, nextNewsAtMs } = await book('ord_1:1:1')
  let known = 0
  for (let next = nextNewsAtMs; next !== null; ) {
    await clock.advance(next - clock.now())
    const tracking = await carrier.track({ reference: 'ord_1:1:1', trackingNumber })
    assert.equal(tracking.history.length, ++known)
    next = tracking.nextNewsAtMs
  }
  const { history } = await carrier.track({ reference: 'ord_1:1:1', trackingNumber })
  assert.deepEqual(
    history.map(({ status }) => status),
    ['accepted', 'in_transit', 'out_for_delivery', 'delivered'],
  )
})

test('a carrier that was started anew knows the parcels from before', async () => {
  const { book } = simulate({ delayMs: 0 })
  const { trackingNumber } = await book('ord_1:1:1')
  const { carrier } = simulate({ delayMs: 0 })
  const { history } = await carrier.track({ reference: 'ord_1:1:1', trackingNumber })
  assert.deepEqual(
    history.map(({ status }) => status),
    ['delivered'],
  )
  assert.deepEqual((await carrier.track({ reference: 'x', trackingNumber: 'nonsense' })).history, [])
})

test('the postcode decides what becomes of a parcel', async () => {
  const { book, carrier } = simulate({ delayMs: 0 })
  for (const [postcode, end] of [
    ['SW1Y 4JH', 'delivered'],
    ['SIM LOST', 'lost'],
    ['sim damaged', 'damaged'],
    ['SIM RETURNED', 'returned'],
    ['SIM SILENT', undefined],
  ] as const) {
    const { trackingNumber } = await book(`ord_${postcode}`, postcode)
    assert.equal((await carrier.track({ reference: '', trackingNumber })).history.at(-1)?.status, end, postcode)
  }
  await assert.rejects(book('ord_2', 'SIM REFUSED'), CarrierRefusal)
})

test('it fails as often as told, and a booking whose answer was lost is found again', async () => {
  const { book, carrier } = simulate({ failureRate: 1 })
  await assert.rejects(book('ord_1:1:1'), /does not answer/)
  await assert.rejects(carrier.track({ reference: '', trackingNumber: '' }), /does not answer/)
  carrier.setFailureRate(0)
  assert.ok(await book('ord_1:1:1'))
})

test('the seed alone decides', async () => {
  const plan = async (seed: number) => {
    const { book, carrier, clock } = simulate({ seed })
    const { trackingNumber } = await book('ord_1:1:1')
    await clock.advance(60_000)
    return carrier.track({ reference: '', trackingNumber })
  }
  assert.deepEqual(await plan(3), await plan(3))
  assert.notDeepEqual(await plan(3), await plan(4))
})
