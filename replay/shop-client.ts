/**
 * The shop's public HTTP API in the words of the replay.
 *
 * Every call may be repeated: it carries an Idempotency-Key or says the same thing again. So a call is sent again, with
 * back-off and for `retryMaxMs`, when the shop cannot be reached or is busy, and also when it does not know yet what
 * another service was told a moment ago (a product that was just created travels to the others as an event).
 */
import { setTimeout as timeout } from 'node:timers/promises'
import type { NewOrder, NewReturn, OrderProgress, RequestedReturn, ShopApi } from './shop-api.ts'

export type ShopClientOptions = {
  /** Address of the gateway, `http://127.0.0.1:3000`. */
  url: string
  /** A merchant's account. */
  email: string
  password: string
  /** Ends every call and every wait. */
  signal?: AbortSignal
  /** How long a call that cannot be answered now is sent again. */
  retryMaxMs?: number
  /** How long an order or a return may stand still before waiting for it fails. */
  standstillMaxMs?: number
  time?: { now(): number; pause(delayMs: number, signal?: AbortSignal): Promise<void> }
}

/** The shop refused, or did not answer in time; `code` is that of its problem+json, if it gave one. */
export class ShopError extends Error {
  override readonly name = 'ShopError'
  readonly status: number | null
  readonly code: string | null

  constructor(message: string, status: number | null, code: string | null, options?: ErrorOptions) {
    super(message, options)
    this.status = status
    this.code = code
  }
}

const requestTimeoutMs = 30_000
const retryFirstMs = 25
const retryLongestMs = 2_000
const lookFirstMs = 5
const lookLongestMs = 250
/** Always accepted by the built-in payment provider. */
const paymentMethod = 'pm_card_visa'

/** Answers after which the same request may succeed. */
const laterStatuses = new Set([429, 500, 502, 503, 504])
const laterCodes = new Set(['idempotency_in_progress', 'unknown_product', 'unknown_customer'])

type Json = Record<string, unknown>
type Call = {
  method: 'GET' | 'POST'
  path: string
  body?: Json
  idempotencyKey?: string
  isLater?: (error: ShopError) => boolean
}
type Answer = { status: number; body: Json }

/** Signs in at the first call. */
export function createShopClient(options: ShopClientOptions): ShopApi {
  return new ShopClient(options)
}

class ShopClient implements ShopApi {
  readonly #options: ShopClientOptions
  readonly #retryMaxMs: number
  readonly #standstillMaxMs: number
  readonly #time: NonNullable<ShopClientOptions['time']>
  #token: Promise<string> | null = null

  constructor(options: ShopClientOptions) {
    this.#options = options
    this.#retryMaxMs = options.retryMaxMs ?? 30_000
    this.#standstillMaxMs = options.standstillMaxMs ?? 120_000
    this.#time = options.time ?? { now: Date.now, pause: (delayMs, signal) => timeout(delayMs, undefined, { signal }) }
  }

