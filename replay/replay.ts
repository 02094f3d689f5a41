/**
 * `npm run replay -- FILE.csv [--stock N] [--json]`: feeds a real order book to a whole shop through its public API, waits
 * until every order is terminal, lets the auditor look and says what it came to.
 *
 * Exit status: 0 every order is terminal and nothing is violated; 1 not so, no line can be used, or the shop failed; 2 the arguments are wrong
 * or the file cannot be used; 130 interrupted.
 */
import { setTimeout as timeout } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type FeedResult, feed, stockShop } from './feed.ts'
import { BookError, fileSource, type OrderBook, openBook, quantityMax, type Refusal } from './order-book.ts'
import { createProgress, type Progress, type ProgressOutput } from './progress.ts'
import type { ShopApi } from './shop-api.ts'
import { createShopClient, ShopError } from './shop-client.ts'
import { type ReplayFigures, summaryJson, summaryTable } from './summary.ts'
import { type Survey, survey } from './survey.ts'

/** A whole shop that runs for this replay alone: every service, no pages, on the brokers that the environment names. */
export type ReplayShop = {
  /** Address of its gateway. */
  url: string
  /** A merchant's account in it. */
  merchant: { email: string; password: string }
  totals(): Promise<ShopTotals>
  /** Moves the shop's clock past the return window of everything that is delivered. */
  skipReturnWindow(): Promise<void>
  /** The auditor's findings, a sentence each, once nothing is under way. */
  audit(): Promise<string[]>
  close(): Promise<void>
}

/** Where the shop stands, from its own services. */
export type ShopTotals = {
  /** `delivered`: not completed yet. What is in none of the last three is still open. */
  orders: { placed: number; delivered: number; completed: number; cancelled: number }
  /** Returns that are not closed yet. */
  openReturns: number
  units: { sold: number; returned: number }
  /** From the payment service's ledger. */
  pence: { charged: number; refunded: number }
  events: number
  /** Messages that wait in an outbox or for a subscription, timers left out. */
  messagesWaiting: number
}

export type StartShop = (options: { signal: AbortSignal }) => Promise<ReplayShop>

export type ReplayIo = {
  stdout: ProgressOutput
  stderr: ProgressOutput
  startShop: StartShop
  signal: AbortSignal
  /** How the shop is spoken to; tests put their own in place of HTTP. */
  connect?: (shop: ReplayShop, signal: AbortSignal) => ShopApi
  /** How long the shop may stand still before the replay gives up. */
  standstillMaxMs?: number
}

export const usage = `Usage: npm run replay -- FILE.csv [--stock N] [--json]

Feeds an order book (columns InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country)
to the shop, waits until every order is terminal and prints a summary. One is there to try: replay/books/online-retail.csv

  --stock N   start with N units of each article (default: what the whole file sells); orders then go one at a time,
              and those that cannot be filled whole are cancelled
  --json      print the figures as one JSON object, the last line of standard output; the table goes to standard error
  --help      print this

Exit status: 0 every order is terminal and nothing is violated, 1 not so or no line can be used, 2 wrong arguments or an unusable file.
`

type Arguments = { file: string; stock: number | undefined; json: boolean; help: boolean }

class UsageError extends Error {
  override readonly name = 'UsageError'
}

function readArguments(argv: string[]): Arguments {
  const options = {
    stock: { type: 'string' },
    json: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  } as const
  const { values, positionals } = parse(() => parseArgs({ args: argv, options, allowPositionals: true }))
  const help = values.help ?? false
  if (!help && positionals.length === 0) throw new UsageError('which order book? Give the path of a CSV file')
  if (!help && positionals.length > 1) throw new UsageError(`one order book at a time, not ${positionals.length}`)
  return { file: positionals[0] ?? '', stock: readStock(values.stock), json: values.json ?? false, help }
}

function parse<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function readStock(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d+$/.test(text) && Number(text) <= quantityMax) return Number(text)
  throw new UsageError(`--stock takes a whole number from 0 to ${quantityMax}, not ${JSON.stringify(text)}`)
}

/** The file is an order book, and nobody ordered anything in it. */
class NothingToFeed extends Error {
  override readonly name = 'NothingToFeed'
}

