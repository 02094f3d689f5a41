import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { InvoiceNumbers } from './invoice-numbers.ts'
import { expectedFigures } from './oracle.ts'
import {
  type BookEntry,
  BookError,
  type BookSource,
  fileSource,
  type Invoice,
  invoiceLinesMax,
  openBook,
  parsePence,
  readTime,
} from './order-book.ts'
import { survey } from './survey.ts'

const realBook = new URL('./books/online-retail.csv', import.meta.url).pathname
const header = 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country'

function bytesOf(bytes: Uint8Array, pieceBytes = bytes.length): BookSource {
  return async function* () {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
  }
}

const textSource = (text: string) => bytesOf(new TextEncoder().encode(text))
const bookOf = (...lines: string[]) => openBook(textSource([header, ...lines].join('\n')))

type LineParts = { no?: string; sku?: string; quantity?: string; at?: string; price?: string; customer?: string }
const line = ({
  no = '1',
  sku = 'A',
  quantity = '1',
  at = '12/1/2010 8:26',
  price = '1.00',
  customer = '7',
}: LineParts = {}) => `${no},${sku},thing,${quantity},${at},${price},${customer},UK`

async function entriesOf(book: { entries(): AsyncIterable<BookEntry> }): Promise<BookEntry[]> {
  return Array.fromAsync(book.entries())
}

/** `order 1: A×2, B×1`, `line 3 bad_line` */
async function told(...lines: string[]): Promise<string[]> {
  const show = (invoice: Invoice) => invoice.lines.map(({ sku, quantity }) => `${sku}×${quantity}`).join(', ')
  const entries = await entriesOf(await bookOf(...lines))
  return entries.map((entry) =>
    entry.kind === 'refused'
      ? `line ${entry.line} ${entry.reason}`
      : `${entry.kind} ${entry.invoiceNo}: ${show(entry)}`,
  )
}

describe('the real book', () => {
  test('is read as its README says', async () => {
    const found = await survey(await openBook(fileSource(realBook)))
    const { products, returningCustomers, ...rest } = found
    assert.deepEqual(rest, {
      invoices: 512,
      orders: 424,
      lines: { total: 10_080, accepted: 9_934, refused: { zero_price: 16, negative_quantity: 30 } },
      returnLines: 100,
      units: 90_581,
      pence: 18_493_135,
      outOfOrderCount: 0,
    })
    assert.equal(products.size, 1_993)
    assert.equal(
      [...products.values()].reduce((sum, { units }) => sum + units, 0),
      90_581,
    )
    assert.equal(returningCustomers.size, 40)
    assert.deepEqual(products.get('85123A'), {
      ...products.get('85123A'),
      name: 'WHITE HANGING HEART T-LIGHT HOLDER',
      pricePence: 255,
    })
  })

  test('comes to the figures of its README', async () => {
    assert.deepEqual(await expectedFigures(await openBook(fileSource(realBook))), {
      invoices: 512,
      orders: { placed: 424, completed: 424, cancelled: 0 },
      lines: { accepted: 9_934, refused: { zero_price: 16, negative_quantity: 30 } },
      units: { sold: 90_581, returned: 77 },
      pence: { charged: 18_493_135, refunded: 18_400 },
      returns: { accepted: 10, refused: { nothing_to_return: 90 } },
    })
  })

  // Worked out by a program in another language that shares nothing with this one.
  for (const [stock, completed, sold, charged, accepted, returned, refunded] of [
    [0, 0, 0, 0, 0, 0, 0],
    [1, 11, 27, 40_524, 0, 0, 0],
    [10, 49, 1_109, 424_454, 0, 0, 0],
    [100, 207, 19_272, 4_406_283, 7, 16, 7_045],
    [500, 361, 59_026, 12_981_543, 9, 53, 15_400],
    [1_000, 421, 82_929, 18_160_355, 10, 77, 18_400],
  ] as const) {
    test(`comes to the figures of its README with ${stock} of each article`, async () => {
      const figures = await expectedFigures(await openBook(fileSource(realBook)), { stock })
      assert.deepEqual(figures.orders, { placed: 424, completed, cancelled: 424 - completed })
      assert.deepEqual(
        [figures.units, figures.pence],
        [
          { sold, returned },
          { charged, refunded },
        ],
      )
      const refused = { nothing_to_return: 100 - accepted }
      assert.deepEqual(figures.returns, { accepted, refused })
    })
  }
})

