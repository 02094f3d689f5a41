/**
 * Whole orders, each of five lines, from `POST /api/orders` to delivered, through every service of the shop: reserved,
 * paid, allocated, confirmed, shipped, captured, delivered, the customer told at each step, everything in analytics and in
 * the audit log. Only the outside world (provider, carrier, mail) and time (no grace before picking, a carrier that
 * delivers at once) are simulated. Beside it, in the same run, a raw loop of one-row commits.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { allServices, type Shop, startShop } from '../shop.ts'
import { inFolder } from './folder.ts'
import { fullDurability, rawCommitsPerSecond, rawLoop } from './raw-sqlite.ts'
import { type Bench, compare, type Pair } from './result.ts'

const ORDERS = 3_000
const LINES = 5
const PRODUCTS = 500
const STOCK = 1_000_000
const CALLERS = 64
const STANDSTILL_MAX_MS = 60_000
/** The services are split over two processes, as SERVICES does it, so that both processors have work. */
const OTHER_PROCESS = ['shipping', 'notification', 'analytics', 'audit']
const OPERATOR = { email: 'operator@shop.example', password: 'a long enough password' }

export const run: Bench = async ({ runs, note }) => {
  const pairs: Pair[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    await inFolder(async (directory) => {
      const peer = rawCommitsPerSecond(directory)
      const ours = await ordersPerSecond(directory)
      note(`  ${Math.round(ours)} orders/s, raw ${Math.round(peer)} commits/s: ${(ours / peer).toFixed(3)}`)
      if (round === 0) return
      pairs.push({ ours, peer })
    })
  }
  return [compare(pairs, { what: 'saga', unit: 'orders/s', against: rawLoop, durability: fullDurability })]
}

async function ordersPerSecond(directory: string): Promise<number> {
  const environment = {
    DATA_DIR: `${directory}/data`,
    LOG_LEVEL: 'warn',
    PICKING_GRACE_MS: '0',
    CARRIER_DELAY_MS: '0',
    ADMIN_EMAIL: OPERATOR.email,
    ADMIN_PASSWORD: OPERATOR.password,
    SEED: '1',
  }
  await using _partner = await startPartner({ ...environment, SERVICES: OTHER_PROCESS.join(',') })
  const here = allServices.map(({ name }) => name).filter((name) => !OTHER_PROCESS.includes(name))
  await using shop = await startShop({ environment: { ...environment, SERVICES: here.join(',') }, headless: true })
  const caller = await Caller.signIn(shop, OPERATOR)
  await stock(shop, caller)
  const begin = performance.now()
  let next = 0
  const buyer = async () => {
    while (next < ORDERS) {
      const n = next++
      const lines = Array.from({ length: LINES }, (_, line) => ({
        sku: skuOf(n * LINES + line),
        quantity: 1 + (n % 3),
      }))
      await caller.post(
        '/api/orders',
        { lines, paymentMethod: 'pm_card_visa', email: `buyer${n % 100}@shop.example` },
        202,
        `order-${n}`,
      )
    }
  }
  await Promise.all(Array.from({ length: CALLERS }, buyer))
  await untilDelivered(caller)
  return ORDERS / ((performance.now() - begin) / 1_000)
}

async function startPartner(environment: NodeJS.ProcessEnv): Promise<AsyncDisposable> {
  const child: ChildProcess = fork(new URL('./saga-partner.ts', import.meta.url), {
    env: { ...process.env, ...environment },
  })
  await once(child, 'message')
  return {
    async [Symbol.asyncDispose]() {
      const ended = once(child, 'exit')
      child.disconnect()
      await ended
    },
  }
}

const skuOf = (n: number) => `SKU-${n % PRODUCTS}`

async function stock(shop: Shop, caller: Caller): Promise<void> {
  const skus = Array.from({ length: PRODUCTS }, (_, n) => skuOf(n))
  await shop.idle()
  await caller.post(
    '/api/products/bulk',
    { products: skus.map((sku) => ({ sku, name: `Article ${sku}`, pricePence: 250 })) },
    200,
  )
  await shop.idle()
  const lines = skus.map((sku) => ({ sku, quantity: STOCK }))
  await caller.post('/api/inventory/receipts', { lines, reason: 'opening stock' }, 201, 'opening-stock')
  await shop.idle()
}

async function untilDelivered(caller: Caller): Promise<void> {
  let delivered = -1
  let movedAt = performance.now()
  for (;;) {
    const { byStage } = (await caller.get('/api/orders/counts')) as { byStage: Record<string, number> }
    const now = byStage.delivered ?? 0
    if (now === ORDERS) return
    if (now !== delivered) {
      delivered = now
      movedAt = performance.now()
    }
    if (performance.now() - movedAt > STANDSTILL_MAX_MS) {
      throw new Error(`the shop stands still: ${JSON.stringify(byStage)} of ${ORDERS} orders`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Somebody who talks to the shop's front door, without a socket. */
class Caller {
  private readonly shop: Shop
  private readonly headers: Record<string, string>

  private constructor(shop: Shop, headers: Record<string, string>) {
    this.shop = shop
    this.headers = headers
  }

  static async signIn(shop: Shop, account: { email: string; password: string }): Promise<Caller> {
    const { token } = (await new Caller(shop, {}).post('/api/sessions', account, 201)) as { token: string }
    return new Caller(shop, { authorization: `Bearer ${token}` })
  }

  get(path: string): Promise<unknown> {
    return this.request(path, { headers: this.headers }, 200)
  }

  post(path: string, body: unknown, expected: number, idempotencyKey?: string): Promise<unknown> {
    const headers = {
      ...this.headers,
      'content-type': 'application/json',
      ...(idempotencyKey ? { 'idempotency-key': idempotencyKey } : {}),
    }
    return this.request(path, { method: 'POST', headers, body: JSON.stringify(body) }, expected)
  }

  private async request(path: string, init: RequestInit, expected: number): Promise<unknown> {
    const response = await this.shop.app.request(path, init)
    const answer = await response.json()
    if (response.status !== expected) throw new Error(`${path}: ${response.status} ${JSON.stringify(answer)}`)
    return answer
  }
}
