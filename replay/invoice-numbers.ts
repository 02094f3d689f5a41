/**
 * A set of invoice numbers that stays small for a file of any size: shops number their invoices one after the other, so
 * one bit each is enough. Numbers that are not plain whole numbers, which are few, are kept as text.
 */
const pageBits = 1024
/** Numbers kept as text; a book with more odd numbers than that is no order book. */
const textsMax = 1_000_000

export class InvoiceNumbers {
  readonly #pages = new Map<number, Uint8Array>()
  readonly #texts = new Set<string>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** False when the number was there before. Throws a RangeError beyond a million numbers that are not plain whole numbers. */
  add(invoiceNo: string): boolean {
    const added = this.#addNumber(invoiceNo) ?? this.#addText(invoiceNo)
    if (added) this.#size += 1
    return added
  }

  #addNumber(invoiceNo: string): boolean | null {
    const isReturn = invoiceNo.startsWith('C')
    const value = Number(isReturn ? invoiceNo.slice(1) : invoiceNo)
    // Leading zeros, signs and fractions make another text out of the same number: those must not share a bit.
    if (!Number.isSafeInteger(value) || value < 0 || `${isReturn ? 'C' : ''}${value}` !== invoiceNo) return null
    const pageNumber = Math.floor(value / pageBits)
    const pageKey = isReturn ? -1 - pageNumber : pageNumber
    const page = this.#pages.get(pageKey) ?? new Uint8Array(pageBits / 8)
    this.#pages.set(pageKey, page)
    const bit = value % pageBits
    const mask = 1 << (bit & 7)
    if ((page[bit >> 3]! & mask) !== 0) return false
    page[bit >> 3]! |= mask
    return true
  }

  #addText(invoiceNo: string): boolean {
    if (this.#texts.has(invoiceNo)) return false
    if (this.#texts.size >= textsMax) throw new RangeError(`more than ${textsMax} invoice numbers are no plain numbers`)
    this.#texts.add(invoiceNo)
    return true
  }
}
