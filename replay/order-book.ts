/**
 * Reads an order book as published by the UCI data set *Online Retail*: one line per article, the lines of one invoice
 * sharing its number. Pure reading: all that it knows of the
 * shop is how much an order may hold. The file is read as a stream, so its size does not matter.
 *
 * What becomes of a line is decided in this order, and the first that applies is the reason:
 *   R1 `bad_line`           the line cannot be read as a row (see csv.ts), or has no invoice number
 *   R2 `bad_invoice`        the number is neither digits nor starts with `C`: the invoice is refused whole, whatever its lines hold
 *   R3 `bad_line`           a field cannot be read: quantity, price, date, or the stock code is missing, or one is beyond its limit
 *   R4 `negative_quantity`  an order's line with `Quantity` not above 0 (write-offs, most of them at a price of 0 as well)
 *   R5 `zero_price`         an order's line with `UnitPrice` not above 0 (gifts and samples)
 * R4 stands before R5 because a book's stock corrections carry a negative quantity and no price, and the quantity says
 * more. Each of the two names the condition that fails, so a quantity of 0 counts under R4 and a negative price under R5;
 * `bad_line` stays for lines that cannot be understood. A price above 0 that rounds to 0 pence (0.001) is accepted, at 0.
 *
 * An invoice is one order although its lines may lie apart. `openBook` reads the file once and remembers which numbers
 * come back later; the lines of those few are held until the last of them has been read, all others leave as soon as the
 * next number begins. So an invoice stands where its last line stands, and memory is bounded: by `invoiceLinesMax` for one
 * invoice (more, and the invoice is refused whole as `bad_invoice`) and by `heldLinesMax` for all that are held.
 */
import { createReadStream } from 'node:fs'
import { contractLimits } from '@shopsphere/contracts/values'
import { CsvReader, type CsvRow } from './csv.ts'
import { InvoiceNumbers } from './invoice-numbers.ts'

/** Accepted lines of one invoice: as many as an order may have. */
export const invoiceLinesMax = contractLimits.linesMax
/** Lines held at one time for invoices whose lines lie apart. */
export const heldLinesMax = 100_000
/** Invoices whose lines lie apart. */
export const scatteredInvoicesMax = 100_000
export const { quantityMax, unitPenceMax, totalPenceMax } = contractLimits
const invoiceNoCharactersMax = 40
const customerCharactersMax = 64
const { skuCharactersMax, nameCharactersMax, countryCharactersMax } = contractLimits

export const columns = [
  'InvoiceNo',
  'StockCode',
  'Description',
  'Quantity',
  'InvoiceDate',
  'UnitPrice',
  'CustomerID',
  'Country',
] as const
type Column = (typeof columns)[number]

export const refusalReasons = ['zero_price', 'negative_quantity', 'bad_line', 'bad_invoice'] as const
export type RefusalReason = (typeof refusalReasons)[number]

/** One line of the book that can be read; `quantity` is positive on an order's line and may be anything on a return's. */
export type BookLine = {
  /** Line of the file, the header being 1. */
  line: number
  sku: string
  /** Description, empty when the book has none. */
  name: string
  quantity: number
  unitPence: number
  /** The book's own customer number, or null for a guest. */
  customerReference: string | null
  country: string
  /** Milliseconds since the Unix epoch; the book's wall clock taken as UTC. */
  atMs: number
}

/** All lines of one invoice number; an order whose lines were all refused has none and is to be left out. */
export type Invoice = { kind: 'order' | 'return'; invoiceNo: string; lines: BookLine[] }
export type Refusal = { kind: 'refused'; line: number; reason: RefusalReason; why: string }
export type BookEntry = Invoice | Refusal

/** What the book needs to be read again; a path for a file, a function in tests. */
export type BookSource = () => AsyncIterable<Uint8Array>

export type OrderBook = {
  /** Lines behind the header, blank ones left out; the measure of progress. */
  lineCount: number
  /** Different invoice numbers, refused ones included. */
  invoiceCount: number
  /** Lines dated before the line above them: 0 in a book that is in time order. */
  outOfOrderCount: number
  /** Reads the file from its beginning, refusals as they are met, invoices when their last line has been read. */
  entries(): AsyncGenerator<BookEntry>
}

/** The file is no order book at all; the message says why and what to do. */
export class BookError extends Error {
  override readonly name = 'BookError'
}

