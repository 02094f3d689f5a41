import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import { allocate, evolve, type Fact, type Line, nothingYet, salesOf } from './order-figures.ts'

const lines: Line[] = [
  { lineNo: 1, sku: 'A', name: 'Heart', quantity: 6, unitPence: 255 },
  { lineNo: 2, sku: 'B', name: 'Lantern', quantity: 3, unitPence: 333 },
  { lineNo: 3, sku: 'A', name: 'Heart', quantity: 1, unitPence: 199 },
]
const totalPence = 2_728

const placed: Fact = {
  type: 'placed',
  data: { placedAt: Date.UTC(2010, 11, 1, 23, 59), customerId: 'usr_1', country: null, totalPence, lines },
}
const captured = (capturedTotalPence: number): Fact => ({ type: 'captured', data: { capturedTotalPence } })
const refunded = (
  refundId: string,
  pence: number,
  refundedLines: { lineNo: number; quantity: number; pence: number }[] = [],
): Fact => ({ type: 'refunded', data: { refundId, pence, lines: refundedLines } })

const after = (...facts: Fact[]) => facts.reduce(evolve, nothingYet)

test('an order that was placed is no sale yet', () => {
  const order = after(placed)
  assert.deepEqual(order.steps, ['placed'])
  assert.equal(order.placed?.day, '2010-12-01')
  assert.equal(salesOf(order, lines).whole.orders, 0)
})

test('a captured order is a sale of all its units, by product to the penny', () => {
  const { whole, products } = salesOf(after(placed, captured(totalPence)), lines)
  assert.deepEqual(whole, { orders: 1, units: 10, capturedPence: totalPence, refundedUnits: 0, refundedPence: 0 })
  assert.equal(products.get('A')?.capturedPence, 6 * 255 + 199)
  assert.equal(products.get('A')?.units, 7)
  assert.equal(products.get('A')?.orders, 1)
  assert.equal(products.get('B')?.capturedPence, 999)
})

test('a part that was captured is divided without losing a penny', () => {
  const { whole, products } = salesOf(after(placed, captured(1_000)), lines)
  assert.equal(whole.capturedPence, 1_000)
  assert.equal(products.get('A')!.capturedPence + products.get('B')!.capturedPence, 1_000)
  assert.ok(whole.units < 10)
})

test('refunds by line and of the order as a whole', () => {
  const byLine = salesOf(
    after(placed, captured(totalPence), refunded('r1', 333, [{ lineNo: 2, quantity: 1, pence: 333 }])),
    lines,
  )
  assert.equal(byLine.products.get('B')?.refundedPence, 333)
  assert.equal(byLine.products.get('B')?.refundedUnits, 1)
  assert.equal(byLine.whole.refundedPence, 333)
  const all = salesOf(after(placed, captured(totalPence), refunded('r1', totalPence)), lines)
  assert.equal(all.whole.refundedPence, totalPence)
  assert.equal(all.products.get('B')?.refundedPence, 999)
})

test('anything twice, late or out of order comes to the same', () => {
  const facts: Fact[] = [
    placed,
    { type: 'confirmed', data: {} },
    { type: 'shipped', data: {} },
    captured(1_000),
    captured(totalPence),
    { type: 'delivered', data: {} },
    { type: 'returned', data: {} },
    refunded('r1', 333, [{ lineNo: 2, quantity: 1, pence: 333 }]),
    refunded('r2', 100),
  ]
  const straight = after(...facts)
  const random = seededRandom(7)
  for (let round = 0; round < 50; round++) {
    const shuffled = [...facts, ...facts].map((fact) => ({ fact, at: random() })).sort((a, b) => a.at - b.at)
    const order = after(...shuffled.map(({ fact }) => fact))
    assert.deepEqual(salesOf(order, lines), salesOf(straight, lines))
    assert.deepEqual(order.steps.toSorted(), straight.steps.toSorted())
  }
})

test('shares add up, whatever the weights and however large the amounts', () => {
  assert.deepEqual(allocate(100, [1, 1, 1]), [33, 33, 34])
  assert.deepEqual(allocate(5, [0, 0]), [0, 5])
  assert.deepEqual(allocate(7, []), [])
  const parts = allocate(999_999_999_999, [333_333_333_333, 1, 666_666_666_667])
  assert.equal(
    parts.reduce((sum, part) => sum + part, 0),
    999_999_999_999,
  )
  assert.ok(parts.every((part) => part >= 0))
})