/** The whole command; answers with its exit status and never throws. */
export async function replay(argv: string[], io: ReplayIo): Promise<number> {
  try {
    const wanted = readArguments(argv)
    if (wanted.help) {
      io.stdout.write(usage)
      return 0
    }
    return await replayFile(wanted, io)
  } catch (error) {
    return explain(error, io)
  }
}

async function replayFile({ file, stock, json }: Arguments, io: ReplayIo): Promise<number> {
  const startedMs = performance.now()
  const progress = createProgress(io.stderr)
  try {
    const { book, found } = await readBook(file, progress)
    const shop = await io.startShop({ signal: io.signal })
    try {
      const outcome = await feedAndSettle({ shop, book, found, stock, progress, io })
      progress.end()
      const figures = figuresOf(found, outcome, (performance.now() - startedMs) / 1000)
      ;(json ? io.stderr : io.stdout).write(summaryTable(figures))
      if (json) io.stdout.write(`${summaryJson(figures)}\n`)
      return exitStatus(figures, outcome.totals, io)
    } finally {
      await shop.close()
    }
  } finally {
    progress.end()
  }
}

async function readBook(file: string, progress: Progress): Promise<{ book: OrderBook; found: Survey }> {
  const book = await openBook(fileSource(file)).catch((error: unknown) => {
    throw isFileError(error) ? new BookError(`cannot read ${file}: ${error.message}`, { cause: error }) : error
  })
  const refusals = new RefusalNotes(progress)
  const found = await survey(book, (refusal) => refusals.add(refusal))
  refusals.end()
  if (found.lines.accepted === 0) {
    throw new NothingToFeed(
      `${file} has no line that can be ordered (${found.lines.total} read): give a book whose lines have a positive quantity and price`,
    )
  }
  if (found.outOfOrderCount > 0) {
    progress.note(
      `${found.outOfOrderCount} lines are dated before the line above them: the book is fed as it stands, not sorted`,
    )
  }
  return { book, found }
}

function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === 'string'
}

const notesMax = 20

/** Says which lines could not be used. Gifts and stock corrections, which every book has, are only counted. */
class RefusalNotes {
  readonly #progress: Progress
  #count = 0

  constructor(progress: Progress) {
    this.#progress = progress
  }

