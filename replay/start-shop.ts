/**
 * The shop that a replay runs against: every service, in a folder and under names of its own that are erased afterwards, behind
 * a real port on this machine; its parcels are picked and delivered at once, and its clock can jump.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Reader, skippableClock, sql } from '@shopsphere/bus'
import { eraseBroker, eraseDatabase } from '@shopsphere/bus/testing'
import { serve } from '@shopsphere/runtime/server'
import { sentence } from '../auditor/violation.ts'
import { countOrders } from '../services/order/queries.ts'
import { readTotals } from '../services/payment/queries.ts'
import { type Shop, startShop as startWholeShop } from '../shop.ts'
import type { ReplayShop, ShopTotals, StartShop } from './replay.ts'

const merchant = { email: 'operator@shop.example', password: randomBytes(24).toString('base64url') }

/** A moment beyond the return window. */
const BEYOND_MS = 60_000

export const startShop: StartShop = () => startShopOn(process.env)

/** On the broker and the database that `environment` names. */
export async function startShopOn(given: Readonly<Record<string, string | undefined>>): Promise<ReplayShop> {
  const folder = await mkdtemp(join(tmpdir(), 'shopsphere-replay-'))
  const clock = skippableClock()
  const { BROKER_URL = '', DATABASE_URL = '' } = given
  const prefix = `replay_${randomBytes(4).toString('hex')}_`
  const environment = {
    LOG_LEVEL: 'error',
    ...given,
    BROKER_PREFIX: prefix,
    DATABASE_PREFIX: prefix,
    DATA_DIR: folder,
    PICKING_GRACE_MS: '0',
    CARRIER_DELAY_MS: '0',
    ADMIN_EMAIL: merchant.email,
    ADMIN_PASSWORD: merchant.password,
  }
  const erase = async () => {
    await rm(folder, { recursive: true, force: true })
    await eraseBroker(BROKER_URL, prefix)
    await eraseDatabase(DATABASE_URL, prefix)
  }
  try {
    const shop = await startWholeShop({ environment, clock, headless: true })
    // The merchant's account is new: whoever was not told of it yet would refuse its first requests.
    await shop.idle()
    const server = await serve(shop.app, { port: 0, host: '127.0.0.1' })
    return {
      url: server.url,
      merchant,
      totals: () => totalsOf(shop),
      async skipReturnWindow() {
        clock.skip(shop.config.timers.returnWindowMs + BEYOND_MS)
      },
      async audit() {
        await shop.idle()
        return (await shop.auditor.finish('ended')).map(sentence)
      },
      async close() {
        await server.close()
        await shop.close()
        await erase()
      },
    } satisfies ReplayShop
  } catch (error) {
    await erase().catch(() => {}) // what went wrong first is what is said
    throw error
  }
}

async function totalsOf(shop: Shop): Promise<ShopTotals> {
  const read = <T>(service: string, work: (reader: Reader) => T | Promise<T>) =>
    shop.services.get(service)!.bus.store.read(work)
  const { total, byStage } = await read('order', countOrders)
  const { chargedPence, refundedPence } = await read('payment', readTotals)
  return {
    orders: { placed: total, delivered: byStage.delivered, completed: byStage.completed, cancelled: byStage.cancelled },
    openReturns: await read('shipping', countOpenReturns),
    units: await read('inventory', movedUnits),
    pence: { charged: chargedPence, refunded: refundedPence },
    events: await read('audit', countEvents),
    messagesWaiting: await messagesWaiting(shop),
  }
}

async function countOpenReturns(reader: Reader): Promise<number> {
  const row = await reader.get<{ count: number }>(
    sql`select count(*) as count from return_case where state not in ('closed', 'rejected')`,
  )
  return Number(row!.count)
}

/** As the stock ledger has it: what left the shelf for a customer, and what came back. */
async function movedUnits(reader: Reader): Promise<ShopTotals['units']> {
  const rows = await reader.all<{ kind: string; change: number }>(
    sql`select kind, sum(change) as change from stock_ledger group by kind`,
  )
  const changeOf = (kind: string) => Math.abs(Number(rows.find((row) => row.kind === kind)?.change ?? 0))
  return { sold: changeOf('dispatch'), returned: changeOf('return') }
}

async function countEvents(reader: Reader): Promise<number> {
  const row = await reader.get<{ count: number }>(sql`select count(*) as count from audit_event`)
  return Number(row!.count)
}

async function messagesWaiting(shop: Shop): Promise<number> {
  let waiting = 0
  for (const { outbox, subscriptions } of await shop.status()) {
    waiting += outbox.waiting
    for (const { waiting: unacknowledged, deferred } of subscriptions) waiting += (unacknowledged ?? 1) + deferred // unknown is not at rest
  }
  return waiting
}
