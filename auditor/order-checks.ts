/** What must be true of one order, wherever its facts are kept. Pure: facts in, violations out. */
import { isDeepStrictEqual } from 'node:util'
import type { StoredEvent } from '@shopsphere/bus'
import { customerStatus, stageOf } from '../services/order/axes.ts'
import {
  evolve as evolveOrder,
  initial as initialOrder,
  type OrderEvent,
  type OrderState,
} from '../services/order/order.ts'
import {
  evolve as evolvePayment,
  initial as initialPayment,
  type PaymentEvent,
  type PaymentState,
} from '../services/payment/payment.ts'
import { addUp, type Ledger } from './ledger.ts'
import { countBy, type OrderFacts, type ShippingRecord } from './order-facts.ts'
import type { Invariant, Violation } from './violation.ts'

/** `open`: the order may still be on its way; `ended`: every order has to have come to its end. */
export type Expectation = 'open' | 'ended'

type Find = (text: string) => void

/** A check looks at facts of several services; it says nothing where one of them is not audited here. */
type Check = (facts: OrderFacts, find: Find, expected: Expectation) => void

const checks: Readonly<Record<Exclude<Invariant, 'I3'>, Check>> = {
  I1: checkMoney,
  I2: checkCancelled,
  I4: checkShipped,
  I5: checkEnd,
  I6: checkNotifications,
  I7: checkReadModels,
  I8: checkEvents,
}

export function checkOrder(facts: OrderFacts, expected: Expectation): Violation[] {
  const { orderId } = facts
  return (Object.entries(checks) as [Invariant, Check][]).flatMap(([invariant, check]) => {
    const found: Violation[] = []
    check(facts, (text) => found.push({ invariant, orderId, text }), expected)
    return found
  })
}

// --- I1 ---

function checkMoney({ payment, order }: OrderFacts, find: Find): void {
  if (!payment) return
  const ledger = addUp(payment.events)
  const { capturedPence, refundedPence, lostPence, totalPence } = ledger
  const net = capturedPence - refundedPence - lostPence
  if (net < 0 || capturedPence - refundedPence > totalPence) {
    find(
      `captured ${capturedPence} pence, refunded ${refundedPence} and lost ${lostPence} in disputes, of ${totalPence}`,
    )
  }
  const placedPence = placedData(order?.events)?.totalPence
  if (placedPence !== undefined && placedPence !== totalPence)
    find(`was placed for ${placedPence} pence and is paid as one of ${totalPence}`)
  checkLines(ledger, find)
}

function checkLines({ lines, capturedPence }: Ledger, find: Find): void {
  let ofLines = 0
  for (const line of lines.values()) {
    ofLines += line.capturedPence
    const net = line.capturedPence - line.refundedPence
    if (net < 0 || net > line.pence || line.capturedUnits > line.quantity) {
      find(
        `line ${line.lineNo}: captured ${line.capturedPence} pence for ${line.capturedUnits} units and refunded ${line.refundedPence}, of ${line.pence} for ${line.quantity}`,
      )
    }
  }
  if (ofLines !== capturedPence) find(`captured ${capturedPence} pence, and for its lines ${ofLines}`)
}

// --- I2 ---

function checkCancelled({ order, payment, stock, shipping }: OrderFacts, find: Find): void {
  if (order?.stage !== 'cancelled') return
  if (payment) {
    const { authorizedPence, capturedPence, voidedPence, refundedPence, lostPence } = addUp(payment.events)
    const net = capturedPence - refundedPence - lostPence
    if (net !== 0) find(`is cancelled, and ${net} pence of it have not gone back`)
    const out = authorizedPence - capturedPence - voidedPence
    if (out !== 0) find(`is cancelled, and ${out} pence of it are still authorised`)
  }
  if (stock && (stock.state === 'held' || stock.state === 'allocated'))
    find(`is cancelled, and its stock is still ${stock.state}`)
  const left = shipping?.parcels.filter(({ dispatchedAt }) => dispatchedAt !== null) ?? []
  if (left.length > 0) find(`is cancelled, and ${left.length} parcels of it have left`)
}

// --- I4 ---

/** A write-off may take the stock of an order after a parcel of it has left. */
const ALLOCATED: ReadonlySet<string> = new Set(['allocated', 'dispatched', 'lost', 'refused'])

function checkShipped({ shipping, payment, stock }: OrderFacts, find: Find): void {
  const parcels = shipping?.parcels.filter(({ dispatchedAt }) => dispatchedAt !== null) ?? []
  if (parcels.length === 0) return
  if (stock === null || (stock && !ALLOCATED.has(stock.state)))
    find(`left, and its stock is ${stock?.state ?? 'unknown'} and not allocated`)
  if (payment === undefined) return
  const ledger = payment && addUp(payment.events)
  if (!ledger || (ledger.authorizedPence === 0 && ledger.totalPence > 0)) {
    find('left without being paid')
    return
  }
  for (const [lineNo, units] of unitsByLine(parcels)) {
    const paid = ledger.lines.get(lineNo)?.capturedUnits ?? 0
    if (units > paid) find(`line ${lineNo}: ${units} units left, and ${paid} were captured`)
  }
  if (stock) checkSent(parcels, new Map(stock.sent), stock.state, find)
}

