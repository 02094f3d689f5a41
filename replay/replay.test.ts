import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { FakeShop } from './fake-shop.ts'
import { type ReplayShop, replay, type ShopTotals } from './replay.ts'
import { pounds, summaryJson, summaryTable } from './summary.ts'

const realBook = new URL('./books/online-retail.csv', import.meta.url).pathname

type Faults = Partial<{ violations: string[]; totals: Partial<ShopTotals>; start: Error }>

async function run(argv: string[], faults: Faults = {}, signal = new AbortController().signal) {
  const out = { stdout: '', stderr: '' }
  const fake = new FakeShop(1)
  const shop = { started: 0, closed: 0, skipped: 0 }
  const started: ReplayShop = {
    url: 'http://shop.test',
    merchant: { email: 'm', password: 'p' },
    totals: async () => {
      const { orders, units, pence } = fake.figures()
      const done = shop.skipped > 0 ? orders.completed : 0
      const counts = {
        placed: orders.placed,
        delivered: orders.completed - done,
        completed: done,
        cancelled: orders.cancelled,
      }
      return { orders: counts, units, pence, openReturns: 0, events: 99, messagesWaiting: 0, ...faults.totals }
    },
    skipReturnWindow: async () => {
      await fake.settled()
      shop.skipped += 1
    },
    audit: async () => faults.violations ?? [],
    close: async () => {
      shop.closed += 1
    },
  }
  const status = await replay(argv, {
    stdout: { write: (text: string) => (out.stdout += text) },
    stderr: { write: (text: string) => (out.stderr += text) },
    signal,
    standstillMaxMs: 0,
    connect: () => fake,
    startShop: async () => {
      if (faults.start) throw faults.start
      shop.started += 1
      return started
    },
  })
  return { status, ...out, ...shop }
}

async function withFile<T>(text: string, work: (file: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'replay-'))
  try {
    await writeFile(join(folder, 'book.csv'), text)
    return await work(join(folder, 'book.csv'))
  } finally {
    await rm(folder, { recursive: true })
  }
}

const header = 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country'
const smallBook = `${header}\n1,A,thing,2,12/1/2010 8:26,1.00,7,UK\nbroken\nX9,A,thing,2,12/1/2010 8:26,1.00,7,UK\nC2,A,thing,-1,12/1/2010 8:27,1.00,7,UK\n`

test('the real book: the last line of standard output is one object with exactly the keys that are fixed', async () => {
  const { status, stdout, stderr, closed } = await run([realBook, '--json'])
  assert.equal(status, 0, stderr)
  assert.equal(closed, 1)
  const { seconds, ...rest } = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
  assert.equal(typeof seconds, 'number')
  assert.deepEqual(rest, {
    invoices: 512,
    orders: { placed: 424, completed: 424, cancelled: 0 },
    lines: { accepted: 9_934, refused: { zero_price: 16, negative_quantity: 30 } },
    units: { sold: 90_581, returned: 77 },
    pence: { charged: 18_493_135, refunded: 18_400 },
    returns: { accepted: 10, refused: { nothing_to_return: 90 } },
    events: 99,
    violations: [],
  })
})

test('lines that cannot be used are named by number, and the table says what it came to', async () => {
  const { status, stdout, stderr } = await withFile(smallBook, (file) => run([file]))
  assert.equal(status, 0, stderr)
  assert.match(stderr, /line 3 refused \(bad_line\): the line has 1 fields, the header has 8\n/)
  assert.match(stderr, /line 4 refused \(bad_invoice\): InvoiceNo "X9" is neither digits nor starts with C\n/)
  assert.match(
    stdout,
    /orders +1 placed, 1 completed, 0 cancelled\nlines +1 accepted, 2 refused \(1 bad_line, 1 bad_invoice\)\n/,
  )
})

test('--stock decides how many orders can be filled', async () => {
  const { stdout } = await withFile(smallBook, (file) => run([file, '--stock', '1', '--json']))
  assert.deepEqual(JSON.parse(stdout).orders, { placed: 1, completed: 0, cancelled: 1 })
})

