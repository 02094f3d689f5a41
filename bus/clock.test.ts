import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom, skippableClock } from './clock.ts'
import { idMaker } from './message.ts'
import { virtualClock } from './testing/virtual-clock.ts'

test('skipping brings what became due, in order, once, and leaves the rest as far off as it was', async () => {
  const base = virtualClock(1_000)
  const clock = skippableClock(base)
  const came: string[] = []
  clock.after(500, () => came.push('second'))
  clock.after(100, () => came.push('first'))
  clock.after(300, () => came.push('cancelled')).cancel()
  clock.after(10_000, () => came.push('far'))
  assert.equal(clock.now(), 1_000)
  clock.skip(1_000)
  assert.equal(clock.now(), 2_000)
  await base.advance(0)
  assert.deepEqual(came, ['first', 'second'])
  await base.advance(8_999)
  assert.deepEqual(came, ['first', 'second'])
  await base.advance(1)
  assert.deepEqual(came, ['first', 'second', 'far'])
})

test('a seed alone decides the numbers, and they fill [0, 1)', () => {
  const [a, b, other] = [seededRandom(7), seededRandom(7), seededRandom(8)]
  const numbers = Array.from({ length: 1_000 }, a)
  assert.deepEqual(numbers, Array.from({ length: 1_000 }, b))
  assert.notDeepEqual(numbers, Array.from({ length: 1_000 }, other))
  assert.ok(numbers.every((number) => number >= 0 && number < 1))
  const mean = numbers.reduce((sum, number) => sum + number, 0) / numbers.length
  assert.ok(mean > 0.45 && mean < 0.55, `mean ${mean}`)
})

test('ids are UUIDv7: unique, and sorted as they were made, also when the clock steps back', () => {
  let nowMs = 1_291_192_800_000
  const newId = idMaker({ now: () => nowMs, after: () => ({ cancel() {} }) }, seededRandom(1))
  const ids: string[] = []
  for (let n = 0; n < 20_000; n++) {
    if (n % 5_000 === 0) nowMs -= 10
    if (n % 3_000 === 0) nowMs += 5
    ids.push(newId())
  }
  assert.equal(new Set(ids).size, ids.length)
  assert.deepEqual([...ids].sort(), ids)
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.equal(Number.parseInt(ids[0]!.replaceAll('-', '').slice(0, 12), 16), 1_291_192_799_995)
})