  add({ line, reason, why }: Refusal) {
    if (reason !== 'bad_line' && reason !== 'bad_invoice') return
    this.#count += 1
    if (this.#count <= notesMax) this.#progress.note(`line ${line} refused (${reason}): ${why}`)
  }

  end() {
    if (this.#count > notesMax) this.#progress.note(`… and ${this.#count - notesMax} more lines refused`)
  }
}

type Run = {
  shop: ReplayShop
  book: OrderBook
  found: Survey
  stock: number | undefined
  progress: Progress
  io: ReplayIo
}
type Outcome = { fed: FeedResult; totals: ShopTotals; violations: string[] }

async function feedAndSettle({ shop, book, found, stock, progress, io }: Run): Promise<Outcome> {
  const { signal } = io
  const api = (io.connect ?? connectOverHttp)(shop, signal)
  const options = { survey: found, signal, ...(stock === undefined ? {} : { stockEach: stock }) }
  progress.phase('Stocking the shop', found.products.size, 'products')
  await stockShop(api, { ...options, onProduct: () => progress.advance(1) })
  progress.phase('Feeding the book', found.lines.total, 'lines')
  const fed = await feed(api, book, { ...options, onLines: (count) => progress.advance(count) })
  const until = (name: string, isDone: (totals: ShopTotals) => boolean, done: (totals: ShopTotals) => number) => {
    progress.phase(name, fed.ordersPlaced, 'orders')
    return waitForShop(shop, isDone, (totals) => progress.set(done(totals)), io)
  }
  const atRest = ({ messagesWaiting, openReturns }: ShopTotals) => messagesWaiting === 0 && openReturns === 0
  const arrived = ({ orders }: ShopTotals) => orders.delivered + orders.completed + orders.cancelled
  await until('Delivering', (totals) => arrived(totals) >= fed.ordersPlaced && atRest(totals), arrived)
  await shop.skipReturnWindow()
  const totals = await until(
    'Completing',
    (now) => isTerminal(now) && terminal(now) >= fed.ordersPlaced && atRest(now),
    terminal,
  )
  const violations = [...(await shop.audit()), ...disagreements(fed, totals)]
  return { fed, totals, violations }
}

function connectOverHttp({ url, merchant }: ReplayShop, signal: AbortSignal): ShopApi {
  return createShopClient({ url, ...merchant, signal })
}

const terminal = ({ orders }: ShopTotals) => orders.completed + orders.cancelled
const isTerminal = (totals: ShopTotals) => terminal(totals) === totals.orders.placed

const lookEveryMs = 100

/** Looks until `isDone`, or until nothing has moved for `standstillMaxMs`; answers with what it saw last. */
async function waitForShop(
  shop: ReplayShop,
  isDone: (totals: ShopTotals) => boolean,
  onLook: (totals: ShopTotals) => void,
  { signal, standstillMaxMs = 60_000 }: ReplayIo,
): Promise<ShopTotals> {
  let seen = ''
  let movedMs = performance.now()
  for (;;) {
    signal.throwIfAborted()
    const totals = await shop.totals()
    onLook(totals)
    if (isDone(totals)) return totals
    const shown = JSON.stringify(totals)
    if (shown !== seen) movedMs = performance.now()
    seen = shown
    if (performance.now() - movedMs > standstillMaxMs) return totals
    await timeout(lookEveryMs, undefined, { signal })
  }
}

/** What the shop answered while it was fed must be what its books say in the end. */
function disagreements(fed: FeedResult, totals: ShopTotals): string[] {
  const compare = (what: string, answered: number, kept: number) =>
    answered === kept ? [] : [`${what}: the shop's answers say ${answered}, its books ${kept}`]
  return [
    ...compare('orders placed', fed.ordersPlaced, totals.orders.placed),
    ...compare('units returned', fed.returns.units, totals.units.returned),
  ]
}

function figuresOf(found: Survey, { fed, totals, violations }: Outcome, seconds: number): ReplayFigures {
  const { placed, completed, cancelled } = totals.orders
  return {
    invoices: found.invoices,
    orders: { placed, completed, cancelled },
    lines: { accepted: found.lines.accepted, refused: found.lines.refused },
    units: totals.units,
    pence: totals.pence,
    returns: { accepted: fed.returns.accepted, refused: fed.returns.refused },
    events: totals.events,
    seconds: Math.round(seconds * 1000) / 1000,
    violations,
  }
}

function exitStatus({ violations }: ReplayFigures, totals: ShopTotals, { stderr }: ReplayIo): number {
  const open = totals.orders.placed - terminal(totals)
  if (open > 0) stderr.write(`${open} orders are not terminal: nothing has moved for a while, so the replay gave up\n`)
  return violations.length > 0 || open !== 0 ? 1 : 0
}

function explain(error: unknown, { stderr, signal }: ReplayIo): number {
  if (signal.aborted) {
    stderr.write('replay: interrupted\n')
    return 130
  }
  if (error instanceof UsageError) {
    stderr.write(`replay: ${error.message}\n\n${usage}`)
    return 2
  }
  if (error instanceof BookError) {
    stderr.write(`replay: ${error.message}\n`)
    return 2
  }
  if (error instanceof NothingToFeed) {
    stderr.write(`replay: ${error.message}\n`)
    return 1
  }
  // What the shop says is meant to be read; anything else is a mistake of ours, and its stack is what helps.
  const text = error instanceof ShopError ? error.message : error instanceof Error ? error.stack : String(error)
  stderr.write(`replay: ${text}\n`)
  return 1
}

if (import.meta.main) {
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.once('SIGTERM', () => interrupted.abort())
  // Loaded when the book has been read: a wrong path must not wait for a shop, and the tests bring their own.
  const startShop: StartShop = async (options) => {
    const module = await import('./start-shop.ts')
    return module.startShop(options)
  }
  const { stdout, stderr } = process
  process.exitCode = await replay(process.argv.slice(2), { stdout, stderr, startShop, signal: interrupted.signal })
}
