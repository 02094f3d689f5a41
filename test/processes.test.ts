/**
 * The shop as several operating-system processes on one broker: a door with most services, and two processes that both run
 * order, payment and inventory. One of the two is killed in the middle of the work; the other takes its share over.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { eraseBroker, eraseDatabase, eventually, inWorld, needs, type World } from '@shopsphere/bus/testing'

const root = fileURLToPath(new URL('..', import.meta.url))
const SHARED = 'order,payment,inventory'
const REST = 'user,product,cart,shipping,notification,analytics,audit'
const operator = { email: 'operator@shop.example', password: 'a long enough password' }
const ORDERS = 80
const PROCESS_START_MAX_MS = 30_000
const ALL_DELIVERED_MAX_MS = 60_000
/** After the death of a process, somebody else's order must be seen to move within this. */
const TAKEOVER_MAX_MS = 15_000
const TIMEOUT_MS = 180_000

type Process = { readonly child: ChildProcess; readonly url: string }

/** Starts `main.ts` and answers once it says where it listens. */
async function startProcess(world: World, environment: Record<string, string>): Promise<Process> {
  const { PATH = '' } = process.env
  const child = spawn(process.execPath, ['main.ts'], {
    cwd: root,
    env: { PATH, PORT: '0', HOST: '127.0.0.1', LOG_LEVEL: 'warn', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exited = new Promise<void>((resolve) => child.on('close', () => resolve()))
  world.defer(async () => {
    child.kill('SIGKILL')
    await exited
  })
  let output = ''
  const note = (data: Buffer) => {
    output += data
  }
  child.stdout.on('data', note)
  child.stderr.on('data', note)
  const url = () => /answers at (\S+)/.exec(output)?.[1]
  await eventually(() => url() !== undefined || child.exitCode !== null, {
    timeoutMs: PROCESS_START_MAX_MS,
    message: 'a process did not start',
  })
  assert(url(), output)
  return { child, url: url()! }
}

async function shared(world: World, servers: Record<string, string>): Promise<void> {
  const environment = {
    DATA_DIR: join(world.directory, 'data'),
    TOKEN_SECRET: 'a secret for tests, long enough for HS256',
    ADMIN_EMAIL: operator.email,
    ADMIN_PASSWORD: operator.password,
    PICKING_GRACE_MS: '0',
    CARRIER_DELAY_MS: '0',
    ORDERS_PER_MINUTE: '0',
    ...servers,
  }
  const doomed = await startProcess(world, { ...environment, SERVICES: SHARED })
  const heir = await startProcess(world, { ...environment, SERVICES: SHARED })
  const urls = SHARED.split(',').map((name) => `${name}=${heir.url}`)
  const door = await startProcess(world, { ...environment, SERVICES: REST, SERVICE_URLS: urls.join(',') })

  const ask = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const response = await fetch(door.url + path, {
      method,
      headers: { 'content-type': 'application/json', ...headers },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json()) as any }
  }
  const signIn = await ask('POST', '/api/sessions', operator)
  assert.equal(signIn.status, 201, JSON.stringify(signIn.body))
  const authorization = `Bearer ${signIn.body.token}`
  const post = (path: string, key: string, body: unknown) =>
    ask('POST', path, body, { authorization, 'idempotency-key': key })

  const product = { sku: 'A1', name: 'Article', pricePence: 250 }
  await eventually(async () => (await post('/api/products', 'product', product)).status < 300)
  await eventually(async () => (await post('/api/inventory/A1/receipts', 'stock', { quantity: 1_000 })).status === 201)

  const order = { lines: [{ sku: 'A1', quantity: 1 }], paymentMethod: 'pm_card_visa', email: 'ada@example.org' }
  const ids: string[] = []
  const place = async (n: number) => {
    const placed = await post('/api/orders', `order-${n}`, order)
    assert.equal(placed.status, 202, JSON.stringify(placed.body))
    ids.push(placed.body.orderId)
  }
  const orderOf = async (id: string) => (await ask('GET', `/api/orders/${id}`, undefined, { authorization })).body
  const isDelivered = async (id: string) => (await orderOf(id)).fulfilment === 'delivered'

  for (let n = 0; n < ORDERS / 2; n++) await place(n)
  doomed.child.kill('SIGKILL')
  const diedAt = performance.now()
  for (let n = ORDERS / 2; n < ORDERS; n++) await place(n)
  // Every order placed after the death, of every key and so of every share that the dead process had.
  for (const id of ids.slice(ORDERS / 2)) {
    const leftMs = Math.max(1_000, TAKEOVER_MAX_MS - (performance.now() - diedAt))
    await eventually(() => isDelivered(id), { timeoutMs: leftMs, message: `${id} was not taken over in time` })
  }
  for (const id of ids) await eventually(() => isDelivered(id), { timeoutMs: ALL_DELIVERED_MAX_MS })

  await eventually(async () => (await orderOf(ids.at(-1)!)).payment === 'captured')
  for (const id of ids) {
    const { capturedPence, refundedPence, payment } = await orderOf(id)
    assert.deepEqual(
      { capturedPence, refundedPence, payment },
      { capturedPence: 250, refundedPence: 0, payment: 'captured' },
    )
  }
  const { body: stock } = await ask('GET', '/api/inventory/A1', undefined, { authorization })
  assert.equal(stock.onHand, 1_000 - ORDERS, 'every order left the shelf once')
}

const title = 'two processes share the orders of a shop; one is killed, the other takes over'

test(`embedded: ${title}`, { timeout: TIMEOUT_MS }, () => inWorld((world) => shared(world, {})))

for (const [name, database] of [
  ['rabbitmq', 'postgres'],
  ['kafka', 'postgres'],
  ['redis', null],
] as const) {
  test(`${name}, ${database ?? 'SQLite'}: ${title}`, { timeout: TIMEOUT_MS }, async (context) => {
    const broker = await needs(name)
    const store = database ? await needs(database) : { url: 'sqlite:', skip: false as const }
    if (broker.skip || store.skip) return context.skip(String(broker.skip || store.skip))
    await inWorld(async (world) => {
      const prefix = `${world.name}_`
      world.defer(async () => {
        await eraseBroker(broker.url, prefix)
        await eraseDatabase(store.url, prefix)
      })
      await shared(world, {
        BROKER_URL: broker.url,
        BROKER_PREFIX: prefix,
        DATABASE_URL: store.url,
        DATABASE_PREFIX: prefix,
      })
    })
  })
}
