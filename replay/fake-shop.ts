/**
 * A shop in memory for the tests of the feed: orders are decided and delivered a little later, in an order that a seed
 * shuffles, so that a feed which does not wait where it must comes to wrong figures.
 */
import { seededRandom } from '@shopsphere/bus'
import type { NewOrder, NewProduct, NewReturn, OrderProgress, RequestedReturn, ShopApi } from './shop-api.ts'

type HeldLine = { sku: string; unitPence: number; left: number }
type HeldOrder = {
  customerId: string | null
  progress: OrderProgress
  lines: HeldLine[]
  placedNo: number
  pence: number
  units: number
}

export class FakeShop implements ShopApi {
  /** Keys of the orders in the order in which their calls began. */
  readonly begun: string[] = []
  calls = 0
  callsMax = 0
  callsMaxSinceStocked = 0
  /** The key at which the shop fails. */
  failAt: string | null = null
  readonly #random: () => number
  readonly #shelf = new Map<string, number>()
  readonly #orders = new Map<string, HeldOrder>()
  readonly #answers = new Map<string, unknown>()
  readonly #work = new Set<Promise<void>>()
  #returned = { units: 0, pence: 0 }

  constructor(seed: number) {
    this.#random = seededRandom(seed)
  }

  createProduct(_product: NewProduct): Promise<void> {
    return this.#call(() => {})
  }

  receiveStock({
    idempotencyKey,
    sku,
    quantity,
  }: {
    idempotencyKey: string
    sku: string
    quantity: number
  }): Promise<void> {
    return this.#once(idempotencyKey, () => void this.#shelf.set(sku, (this.#shelf.get(sku) ?? 0) + quantity))
  }

  createCustomer({ reference }: { reference: string; country: string }): Promise<string> {
    return Promise.resolve(`usr_${reference}`)
  }

  placeOrder({ idempotencyKey, customerId, lines }: NewOrder): Promise<string> {
    this.begun.push(idempotencyKey)
    this.callsMaxSinceStocked = Math.max(this.callsMaxSinceStocked, this.calls + 1)
    if (idempotencyKey === this.failAt) return Promise.reject(new Error(`the shop refuses ${idempotencyKey}`))
    return this.#once(idempotencyKey, () => {
      const orderId = `ord_${this.#orders.size + 1}`
      const held = lines.map(({ sku, quantity, unitPence }) => ({ sku, unitPence, left: quantity }))
      const pence = lines.reduce((sum, { quantity, unitPence }) => sum + quantity * unitPence, 0)
      const units = lines.reduce((sum, { quantity }) => sum + quantity, 0)
      const order: HeldOrder = {
        customerId,
        progress: 'placed',
        lines: held,
        placedNo: this.#orders.size,
        pence,
        units,
      }
      this.#orders.set(orderId, order)
      this.#track(this.#fulfil(order))
      return orderId
    })
  }

  async requestReturn({ idempotencyKey, customerId, lines }: NewReturn): Promise<RequestedReturn> {
    return this.#once(idempotencyKey, () => {
      const taken = lines.map(({ sku, quantity }) => this.#takeBack(customerId, sku, quantity))
      return { returnIds: taken.some(({ units }) => units > 0) ? [`ret_${idempotencyKey}`] : [], lines: taken }
    })
  }

  async waitUntilReservedOrCancelled(orderId: string): Promise<OrderProgress> {
    return this.#until(orderId, (progress) => progress !== 'placed')
  }

  async waitUntilDeliveredOrCancelled(orderId: string): Promise<OrderProgress> {
    return this.#until(orderId, (progress) => progress === 'delivered' || progress === 'cancelled')
  }

  async waitUntilReturnClosed(): Promise<void> {}

  figures() {
    const all = [...this.#orders.values()]
    const kept = all.filter(({ progress }) => progress !== 'cancelled')
    const sum = (value: (order: HeldOrder) => number) => kept.reduce((total, order) => total + value(order), 0)
    return {
      orders: { placed: all.length, completed: kept.length, cancelled: all.length - kept.length },
      units: { sold: sum(({ units }) => units), returned: this.#returned.units },
      pence: { charged: sum(({ pence }) => pence), refunded: this.#returned.pence },
    }
  }

  async #fulfil(order: HeldOrder) {
    await this.#later(4)
    const wanted = new Map<string, number>()
    for (const { sku, left } of order.lines) wanted.set(sku, (wanted.get(sku) ?? 0) + left)
    if ([...wanted].some(([sku, quantity]) => quantity > (this.#shelf.get(sku) ?? 0))) {
      order.progress = 'cancelled'
      return
    }
    for (const [sku, quantity] of wanted) this.#shelf.set(sku, this.#shelf.get(sku)! - quantity)
    order.progress = 'reserved'
    await this.#later(8)
    order.progress = 'delivered'
  }

  #takeBack(customerId: string, sku: string, wanted: number) {
    const taken = { units: 0, pence: 0 }
    const delivered = [...this.#orders.values()].filter(
      (order) => order.customerId === customerId && order.progress === 'delivered',
    )
    for (const line of delivered.sort((a, b) => b.placedNo - a.placedNo).flatMap(({ lines }) => lines)) {
      if (line.sku !== sku) continue
      const units = Math.min(line.left, wanted - taken.units)
      line.left -= units
      taken.units += units
      taken.pence += units * line.unitPence
    }
    this.#shelf.set(sku, (this.#shelf.get(sku) ?? 0) + taken.units)
    this.#returned = { units: this.#returned.units + taken.units, pence: this.#returned.pence + taken.pence }
    return taken
  }

  async #until(orderId: string, isEnough: (progress: OrderProgress) => boolean): Promise<OrderProgress> {
    const order = this.#orders.get(orderId)!
    while (!isEnough(order.progress)) await new Promise(setImmediate)
    return order.progress
  }

  #once<T>(key: string, work: () => T): Promise<T> {
    return this.#call(() => {
      if (!this.#answers.has(key)) this.#answers.set(key, work())
      return this.#answers.get(key) as T
    })
  }

  async #call<T>(work: () => T): Promise<T> {
    this.calls += 1
    this.callsMax = Math.max(this.callsMax, this.calls)
    try {
      await this.#later(3)
      return work()
    } finally {
      this.calls -= 1
    }
  }

  /** A few turns of the event loop, as many as chance says. */
  async #later(turnsMax: number) {
    for (let turns = Math.ceil(this.#random() * turnsMax); turns > 0; turns -= 1) await new Promise(setImmediate)
  }

  #track(work: Promise<void>) {
    this.#work.add(work)
    void work.finally(() => this.#work.delete(work))
  }

  /** Settles when every order that was placed is delivered or cancelled. */
  async settled(): Promise<void> {
    await Promise.all(this.#work)
  }
}
