import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  afterFailure,
  assertMayTry,
  comparable,
  createTurns,
  digestOf,
  FAILURES_KEPT_MS,
  type Failures,
  FREE_FAILURES,
  waitMs,
} from './sign-in.ts'

function failedTimes(times: number, at = 0): Failures | undefined {
  let failed: Failures | undefined
  for (let number = 0; number < times; number++) failed = afterFailure(failed, at)
  return failed
}

test('a few wrong passwords cost nothing, then each doubles the wait, up to a quarter of an hour', () => {
  assert.equal(waitMs(undefined, 0), 0)
  assert.equal(waitMs(failedTimes(FREE_FAILURES - 1), 0), 0)
  assert.equal(waitMs(failedTimes(FREE_FAILURES), 0), 30_000)
  assert.equal(waitMs(failedTimes(FREE_FAILURES + 1), 0), 60_000)
  assert.equal(waitMs(failedTimes(FREE_FAILURES + 50), 0), 15 * 60_000)
  assert.equal(waitMs(failedTimes(FREE_FAILURES), 29_999), 1)
  assert.equal(waitMs(failedTimes(FREE_FAILURES), 30_000), 0)
})

test('whoever has to wait is told how long', () => {
  const locked = failedTimes(FREE_FAILURES)
  assert.throws(() => assertMayTry(locked, 500), { code: 'too_many_requests', headers: { 'retry-after': '30' } })
  assertMayTry(locked, 30_000)
})

test('failures of long ago do not count', () => {
  const failed = failedTimes(FREE_FAILURES)
  assert.equal(afterFailure(failed, FAILURES_KEPT_MS - 1).failures, FREE_FAILURES + 1)
  assert.equal(afterFailure(failed, FAILURES_KEPT_MS).failures, 1)
})

test('an e-mail is the same in whatever case and form it is typed', () => {
  assert.equal(comparable('ADA@Example.org'), 'ada@example.org')
  assert.equal(digestOf('ＡＤＡ@example.org'), digestOf('ada@example.org'))
})

test('work of one key runs one after another, other keys at the same time, and a failure stops nobody', async () => {
  const inTurn = createTurns()
  const order: string[] = []
  const first = Promise.withResolvers<void>()
  const working = [
    inTurn('a', async () => {
      await first.promise
      order.push('a1')
      throw new Error('a1 failed')
    }),
    inTurn('a', async () => void order.push('a2')),
    inTurn('b', async () => void order.push('b')),
  ]
  await working[2]
  first.resolve()
  const results = await Promise.allSettled(working)
  assert.deepEqual(order, ['b', 'a1', 'a2'])
  assert.deepEqual(
    results.map(({ status }) => status),
    ['rejected', 'fulfilled', 'fulfilled'],
  )
})

test('too many at the same time are sent away instead of piling up', async () => {
  const inTurn = createTurns(1)
  const first = Promise.withResolvers<void>()
  const working = inTurn('a', () => first.promise)
  await assert.rejects(
    inTurn('b', async () => {}),
    { code: 'unavailable' },
  )
  first.resolve()
  await working
  await inTurn('b', async () => {})
})
