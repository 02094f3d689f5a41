import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import { penceOfUnits, spread, takeFrom } from './shares.ts'

const sum = (pence: readonly number[]) => pence.reduce((total, one) => total + one, 0)

test('however a line is taken apart, its parts come to what it cost', () => {
  const random = seededRandom(1)
  for (let run = 0; run < 500; run++) {
    const quantity = 1 + Math.floor(random() * 40)
    const line = { pence: Math.floor(random() * 10_000), quantity }
    const parts: number[] = []
    for (let before = 0; before < quantity; ) {
      const units = 1 + Math.floor(random() * (quantity - before))
      parts.push(penceOfUnits(line, before, units))
      before += units
    }
    assert.equal(sum(parts), line.pence)
    assert.ok(parts.every((pence) => pence >= 0))
  }
})

test('units at one price cost just that, also where the product exceeds what a number holds exactly', () => {
  assert.equal(penceOfUnits({ pence: 255 * 6, quantity: 6 }, 2, 3), 765)
  assert.equal(penceOfUnits({ pence: 999_999_999_999, quantity: 1_000_000 }, 0, 999_999), 999_998_999_999)
})

test('discounts and fees fall on all lines, to the penny', () => {
  assert.deepEqual(spread(300, [100, 200]), [100, 200])
  assert.deepEqual(spread(100, [50, 50, 50]), [33, 33, 34])
  assert.deepEqual(spread(310, [100, 200, 0]), [103, 207, 0])
  assert.deepEqual(spread(5, [0, 0]), [5, 0])
  const random = seededRandom(2)
  for (let run = 0; run < 500; run++) {
    const worth = Array.from({ length: 1 + Math.floor(random() * 9) }, () => Math.floor(random() * 1_000))
    const total = Math.floor(random() * 5_000)
    assert.equal(sum(spread(total, worth)), total)
  }
})

test('what is taken comes from the first places first, and never more than they hold', () => {
  assert.deepEqual(takeFrom([10, 20, 30], 25), [10, 15, 0])
  assert.deepEqual(takeFrom([10], 25), [10])
})
