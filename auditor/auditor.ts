/**
 * The auditor: looks into every service's database and says where an invariant does not hold. It changes nothing.
 *
 * A1 What is under way is not a violation. While the shop runs, an order is looked at only when it has rested for a
 *    while, and what looks wrong must look wrong again; what several services must agree on, for ten minutes.
 * A2 While the shop runs, a round is short: so many orders and products, and the longer it takes the rarer it comes.
 * A3 `finish` leaves nothing out. It is for a shop in which nothing is under way.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Clock, type Log, type Reader, sql, type Timer } from '@shopsphere/bus'
import { checkFigures } from './figures.ts'
import { addUp } from './ledger.ts'
import { checkMessages } from './messages.ts'
import { checkOrder, type Expectation } from './order-checks.ts'
import { type AuditedStore, type AuditedStores, readOrderFacts } from './order-facts.ts'
import { checkHolders, checkStock } from './stock.ts'
import { type Invariant, sentence, type Violation } from './violation.ts'

const ROUND_MS = 5_000
/** A round may take this share of the time. */
const ROUND_SHARE = 0.02
const EVENTS_PER_ROUND = 2_000
const ORDERS_PER_ROUND = 100
const PRODUCTS_PER_ROUND = 50
/** How long an order has to rest, and between two looks at what seems wrong. */
const REST_MS = 60_000
const ORDERS_WAITING_MAX = 50_000
const VIOLATIONS_MAX = 1_000
const ORDERS_PER_PAGE = 500
/** Events of the past that a shop looks at again when it starts. */
const EVENTS_BEFORE_START = 2_000

/** Looks in a row at which something is wrong before it is said. What one service decides alone cannot be under way. */
const looksNeeded: Readonly<Record<Invariant, number>> = { I1: 2, I2: 10, I3: 1, I4: 10, I5: 10, I6: 2, I7: 2, I8: 10 }

export type Audited = {
  /** Looks at orders since the start. */
  readonly looks: number
  /** Orders that are to be looked at. */
  readonly waiting: number
  /** Orders that there was no room for: `finish` finds them. */
  readonly passedOver: number
  readonly violations: readonly Violation[]
}

export type Auditor = {
  /** Everything, once nothing is under way; at most VIOLATIONS_MAX. `ended`: every order has to have come to its end. */
  finish(expected: Expectation): Promise<Violation[]>
  /** Begins to look every few seconds; what it finds is logged and kept. */
  watch(): void
  readonly found: Audited
  /** One round of `watch`, now. */
  round(): Promise<void>
  /** Closing twice is fine. */
  close(): Promise<void>
}

export type AuditorOptions = {
  stores: AuditedStores
  clock: Clock
  log: Log
  /** True while a service is behind: what the others know then is not to be compared. */
  lagging?: () => Promise<boolean>
}

type Suspect = { dueAt: number; looks: number; texts: ReadonlySet<string> }

