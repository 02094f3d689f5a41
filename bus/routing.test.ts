import assert from 'node:assert/strict'
import { test } from 'node:test'
import { matcher, matches, shardOf, validatePattern } from './routing.ts'
import type { Binding } from './transport.ts'

const message = (type: string, headers: Record<string, string> = {}) => ({ type, headers })

const patterns: [pattern: string, takes: string[], leaves: string[]][] = [
  ['order.placed', ['order.placed'], ['order', 'order.placed.late', 'order.placedx', 'return.placed']],
  ['order.*', ['order.placed', 'order.shipped'], ['order', 'order.line.added', 'reorder.placed']],
  ['*.placed', ['order.placed', 'return.placed'], ['placed', 'shop.order.placed']],
  ['*', ['order'], ['order.placed']],
  ['*.*', ['order.placed'], ['order', 'order.line.added']],
  ['#', ['order', 'order.placed', 'a.b.c.d.e'], []],
  ['order.#', ['order', 'order.placed', 'order.line.added'], ['orders', 'reorder.placed']],
  ['#.placed', ['placed', 'order.placed', 'shop.order.placed'], ['order.placed.late']],
  ['order.#.added', ['order.added', 'order.line.added', 'order.a.b.added'], ['order.added.late', 'order.line']],
  ['#.line.#', ['line', 'order.line', 'line.added', 'order.line.added'], ['order.lines.added']],
  ['*.#', ['order', 'order.placed'], []],
  ['#.*', ['order', 'order.placed'], []],
  ['#.#', ['order', 'a.b.c'], []],
  ['#.a.#.a', ['a.a', 'x.a.y.a', 'a.a.a', 'a.b.a.c.a'], ['a', 'a.b', 'x.a.y']],
  ['a.*.#.b', ['a.x.b', 'a.x.y.z.b'], ['a.b', 'a.x.y']],
]

for (const [pattern, takes, leaves] of patterns) {
  test(`B7 topic pattern ${pattern}`, () => {
    const binding: Binding = { kind: 'topic', pattern }
    for (const type of takes) assert.equal(matches(binding, message(type)), true, type)
    for (const type of leaves) assert.equal(matches(binding, message(type)), false, type)
  })
}

test('B7 a pattern of many # is decided quickly', () => {
  const pattern = Array.from({ length: 20 }, () => '#.a').join('.')
  const type = Array.from({ length: 60 }, () => 'a').join('.')
  assert.equal(matches({ kind: 'topic', pattern: `${pattern}.b` }, message(type)), false)
  assert.equal(matches({ kind: 'topic', pattern }, message(type)), true)
})

test('B7 direct takes exactly its type', () => {
  const binding: Binding = { kind: 'direct', type: 'order.placed' }
  assert.equal(matches(binding, message('order.placed')), true)
  assert.equal(matches(binding, message('order.placed.late')), false)
})

test('B7 fanout takes everything', () => {
  assert.equal(matches({ kind: 'fanout' }, message('any.thing')), true)
})

test('B7 headers: all needs each, any needs one, and inherited names do not count', () => {
  const wanted = { country: 'GB', channel: 'web' }
  const all: Binding = { kind: 'headers', match: 'all', headers: wanted }
  const any: Binding = { kind: 'headers', match: 'any', headers: wanted }
  assert.equal(matches(all, message('a.b', { ...wanted, more: 'x' })), true)
  assert.equal(matches(all, message('a.b', { country: 'GB' })), false)
  assert.equal(matches(any, message('a.b', { country: 'GB', channel: 'shop' })), true)
  assert.equal(matches(any, message('a.b', { country: 'FR' })), false)
  assert.equal(matches({ kind: 'headers', match: 'any', headers: { constructor: 'x' } }, message('a.b')), false)
})

test('B7 a matcher takes what any of its bindings takes, also when asked again', () => {
  const takes = matcher([
    { kind: 'topic', pattern: 'order.*' },
    { kind: 'direct', type: 'cart.opened' },
    { kind: 'headers', match: 'any', headers: { urgent: 'yes' } },
  ])
  for (let round = 0; round < 2; round++) {
    assert.equal(takes(message('order.placed')), true)
    assert.equal(takes(message('cart.opened')), true)
    assert.equal(takes(message('user.registered')), false)
    assert.equal(takes(message('user.registered', { urgent: 'yes' })), true)
  }
})

test('B7 malformed bindings are refused with what to write instead', () => {
  const refused: unknown[] = [
    { kind: 'topic', pattern: '' },
    { kind: 'topic', pattern: 'order..placed' },
    { kind: 'topic', pattern: 'order.' },
    { kind: 'topic', pattern: 'order*' },
    { kind: 'topic', pattern: 'order placed' },
    { kind: 'topic', pattern: 'x'.repeat(256) },
    { kind: 'topic' },
    { kind: 'direct', type: 'order.*' },
    { kind: 'direct', type: '' },
    { kind: 'headers', match: 'all', headers: {} },
    { kind: 'headers', match: 'some', headers: { a: 'b' } },
    { kind: 'headers', match: 'any', headers: { a: 1 } },
    { kind: 'queue' },
  ]
  for (const binding of refused) {
    assert.throws(() => matcher([binding as Binding]), { code: 'invalid_argument' }, JSON.stringify(binding))
  }
  assert.throws(() => matcher([]), { code: 'invalid_argument' })
  assert.throws(() => validatePattern('order#'), /whole words/)
})

test('B3 a key always belongs to the same shard, and keys spread evenly', () => {
  // The constants hold the function to what earlier versions wrote: a changed hash would break the order by key.
  assert.deepEqual(
    ['', 'a', 'ord_1', '85123A', 'Zoë'].map((key) => shardOf(key, 16)),
    [9, 0, 15, 1, 0],
  )
  const counts = new Array<number>(16).fill(0)
  for (let index = 0; index < 16_000; index++) counts[shardOf(`ord_${index.toString(16).padStart(8, '0')}`, 16)]!++
  assert.ok(Math.min(...counts) > 800 && Math.max(...counts) < 1200, counts.join(' '))
})
