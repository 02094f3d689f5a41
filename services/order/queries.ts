/** What can be asked about orders. Lists go by the order's row, everything shown is read from its stream. */
import { type Reader, sql } from '@shopsphere/bus'
import type { Caller } from '@shopsphere/runtime/request-context'
import { type CustomerStatus, customerStatus, type Stage } from './axes.ts'
import type { OrderEvent, OrderState } from './order.ts'
import { contactOf, linesOf, type Outcome, orders } from './order-book.ts'

/** Events and notifications that a timeline shows at most. */
export const TIMELINE_MAX = 1_000
/** Sorts after every order's id. */
const AFTER_ALL_ORDERS = 'ord_z'

export type AsOf = { readonly version: number } | { readonly timeMs: number }

export function isStaff(caller: Caller | null): boolean {
  return caller?.roles.some((role) => role === 'merchant' || role === 'operator') ?? false
}

/** Its buyer and the staff may see an order; a guest's order whoever knows its id, which cannot be guessed. */
function maySee({ customerId }: OrderState, caller: Caller | null): boolean {
  return customerId === null || customerId === caller?.userId || isStaff(caller)
}

/** Undefined: there is no such order, or none that `caller` may see, or none yet at that time. */
export async function findOrder(
  reader: Reader,
  orderId: string,
  caller: Caller | null,
  asOf?: AsOf,
): Promise<Outcome | undefined> {
  const found = await orders.load(reader, orderId, asOf ? { asOf } : {})
  return found.version > 0 && maySee(found.state, caller) ? found : undefined
}

/** The order as lists show it. */
export function summaryOf(orderId: string, { state, version }: Outcome) {
  const { order, payment, fulfilment, returns } = state
  return {
    orderId,
    version,
    customerId: state.customerId,
    placedAt: state.placedAt,
    currency: state.currency,
    totalPence: state.totalPence,
    lineCount: state.lineCount,
    units: state.units,
    status: customerStatus(state),
    order,
    payment,
    fulfilment,
    returns: [...returns],
    capturedPence: state.capturedPence ?? 0,
    refundedPence: state.refundedPence,
    stalled: state.stalled,
  }
}

/** Everything that is known of an order. What is personal is today's also in an answer as of the past. */
export async function detailOf(reader: Reader, orderId: string, found: Outcome) {
  const { state } = found
  const contact = await contactOf(reader, orderId)
  return {
    ...summaryOf(orderId, found),
    channel: state.channel,
    placedBy: state.placedBy,
    ...contact,
    lines: [...(await linesOf(reader, orderId))],
    parcels: [...state.parcels],
    cancellation: state.cancellation && { ...state.cancellation, short: [...state.cancellation.short] },
    holdExpiresAt: state.holdExpiresAt,
    paymentAction: state.action,
    paymentRefusal: state.refusal,
    refundProblem: state.refundProblem,
    dispute: state.dispute,
    exception: state.exception,
    deliveredAt: state.deliveredAt,
  }
}

export type Wanted = {
  readonly customerId?: string | undefined
  readonly status?: CustomerStatus | undefined
  readonly stalled?: boolean | undefined
  /** Only orders before this one; newest first. */
  readonly before?: string | undefined
  readonly limit: number
}

/** Ids of orders, newest first. */
export async function listOrderIds(reader: Reader, wanted: Wanted): Promise<string[]> {
  const { customerId, status, stalled, before = AFTER_ALL_ORDERS, limit } = wanted
  const rows = await reader.all<{ order_id: string }>(
    stalled
      ? sql`select order_id from order_stalled where order_id < ${before} order by order_id desc limit ${limit}`
      : customerId !== undefined && status !== undefined
        ? sql`
            select order_id from order_row where customer_id = ${customerId} and status = ${status} and order_id < ${before}
            order by order_id desc limit ${limit}`
        : customerId !== undefined
          ? sql`
              select order_id from order_row where customer_id = ${customerId} and order_id < ${before}
              order by order_id desc limit ${limit}`
          : status !== undefined
            ? sql`
                select order_id from order_row where status = ${status} and order_id < ${before}
                order by order_id desc limit ${limit}`
            : sql`select order_id from order_row where order_id < ${before} order by order_id desc limit ${limit}`,
  )
  return rows.map((row) => row.order_id)
}

export async function summariesOf(reader: Reader, orderIds: readonly string[], caller: Caller | null) {
  const summaries: ReturnType<typeof summaryOf>[] = []
  for (const orderId of orderIds) {
    const found = await findOrder(reader, orderId, caller)
    if (found) summaries.push(summaryOf(orderId, found))
  }
  return summaries
}

export type Counts = {
  total: number
  /** Neither completed nor cancelled. */
  nonTerminal: number
  /** T9 found that they stand still. */
  stalled: number
  byStage: Record<Stage, number>
  byStatus: Partial<Record<CustomerStatus, number>>
}

/** Reads one index from end to end: a million orders take a fraction of a second. */
export async function countOrders(reader: Reader): Promise<Counts> {
  const rows = await reader.all<{ status: CustomerStatus; stage: Stage; count: number }>(
    sql`select status, stage, count(*) as count from order_row group by status, stage`,
  )
  const stalled = await reader.get<{ count: number }>(sql`select count(*) as count from order_stalled`)
  const byStage: Counts['byStage'] = { open: 0, delivered: 0, completed: 0, cancelled: 0 }
  const byStatus: Counts['byStatus'] = {}
  for (const { status, stage, count } of rows) {
    byStage[stage] += Number(count)
    byStatus[status] = (byStatus[status] ?? 0) + Number(count)
  }
  const nonTerminal = byStage.open + byStage.delivered
  return {
    total: nonTerminal + byStage.completed + byStage.cancelled,
    nonTerminal,
    stalled: Number(stalled!.count),
    byStage,
    byStatus,
  }
}

/** What happened to an order, and what its customer was sent, each in the order in which it came. */
export async function timelineOf(reader: Reader, orderId: string) {
  const events = await orders.read(reader, orderId, { limit: TIMELINE_MAX })
  const sent = await reader.all<{
    notification_id: string
    step: string
    channel: string
    subject: string
    sent_at: number
  }>(sql`
    select notification_id, step, channel, subject, sent_at from order_notification
    where order_id = ${orderId} order by sent_at, notification_id limit ${TIMELINE_MAX}`)
  return {
    orderId,
    events: events.map(({ version, at, meta, ...event }) => ({
      version,
      at,
      type: event.type,
      cause: causeOf(meta),
      data: shownOf(event),
    })),
    notifications: sent.map(({ notification_id, step, channel, subject, sent_at }) => ({
      notificationId: notification_id,
      step,
      channel,
      subject,
      sentAt: Number(sent_at),
    })),
  }
}

/** The message that set the event off; null: a request over the API. */
function causeOf(meta: Readonly<Record<string, unknown>> | null): { type: string; messageId: string } | null {
  if (typeof meta?.type !== 'string' || typeof meta.messageId !== 'string') return null
  return { type: meta.type, messageId: meta.messageId }
}

/** Without what is long or nobody's business: the lines stand in the order, the means of payment is payment's. */
function shownOf({ type, data }: OrderEvent): Record<string, unknown> {
  if (type !== 'placed') return { ...data }
  const { lines, paymentMethod: _, ...rest } = data
  return { ...rest, lineCount: lines.length }
}