describe('exit status 1', () => {
  test('when the auditor found something', async () => {
    const { status, stdout } = await withFile(smallBook, (file) =>
      run([file], { violations: ['I3 A: on hand 1, sum 2'] }),
    )
    assert.equal(status, 1)
    assert.match(stdout, /violations +1\n {2}✗ I3 A: on hand 1, sum 2\n/)
  })

  test('when an order is not terminal, whatever the auditor says', async () => {
    const orders = { placed: 1, delivered: 1, completed: 0, cancelled: 0 }
    const { status, stderr, closed } = await withFile(smallBook, (file) => run([file], { totals: { orders } }))
    assert.deepEqual([status, closed], [1, 1])
    assert.match(stderr, /1 orders are not terminal/)
  })

  test('when the shop knows another number of orders than it answered for', async () => {
    const orders = { placed: 2, delivered: 0, completed: 2, cancelled: 0 }
    const { status, stdout } = await withFile(smallBook, (file) => run([file, '--json'], { totals: { orders } }))
    assert.equal(status, 1)
    assert.deepEqual(JSON.parse(stdout).violations, ["orders placed: the shop's answers say 1, its books 2"])
  })

  test('when no line of the book can be ordered: it says so and starts no shop', async () => {
    const header = 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country'
    const book = `${header}\n536365,A,Heart,0,12/1/2010 8:26,2.55,17850,France\n`
    await withFile(book, async (file) => {
      const { status, stdout, stderr, started } = await run([file])
      assert.deepEqual([status, stdout, started], [1, '', 0])
      assert.match(stderr, /has no line that can be ordered \(1 read\): give a book/)
    })
  })

  test('when the shop does not start', async () => {
    const { status, stderr } = await withFile(smallBook, (file) =>
      run([file], { start: new Error('the port is taken') }),
    )
    assert.equal(status, 1)
    assert.match(stderr, /the port is taken/)
  })
})

describe('exit status 2, before any shop is started', () => {
  for (const [name, argv, message] of [
    ['no file', [], /which order book\? .*\n\nUsage: /],
    ['two files', ['a.csv', 'b.csv'], /one order book at a time, not 2/],
    ['an unknown option', ['a.csv', '--fast'], /--fast/],
    [
      'a stock that is no number',
      ['a.csv', '--stock', 'many'],
      /--stock takes a whole number from 0 to 1000000, not "many"/,
    ],
    ['a stock below 0', ['a.csv', '--stock=-1'], /--stock takes a whole number/],
    ['a stock without a number', ['a.csv', '--stock'], /--stock/],
    ['a file that is not there', ['/nowhere/book.csv'], /cannot read \/nowhere\/book\.csv: ENOENT/],
    ['a folder', [tmpdir()], /cannot read .*: EISDIR/],
    ['a file that is no order book', [new URL(import.meta.url).pathname], /no column InvoiceNo, /],
  ] as const) {
    test(name, async () => {
      const { status, stdout, stderr, started } = await run([...argv])
      assert.deepEqual([status, stdout, started], [2, '', 0])
      assert.match(stderr, message)
    })
  }
})

test('--help prints the usage and exits with 0', async () => {
  const { status, stdout } = await run(['--help'])
  assert.equal(status, 0)
  assert.match(stdout, /^Usage: npm run replay -- FILE\.csv \[--stock N\] \[--json\]\n/)
})

test('interrupted: the shop is closed and the exit status is 130', async () => {
  const stop = new AbortController()
  stop.abort()
  const { status, stderr, closed } = await withFile(smallBook, (file) => run([file], {}, stop.signal))
  assert.deepEqual([status, closed], [130, 1])
  assert.match(stderr, /interrupted/)
})

test('money and counts are written from their digits', () => {
  assert.deepEqual([0, 5, 100, 18_493_135, -18_400].map(pounds), ['£0.00', '£0.05', '£1.00', '£184,931.35', '-£184.00'])
})

test('the JSON is one line with its keys in order', () => {
  const figures = {
    violations: ['x\ny'],
    seconds: 1.5,
    events: 0,
    returns: { accepted: 0, refused: {} },
    pence: { charged: 0, refunded: 0 },
    units: { sold: 0, returned: 0 },
    lines: { accepted: 0, refused: {} },
    orders: { placed: 0, completed: 0, cancelled: 0 },
    invoices: 0,
  }
  const json = summaryJson(figures)
  assert.ok(!json.includes('\n'))
  assert.deepEqual(Object.keys(JSON.parse(json)), [
    'invoices',
    'orders',
    'lines',
    'units',
    'pence',
    'returns',
    'events',
    'seconds',
    'violations',
  ])
  assert.match(summaryTable(figures), /lines +0 accepted, 0 refused\n/)
})
