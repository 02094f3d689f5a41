/**
 * `npm start` as people run it, installed, on an empty data folder and then on one that is there: seconds from the command
 * to the answer to a first order over HTTP, and the memory of the whole process then and after a thousand orders.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { inFolder } from './folder.ts'
import { fullDurability } from './raw-sqlite.ts'
import { type Bench, median, type Result } from './result.ts'

const FIRST_ORDER_MAX_SECONDS = 3
const MEMORY_MAX_MB = 250
const ORDERS = 1_000
const CALLERS = 16
const OPERATOR = { email: 'operator@shop.example', password: 'a long enough password' }

type Measured = { firstOrderSeconds: number; restingMegabytes: number; busyMegabytes: number }

export const run: Bench = async ({ runs, note }) => {
  const measured: Measured[] = []
  for (let round = 1; round <= runs; round++) {
    note(`run ${round} of ${runs}`)
    await inFolder(async (directory) => {
      await startOnce(directory, 0) // the folder is made, the operator's account too
      measured.push(await startOnce(directory, ORDERS))
    })
  }
  const result = (what: string, unit: string, values: number[], limit: number): Result => ({
    what,
    value: median(values),
    unit,
    against: 'the limit',
    againstValue: limit,
    ratio: limit / median(values),
    durability: fullDurability,
    runs: values.length,
    spread: (Math.max(...values) - Math.min(...values)) / median(values),
  })
  return [
    result(
      'first order after npm start',
      's',
      measured.map(({ firstOrderSeconds }) => firstOrderSeconds),
      FIRST_ORDER_MAX_SECONDS,
    ),
    result(
      'memory after the first order',
      'MB',
      measured.map(({ restingMegabytes }) => restingMegabytes),
      MEMORY_MAX_MB,
    ),
    result(
      `memory after ${ORDERS} orders`,
      'MB',
      measured.map(({ busyMegabytes }) => busyMegabytes),
      MEMORY_MAX_MB,
    ),
  ]
}

async function startOnce(directory: string, orders: number): Promise<Measured> {
  const begin = performance.now()
  const child = spawn('npm', ['start', '--silent'], {
    detached: true, // npm, its shell and node are one group, which ends together
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      ...process.env,
      PORT: '0',
      DATA_DIR: join(directory, 'data'),
      LOG_LEVEL: 'error',
      ADMIN_EMAIL: OPERATOR.email,
      ADMIN_PASSWORD: OPERATOR.password,
      PICKING_GRACE_MS: '0',
      CARRIER_DELAY_MS: '0',
      ORDERS_PER_MINUTE: '1000000',
    },
  })
  const exited = once(child, 'exit')
  try {
    const url = await addressOf(child)
    const shop = await open(url)
    await shop.order('first')
    const firstOrderSeconds = (performance.now() - begin) / 1_000
    const restingMegabytes = await residentMegabytes(child.pid!)
    let next = 0
    const buyer = async () => {
      while (next < orders) await shop.order(`order-${next++}`)
    }
    await Promise.all(Array.from({ length: CALLERS }, buyer))
    return { firstOrderSeconds, restingMegabytes, busyMegabytes: await residentMegabytes(child.pid!) }
  } finally {
    process.kill(-child.pid!, 'SIGTERM')
    await exited
  }
}

async function addressOf(child: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: child.stdout! })) {
    const url = /answers at (\S+)/.exec(line)?.[1]
    if (url) return url
  }
  throw new Error('npm start ended without an address')
}

/** Signs in, sees to it that there is something to buy, and orders it. */
async function open(url: string) {
  const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
    const response = await fetch(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    })
    return { status: response.status, answer: (await response.json()) as Record<string, string> }
  }
  const { answer } = await post('/api/sessions', OPERATOR)
  const authorization = `Bearer ${answer.token}`
  await post('/api/products', { sku: 'heart', name: 'Heart', pricePence: 255 }, { authorization })
  return {
    /** A product is known to the order service a moment after it was made: until then it answers 422. */
    async order(key: string): Promise<void> {
      for (;;) {
        const body = { lines: [{ sku: 'heart', quantity: 1 }], paymentMethod: 'pm_card_visa', email: 'ada@example.org' }
        const { status, answer } = await post('/api/orders', body, { authorization, 'idempotency-key': key })
        if (status === 202) return
        if (answer.code !== 'unknown_product') throw new Error(`${status} ${JSON.stringify(answer)}`)
      }
    },
  }
}

/** Of the process group: npm's own process is not the shop's, and is left out. Linux only. */
async function residentMegabytes(group: number): Promise<number> {
  let largest = 0
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const stat = await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '')
    const groupOf = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2])
    const command = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')
    if (groupOf !== group || !command.includes('main.ts')) continue
    const status = await readFile(`/proc/${entry}/status`, 'utf8').catch(() => '')
    largest = Math.max(largest, Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1_024)
  }
  return largest
}