export function createAuditor({ stores, clock, log, lagging = async () => false }: AuditorOptions): Auditor {
  const waiting = new Map<string, Suspect>()
  const said = new Set<string>()
  const violations: Violation[] = []
  let looks = 0
  let passedOver = 0
  let position: number | undefined
  let afterSku = ''
  let timer: Timer | undefined
  let running: Promise<void> | undefined
  let closed = false

  function say(violation: Violation): void {
    const text = sentence(violation)
    if (said.has(text) || said.size >= VIOLATIONS_MAX) return
    said.add(text)
    violations.push(violation)
    log.error({ invariant: violation.invariant, orderId: violation.orderId }, `the auditor found: ${violation.text}`)
  }

  /** Orders that have changed are to be looked at once they have rested. */
  async function noteChanges(order: AuditedStore): Promise<void> {
    position ??= Math.max(0, (await order.read(newestPosition)) - EVENTS_BEFORE_START)
    const rows = await order.read((reader) => changesAfter(reader, position!))
    for (const { stream } of rows) {
      const orderId = stream.slice(stream.indexOf(':') + 1)
      waiting.delete(orderId) // so that it stands at the end again
      if (waiting.size >= ORDERS_WAITING_MAX) passedOver += 1
      else waiting.set(orderId, { dueAt: clock.now() + REST_MS, looks: 0, texts: new Set() })
    }
    position = Number(rows.at(-1)?.position ?? position)
  }

  async function lookAtRested(): Promise<void> {
    const now = clock.now()
    let left = ORDERS_PER_ROUND
    for (const [orderId, suspect] of waiting) {
      // Those that came first stand first, and all rest equally long.
      if (suspect.dueAt > now || left === 0 || closed) return
      left -= 1
      waiting.delete(orderId)
      const again = lookAgain(suspect, checkOrder(await readOrderFacts(stores, orderId), 'open'))
      looks += 1
      if (again && !waiting.has(orderId)) waiting.set(orderId, again)
      await nextTurn()
    }
  }

  /** A1. Says what has looked wrong for long enough; answers when to look again, if anything still may come right. */
  function lookAgain({ looks: before, texts }: Suspect, found: readonly Violation[]): Suspect | null {
    const same = before > 0 && found.some((violation) => texts.has(sentence(violation)))
    const count = same ? before + 1 : 1
    const open = found.filter((violation) => !said.has(sentence(violation)))
    for (const violation of open) if (count >= looksNeeded[violation.invariant]) say(violation)
    const unsaid = open.filter((violation) => !said.has(sentence(violation)))
    if (unsaid.length === 0 || said.size >= VIOLATIONS_MAX) return null
    return { dueAt: clock.now() + REST_MS, looks: count, texts: new Set(found.map(sentence)) }
  }

  async function lookAtStock(inventory: AuditedStore): Promise<void> {
    const { violations: found, lastSku } = await checkStock(inventory, { afterSku, limit: PRODUCTS_PER_ROUND })
    for (const violation of found) say(violation)
    afterSku = lastSku ?? ''
  }

  async function round(): Promise<void> {
    const inventory = stores.get('inventory')
    if (inventory) await lookAtStock(inventory)
    const order = stores.get('order')
    if (!order) return
    await noteChanges(order)
    if (!(await lagging())) await lookAtRested()
  }

  function plan(delayMs: number): void {
    if (closed) return
    timer = clock.after(delayMs, () => {
      const startedAt = performance.now()
      running = round()
        .catch((error: unknown) => log.warn({ err: error }, 'the auditor could not look; it tries again'))
        .then(() => plan(Math.max(ROUND_MS, (performance.now() - startedAt) / ROUND_SHARE))) // A2
    })
  }

  return {
    round,
    finish: (expected) => checkEverything(stores, expected),
    watch: () => plan(ROUND_MS),
    get found() {
      return { looks, waiting: waiting.size, passedOver, violations }
    },
    async close() {
      closed = true
      timer?.cancel()
      await running
    },
  }
}

async function newestPosition(reader: Reader): Promise<number> {
  const row = await reader.get<{ position: number | null }>(sql`select max(position) as position from bus_stream_event`)
  return Number(row?.position ?? 0)
}

function changesAfter(reader: Reader, position: number) {
  return reader.all<{ position: number; stream: string }>(sql`
    select position, stream from bus_stream_event where position > ${position} order by position limit ${EVENTS_PER_ROUND}`)
}

/** A3. */
async function checkEverything(stores: AuditedStores, expected: Expectation): Promise<Violation[]> {
  const found: Violation[] = []
  const isFull = () => found.length >= VIOLATIONS_MAX
  const order = stores.get('order')
  const ofAll = { chargedPence: 0, refundedPence: 0 }
  if (order) {
    for await (const orderId of idsOf(order, ordersAfter)) {
      const facts = await readOrderFacts(stores, orderId)
      found.push(...checkOrder(facts, expected))
      if (facts.payment) {
        const { capturedPence, refundedPence } = addUp(facts.payment.events)
        ofAll.chargedPence += capturedPence
        ofAll.refundedPence += refundedPence
      }
      if (isFull()) break
      await nextTurn()
    }
    if (!isFull()) found.push(...(await strangers(stores, order)))
  }
  const payment = stores.get('payment')
  if (payment && order && !isFull()) found.push(...(await checkTotals(payment, ofAll)))
  const inventory = stores.get('inventory')
  if (inventory && !isFull()) found.push(...(await checkAllStock(inventory)), ...(await checkHolders(inventory)))
  const analytics = stores.get('analytics')
  if (analytics && !isFull()) found.push(...(await checkFigures(analytics)))
  if (!isFull()) found.push(...(await checkMessages(stores)))
  return found.slice(0, VIOLATIONS_MAX)
}

