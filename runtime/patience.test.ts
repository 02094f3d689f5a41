import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BusError, UnavailableError } from '@shopsphere/bus'
import { virtualClock } from '@shopsphere/bus/testing'
import { createLog } from './log.ts'
import { patiently } from './patience.ts'

function stage(fails: (tries: number) => Error | null) {
  const clock = virtualClock()
  const lines: string[] = []
  const waits: string[] = []
  const log = createLog('warn', { write: (line) => lines.push(line) })
  let tries = 0
  const opened = patiently(
    'the broker',
    async () => {
      const error = fails(++tries)
      if (error) throw error
    },
    { clock, log, patienceMs: 10_000, onWait: (reason) => waits.push(reason) },
  )
  const ended = opened.then(
    () => 'open',
    (error: Error) => error.message,
  )
  return { clock, lines, waits, ended, tries: () => tries }
}

test('a server that comes later is waited for, and each try says so', async () => {
  const { clock, lines, waits, ended, tries } = stage((n) =>
    n < 4 ? new UnavailableError('transport_unavailable', 'refused') : null,
  )
  await clock.advance(10_000)
  assert.equal(await ended, 'open')
  assert.equal(tries(), 4)
  assert.equal(lines.length, 3)
  assert.match(lines[0]!, /the broker is not there yet and is waited for: refused/)
  assert.deepEqual(waits, Array(3).fill('the broker is not there yet and is waited for: refused'))
})

test('a server that refuses is not waited for, and one that never comes ends the waiting', async () => {
  const refused = stage(() => new BusError('transport_refused', 'wrong password'))
  assert.equal(await refused.ended, 'wrong password')
  assert.equal(refused.tries(), 1)
  const never = stage(() => new UnavailableError('transport_unavailable', 'nobody there'))
  await never.clock.advance(20_000)
  assert.equal(await never.ended, 'the broker: nobody there; it was waited for 10 s. Start it, or correct its address')
  assert(never.tries() > 3)
})
