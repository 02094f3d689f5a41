import assert from 'node:assert/strict'
import { test } from 'node:test'
import { VIRTUAL_START_MS, virtualClock } from './virtual-clock.ts'

test('timers fire in order of time, then in order of making, each at its own time', async () => {
  const clock = virtualClock(1_000)
  const fired: string[] = []
  const note = (name: string) => () => void fired.push(`${name}@${clock.now()}`)
  clock.after(30, note('c'))
  clock.after(10, note('a'))
  clock.after(10, note('b'))
  clock.after(31, note('d'))
  assert.equal(clock.pending(), 4)
  assert.equal(clock.nextAt(), 1_010)
  await clock.advance(30)
  assert.deepEqual(fired, ['a@1010', 'b@1010', 'c@1030'])
  assert.equal(clock.now(), 1_030)
  assert.equal(clock.pending(), 1)
})

test('work set off by a timer settles before the next timer', async () => {
  const clock = virtualClock()
  const order: string[] = []
  clock.after(1, async () => {
    await new Promise((resolve) => setImmediate(resolve))
    await null
    order.push('work of the first')
  })
  clock.after(2, () => void order.push('second'))
  await clock.advance(2)
  assert.deepEqual(order, ['work of the first', 'second'])
})

test('a timer made on the way fires in the same advance when it falls due in it', async () => {
  const clock = virtualClock()
  const fired: number[] = []
  const tick = () => {
    fired.push(clock.now() - VIRTUAL_START_MS)
    if (fired.length < 5) clock.after(10, tick)
  }
  clock.after(10, tick)
  await clock.advance(35)
  assert.deepEqual(fired, [10, 20, 30])
  await clock.advance(100)
  assert.deepEqual(fired, [10, 20, 30, 40, 50])
})

test('a cancelled timer does not fire; cancelling twice is fine', async () => {
  const clock = virtualClock()
  const timer = clock.after(1, () => assert.fail('was cancelled'))
  timer.cancel()
  timer.cancel()
  await clock.advance(5)
  assert.equal(clock.pending(), 0)
  assert.equal(clock.nextAt(), null)
})

test('advanceUntil stops where the fact comes true', async () => {
  const clock = virtualClock(0)
  let ticks = 0
  const tick = () => {
    ticks++
    clock.after(1_000, tick)
  }
  clock.after(1_000, tick)
  await clock.advanceUntil(() => ticks === 3)
  assert.equal(clock.now(), 3_000)
  await assert.rejects(
    clock.advanceUntil(() => ticks === 1_000, { withinMs: 5_000, message: 'too few' }),
    /too few/,
  )
  assert.equal(clock.now(), 8_000)
})

test('two advances at once are taken one after the other', async () => {
  const clock = virtualClock(0)
  await Promise.all([clock.advance(10), clock.advance(20)])
  assert.equal(clock.now(), 30)
})

test('time does not run back, and a timer that re-arms itself without delay is found out', async () => {
  const clock = virtualClock(0, { settle: async () => {} })
  await assert.rejects(clock.advance(-1), RangeError)
  const again = () => void clock.after(0, again)
  again()
  await assert.rejects(clock.advance(1), /re-arms itself/)
})