/** Source that streams a file. */
export function fileSource(path: string): BookSource {
  return () => createReadStream(path, { highWaterMark: 256 * 1024 })
}

/**
 * Reads the book once, for what must be known before its first order. Throws a BookError when the file is no order book;
 * errors of the file system (no such file, a folder, no permission) pass through as they are.
 */
export async function openBook(source: BookSource): Promise<OrderBook> {
  const seen = new InvoiceNumbers()
  const lastLineOf: LastLines = new Map()
  let lineCount = 0
  let outOfOrderCount = 0
  let current = ''
  let previousMs = 0
  for await (const reading of readings(source)) {
    lineCount += 1
    if (reading.invoiceNo !== null && reading.invoiceNo !== current) {
      current = reading.invoiceNo
      const isNew = remember(seen, current)
      if (!isNew && !isRefusedWhole(reading)) lastLineOf.set(current, reading.line)
    }
    if (lastLineOf.has(current)) lastLineOf.set(current, reading.line)
    if (lastLineOf.size > scatteredInvoicesMax) {
      throw new BookError(
        `the lines of more than ${scatteredInvoicesMax} invoices lie apart: sort the file by InvoiceNo`,
      )
    }
    if (reading.kind !== 'refused') {
      if (reading.atMs < previousMs) outOfOrderCount += 1
      previousMs = reading.atMs
    }
  }
  const entries = () => group(readings(source), lastLineOf)
  return { lineCount, invoiceCount: seen.size, outOfOrderCount, entries }
}

function remember(seen: InvoiceNumbers, invoiceNo: string): boolean {
  try {
    return seen.add(invoiceNo)
  } catch (cause) {
    throw new BookError('this is no order book: most of its invoice numbers are neither digits nor C and digits', {
      cause,
    })
  }
}

function isRefusedWhole(reading: Reading): boolean {
  return reading.kind === 'refused' && reading.reason === 'bad_invoice'
}

/** For the invoices whose lines lie apart: the line that ends each. */
type LastLines = Map<string, number>

/** `refusedWhole`: the sentence that says why, once it is. */
type OpenInvoice = Invoice & { pence: number; refusedWhole: string | null }

async function* group(from: AsyncIterable<Reading>, lastLineOf: LastLines): AsyncGenerator<BookEntry> {
  const open = new Map<string, OpenInvoice>()
  let current: string | null = null
  let heldLines = 0
  const close = (invoiceNo: string): Invoice[] => {
    const invoice = open.get(invoiceNo)
    if (invoice === undefined) return []
    open.delete(invoiceNo)
    heldLines -= invoice.lines.length
    return invoice.refusedWhole !== null ? [] : [{ kind: invoice.kind, invoiceNo, lines: invoice.lines }]
  }
  for await (const reading of from) {
    if (reading.invoiceNo !== null && reading.invoiceNo !== current) {
      if (current !== null && !lastLineOf.has(current)) yield* close(current)
      current = reading.invoiceNo
    }
    if (reading.kind === 'refused') {
      yield refusal(reading.line, reading.reason, reading.why)
    } else {
      const invoice = open.get(reading.invoiceNo) ?? opened(reading)
      open.set(reading.invoiceNo, invoice)
      const before = invoice.lines.length
      yield* add(invoice, reading)
      heldLines += invoice.lines.length - before
      if (heldLines > heldLinesMax) {
        throw new BookError(
          `more than ${heldLinesMax} lines wait for the rest of their invoices: sort the file by InvoiceNo`,
        )
      }
    }
    if (current !== null && lastLineOf.get(current) === reading.line) yield* close(current)
  }
  for (const invoiceNo of [...open.keys()]) yield* close(invoiceNo)
}

function opened(reading: ReadableLine): OpenInvoice {
  return { kind: reading.kind, invoiceNo: reading.invoiceNo, lines: [], pence: 0, refusedWhole: null }
}

/** Adds a line, or refuses it; the line that is too many refuses all before it as well. */
function* add(invoice: OpenInvoice, { kind: _kind, invoiceNo: _no, ...line }: ReadableLine): Generator<Refusal> {
  invoice.lines.push(line)
  invoice.pence += line.quantity * line.unitPence
  invoice.refusedWhole ??= tooLarge(invoice)
  if (invoice.refusedWhole === null) return
  for (const refused of invoice.lines.splice(0)) yield refusal(refused.line, 'bad_invoice', invoice.refusedWhole)
}

