/**
 * Feeds a book to a shop through its public API.
 *
 *   F1 Calls start in the order of the file, at most `concurrency` at a time.
 *   F2 What one customer does happens in the order of the file: a return matches that customer's earlier orders and no
 *      later one, so it waits until they are delivered or cancelled, and what follows waits for its answer.
 *   F3 With `stockEach` invoices go strictly one at a time, an order being reserved or refused and a return being back on
 *      the shelf before the next: who gets the last unit is then decided by the book and by nothing else.
 *   F4 A key made of the invoice number goes with every call, so a call that is repeated changes nothing.
 *   F5 The first failure ends the feed: nothing new is begun, what runs is waited for, and the failure is thrown.
 */
import type { BookLine, Invoice, OrderBook } from './order-book.ts'
import type { ShopApi } from './shop-api.ts'
import { Slots } from './slots.ts'
import type { BookProduct, Survey } from './survey.ts'

export const concurrencyDefault = 32
/** Invoices that are begun and not finished, most of them returns that wait for a delivery. */
export const begunInvoicesMax = 1_024
/** Lines in one request for a return. */
export const returnLinesMax = 200

export type FeedOptions = {
  survey: Survey
  /** Units of each article at the start; without it, what the whole file sells. */
  stockEach?: number
  /** Calls at one time. */
  concurrency?: number
  /** Called with the number of lines that are done since the last call. */
  onLines?: (count: number) => void
  signal?: AbortSignal
}

export type ReturnRefusal = 'nothing_to_return' | 'no_customer'

export type FeedResult = {
  ordersPlaced: number
  returns: { accepted: number; refused: Partial<Record<ReturnRefusal, number>>; units: number; pence: number }
}

/** Puts every article of the book into the shop, with its stock. Calls `onProduct` after each. */
export async function stockShop(
  api: ShopApi,
  options: Pick<FeedOptions, 'survey' | 'stockEach' | 'concurrency' | 'signal'> & { onProduct?: () => void },
): Promise<void> {
  const { survey, stockEach, concurrency = concurrencyDefault, signal, onProduct } = options
  const crew = new Crew(concurrency, signal)
  for (const product of survey.products.values()) {
    await crew.begin(async () => {
      await stockProduct(api, product, stockEach ?? product.units)
      onProduct?.()
    })
  }
  await crew.finish()
}

async function stockProduct(api: ShopApi, product: BookProduct, quantity: number) {
  const { sku, pricePence } = product
  await api.createProduct({ sku, name: product.name || sku, pricePence })
  if (quantity > 0) await api.receiveStock({ idempotencyKey: `replay:stock:${sku}`, sku, quantity })
}

/** Feeds every invoice of the book; settles when each order is placed and each return is answered. */
export async function feed(api: ShopApi, book: OrderBook, options: FeedOptions): Promise<FeedResult> {
  const oneAtATime = options.stockEach !== undefined
  const crew = new Crew(oneAtATime ? 1 : begunInvoicesMax, options.signal)
  const feeder = new Feeder(api, options, oneAtATime, crew.signal)
  try {
    for await (const entry of book.entries()) {
      if (entry.kind === 'refused') {
        options.onLines?.(1)
        continue
      }
      for (const part of entry.kind === 'order' ? [wholeOrder(entry)] : partsOfReturn(entry)) {
        await crew.begin(async () => {
          await feeder.feed(part)
          options.onLines?.(part.lines.length)
        }, part.customerReference)
      }
    }
  } finally {
    await crew.finish()
  }
  return feeder.result
}

/** An order, or what one customer asks back in one request. */
type Part = {
  kind: 'order' | 'return'
  key: string
  customerReference: string | null
  lines: BookLine[]
}

/** An order belongs to the first customer that its lines name. */
function wholeOrder({ invoiceNo, lines }: Invoice): Part {
  const named = lines.find((line) => line.customerReference !== null)
  return { kind: 'order', key: `replay:order:${invoiceNo}`, customerReference: named?.customerReference ?? null, lines }
}

/** A return counts line by line, so each run of lines of one customer is a request of its own. */
function partsOfReturn({ invoiceNo, lines }: Invoice): Part[] {
  const parts: Part[] = []
  for (const line of lines) {
    const last = parts.at(-1)
    if (last && last.customerReference === line.customerReference && last.lines.length < returnLinesMax) {
      last.lines.push(line)
      continue
    }
    const { customerReference } = line
    parts.push({
      kind: 'return',
      key: `replay:return:${invoiceNo}:${parts.length + 1}`,
      customerReference,
      lines: [line],
    })
  }
  return parts
}

/** Customers whose ids are remembered; asking the shop again is only slower. */
const customersRememberedMax = 100_000

class Feeder {
  readonly result: FeedResult = { ordersPlaced: 0, returns: { accepted: 0, refused: {}, units: 0, pence: 0 } }
  readonly #api: ShopApi
  readonly #calls: Slots
  readonly #returning: Set<string>
  readonly #oneAtATime: boolean
  readonly #ended: AbortSignal
  readonly #customerIds = new Map<string, Promise<string>>()
  /** The orders of customers who give something back later, unless they are known to be delivered or cancelled. */
  readonly #openOrders = new Map<string, string[]>()

