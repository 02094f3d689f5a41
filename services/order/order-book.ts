/**
 * Carries a command out on one order: appends what was decided, keeps the order's row, and says to the others what they
 * need to know. All of it in the caller's transaction.
 *
 * Of an order's timers one is pending at most: T9 until it is delivered, T7 from then on. They share an id, so that the
 * second replaces the first.
 */
import { aggregate, type Clock, type Reader, sql, type TransactionContext, type Tx } from '@shopsphere/bus'
import {
  type Address,
  type OrderLine,
  orderCancellationRejected,
  orderCancellationRequested,
  orderCancelled,
  orderCompleted,
  orderCompletionDue,
  orderConfirmed,
  orderPlaced,
  orderProgressDue,
  orderRefunded,
} from '@shopsphere/contracts'
import { customerStatus, stageOf } from './axes.ts'
import { type Command, decide, evolve, initial, isWatched, type OrderEvent, type OrderState } from './order.ts'

export const orders = aggregate<OrderState, Command, OrderEvent>({ name: 'order', initial, decide, evolve, version: 1 })

/** What an order's events carry of where they come from: the message that was heard, or who asked over the API. */
export type Cause = { readonly messageId: string; readonly type: string } | { readonly askedBy: string | null }

export type Placement = {
  readonly orderId: string
  readonly customerId: string | null
  readonly email: string | null
  readonly address: Address | null
  /** Milliseconds since the epoch. */
  readonly placedAt: number
  readonly lines: readonly OrderLine[]
  readonly totalPence: number
  readonly paymentMethod: string
  readonly channel: 'direct' | 'cart' | 'merchant'
  /** Null: a guest. */
  readonly placedBy: string | null
}

export type OrderBook = {
  /** Places an order; an order of that id that is there already stays as it is. */
  place(context: TransactionContext, placement: Placement, cause: Cause): Promise<Outcome>
  /** Throws what `decide` throws. */
  carryOut(context: TransactionContext, orderId: string, command: Command, cause: Cause): Promise<Outcome>
  /** T9 is to look again once nothing more has happened to this version for orderStalledMs. */
  watch(context: TransactionContext, orderId: string, version: number): void
}

export type Outcome = { readonly state: OrderState; readonly version: number }

type Contact = { readonly email: string | null; readonly address: Address | null }

/** One order in the middle of a transaction that has changed it. */
type Change = {
  readonly context: TransactionContext
  readonly orderId: string
  readonly state: OrderState
  readonly version: number
  /** Read only where somebody is written to. */
  contact(): Promise<Contact>
}

const timerId = (orderId: string) => `next:${orderId}`

