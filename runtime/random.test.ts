import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createRandom } from './random.ts'

const draw = (seed: number | null, name: string, count = 5) => Array.from({ length: count }, createRandom(seed, name))

test('a seed and a name decide every draw', () => {
  assert.deepEqual(draw(7, 'payment'), draw(7, 'payment'))
  assert.notDeepEqual(draw(7, 'payment'), draw(7, 'shipping'))
  assert.notDeepEqual(draw(7, 'payment'), draw(8, 'payment'))
})

test('without a seed nothing decides', () => {
  const draws = draw(null, 'payment', 3000)
  assert(draws.every((value) => value >= 0 && value < 1))
  assert.equal(new Set(draws).size > 2990, true)
})
