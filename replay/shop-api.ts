/** What the replay asks of a shop: its public API, in the words of the replay. shop-client.ts speaks it over HTTP. */

export type NewProduct = { sku: string; name: string; pricePence: number }

export type NewOrder = {
  /** The same key places the same order once, however often it is asked. */
  idempotencyKey: string
  /** Null for a guest. */
  customerId: string | null
  placedAtMs: number
  country: string
  lines: { sku: string; quantity: number; unitPence: number }[]
}

export type NewReturn = {
  idempotencyKey: string
  customerId: string
  lines: { sku: string; quantity: number }[]
}

/** What became of one line of a return; 0 units when nothing was found that could be given back. */
export type ReturnedLine = { units: number; pence: number }

export type RequestedReturn = {
  /** A return for each order that gives something back; none when no line matched. */
  returnIds: string[]
  /** One for each line that was asked, in the same order. */
  lines: ReturnedLine[]
}

/**
 * How far an order has come. `reserved`: its stock is held or it is already further on. `delivered` and `cancelled` are
 * as far as an order goes before the return window ends.
 */
export type OrderProgress = 'placed' | 'reserved' | 'delivered' | 'cancelled'

export type ShopApi = {
  createProduct(product: NewProduct): Promise<void>
  /** Adds units to what is on hand, once for each key. */
  receiveStock(receipt: { idempotencyKey: string; sku: string; quantity: number }): Promise<void>
  /** The customer with this reference, made when there is none: answers with the shop's id. */
  createCustomer(customer: { reference: string; country: string }): Promise<string>
  /** Answers with the order's id as soon as the shop has taken it. */
  placeOrder(order: NewOrder): Promise<string>
  /** Answers when the shop has decided which units of which orders come back. */
  requestReturn(request: NewReturn): Promise<RequestedReturn>
  /** Waits until the order's stock is held, or it is cancelled. */
  waitUntilReservedOrCancelled(orderId: string): Promise<OrderProgress>
  /** Waits until the order is delivered or cancelled. */
  waitUntilDeliveredOrCancelled(orderId: string): Promise<OrderProgress>
  /** Waits until the goods are back on the shelf and the money is on its way. */
  waitUntilReturnClosed(returnId: string): Promise<void>
}
