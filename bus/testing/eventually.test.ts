import assert from 'node:assert/strict'
import { test } from 'node:test'
import { eventually } from './eventually.ts'

test('answers what the check answered as soon as it is true', async () => {
  let looks = 0
  assert.equal(await eventually(() => (++looks < 3 ? undefined : `after ${looks}`), { intervalMs: 1 }), 'after 3')
})

test('a throw counts as not yet', async () => {
  let looks = 0
  await eventually(
    () => {
      assert.ok(++looks > 2)
      return true
    },
    { intervalMs: 1 },
  )
})

test('gives up with the message, and the last failure as its cause', async () => {
  const waiting = eventually(() => assert.fail('still two'), { timeoutMs: 5, intervalMs: 1, message: 'one is left' })
  await assert.rejects(waiting, (error: Error) => {
    assert.match(error.message, /one is left \(waited 5 ms\)/)
    assert.match((error.cause as Error).message, /still two/)
    return true
  })
})

test('gives up also where the check itself hangs', async () => {
  const waiting = eventually(() => new Promise<boolean>(() => {}), { timeoutMs: 5, message: 'no answer' })
  await assert.rejects(waiting, /no answer/)
})