  async createProduct({ sku, name, pricePence }: { sku: string; name: string; pricePence: number }): Promise<void> {
    try {
      await this.#call({
        method: 'POST',
        path: '/api/products',
        body: { sku, name, pricePence },
        idempotencyKey: key(`replay:product:${sku}`),
      })
    } catch (error) {
      // A shop that was fed before knows the product already; its price does not matter, every order names its own.
      if (!(error instanceof ShopError && error.code === 'already_exists')) throw error
    }
  }

  async receiveStock(receipt: { idempotencyKey: string; sku: string; quantity: number }): Promise<void> {
    const path = `/api/inventory/${encodeURIComponent(receipt.sku)}/receipts`
    const isLater = ({ code }: ShopError) => code === 'not_found'
    await this.#call({
      method: 'POST',
      path,
      body: { quantity: receipt.quantity },
      idempotencyKey: key(receipt.idempotencyKey),
      isLater,
    })
  }

  async createCustomer({ reference, country }: { reference: string; country: string }): Promise<string> {
    const body = { externalReference: reference, ...(country === '' ? {} : { country }) }
    const idempotencyKey = key(`replay:customer:${reference}`)
    return text(await this.#call({ method: 'POST', path: '/api/customers', body, idempotencyKey }), 'customerId')
  }

  async placeOrder(order: NewOrder): Promise<string> {
    const { customerId, placedAtMs, lines } = order
    const body = { ...(customerId === null ? {} : { customerId }), placedAt: placedAtMs, paymentMethod, lines }
    return text(
      await this.#call({ method: 'POST', path: '/api/orders', body, idempotencyKey: key(order.idempotencyKey) }),
      'orderId',
    )
  }

  async requestReturn({ idempotencyKey, customerId, lines }: NewReturn): Promise<RequestedReturn> {
    try {
      const body = { customerId, lines }
      const answer = await this.#call({
        method: 'POST',
        path: '/api/returns',
        body,
        idempotencyKey: key(idempotencyKey),
      })
      const returned = list(answer, 'lines').map((line) => ({
        units: count(line, 'quantity'),
        pence: count(line, 'refundPence'),
      }))
      if (returned.length !== lines.length)
        throw unexpected('the answer to a return', 'one line for each that was asked')
      return { returnIds: list(answer, 'returns').map((one) => text(one, 'returnId')), lines: returned }
    } catch (error) {
      if (!(error instanceof ShopError && error.code === 'nothing_to_return')) throw error
      return { returnIds: [], lines: lines.map(() => ({ units: 0, pence: 0 })) }
    }
  }

  waitUntilReservedOrCancelled(orderId: string): Promise<OrderProgress> {
    return this.#orderProgress(orderId, (progress) => progress !== 'placed')
  }

  waitUntilDeliveredOrCancelled(orderId: string): Promise<OrderProgress> {
    return this.#orderProgress(orderId, (progress) => progress === 'delivered' || progress === 'cancelled')
  }

  async waitUntilReturnClosed(returnId: string): Promise<void> {
    await this.#waitFor(`/api/returns/${encodeURIComponent(returnId)}`, (answer) =>
      text(answer, 'state') === 'closed' ? true : null,
    )
  }

  #orderProgress(orderId: string, isEnough: (progress: OrderProgress) => boolean): Promise<OrderProgress> {
    return this.#waitFor(`/api/orders/${encodeURIComponent(orderId)}`, (answer) => {
      const progress = orderProgress(answer)
      return isEnough(progress) ? progress : null
    })
  }

  /** Looks again and again until `read` finds what it looks for; fails when nothing has moved for `standstillMaxMs`. */
  async #waitFor<T>(path: string, read: (answer: Json) => T | null): Promise<T> {
    let seen = ''
    let movedMs = this.#time.now()
    for (let delayMs = lookFirstMs; ; delayMs = Math.min(delayMs * 2, lookLongestMs)) {
      // What was just made may not have reached the service that answers for it.
      const answer = await this.#call({ method: 'GET', path, isLater: ({ status }) => status === 404 })
      const found = read(answer)
      if (found !== null) return found
      const shown = JSON.stringify(answer)
      if (shown !== seen) movedMs = this.#time.now()
      seen = shown
      if (this.#time.now() - movedMs > this.#standstillMaxMs) {
        throw new ShopError(`${path} has not moved for ${this.#standstillMaxMs} ms: ${shown.slice(0, 300)}`, null, null)
      }
      await this.#time.pause(delayMs, this.#options.signal)
    }
  }

  async #call(call: Call): Promise<Json> {
    const untilMs = this.#time.now() + this.#retryMaxMs
    for (let delayMs = retryFirstMs; ; delayMs = Math.min(delayMs * 2, retryLongestMs)) {
      const signedIn = this.#signedIn()
      const outcome = await this.#send(call, await signedIn)
      if (!(outcome instanceof ShopError)) return outcome.body
      if (outcome.status === 401) this.#forget(signedIn)
      else if (!isLater(outcome) && !call.isLater?.(outcome)) throw outcome
      if (this.#time.now() + delayMs > untilMs) throw outcome
      await this.#time.pause(delayMs, this.#options.signal)
    }
  }

  /** One attempt; what may be tried again comes back as an error instead of being thrown. */
  async #send({ method, path, body, idempotencyKey }: Call, token: string | null): Promise<Answer | ShopError> {
    const { url, signal } = this.#options
    const limit = AbortSignal.timeout(requestTimeoutMs)
    try {
      const response = await fetch(new URL(path, url), {
        method,
        headers: {
          accept: 'application/json',
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      })
      const answer = asJson(await response.text())
      return response.ok
        ? { status: response.status, body: answer }
        : refused(`${method} ${path}`, response.status, answer)
    } catch (cause) {
      signal?.throwIfAborted()
      return new ShopError(`${method} ${path}: the shop at ${url} cannot be reached`, null, 'unreachable', { cause })
    }
  }

  /** One sign-in for all calls; a token that was refused (they end after hours) is asked for anew. */
  #signedIn(): Promise<string> {
    this.#token ??= this.#signIn().catch((error: unknown) => {
      this.#token = null
      throw error
    })
    return this.#token
  }

  /** Unless another call has signed in anew already. */
  #forget(signedIn: Promise<string>) {
    if (this.#token === signedIn) this.#token = null
  }

  async #signIn(): Promise<string> {
    const { email, password } = this.#options
    const untilMs = this.#time.now() + this.#retryMaxMs
    for (;;) {
      const outcome = await this.#send({ method: 'POST', path: '/api/sessions', body: { email, password } }, null)
      if (!(outcome instanceof ShopError)) return text(outcome.body, 'token')
      if (!isLater(outcome) || this.#time.now() > untilMs) throw outcome
      await this.#time.pause(retryFirstMs, this.#options.signal)
    }
  }
}

