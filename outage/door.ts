/** The shop's public HTTP API, as far as the outage needs it: something to sell, orders of guests, and what an operator sees. */
import { setTimeout as timeout } from 'node:timers/promises'

export const PRODUCTS = 50
const STOCK_EACH = 1_000_000
const PRICE_PENCE = 250
/** What the services have not told each other yet, or cannot do now, is asked again for so long. */
const RETRY_MAX_MS = 30_000
const RETRY_EVERY_MS = 50
const REQUEST_MAX_MS = 30_000

export type Account = { readonly email: string; readonly password: string }

export type Look = {
  /** Messages that wait for notification, as GET /api/operations/status says; null: the broker did not say. */
  readonly waiting: number | null
  /** When that was counted, milliseconds since the epoch. */
  readonly countedAt: number
  /** Whether the other services have nothing to do: nothing waits in their outboxes and for their subscriptions. */
  readonly othersRest: boolean
}

export class Door {
  readonly #url: string
  readonly #signal: AbortSignal
  #token: string | null = null

  constructor(url: string, signal: AbortSignal) {
    this.#url = url
    this.#signal = signal
  }

  async signIn(account: Account): Promise<void> {
    const answer = await this.#patiently('POST', '/api/sessions', { body: account })
    this.#token = answer.token
  }

  /** PRODUCTS articles, and more of each than anybody orders. */
  async stock(): Promise<void> {
    const skus = Array.from({ length: PRODUCTS }, (_, n) => skuOf(n))
    const products = skus.map((sku) => ({ sku, name: `Article ${sku}`, pricePence: PRICE_PENCE }))
    await this.#patiently('POST', '/api/products/bulk', { body: { products } })
    const lines = skus.map((sku) => ({ sku, quantity: STOCK_EACH }))
    const body = { lines, reason: 'opening stock' }
    await this.#patiently('POST', '/api/inventory/receipts', { body, idempotencyKey: 'outage:stock' })
  }

  /** A guest's order of one article; answers its id. */
  async placeOrder(n: number, paymentMethod: string): Promise<string> {
    const body = {
      lines: [{ sku: skuOf(n), quantity: 1 + (n % 3) }],
      paymentMethod,
      email: `buyer${n}@shop.example`,
    }
    const answer = await this.#patiently('POST', '/api/orders', {
      body,
      idempotencyKey: `outage:order:${n}`,
      guest: true,
    })
    return answer.orderId
  }

  /** Orders that are delivered or cancelled. */
  async ended(): Promise<number> {
    const { byStage } = await this.#patiently('GET', '/api/orders/counts')
    return byStage.delivered + byStage.completed + byStage.cancelled
  }

  async look(subscription: string): Promise<Look> {
    const { services, broker } = await this.#patiently('GET', '/api/operations/status')
    const found = broker.subscriptions.find(({ name }: { name: string }) => name === subscription)
    const othersRest = services.every(
      ({ outbox, subscriptions }: Answer) =>
        outbox.waiting === 0 &&
        subscriptions.every(({ waiting, deferred, inFlight }: Answer) => waiting === 0 && deferred + inFlight === 0),
    )
    return { waiting: found?.waiting ?? null, countedAt: found?.countedAt ?? 0, othersRest }
  }

  /** The same of GET /metrics; null: it is not there. */
  async measure(subscription: string): Promise<{ waiting: number; oldestAgeMs: number } | null> {
    const response = await fetch(new URL('/metrics', this.#url), { signal: this.#limit() })
    const text = await response.text()
    const read = (name: string) =>
      new RegExp(`^${name}\\{[^}]*subscription="${subscription}"[^}]*\\} (\\S+)$`, 'm').exec(text)
    const waiting = read('bus_backlog_messages')
    const ageSeconds = read('bus_backlog_oldest_age_seconds')
    return waiting && ageSeconds ? { waiting: Number(waiting[1]), oldestAgeMs: Number(ageSeconds[1]) * 1_000 } : null
  }

  #limit(): AbortSignal {
    return AbortSignal.any([this.#signal, AbortSignal.timeout(REQUEST_MAX_MS)])
  }

  /** Asks until the answer is good; throws what the shop says when it is not for RETRY_MAX_MS. Every request may be repeated. */
  async #patiently(method: string, path: string, request: Request = {}): Promise<Answer> {
    const untilMs = performance.now() + RETRY_MAX_MS
    for (;;) {
      const { ok, status, answer } = await this.#send(method, path, request)
      if (ok) return answer
      if (performance.now() > untilMs) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`)
      await timeout(RETRY_EVERY_MS, undefined, { signal: this.#signal })
    }
  }

  async #send(method: string, path: string, { body, idempotencyKey, guest = false }: Request) {
    const response = await fetch(new URL(path, this.#url), {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }),
        ...(this.#token !== null && !guest && { authorization: `Bearer ${this.#token}` }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal: this.#limit(),
    })
    return { ok: response.ok, status: response.status, answer: (await response.json()) as Answer }
  }
}

/** What the API answers is read where it is needed; the API's own tests hold its shapes. */
type Answer = any
type Request = { body?: unknown; idempotencyKey?: string; guest?: boolean }

const skuOf = (n: number) => `SKU-${n % PRODUCTS}`
