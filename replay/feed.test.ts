import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FakeShop } from './fake-shop.ts'
import { type FeedResult, feed, stockShop } from './feed.ts'
import { expectedFigures } from './oracle.ts'
import { fileSource, type OrderBook, openBook } from './order-book.ts'
import { survey } from './survey.ts'

const realBook = new URL('./books/online-retail.csv', import.meta.url).pathname
const header = 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country'

function bookOf(...lines: string[]): Promise<OrderBook> {
  const text = [header, ...lines].join('\n')
  return openBook(async function* () {
    yield new TextEncoder().encode(text)
  })
}

const line = (no: string, customer: string, quantity = 1, sku = 'A', price = '1.00') =>
  `${no},${sku},thing,${quantity},12/1/2010 8:26,${price},${customer},UK`

async function fed(
  book: OrderBook,
  shop: FakeShop,
  options: { stockEach?: number; concurrency?: number } = {},
): Promise<FeedResult> {
  const found = await survey(book)
  await stockShop(shop, { survey: found, ...options })
  return feed(shop, book, { survey: found, ...options })
}

describe('the real book, fed to a shop whose deliveries take their time', () => {
  for (const stock of [undefined, 50, 500]) {
    test(`comes to what the rules say, ${stock === undefined ? 'with enough stock' : `with ${stock} of each article`}`, async () => {
      const book = await openBook(fileSource(realBook))
      const expected = await expectedFigures(book, stock === undefined ? {} : { stock })
      const shop = new FakeShop(7)
      const result = await fed(book, shop, stock === undefined ? {} : { stockEach: stock })
      await shop.settled()
      assert.deepEqual(shop.figures(), {
        orders: expected.orders,
        units: expected.units,
        pence: expected.pence,
      })
      assert.deepEqual(result, {
        ordersPlaced: expected.orders.placed,
        returns: { ...expected.returns, units: expected.units.returned, pence: expected.pence.refunded },
      })
    })
  }
})

test('F1: no more calls at one time than wanted, begun in the order of the book', async () => {
  const lines = Array.from({ length: 100 }, (_, index) => line(String(1000 + index), ''))
  const shop = new FakeShop(1)
  await fed(await bookOf(...lines), shop, { concurrency: 4 })
  assert.equal(shop.callsMax, 4)
  assert.deepEqual(
    shop.begun,
    lines.map((_, index) => `replay:order:${1000 + index}`),
  )
})

test('F2: a return waits for the earlier orders of its customer, and later ones wait for it', async () => {
  const book = await bookOf(
    line('1', '7', 2, 'A', '1.00'),
    line('2', '7', 2, 'A', '2.00'),
    line('C3', '7', -3),
    line('4', '7', 5, 'A', '9.00'),
    line('5', '8', 5),
  )
  const shop = new FakeShop(3)
  const result = await fed(book, shop)
  assert.deepEqual(result.returns, { accepted: 1, refused: {}, units: 3, pence: 500 })
})

test('F3: with a stock for each, invoices go one at a time', async () => {
  const lines = Array.from({ length: 30 }, (_, index) => line(String(1000 + index), '', (index % 3) + 1))
  const book = await bookOf(...lines)
  const shop = new FakeShop(5)
  await fed(book, shop, { stockEach: 20 })
  assert.equal(shop.callsMaxSinceStocked, 1)
  const { orders } = await expectedFigures(book, { stock: 20 })
  assert.deepEqual(shop.figures().orders, orders)
})

test('F4: the same book again changes nothing', async () => {
  const book = await bookOf(line('1', '7', 2), line('2', '', 2), line('C3', '7', -1))
  const shop = new FakeShop(1)
  const first = await fed(book, shop)
  const figures = shop.figures()
  assert.deepEqual(await fed(book, shop), first)
  assert.deepEqual(shop.figures(), figures)
})

test('F5: the first failure ends the feed and is thrown when nothing runs any more', async () => {
  const lines = Array.from({ length: 100 }, (_, index) => line(String(1000 + index), ''))
  const shop = new FakeShop(1)
  shop.failAt = 'replay:order:1010'
  await assert.rejects(fed(await bookOf(...lines), shop, { concurrency: 4 }), /the shop refuses replay:order:1010/)
  assert.ok(shop.begun.length < 20, `${shop.begun.length} orders were begun`)
  assert.equal(shop.calls, 0)
})

test('an interrupted feed begins nothing new', async () => {
  const book = await bookOf(line('1', ''))
  const shop = new FakeShop(1)
  const options = { survey: await survey(book), signal: AbortSignal.abort(new Error('stop')) }
  await assert.rejects(feed(shop, book, options), /stop/)
  assert.deepEqual(shop.begun, [])
})

describe('lines of a return', () => {
  const returnsOf = async (...lines: string[]) => (await fed(await bookOf(...lines), new FakeShop(1))).returns

  test('without a customer are refused', async () => {
    const { refused } = await returnsOf(line('1', '', 2), line('C2', '', -1))
    assert.deepEqual(refused, { no_customer: 1 })
  })

  test('that ask for nothing, for another article or for what others bought match nothing', async () => {
    const { refused, accepted } = await returnsOf(
      line('1', '7', 2),
      line('C2', '7', 1),
      line('C3', '7', -1, 'B'),
      line('C4', '8', -1),
    )
    assert.deepEqual([accepted, refused], [0, { nothing_to_return: 3 }])
  })

  test('before the order match nothing', async () => {
    assert.deepEqual(await returnsOf(line('C1', '7', -1), line('2', '7', 2)), {
      accepted: 0,
      refused: { nothing_to_return: 1 },
      units: 0,
      pence: 0,
    })
  })

  test('that ask for more than there is are accepted for what there is, and the rest is gone', async () => {
    const { accepted, units, refused } = await returnsOf(line('1', '7', 2), line('C2', '7', -5), line('C2', '7', -1))
    assert.deepEqual([accepted, units, refused], [1, 2, { nothing_to_return: 1 }])
  })

  test('of several customers in one invoice count for each of them', async () => {
    const { accepted, refused, units } = await returnsOf(
      line('1', '7', 2),
      line('2', '8', 2),
      line('C3', '7', -1),
      line('C3', '8', -1),
      line('C3', '', -1),
    )
    assert.deepEqual([accepted, refused, units], [2, { no_customer: 1 }, 2])
  })
})
