import assert from 'node:assert/strict'
import { test } from 'node:test'
import { availabilityOf, LOW_STOCK_UNITS, lossesOf, minus, plus, type StockOrder, unitsBySku } from './stock.ts'

test('lines of one sku are summed, and every list is in the order of the skus', () => {
  const lines = [
    { sku: 'B', quantity: 2 },
    { sku: 'A', quantity: 1 },
    { sku: 'B', quantity: 3 },
  ]
  assert.deepEqual(unitsBySku(lines), [
    ['A', 1],
    ['B', 5],
  ])
})

test('a product is low below the threshold and out with nothing', () => {
  assert.equal(availabilityOf(0), 'out')
  assert.equal(availabilityOf(1), 'low')
  assert.equal(availabilityOf(LOW_STOCK_UNITS - 1), 'low')
  assert.equal(availabilityOf(LOW_STOCK_UNITS), 'in_stock')
})

test('what has left is taken from what was wanted; more than was wanted cannot leave', () => {
  const wanted = unitsBySku([
    { sku: 'A', quantity: 2 },
    { sku: 'B', quantity: 5 },
  ])
  assert.deepEqual(minus(wanted, [['B', 3]]), [
    ['A', 2],
    ['B', 2],
  ])
  assert.deepEqual(minus(wanted, wanted), [])
  assert.equal(minus(wanted, [['B', 6]]), null)
  assert.equal(minus(wanted, [['C', 1]]), null)
  assert.deepEqual(plus([['B', 3]], [['A', 1]]), [
    ['A', 1],
    ['B', 3],
  ])
})

const order = (orderId: string, state: 'held' | 'allocated', units: number, sent = 0): StockOrder => ({
  orderId,
  state,
  wanted: [['A', units]],
  sent: sent > 0 ? [['A', sent]] : [],
  short: null,
})

test('a loss is borne by unpaid orders first, the newest first, then by paid ones; part-sent ones last', () => {
  const orders = [
    order('1', 'allocated', 4, 1),
    order('2', 'allocated', 4),
    order('3', 'held', 4),
    order('4', 'held', 4),
  ]
  const names = (units: number) => lossesOf('A', units, orders).map((loss) => `${loss.order.orderId}:${loss.lostUnits}`)
  assert.deepEqual(names(1), ['4:1'])
  assert.deepEqual(names(6), ['4:4', '3:2'])
  assert.deepEqual(names(15), ['4:4', '3:4', '2:4', '1:3'])
  assert.deepEqual(lossesOf('B', 1, orders), [])
  assert.deepEqual(lossesOf('A', 1, orders)[0]!.short, { sku: 'A', wanted: 4, available: 3 })
})