async function checkAllStock(inventory: AuditedStore): Promise<Violation[]> {
  const found: Violation[] = []
  for (let afterSku: string | null = ''; afterSku !== null; ) {
    const page: Awaited<ReturnType<typeof checkStock>> = await checkStock(inventory, {
      afterSku,
      limit: ORDERS_PER_PAGE,
    })
    found.push(...page.violations)
    afterSku = page.lastSku
  }
  return found
}

/** I1 for the whole shop: what payment says it took and gave back is the sum of its payments. */
async function checkTotals(
  payment: AuditedStore,
  ofAll: { chargedPence: number; refundedPence: number },
): Promise<Violation[]> {
  const row = await payment.read((reader) =>
    reader.get<{ charged: number; refunded: number }>(sql`
      select coalesce(sum(charged_pence), 0) as charged, coalesce(sum(refunded_pence), 0) as refunded from payment_total`),
  )
  const [charged, refunded] = [Number(row!.charged), Number(row!.refunded)]
  if (charged === ofAll.chargedPence && refunded === ofAll.refundedPence) return []
  const text = `the totals say ${charged} pence charged and ${refunded} refunded, the payments ${ofAll.chargedPence} and ${ofAll.refundedPence}`
  return [{ invariant: 'I1', text }]
}

/** I8 the other way round: money, stock or parcels of an order that was never placed. */
async function strangers(stores: AuditedStores, order: AuditedStore): Promise<Violation[]> {
  const found: Violation[] = []
  const places: [service: string, ids: IdsAfter][] = [
    ['inventory', stockOrdersAfter],
    ['shipping', fulfilmentsAfter],
    ['payment', paymentsAfter],
  ]
  for (const [service, ids] of places) {
    const store = stores.get(service)
    if (!store) continue
    for await (const orderId of idsOf(store, ids)) {
      const known = await order.read((reader) =>
        reader.get(sql`select 1 as one from order_row where order_id = ${orderId}`),
      )
      if (!known) found.push({ invariant: 'I8', orderId, text: `${service} knows it, and it was never placed` })
      if (found.length >= VIOLATIONS_MAX) return found
    }
  }
  return found
}

type IdsAfter = (reader: Reader, after: string) => Promise<{ id: string }[]> | { id: string }[]

async function* idsOf(store: AuditedStore, idsAfter: IdsAfter): AsyncGenerator<string> {
  for (let after = ''; ; ) {
    const rows = await store.read((reader) => idsAfter(reader, after))
    for (const { id } of rows) yield id
    if (rows.length < ORDERS_PER_PAGE) return
    after = rows.at(-1)!.id
  }
}

const ordersAfter: IdsAfter = (reader, after) =>
  reader.all<{ id: string }>(
    sql`select order_id as id from order_row where order_id > ${after} order by order_id limit ${ORDERS_PER_PAGE}`,
  )
const stockOrdersAfter: IdsAfter = (reader, after) =>
  reader.all<{ id: string }>(
    sql`select order_id as id from stock_order where order_id > ${after} order by order_id limit ${ORDERS_PER_PAGE}`,
  )
const fulfilmentsAfter: IdsAfter = (reader, after) =>
  reader.all<{ id: string }>(
    sql`select order_id as id from fulfilment where order_id > ${after} order by order_id limit ${ORDERS_PER_PAGE}`,
  )
const PAYMENT = 'payment:'
const paymentsAfter: IdsAfter = async (reader, after) => {
  const rows = await reader.all<{ stream: string }>(sql`
    select stream from bus_stream where stream > ${PAYMENT + after} and stream like ${`${PAYMENT}%`}
    order by stream limit ${ORDERS_PER_PAGE}`)
  return rows.map(({ stream }) => ({ id: stream.slice(PAYMENT.length) }))
}