describe('the file', () => {
  const text = `${header}\r\n1,A,"Grüße, ""Welt"" €😀",2,12/1/2010 8:26,2.55,7,UK\r\n`
  const expected = {
    kind: 'order',
    invoiceNo: '1',
    lines: [
      {
        line: 2,
        sku: 'A',
        name: 'Grüße, "Welt" €😀',
        quantity: 2,
        unitPence: 255,
        customerReference: '7',
        country: 'UK',
        atMs: Date.UTC(2010, 11, 1, 8, 26),
      },
    ],
  }

  test('may be cut anywhere, inside a character, a line end or a byte-order mark', async () => {
    const bytes = new TextEncoder().encode(`\ufeff${text}`)
    for (let pieceBytes = 1; pieceBytes < 40; pieceBytes += 1) {
      assert.deepEqual(await entriesOf(await openBook(bytesOf(bytes, pieceBytes))), [expected])
    }
  })

  test('may have its columns in any order, and more of them', async () => {
    const book = await openBook(
      textSource(
        'Country,Extra,UnitPrice,InvoiceNo,Quantity,CustomerID,InvoiceDate,StockCode,Description\nUK,x,2.55,1,2,7,12/1/2010 8:26,A,thing',
      ),
    )
    assert.deepEqual(await entriesOf(book), [{ ...expected, lines: [{ ...expected.lines[0], name: 'thing' }] }])
  })

  test('that is not UTF-8 has odd letters in its names and loses no line', async () => {
    const latin = Buffer.from(`${header}\n1,A,caf\xe9 \xa35,2,12/1/2010 8:26,2.55,7,UK\n`, 'latin1')
    assert.equal((await survey(await openBook(bytesOf(latin)))).lines.accepted, 1)
  })

  test('with nothing but a header is a book without orders', async () => {
    const found = await survey(await bookOf())
    assert.deepEqual([found.invoices, found.orders, found.lines.total], [0, 0, 0])
  })

  for (const [name, source, message] of [
    ['empty', textSource(''), /the file is empty: its first line must name the columns InvoiceNo,/],
    ['without a column', textSource(header.replace('UnitPrice', 'Price')), /no column UnitPrice: .*in any order/],
    [
      'without two columns',
      textSource('InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice'),
      /no column CustomerID, Country/,
    ],
    ['with a column twice', textSource(`${header},Quantity`), /has the column Quantity twice/],
    ['with a broken header', textSource(`${header},"x\n1`), /the first line cannot be read/],
    ['in UTF-16', bytesOf(Buffer.from(`\ufeff${header}\n`, 'utf16le')), /UTF-16: save it as UTF-8/],
  ] as const) {
    test(`${name} is no order book, and the error says why`, async () => {
      await assert.rejects(openBook(source), (error) => error instanceof BookError && message.test(error.message))
    })
  }

  test('with a stray quote loses that line and no other', async () => {
    const lines = [line(), line({ sku: '"B' }), line({ sku: 'C' }), '2,D,"two, words",1,12/1/2010 8:27,1,,UK']
    assert.deepEqual(await told(...lines), ['line 3 bad_line', 'order 1: A×1, C×1', 'order 2: D×1'])
  })
})

