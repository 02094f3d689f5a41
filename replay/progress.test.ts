import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createProgress } from './progress.ts'

function watched(isTTY: boolean, columns = 100) {
  let text = ''
  let nowMs = 0
  const output = { isTTY, columns, write: (piece: string) => (text += piece) }
  return {
    progress: createProgress(output, () => nowMs),
    pass: (delayMs: number) => (nowMs += delayMs),
    text: () => text,
    lines: () => text.split('\n').filter(Boolean),
    /** What a terminal shows on its last line. */
    shown: () => text.split('\x1b[2K').at(-1),
  }
}

describe('on a terminal', () => {
  test('a bar shows the count, the rate and the time left', () => {
    const { progress, pass, shown } = watched(true)
    progress.phase('Feeding', 2_000, 'lines')
    pass(1_000)
    progress.advance(500)
    assert.equal(shown(), 'Feeding [██████··················] 25 %  500/2,000 lines, 500/s, 3 s left')
  })

  test('it is not drawn for every step', () => {
    const { progress, text } = watched(true)
    progress.phase('Feeding', 1_000, 'lines')
    for (let step = 0; step < 1_000; step += 1) progress.advance(1)
    assert.equal(text().split('\r').length, 2)
  })

  test('it fits the width of the terminal', () => {
    const { progress, shown } = watched(true, 20)
    progress.phase('Feeding', 10, 'lines')
    assert.equal(shown()?.length, 19)
  })

  test('a note stands above it, and in the end only whole lines are left', () => {
    const { progress, pass, text, shown } = watched(true)
    progress.phase('Feeding', 10, 'lines')
    progress.note('line 3 refused')
    assert.ok(text().includes('\x1b[2Kline 3 refused\n\r\x1b[2KFeeding ['))
    pass(2_000)
    progress.advance(10)
    progress.end()
    progress.end()
    assert.equal(shown(), 'Feeding: 10 lines in 2.0 s\n')
  })
})

describe('elsewhere', () => {
  test('there is a line every few seconds and one at the end of each phase, without control characters', () => {
    const { progress, pass, lines, text } = watched(false)
    progress.phase('Feeding', 1_000, 'lines')
    for (let second = 0; second < 10; second += 1) {
      pass(1_000)
      progress.advance(100)
    }
    progress.phase('Delivering', 0, 'orders')
    progress.end()
    assert.deepEqual(lines(), [
      'Feeding 50 %  500/1,000 lines, 100/s, 5 s left',
      'Feeding 100 %  1,000/1,000 lines, 100/s',
      'Feeding: 1,000 lines in 10.0 s',
      'Delivering: 0 orders in 0.0 s',
    ])
    assert.ok(!text().includes('\r') && !text().includes('\x1b'))
  })
})