function tooLarge({ kind, invoiceNo, lines, pence }: OpenInvoice): string | null {
  if (lines.length > invoiceLinesMax) return `invoice ${invoiceNo} has more than ${invoiceLinesMax} lines`
  // A return is paid back at the prices of its orders; its own do not matter.
  return kind === 'order' && pence > totalPenceMax ? `invoice ${invoiceNo} is above ${totalPenceMax} pence` : null
}

function refusal(line: number, reason: RefusalReason, why: string): Refusal {
  return { kind: 'refused', line, reason, why }
}

type ReadableLine = BookLine & { kind: 'order' | 'return'; invoiceNo: string }
type RefusedLine = Refusal & { invoiceNo: string | null }
/** One line, judged by itself. */
type Reading = ReadableLine | RefusedLine

async function* readings(source: BookSource): AsyncGenerator<Reading> {
  let places: Record<Column, number> | null = null
  for await (const row of rows(source)) {
    if (places === null) places = readHeader(row)
    else yield judge(row, places)
  }
  if (places === null)
    throw new BookError(`the file is empty: its first line must name the columns ${columns.join(',')}`)
}

async function* rows(source: BookSource): AsyncGenerator<CsvRow> {
  const reader = new CsvReader()
  // Drops a byte-order mark and joins characters that are cut between two pieces. A byte that is no UTF-8 becomes U+FFFD:
  // the names of articles in old books are often Latin-1, and a wrong letter in a name is no reason to refuse a sale.
  const decoder = new TextDecoder('utf-8')
  let first = true
  for await (const bytes of source()) {
    if (first) refuseUtf16(bytes)
    first = false
    yield* reader.push(decoder.decode(bytes, { stream: true }))
  }
  yield* reader.push(decoder.decode())
  yield* reader.end()
}

function refuseUtf16(bytes: Uint8Array) {
  const isUtf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)
  if (isUtf16) throw new BookError('the file is UTF-16: save it as UTF-8 and try again')
}

function readHeader(row: CsvRow): Record<Column, number> {
  const needed = `the first line must name the columns ${columns.join(',')}, in any order`
  if ('fault' in row) throw new BookError(`the first line cannot be read (${row.fault}): ${needed}`)
  const names = row.fields.map((field) => field.trim())
  const missing = columns.filter((column) => !names.includes(column))
  if (missing.length > 0) throw new BookError(`the file has no column ${missing.join(', ')}: ${needed}`)
  const twice = columns.find((column) => names.indexOf(column) !== names.lastIndexOf(column))
  if (twice !== undefined) throw new BookError(`the file has the column ${twice} twice: ${needed}`)
  return Object.fromEntries(columns.map((column) => [column, names.indexOf(column)])) as Record<Column, number>
}

function judge(row: CsvRow, places: Record<Column, number>): Reading {
  const { line } = row
  const refuse = (reason: RefusalReason, why: string, invoiceNo: string | null): RefusedLine => ({
    ...refusal(line, reason, why),
    invoiceNo,
  })
  if ('fault' in row) return refuse('bad_line', row.fault, null) // R1
  const field = (column: Column) => row.fields[places[column]]!.trim()
  // What is too long for a number is cut, so that a file of nonsense is not kept in memory.
  const invoiceNo = field('InvoiceNo').slice(0, invoiceNoCharactersMax + 1)
  if (invoiceNo === '') return refuse('bad_line', 'there is no InvoiceNo', null) // R1
  const kind = invoiceKind(invoiceNo)
  if (kind === null) {
    return refuse('bad_invoice', `InvoiceNo ${quote(invoiceNo)} is neither digits nor starts with C`, invoiceNo) // R2
  }
  const read = readFields(field)
  if (typeof read === 'string') return refuse('bad_line', read, invoiceNo) // R3
  const { price, ...rest } = read
  if (kind === 'order' && rest.quantity <= 0) {
    return refuse('negative_quantity', `Quantity ${rest.quantity} is not above 0`, invoiceNo) // R4
  }
  if (kind === 'order' && !price.isPositive) {
    return refuse('zero_price', `UnitPrice ${quote(field('UnitPrice'))} is not above 0`, invoiceNo) // R5
  }
  return { kind, invoiceNo, line, unitPence: price.pence, ...rest }
}