describe('why a line is refused', () => {
  for (const [name, parts, reason] of [
    ['a quantity below 0', { quantity: '-1' }, 'negative_quantity'],
    ['a quantity of 0', { quantity: '0' }, 'negative_quantity'],
    ['a quantity below 0 at a price of 0', { quantity: '-1', price: '0' }, 'negative_quantity'],
    ['a price of 0', { price: '0' }, 'zero_price'],
    ['a price of 0.000', { price: '0.000' }, 'zero_price'],
    ['a price below 0', { price: '-1.50' }, 'zero_price'],
    ['a quantity that is not whole', { quantity: '1.5' }, 'bad_line'],
    ['a quantity with an exponent', { quantity: '1e3' }, 'bad_line'],
    ['a quantity beyond the limit', { quantity: '1000001' }, 'bad_line'],
    ['no quantity', { quantity: '' }, 'bad_line'],
    ['no price', { price: '' }, 'bad_line'],
    ['a price in words', { price: 'free' }, 'bad_line'],
    ['a price with a currency', { price: '£1' }, 'bad_line'],
    ['a price beyond the limit', { price: '10000000.01' }, 'bad_line'],
    ['a price that no number holds', { price: '9'.repeat(400) }, 'bad_line'],
    ['a line that is worth too much', { quantity: '1000000', price: '10000000' }, 'bad_line'],
    ['a date that is none', { at: '13/1/2010 8:26' }, 'bad_line'],
    ['a bad date at a price of 0', { at: 'x', price: '0' }, 'bad_line'],
    ['no stock code', { sku: '' }, 'bad_line'],
    ['a stock code that is too long', { sku: 'x'.repeat(65) }, 'bad_line'],
    ['no invoice number', { no: '' }, 'bad_line'],
    ['an invoice number of another kind', { no: 'A563185' }, 'bad_invoice'],
    ['an invoice number of another kind on an unreadable line', { no: 'A563185', price: 'x' }, 'bad_invoice'],
    ['an invoice number of another kind at a negative price', { no: 'A563186', price: '-11062.06' }, 'bad_invoice'],
    ['a small c before the invoice number', { no: 'c536379' }, 'bad_invoice'],
    ['an unreadable line of a return', { no: 'C536379', quantity: 'x' }, 'bad_line'],
  ] as const) {
    test(`${name}: ${reason}`, async () => {
      assert.deepEqual(await told(line(parts), line({ no: '99' })), [`line 2 ${reason}`, 'order 99: A×1'])
    })
  }

  test('a price above 0 that rounds to no penny is accepted', async () => {
    const [order] = await entriesOf(await bookOf(line({ price: '0.001' })))
    assert.ok(order?.kind === 'order')
    assert.equal(order.lines[0]?.unitPence, 0)
  })

  test('every line of a refused invoice counts, and so does the invoice', async () => {
    const found = await survey(
      await bookOf(line({ no: 'A1' }), line({ no: 'A1' }), line({ no: 'B2', quantity: '-1' }), line()),
    )
    assert.deepEqual([found.invoices, found.orders, found.lines.refused], [3, 1, { bad_invoice: 3 }])
  })

  test('an invoice whose lines are all refused is counted and makes no order', async () => {
    const found = await survey(await bookOf(line({ price: '0' }), line({ price: '0' })))
    assert.deepEqual([found.invoices, found.orders], [1, 0])
  })

  test('the reason is told with the number of the line', async () => {
    const [refusal] = await entriesOf(await bookOf(line({ quantity: '1.5' })))
    assert.deepEqual(refusal, {
      kind: 'refused',
      line: 2,
      reason: 'bad_line',
      why: 'Quantity "1.5" is no whole number',
    })
  })
})

