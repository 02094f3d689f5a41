import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from '@hono/zod-openapi'
import { decodeCursor, encodeCursor, page, pageQuery } from './pages.ts'

const position = z.tuple([z.int(), z.string()])

test('a cursor comes back as the position that it was made of', () => {
  const cursor = encodeCursor([5, 'ord_ü'])
  assert.match(cursor, /^[\w-]+$/)
  assert.deepEqual(decodeCursor(position, cursor), [5, 'ord_ü'])
  assert.equal(decodeCursor(position, undefined), undefined)
})

test('a cursor of another list, a cut one and nonsense are refused', () => {
  for (const bad of [encodeCursor('x'), encodeCursor([5, 'a']).slice(0, -4), '!', '']) {
    assert.throws(() => decodeCursor(position, bad), { code: 'invalid_cursor' })
  }
})

test('the row too many makes a cursor of the last one shown', () => {
  const how = { item: (row: number) => `item ${row}`, position: (row: number) => row }
  assert.deepEqual(page([1, 2, 3], 2, how), { items: ['item 1', 'item 2'], nextCursor: encodeCursor(2) })
  assert.deepEqual(page([1, 2], 2, how), { items: ['item 1', 'item 2'], nextCursor: null })
  assert.deepEqual(page([], 2, how), { items: [], nextCursor: null })
})

test('the limit is 50 by default and from 1 to 200', () => {
  assert.equal(pageQuery.parse({}).limit, 50)
  assert.equal(pageQuery.parse({ limit: '200' }).limit, 200)
  for (const limit of ['0', '201', '1.5', 'x', '']) assert.equal(pageQuery.safeParse({ limit }).success, false)
})