function isLater({ status, code }: ShopError): boolean {
  return (
    code === 'unreachable' || (status !== null && laterStatuses.has(status)) || (code !== null && laterCodes.has(code))
  )
}

/** The four axes of an order, as far as they matter here. */
export function orderProgress(answer: Json): OrderProgress {
  const order = text(answer, 'order')
  const fulfilment = text(answer, 'fulfilment')
  if (order === 'cancelled') return 'cancelled'
  if (order === 'completed' || fulfilment === 'delivered') return 'delivered'
  return fulfilment === 'unfulfilled' ? 'placed' : 'reserved'
}

/** A key as the API takes it: visible ASCII. */
function key(name: string): string {
  return encodeURIComponent(name)
}

function refused(what: string, status: number, answer: Json): ShopError {
  const code = typeof answer.code === 'string' ? answer.code : null
  const detail = typeof answer.detail === 'string' ? answer.detail : JSON.stringify(answer).slice(0, 300)
  return new ShopError(`${what} was answered ${status}${code === null ? '' : ` ${code}`}: ${detail}`, status, code)
}

function asJson(body: string): Json {
  if (body === '') return {}
  try {
    const value: unknown = JSON.parse(body)
    return isObject(value) ? value : { value }
  } catch {
    return { text: body.slice(0, 300) }
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function text(answer: Json, name: string): string {
  const value = answer[name]
  if (typeof value === 'string') return value
  throw unexpected(`"${name}"`, 'text', answer)
}

function count(answer: Json, name: string): number {
  const value = answer[name]
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw unexpected(`"${name}"`, 'a whole number', answer)
}

function list(answer: Json, name: string): Json[] {
  const value = answer[name]
  if (Array.isArray(value) && value.every(isObject)) return value
  throw unexpected(`"${name}"`, 'a list of objects', answer)
}

function unexpected(what: string, expected: string, answer?: Json): ShopError {
  const shown = answer === undefined ? '' : `: ${JSON.stringify(answer).slice(0, 300)}`
  return new ShopError(`the shop's API is not the one expected: ${what} is not ${expected}${shown}`, null, null)
}
