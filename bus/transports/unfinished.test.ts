import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../clock.ts'
import { type Item, Unfinished } from './unfinished.ts'

type Numbered = Item & { n: number }
const numbered = (count: number): Numbered[] => Array.from({ length: count }, (_, n) => ({ n, done: false }))

test('the lowest unfinished is what a plain search finds, whatever the order of finishing', () => {
  const random = seededRandom(7)
  const all = numbered(2_000)
  const unfinished = new Unfinished<Numbered>()
  for (const item of all) unfinished.add(item)
  const open = [...all]
  while (open.length > 0) {
    const [item] = open.splice(Math.floor(random() * Math.min(open.length, 400)), 1)
    item!.done = true
    const lowest = all.find(({ done }) => !done)
    assert.equal(unfinished.lowest(), lowest)
    assert.equal(unfinished.count(), open.length)
    const behind = lowest ? all.slice(lowest.n).filter(({ done }) => done).length : 0
    assert.equal(unfinished.finishedBehind(), behind)
  }
})

test('what is taken back is forgotten, with all that came after it', () => {
  const unfinished = new Unfinished<Numbered>()
  const all = numbered(10)
  for (const item of all) unfinished.add(item)
  for (const item of all.slice(0, 3)) item.done = true
  unfinished.takeBack(all[6]!)
  assert.equal(unfinished.count(), 3)
  unfinished.add({ n: 6, done: false })
  for (const item of all.slice(3, 6)) item.done = true
  assert.equal(unfinished.lowest()!.n, 6)
})
