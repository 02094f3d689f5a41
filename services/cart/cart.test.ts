import assert from 'node:assert/strict'
import { test } from 'node:test'
import { contractLimits } from '@shopsphere/contracts'
import {
  assertCanCheckOut,
  assertWithinLimits,
  type Cart,
  isWaiting,
  merged,
  newCart,
  pricedLines,
  quoteOf,
  type Ware,
  type Wares,
  withLine,
} from './cart.ts'

const ware = (sku: string, change: Partial<Ware> = {}): Ware => ({
  sku,
  name: `Ware ${sku}`,
  unitPence: 100,
  discontinued: false,
  availability: null,
  available: null,
  ...change,
})
const waresOf = (...all: Ware[]): Wares => new Map(all.map((one) => [one.sku, one]))
const empty = newCart('crt_1', 'usr_1', 1)
const cartOf = (units: Record<string, number>, change: Partial<Cart> = {}): Cart => ({
  ...empty,
  lines: Object.entries(units).map(([sku, quantity]) => ({ sku, quantity })),
  ...change,
})
const unitsOf = ({ lines }: Cart) => Object.fromEntries(lines.map(({ sku, quantity }) => [sku, quantity]))

test('a line is set, not added to; 0 takes it out; the same again is no change', () => {
  const one = withLine(empty, 'a', 2, ware('a'))
  const two = withLine(one, 'b', 1, ware('b'))
  assert.deepEqual(unitsOf(withLine(two, 'a', 5, ware('a'))), { a: 5, b: 1 })
  assert.deepEqual(unitsOf(withLine(two, 'a', 0, ware('a'))), { b: 1 })
  assert.equal(withLine(two, 'a', 2, ware('a')), two)
  assert.equal(withLine(two, 'c', 0, undefined), two)
})

test('what is unknown or no longer sold cannot be put in, but taken out', () => {
  assert.throws(() => withLine(empty, 'a', 1, undefined), { code: 'unknown_product' })
  const gone = ware('a', { discontinued: true })
  assert.throws(() => withLine(cartOf({ a: 1 }), 'a', 2, gone), { code: 'unknown_product' })
  assert.deepEqual(unitsOf(withLine(cartOf({ a: 1 }), 'a', 0, gone)), {})
})

test('a closed cart is not changed and says where it went', () => {
  const bought = cartOf({ a: 1 }, { state: 'checked_out', orderId: 'ord_1' })
  assert.throws(() => withLine(bought, 'a', 2, ware('a')), { code: 'conflict', members: { orderId: 'ord_1' } })
  const gone = cartOf({}, { state: 'merged', mergedInto: 'crt_2' })
  assert.throws(() => withLine(gone, 'a', 2, ware('a')), { code: 'conflict', members: { mergedInto: 'crt_2' } })
})

test('a cart holds so many lines, and no more than one order may', () => {
  const full = cartOf(Object.fromEntries(Array.from({ length: contractLimits.linesMax }, (_, no) => [`s${no}`, 1])))
  assert.throws(() => withLine(full, 'one more', 1, ware('one more')), { code: 'conflict' })
  const dear = waresOf(ware('a', { unitPence: contractLimits.unitPenceMax }))
  assertWithinLimits(quoteOf(cartOf({ a: 1_000 }), dear))
  assert.throws(() => assertWithinLimits(quoteOf(cartOf({ a: 1_001 }), dear)), { code: 'conflict' })
})

test('merging adds units of the same product, up to what a line holds, and empties the guest’s cart', () => {
  const customers = cartOf({ a: 2, b: contractLimits.quantityMax })
  const guests = cartOf({ b: 5, c: 1 }, { cartId: 'crt_guest', customerId: null, email: 'guest@example.org' })
  const both = merged(customers, guests)
  assert.deepEqual(unitsOf(both.customers), { a: 2, b: contractLimits.quantityMax, c: 1 })
  assert.deepEqual(unitsOf(both.guests), {})
  assert.deepEqual(
    [both.guests.state, both.guests.mergedInto, both.guests.customerId, both.guests.email],
    ['merged', 'crt_1', 'usr_1', null],
  )
})

test('a quote adds up and warns of what may not be had', () => {
  const wares = waresOf(
    ware('plenty', { availability: 'in_stock', available: 50, unitPence: 255 }),
    ware('few', { availability: 'low', available: 4 }),
    ware('none', { availability: 'out', available: 0 }),
    ware('gone', { discontinued: true }),
    ware('unheard'),
  )
  const quote = quoteOf(cartOf({ plenty: 60, few: 5, none: 1, gone: 1, unheard: 1, never: 1 }), wares)
  assert.deepEqual(
    quote.lines.map(({ sku, warning, linePence }) => [sku, warning, linePence]),
    [
      ['plenty', null, 15_300],
      ['few', 'not_enough', 500],
      ['none', 'out_of_stock', 100],
      ['gone', 'not_sold', 100],
      ['unheard', null, 100],
      ['never', 'not_sold', 0],
    ],
  )
  assert.equal(quote.totalPence, 16_100)
  assert.deepEqual(pricedLines(quote)[0], { sku: 'plenty', name: 'Ware plenty', quantity: 60, unitPence: 255 })
})

test('the hash is of products, quantities and prices, and of nothing else', () => {
  const hash = (cart: Cart, ...wares: Ware[]) => quoteOf(cart, waresOf(...wares)).hash
  const agreed = hash(cartOf({ a: 1 }), ware('a'))
  assert.equal(hash(cartOf({ a: 1 }, { cartId: 'crt_2' }), ware('a', { name: 'New', availability: 'out' })), agreed)
  assert.notEqual(hash(cartOf({ a: 1 }), ware('a', { unitPence: 101 })), agreed)
  assert.notEqual(hash(cartOf({ a: 2 }), ware('a')), agreed)
  assert.notEqual(hash(cartOf({ b: 1 }), ware('b')), agreed)
})

test('an order needs something in the cart, all of it sold, at the prices that were seen', () => {
  const check = (cart: Cart, wares: Wares, hash?: string) => {
    const quote = quoteOf(cart, wares)
    assertCanCheckOut(cart, quote, hash ?? quote.hash)
  }
  const wares = waresOf(ware('a'), ware('gone', { discontinued: true }))
  check(cartOf({ a: 1 }), wares)
  assert.throws(() => check(empty, wares), { code: 'conflict' })
  assert.throws(() => check(cartOf({ a: 1, gone: 1 }), wares), { code: 'unknown_product', members: { skus: ['gone'] } })
  assert.throws(() => check(cartOf({ a: 1 }), wares, 'another'), { code: 'price_changed' })
  assert.throws(() => check(cartOf({ a: 1 }, { state: 'checked_out' }), wares), { code: 'conflict' })
})

test('only an open cart with something in it waits for its customer, until they were reminded', () => {
  assert.equal(isWaiting(cartOf({ a: 1 })), true)
  assert.equal(isWaiting(empty), false)
  assert.equal(isWaiting(cartOf({ a: 1 }, { state: 'checked_out' })), false)
  assert.equal(isWaiting(cartOf({ a: 1 }, { remindedAt: 5 })), false)
})