function checkSent(
  parcels: ShippingRecord['parcels'],
  sent: ReadonlyMap<string, number>,
  state: string,
  find: Find,
): void {
  if (state === 'lost' || state === 'refused') return // its stock was taken; what left was booked from what was available
  const left = new Map<string, number>()
  for (const { lines } of parcels) for (const { sku, quantity } of lines) left.set(sku, (left.get(sku) ?? 0) + quantity)
  for (const [sku, units] of left) {
    if (units !== (sent.get(sku) ?? 0)) find(`${units} units of ${sku} left, and ${sent.get(sku) ?? 0} of its stock`)
  }
}

function unitsByLine(parcels: ShippingRecord['parcels']): Map<number, number> {
  const units = new Map<number, number>()
  for (const { lines } of parcels)
    for (const { lineNo, quantity } of lines) units.set(lineNo, (units.get(lineNo) ?? 0) + quantity)
  return units
}

// --- I5 ---

const isEnded = (stage: string) => stage === 'completed' || stage === 'cancelled'

function checkEnd({ order }: OrderFacts, find: Find, expected: Expectation): void {
  if (!order || isEnded(order.stage)) return
  if (expected === 'ended') find(`has not come to an end: it is ${order.status}`)
  else if (!order.watched) find(`is ${order.status}, and no timer is left that would look at it again`)
}

// --- I6 ---

function checkNotifications({ order, notification }: OrderFacts, find: Find): void {
  for (const counts of [order?.notifications, notification?.steps]) {
    for (const [what, count] of counts ?? []) if (count > 1) find(`was told of ${what} ${count} times`)
  }
}

// --- I7 ---

function checkReadModels({ order, payment }: OrderFacts, find: Find): void {
  if (order) {
    const state = fold<OrderState>(order.events, initialOrder, (now, event) => evolveOrder(now, event as OrderEvent))
    if (order.state !== undefined && !isDeepStrictEqual(state, order.state))
      find('the state kept beside the order’s events is not what they come to')
    if (customerStatus(state) !== order.status || stageOf(state) !== order.stage) {
      find(
        `is listed as ${order.status} (${order.stage}), and its events come to ${customerStatus(state)} (${stageOf(state)})`,
      )
    }
  }
  if (payment && payment.state !== undefined) {
    const state = fold<PaymentState>(payment.events, initialPayment, (now, event) =>
      evolvePayment(now, event as PaymentEvent),
    )
    if (!isDeepStrictEqual(state, payment.state))
      find('the state kept beside the payment’s events is not what they come to')
  }
}

/** As JSON, because that is how the kept state went to the database and back. */
function fold<State>(
  events: readonly StoredEvent[],
  initial: State,
  evolve: (state: State, event: StoredEvent) => State,
): State {
  return JSON.parse(JSON.stringify(events.reduce(evolve, initial)))
}

// --- I8 ---

/** For each event of a stream what is said of it. Several may be said under one name. */
const toldByOrder: Readonly<Record<string, string>> = {
  placed: 'order.placed',
  confirmed: 'order.confirmed',
  cancelled: 'order.cancelled',
  cancellation_rejected: 'order.cancellation_rejected',
  payment_refunded: 'order.refunded',
  completed: 'order.completed',
}
const toldByPayment: Readonly<Record<string, string>> = {
  authorized: 'payment.processed',
  attempt_failed: 'payment.failed',
  attempt_overdue: 'payment.failed',
  voided: 'payment.voided',
  captured: 'payment.captured',
  refund_requested: 'payment.refund_requested',
  refunded: 'payment.refunded',
  refund_failed: 'payment.refund_failed',
  refund_dropped: 'payment.refund_failed',
  disputed: 'payment.disputed',
}
/** And the other way round: what analytics keeps of what it hears. */
const keptByAnalytics: Readonly<Record<string, string>> = {
  'order.placed': 'placed',
  'order.confirmed': 'confirmed',
  'order.shipped': 'shipped',
  'order.delivered': 'delivered',
  'order.cancelled': 'cancelled',
  'payment.captured': 'captured',
  'payment.refunded': 'refunded',
  'return.received': 'returned',
}

function checkEvents(facts: OrderFacts, find: Find): void {
  const { order, payment, stock, shipping, analytics, notification, told } = facts
  if (!told) return
  const heard = countBy(told, ({ type }) => type)
  if (order !== undefined) compareStream(order?.events ?? [], toldByOrder, heard, find)
  if (payment !== undefined) {
    compareStream(payment?.events ?? [], toldByPayment, heard, find)
    if (payment) compareMoney(addUp(payment.events), facts, find)
  }
  if (stock !== undefined) checkStockEvents(stock?.state ?? null, heard, find)
  if (shipping !== undefined) checkShippingEvents(shipping, facts, heard, find)
  if (analytics) {
    for (const [type, fact] of Object.entries(keptByAnalytics))
      compare(`'${fact}' in analytics`, analytics.get(fact) ?? 0, type, heard.get(type) ?? 0, find)
  }
  if (notification) {
    const { sent, failed } = notification
    compare('notifications sent', sent, 'notification.sent', heard.get('notification.sent') ?? 0, find)
    compare('notifications that failed', failed, 'notification.failed', heard.get('notification.failed') ?? 0, find)
  }
}