function invoiceKind(invoiceNo: string): 'order' | 'return' | null {
  if (invoiceNo.length > invoiceNoCharactersMax) return null
  if (/^\d+$/.test(invoiceNo)) return 'order'
  return invoiceNo.startsWith('C') ? 'return' : null
}

type Fields = Omit<BookLine, 'line' | 'unitPence'> & { price: Price }

/** The fields of a line, or the sentence that says which one cannot be read. */
function readFields(field: (column: Column) => string): Fields | string {
  const sku = field('StockCode')
  if (sku === '') return 'there is no StockCode'
  if (sku.length > skuCharactersMax) return `StockCode has more than ${skuCharactersMax} characters`
  const quantity = readQuantity(field('Quantity'))
  if (typeof quantity === 'string') return quantity
  const price = readPrice(field('UnitPrice'))
  if (typeof price === 'string') return price
  if (Math.abs(quantity) * Math.abs(price.pence) > totalPenceMax)
    return `Quantity × UnitPrice is above ${totalPenceMax} pence`
  const atMs = readTime(field('InvoiceDate'))
  if (atMs === null) return `InvoiceDate ${quote(field('InvoiceDate'))} is no time of the form M/D/YYYY H:MM`
  const customer = field('CustomerID')
  if (customer.length > customerCharactersMax) return `CustomerID has more than ${customerCharactersMax} characters`
  const name = field('Description').slice(0, nameCharactersMax)
  const country = field('Country').slice(0, countryCharactersMax)
  return { sku, name, quantity, price, atMs, customerReference: customer === '' ? null : customer, country }
}

function readQuantity(text: string): number | string {
  if (!/^[+-]?\d+$/.test(text)) return `Quantity ${quote(text)} is no whole number`
  const quantity = Number(text)
  return Math.abs(quantity) > quantityMax ? `Quantity ${quote(text)} is beyond ${quantityMax}` : quantity + 0
}

type Price = { pence: number; isPositive: boolean }

function readPrice(text: string): Price | string {
  const pence = parsePence(text)
  if (pence === null) return `UnitPrice ${quote(text)} is no decimal number`
  if (Math.abs(pence) > unitPenceMax) return `UnitPrice ${quote(text)} is beyond ${unitPenceMax} pence`
  // Judged on the text: 0.001 is above 0 although it rounds to 0 pence.
  return { pence, isPositive: !text.startsWith('-') && /[1-9]/.test(text) }
}

/**
 * Decimal text in pounds as whole pence: `2.55` → 255. Exact, from the digits, whatever their number. Half a penny is
 * rounded away from zero (`0.125` → 13, `-0.125` → -13), so that what is given back is what was taken. Null for text
 * that is no plain decimal number (no exponent, no currency sign, no thousands separator); Infinity for more pence than
 * a number holds exactly.
 */
export function parsePence(text: string): number | null {
  const parts = /^([+-]?)(\d*)(?:\.(\d*))?$/.exec(text)
  if (parts === null) return null
  const [, sign, whole = '', fraction = ''] = parts
  if (whole === '' && fraction === '') return null
  const digits = `${whole}${fraction.slice(0, 2).padEnd(2, '0')}`.replace(/^0+(?=\d)/, '')
  const pence =
    digits.length > 15 ? Infinity : Number(digits) + (fraction[2] !== undefined && fraction[2] >= '5' ? 1 : 0)
  return sign === '-' && pence !== 0 ? -pence : pence
}

/** `M/D/YYYY H:MM` as milliseconds since the Unix epoch, the wall clock taken as UTC; null for what is no such time. */
export function readTime(text: string): number | null {
  const parts = /^(\d{1,2})\/(\d{1,2})\/(\d{4}) (\d{1,2}):(\d{2})$/.exec(text)
  if (parts === null) return null
  const [month, day, year, hour, minute] = parts.slice(1).map(Number) as [number, number, number, number, number]
  const time = new Date(Date.UTC(year, month - 1, day, hour, minute))
  const isReal = time.getUTCMonth() === month - 1 && time.getUTCDate() === day && hour < 24 && minute < 60
  return isReal && year >= 1900 ? time.getTime() : null
}

/** Foreign text in a message: short, on one line, its control characters visible. */
function quote(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}