describe('invoices', () => {
  test('lines with the same article and price stay apart', async () => {
    assert.deepEqual(await told(line(), line(), line({ price: '2' })), ['order 1: A×1, A×1, A×1'])
  })

  test('a number that starts with C is a return, its lines kept whatever their price', async () => {
    assert.deepEqual(await told(line({ no: 'C1', quantity: '-2', price: '0' }), line({ no: 'C1', quantity: '3' })), [
      'return C1: A×-2, A×3',
    ])
  })

  test('a refused line between two of one invoice does not cut it', async () => {
    assert.deepEqual(await told(line(), 'broken', line({ no: '1', price: '0' }), line({ sku: 'B' })), [
      'line 3 bad_line',
      'line 4 zero_price',
      'order 1: A×1, B×1',
    ])
  })

  test('lines of one invoice that lie apart are one order, at the place of the last', async () => {
    const lines = [
      line(),
      line({ no: '2' }),
      line({ no: '3' }),
      line({ sku: 'B' }),
      line({ no: '4' }),
      line({ no: '3', sku: 'B' }),
      line({ no: '5' }),
    ]
    assert.deepEqual(await told(...lines), [
      'order 2: A×1',
      'order 1: A×1, B×1',
      'order 4: A×1',
      'order 3: A×1, B×1',
      'order 5: A×1',
    ])
    const found = await survey(await bookOf(...lines))
    assert.deepEqual([found.invoices, found.orders], [5, 5])
  })

  test('an invoice whose last line is refused is not forgotten', async () => {
    assert.deepEqual(await told(line(), line({ no: '2' }), line({ price: '0' })), [
      'order 2: A×1',
      'line 4 zero_price',
      'order 1: A×1',
    ])
  })

  test('an invoice with too many lines is refused whole, and the next is read', async () => {
    const lines = Array.from({ length: invoiceLinesMax + 2 }, () => line())
    const found = await survey(await bookOf(...lines, line({ no: '2' })))
    assert.deepEqual(found.lines.refused, { bad_invoice: invoiceLinesMax + 2 })
    assert.deepEqual([found.orders, found.lines.accepted], [1, 1])
  })

  test('an invoice that is worth more than an order may be is refused whole', async () => {
    const dear = line({ quantity: '1000000', price: '9000.00' })
    assert.deepEqual(await told(dear, dear, line({ no: '2' })), [
      'line 2 bad_invoice',
      'line 3 bad_invoice',
      'order 2: A×1',
    ])
  })

  test('a book that is not in time order says so', async () => {
    assert.equal((await bookOf(line({ at: '12/1/2010 8:27' }), line({ no: '2' }))).outOfOrderCount, 1)
  })
})

test('money is whole pence, half up, exact', () => {
  const cases: [string, number | null][] = [
    ['2.55', 255],
    ['0.125', 13],
    ['0.124999999999999999999999999999', 12],
    ['1.005', 101],
    ['1.004999', 100],
    ['1.115', 112],
    ['8.345', 835],
    ['0.995', 100],
    ['999.995', 100_000],
    ['7', 700],
    ['7.', 700],
    ['.5', 50],
    ['+1.5', 150],
    ['007.50', 750],
    ['0', 0],
    ['-0.001', 0],
    ['-0.125', -13],
    ['-11062.06', -1_106_206],
    [`0.${'9'.repeat(1_000)}`, 100],
    [`${'0'.repeat(500)}1.00`, 100],
    ['9'.repeat(20), Infinity],
    ['', null],
    ['.', null],
    ['-', null],
    ['1e3', null],
    ['1,5', null],
    ['1 000', null],
    ['0x10', null],
    ['NaN', null],
  ]
  for (const [text, pence] of cases) assert.ok(Object.is(parsePence(text), pence), `${text}: ${parsePence(text)}`)
})

test('times are read as the book writes them', () => {
  assert.equal(readTime('12/1/2010 8:26'), Date.UTC(2010, 11, 1, 8, 26))
  assert.equal(readTime('2/29/2012 23:59'), Date.UTC(2012, 1, 29, 23, 59))
  const wrong = [
    '2/29/2011 8:26',
    '0/1/2010 8:26',
    '12/1/10 8:26',
    '12/1/2010 24:00',
    '12/1/2010 8:60',
    '12/1/2010',
    '2010-12-01 8:26',
    '',
  ]
  for (const text of wrong) assert.equal(readTime(text), null, text)
})

test('invoice numbers: the same number is found again, different texts are different numbers', () => {
  const seen = new InvoiceNumbers()
  const different = [
    '0',
    '1',
    '1023',
    '1024',
    'C0',
    'C1',
    'C1024',
    '01',
    '-1',
    'C-1',
    'C',
    'A1',
    '9007199254740991',
    '9007199254740993',
    '1e3',
    '1000',
  ]
  for (const invoiceNo of different) assert.equal(seen.add(invoiceNo), true, invoiceNo)
  for (const invoiceNo of different) assert.equal(seen.add(invoiceNo), false, invoiceNo)
  assert.equal(seen.size, different.length)
})