function compareStream(
  events: readonly StoredEvent[],
  toldBy: Readonly<Record<string, string>>,
  heard: ReadonlyMap<string, number>,
  find: Find,
): void {
  const due = new Map(Object.values(toldBy).map((type) => [type, 0]))
  for (const { type } of events) {
    const told = toldBy[type]
    if (told !== undefined) due.set(told, due.get(told)! + 1)
  }
  for (const [type, count] of due) {
    const facts = Object.keys(toldBy).filter((fact) => toldBy[fact] === type)
    compare(`'${facts.join("' or '")}' in its stream`, count, type, heard.get(type) ?? 0, find)
  }
}

function compare(what: string, kept: number, type: string, said: number, find: Find): void {
  if (kept !== said) find(`${what}: ${kept}, and ${type} was said ${said} times`)
}

function compareMoney({ capturedPence, refundedPence }: Ledger, { told = [] }: OrderFacts, find: Find): void {
  const sum = (type: string, field: string) =>
    told.reduce((total, message) => total + (message.type === type ? Number(message.data?.[field] ?? 0) : 0), 0)
  const saidCaptured = sum('payment.captured', 'capturedPence')
  const saidRefunded = sum('payment.refunded', 'refundedPence')
  if (saidCaptured !== capturedPence) find(`captured ${capturedPence} pence, and ${saidCaptured} were told of`)
  if (saidRefunded !== refundedPence) find(`refunded ${refundedPence} pence, and ${saidRefunded} were told of`)
}

/** What must have been said for the stock of an order to be where it is, and what must not. */
const stockHistories: Readonly<Record<string, { said: readonly string[]; unsaid: readonly string[] }>> = {
  held: { said: ['inventory.reserved'], unsaid: ['inventory.updated', 'inventory.released'] },
  allocated: { said: ['inventory.reserved', 'inventory.updated'], unsaid: ['inventory.released'] },
  dispatched: { said: ['inventory.reserved', 'inventory.updated'], unsaid: ['inventory.released'] },
  failed: { said: ['inventory.reservation_failed'], unsaid: ['inventory.reserved', 'inventory.updated'] },
  expired: { said: ['inventory.reservation_expired'], unsaid: ['inventory.updated'] },
  refused: { said: ['inventory.update_failed'], unsaid: [] },
}
const ONCE_AT_MOST = [
  'inventory.reserved',
  'inventory.reservation_failed',
  'inventory.reservation_expired',
  'inventory.updated',
  'inventory.released',
]

function checkStockEvents(state: string | null, heard: ReadonlyMap<string, number>, find: Find): void {
  for (const type of ONCE_AT_MOST) {
    const count = heard.get(type) ?? 0
    if (count > 1) find(`${type} was said ${count} times`)
    if (count > 0 && state === null) find(`${type} was said of an order that inventory does not know`)
  }
  if (state === null) {
    if (heard.has('order.placed')) find('was placed, and inventory does not know it')
    return
  }
  const { said = [], unsaid = [] } = stockHistories[state] ?? {}
  for (const type of said) if (!heard.has(type)) find(`its stock is ${state}, and ${type} was not said`)
  for (const type of unsaid) if (heard.has(type)) find(`its stock is ${state}, and ${type} was said`)
}

function checkShippingEvents(
  shipping: ShippingRecord | null,
  { stock }: OrderFacts,
  heard: ReadonlyMap<string, number>,
  find: Find,
): void {
  const left = shipping?.parcels.filter(({ dispatchedAt }) => dispatchedAt !== null) ?? []
  compare('parcels that left', left.length, 'shipment.dispatched', heard.get('shipment.dispatched') ?? 0, find)
  const delivered = shipping?.status === 'delivered' ? 1 : 0
  compare('deliveries', delivered, 'order.delivered', heard.get('order.delivered') ?? 0, find)
  const returns = shipping?.returns ?? []
  const received = returns.filter(({ state, outcome }) => state === 'received' || outcome === 'refunded').length
  compare('returns that were received', received, 'return.received', heard.get('return.received') ?? 0, find)
  const closed = returns.filter(({ state }) => state === 'closed' || state === 'rejected').length
  compare('returns that ended', closed, 'return.closed', heard.get('return.closed') ?? 0, find)
  if (stock === undefined) return
  for (const { shipmentId, lines, ledgerRows } of left) {
    const skus = new Set(lines.map(({ sku }) => sku)).size
    if (ledgerRows !== skus)
      find(`${shipmentId} left with ${skus} products, and ${ledgerRows} of them left the stock ledger`)
  }
}

function placedData(events: readonly StoredEvent[] | undefined): { totalPence: number } | undefined {
  return events?.find(({ type }) => type === 'placed')?.data as { totalPence: number } | undefined
}
