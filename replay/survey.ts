/** What has to be known of a book before the first order is placed: the articles and how many of each the file sells. */
import { BookError, type Invoice, type OrderBook, type Refusal, type RefusalReason } from './order-book.ts'

/** An article as the book knows it. */
export type BookProduct = {
  sku: string
  /** The first description that the book gives, else the stock code. */
  name: string
  /** The first price, in pence. */
  pricePence: number
  /** Units that all accepted lines of the file sell together. */
  units: number
}

export type Survey = {
  invoices: number
  /** Invoices that make an order: those with an accepted line. */
  orders: number
  lines: { total: number; accepted: number; refused: Partial<Record<RefusalReason, number>> }
  returnLines: number
  units: number
  pence: number
  products: Map<string, BookProduct>
  /** The customers who give something back: only their orders have to be remembered. */
  returningCustomers: Set<string>
  outOfOrderCount: number
}

/** Articles that are kept in memory at one time. */
export const productsMax = 1_000_000

/** Reads the whole book; `onRefusal` gets each line that is refused, in the order of the file. */
export async function survey(book: OrderBook, onRefusal: (refusal: Refusal) => void = () => {}): Promise<Survey> {
  const found: Survey = {
    invoices: book.invoiceCount,
    orders: 0,
    lines: { total: book.lineCount, accepted: 0, refused: {} },
    returnLines: 0,
    units: 0,
    pence: 0,
    products: new Map(),
    returningCustomers: new Set(),
    outOfOrderCount: book.outOfOrderCount,
  }
  for await (const entry of book.entries()) {
    if (entry.kind === 'refused') {
      found.lines.refused[entry.reason] = (found.lines.refused[entry.reason] ?? 0) + 1
      onRefusal(entry)
    } else if (entry.kind === 'return') addReturn(found, entry)
    else addOrder(found, entry)
  }
  return found
}

function addReturn(found: Survey, invoice: Invoice) {
  found.returnLines += invoice.lines.length
  for (const { customerReference } of invoice.lines) {
    if (customerReference !== null) found.returningCustomers.add(customerReference)
  }
}

function addOrder(found: Survey, invoice: Invoice) {
  if (invoice.lines.length > 0) found.orders += 1
  found.lines.accepted += invoice.lines.length
  for (const line of invoice.lines) {
    const product = found.products.get(line.sku) ?? { sku: line.sku, name: '', pricePence: line.unitPence, units: 0 }
    found.products.set(line.sku, product)
    if (product.name === '') product.name = line.name
    product.units += line.quantity
    found.units += line.quantity
    found.pence += line.quantity * line.unitPence
  }
  if (found.products.size > productsMax) throw new BookError(`the book has more than ${productsMax} stock codes`)
  if (!Number.isSafeInteger(found.pence))
    throw new BookError('the book sells for more pence than can be counted exactly')
}