export function createOrderBook({
  clock,
  timers,
}: {
  clock: Clock
  timers: { readonly orderStalledMs: number; readonly returnWindowMs: number }
}): OrderBook {
  async function place(context: TransactionContext, placement: Placement, cause: Cause): Promise<Outcome> {
    const { orderId, email, address, ...bought } = placement
    const command: Command = { type: 'place', data: { ...bought, currency: 'GBP' } }
    const { events, state, version } = await orders.handle(context.tx, orderId, command, {
      at: clock.now(),
      meta: cause,
    })
    if (events.length === 0) return { state, version }
    await context.tx.run(sql`
      insert into order_row (order_id, customer_id, status, stage, email, address, forgotten)
      values (${orderId}, ${state.customerId}, ${customerStatus(state)}, ${stageOf(state)}, ${email},
        ${address && JSON.stringify(address)}, 0)`)
    context.publish(orderPlaced, { ...placement, lines: [...placement.lines], currency: 'GBP' })
    watch(context, orderId, version)
    return { state, version }
  }

  async function carryOut(
    context: TransactionContext,
    orderId: string,
    command: Command,
    cause: Cause,
  ): Promise<Outcome> {
    const { tx } = context
    const { events, state, version } = await orders.handle(tx, orderId, command, { at: clock.now(), meta: cause })
    if (events.length === 0) return { state, version }
    const isShownOtherwise = state.shownSince > version - events.length
    if (isShownOtherwise) await keepRow(tx, orderId, state, clock.now())
    const change: Change = { context, orderId, state, version, contact: () => contactOf(tx, orderId) }
    for (const event of events) await announce(change, event)
    if (state.order === 'cancelled') await watchWhatIsOff(change)
    return { state, version }
  }

  async function announce(change: Change, event: OrderEvent): Promise<void> {
    const { context, orderId, state } = change
    const { publish } = context
    const { customerId, currency, totalPence } = state
    switch (event.type) {
      case 'confirmed':
        return confirm(change)
      case 'cancellation_requested': {
        // Before its confirmation shipping knows nothing of an order and has nothing to answer.
        if (!state.wasConfirmed) return
        const { reason, requestedBy, requestedAt } = event.data
        publish(orderCancellationRequested, {
          orderId,
          customerId,
          reason,
          requestedBy,
          requestedAt: requestedAt ?? clock.now(),
        })
        return
      }
      case 'cancellation_rejected': {
        const { email } = await change.contact()
        publish(orderCancellationRejected, { orderId, customerId, email, reason: event.data.reason })
        return
      }
      case 'cancelled': {
        const { email } = await change.contact()
        const { wasConfirmed } = state
        const { reason, short } = event.data
        publish(orderCancelled, {
          orderId,
          customerId,
          email,
          reason,
          currency,
          totalPence,
          wasConfirmed,
          short: [...short],
        })
        return
      }
      case 'payment_refunded': {
        const { email } = await change.contact()
        const { refundId, refundedPence, refundedTotalPence } = event.data
        const full = refundedTotalPence >= (state.capturedPence ?? 0)
        publish(orderRefunded, {
          orderId,
          customerId,
          email,
          refundId,
          currency,
          refundedPence,
          refundedTotalPence,
          full,
        })
        return
      }
      case 'delivered': {
        // A carrier's clock may be ahead of ours; the window is never longer for that.
        const at = Math.min(event.data.deliveredAt, clock.now()) + timers.returnWindowMs
        publish(orderCompletionDue, { orderId }, { at, id: timerId(orderId) })
        return
      }
      case 'completed':
        publish(orderCompleted, { orderId, customerId, currency, totalPence })
    }
  }

  async function confirm({ context, orderId, state, contact }: Change): Promise<void> {
    const { customerId, placedAt, currency, totalPence } = state
    const { email, address } = await contact()
    const lines = [...(await linesOf(context.tx, orderId))]
    context.publish(orderConfirmed, {
      orderId,
      customerId,
      email,
      placedAt,
      currency,
      lines,
      totalPence,
      address,
    })
  }

  function watch({ publish }: TransactionContext, orderId: string, version: number): void {
    const settings = { delayMs: timers.orderStalledMs, id: timerId(orderId) }
    publish(orderProgressDue, { orderId, sinceVersion: version }, settings)
  }

  /** An order that is off is done with once no money of it is out. */
  async function watchWhatIsOff({ context, orderId, state, version }: Change): Promise<void> {
    if (isWatched(state)) watch(context, orderId, version)
    else await context.cancel(timerId(orderId))
  }

  return { place, carryOut, watch }
}

/** What was bought; it stands in the order's first event and never changes. */
export async function linesOf(reader: Reader, orderId: string): Promise<readonly OrderLine[]> {
  const [first] = await orders.read(reader, orderId, { limit: 1 })
  return first?.type === 'placed' ? first.data.lines : []
}

type ContactRow = { email: string | null; address: string | null }

export async function contactOf(reader: Reader, orderId: string): Promise<Contact> {
  return toContact(await reader.get<ContactRow>(sql`select email, address from order_row where order_id = ${orderId}`))
}

/** Brings the row up to the state: one statement, on the way of every order. */
async function keepRow(tx: Tx, orderId: string, state: OrderState, now: number): Promise<void> {
  const status = customerStatus(state)
  const stage = stageOf(state)
  if (state.hasStalled) await keepStalled(tx, orderId, state.stalled, now)
  await tx.run(
    stage === 'open'
      ? sql`update order_row set status = ${status}, stage = ${stage} where order_id = ${orderId}`
      : sql`
          update order_row set status = ${status}, stage = ${stage},
            address = case when forgotten = 1 then null else address end
          where order_id = ${orderId}`,
  )
}

async function keepStalled(tx: Tx, orderId: string, stalled: boolean, now: number): Promise<void> {
  if (stalled) {
    await tx.run(
      sql`insert into order_stalled (order_id, since) values (${orderId}, ${now}) on conflict (order_id) do nothing`,
    )
  } else {
    await tx.run(sql`delete from order_stalled where order_id = ${orderId}`)
  }
}

function toContact(row: ContactRow | undefined): Contact {
  return { email: row?.email ?? null, address: row?.address ? JSON.parse(row.address) : null }
}