  /** @param ended aborted when nothing new is to be begun */
  constructor(api: ShopApi, options: FeedOptions, oneAtATime: boolean, ended: AbortSignal) {
    this.#api = api
    this.#ended = ended
    this.#calls = new Slots(oneAtATime ? 1 : (options.concurrency ?? concurrencyDefault))
    this.#returning = options.survey.returningCustomers
    this.#oneAtATime = oneAtATime
  }

  async feed(part: Part): Promise<void> {
    if (part.kind === 'order') await this.#order(part)
    else await this.#return(part)
  }

  async #order({ key, customerReference, lines }: Part) {
    const first = lines[0]!
    const orderId = await this.#call(async () =>
      this.#api.placeOrder({
        idempotencyKey: key,
        customerId: customerReference === null ? null : await this.#customerId(customerReference, first.country),
        placedAtMs: first.atMs,
        country: first.country,
        lines: lines.map(({ sku, quantity, unitPence }) => ({ sku, quantity, unitPence })),
      }),
    )
    this.result.ordersPlaced += 1
    if (customerReference !== null && this.#returning.has(customerReference)) {
      this.#openOrders.set(customerReference, [...(this.#openOrders.get(customerReference) ?? []), orderId])
    }
    if (this.#oneAtATime) await this.#api.waitUntilReservedOrCancelled(orderId) // F3
  }

  async #return({ key, customerReference, lines }: Part) {
    if (customerReference === null) return this.#refuse('no_customer', lines.length)
    // A line that asks for nothing back (its quantity is not negative) cannot match a unit.
    const asked = lines.filter((line) => line.quantity < 0)
    this.#refuse('nothing_to_return', lines.length - asked.length)
    if (asked.length === 0) return
    for (const orderId of this.#openOrders.get(customerReference) ?? []) {
      await this.#api.waitUntilDeliveredOrCancelled(orderId) // F2
    }
    this.#openOrders.delete(customerReference)
    const { returnIds, lines: returned } = await this.#call(async () =>
      this.#api.requestReturn({
        idempotencyKey: key,
        customerId: await this.#customerId(customerReference, asked[0]!.country),
        lines: asked.map(({ sku, quantity }) => ({ sku, quantity: -quantity })),
      }),
    )
    for (const line of returned) this.#countReturned(line.units, line.pence)
    if (!this.#oneAtATime) return
    for (const returnId of returnIds) await this.#api.waitUntilReturnClosed(returnId) // F3
  }

  #call<T>(work: () => Promise<T>): Promise<T> {
    return this.#calls.run(() => {
      this.#ended.throwIfAborted() // F5, for what waited for its turn
      return work()
    })
  }

  #countReturned(units: number, pence: number) {
    if (units === 0) return this.#refuse('nothing_to_return', 1)
    const { returns } = this.result
    returns.accepted += 1
    returns.units += units
    returns.pence += pence
  }

  #refuse(reason: ReturnRefusal, count: number) {
    const { refused } = this.result.returns
    if (count > 0) refused[reason] = (refused[reason] ?? 0) + count
  }

  #customerId(reference: string, country: string): Promise<string> {
    const known = this.#customerIds.get(reference)
    if (known) return known
    if (this.#customerIds.size >= customersRememberedMax) this.#customerIds.clear()
    const asked = this.#api.createCustomer({ reference, country })
    this.#customerIds.set(reference, asked)
    return asked
  }
}

/** Runs work side by side, begun in order; work with the same key runs one after the other. */
class Crew {
  /** Aborted by whoever stops the feed, and by the first failure. */
  readonly signal: AbortSignal
  readonly #slots: Slots
  readonly #failed = new AbortController()
  readonly #running = new Set<Promise<void>>()
  readonly #lastOfKey = new Map<string, Promise<void>>()

  constructor(size: number, stopped: AbortSignal | undefined) {
    this.#slots = new Slots(size)
    this.signal = stopped ? AbortSignal.any([stopped, this.#failed.signal]) : this.#failed.signal
  }

  /** Settles when the work has a place, not when it is done. Throws what earlier work failed with. */
  async begin(work: () => Promise<void>, key: string | null = null): Promise<void> {
    await this.#slots.take()
    if (this.signal.aborted) {
      this.#slots.give()
      return this.finish()
    }
    const before = key === null ? undefined : this.#lastOfKey.get(key)
    const task = this.#run(work, before).finally(() => {
      this.#slots.give()
      this.#running.delete(task)
      if (key !== null && this.#lastOfKey.get(key) === task) this.#lastOfKey.delete(key)
    })
    this.#running.add(task)
    if (key !== null) this.#lastOfKey.set(key, task)
  }

  /** Waits for all that was begun; throws the first failure. */
  async finish(): Promise<void> {
    await Promise.all(this.#running)
    this.signal.throwIfAborted()
  }

  async #run(work: () => Promise<void>, before: Promise<void> | undefined) {
    try {
      await before
      if (!this.signal.aborted) await work()
    } catch (error) {
      this.#failed.abort(error)
    }
  }
}
