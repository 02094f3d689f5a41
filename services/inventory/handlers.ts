/**
 * What inventory hears. An order is held whole or not at all, allocated when it is paid, and leaves parcel by parcel;
 * stock_order knows how far it is, so that a repeat, or an event that comes too late, changes nothing.
 */
import { type Bus, type Clock, type DataOf, type HandlerContext, PermanentError, type Tx } from '@shopsphere/bus'
import {
  inventoryHoldExpiryDue,
  inventoryLevelChanged,
  inventoryReleased,
  inventoryReservationExpired,
  inventoryReservationFailed,
  inventoryReserved,
  inventoryUpdated,
  inventoryUpdateFailed,
  orderCancelled,
  orderPlaced,
  paymentProcessed,
  productCreated,
  returnReceived,
  shipmentDispatched,
} from '@shopsphere/contracts'
import {
  addOrder,
  addProduct,
  changeAll,
  enterInLedger,
  findOrder,
  hold,
  type LedgerEntry,
  type LevelChange,
  setSent,
  setState,
} from './queries.ts'
import { keptFor, minus, plus, type SkuUnits, type StockOrder, unitsBySku, unitsOf } from './stock.ts'

export type HandlerOptions = {
  clock: Clock
  /** T1: how long an order may wait for its payment. */
  holdMs: number
}

type Context = Pick<HandlerContext, 'tx' | 'publish' | 'cancel'>
type Publishing = Pick<Context, 'publish'>

/** The timer's id: T1. */
const holdTimer = (orderId: string) => `T1:${orderId}`

export function hear(bus: Bus, { clock, holdMs }: HandlerOptions): void {
  bus.subscribe(productCreated, ({ sku }, { tx }) => addProduct(tx, sku))

  bus.subscribe(orderPlaced, async ({ orderId, lines }, context) => {
    const { tx, publish } = context
    const wanted = unitsBySku(lines)
    const at = clock.now()
    if (!(await addOrder(tx, orderId, { state: 'held', wanted, at }))) return
    const { short, changes } = await hold(tx, wanted)
    if (short.length > 0) {
      await setState(tx, orderId, 'failed', at)
      publish(inventoryReservationFailed, { orderId, short })
      return
    }
    tellLevels(context, changes)
    publish(inventoryReserved, { orderId, holdExpiresAt: at + holdMs })
    publish(inventoryHoldExpiryDue, { orderId }, { at: at + holdMs, id: holdTimer(orderId) })
  })

  bus.subscribe(inventoryHoldExpiryDue, async ({ orderId }, context) => {
    const order = await findOrder(context.tx, orderId)
    if (order?.state !== 'held' && order?.state !== 'lost') return
    const at = clock.now()
    await release(context, order)
    await setState(context.tx, orderId, 'expired', at)
    context.publish(inventoryReservationExpired, { orderId, expiredAt: at })
  })

  bus.subscribe(paymentProcessed, async ({ orderId }, context) => {
    const order = await findOrder(context.tx, orderId)
    if (!order) throw new Error(`${orderId} is paid, but order.placed has not arrived here`)
    await allocate(order, context, clock.now())
  })

  bus.subscribe(orderCancelled, async ({ orderId }, context) => {
    const at = clock.now()
    const order = await findOrder(context.tx, orderId)
    // Remembered, so that an order.placed which comes after all holds nothing.
    if (!order) return void (await addOrder(context.tx, orderId, { state: 'released', wanted: [], at }))
    await callOff(order, context, at)
  })

  bus.subscribe(shipmentDispatched, (shipment, context) => sendOff(shipment, context, clock.now()))
  bus.subscribe(returnReceived, (goods, context) => takeBack(goods, context, clock.now()))
}

async function allocate(order: StockOrder, { tx, publish, cancel }: Context, at: number): Promise<void> {
  const { orderId, state, wanted, short } = order
  if (state === 'held') {
    await changeAll(tx, wanted, (units) => ({ held: -units, allocated: units }))
    await setState(tx, orderId, 'allocated', at)
    await cancel(holdTimer(orderId))
    publish(inventoryUpdated, { orderId, allocatedUnits: unitsOf(wanted) })
  } else if (state === 'lost') {
    await setState(tx, orderId, 'refused', at)
    await cancel(holdTimer(orderId))
    publish(inventoryUpdateFailed, { orderId, reason: 'stock_lost', short: [...(short ?? [])] })
  } else if (state === 'expired' || state === 'failed') {
    await setState(tx, orderId, 'refused', at)
    publish(inventoryUpdateFailed, { orderId, reason: 'hold_gone', short: [] })
  }
  // Otherwise it is a repeat, or the order is off and payment gives the money back.
}

async function callOff(order: StockOrder, context: Context, at: number): Promise<void> {
  const { orderId, state } = order
  if (state === 'dispatched' || state === 'released') return
  const released = await release(context, order)
  await setState(context.tx, orderId, 'released', at)
  if (state === 'held' || state === 'lost') await context.cancel(holdTimer(orderId))
  if ((state === 'held' || state === 'allocated') && released > 0)
    context.publish(inventoryReleased, { orderId, was: state, releasedUnits: released })
}

/** Makes what the order holds or was promised available again; answers how many units. */
async function release(context: Context, order: StockOrder): Promise<number> {
  const kept = keptFor(order)
  const from = order.state === 'held' ? 'held' : 'allocated'
  tellLevels(context, await changeAll(context.tx, kept, (units) => ({ available: units, [from]: -units })))
  return unitsOf(kept)
}

async function sendOff(shipment: DataOf<typeof shipmentDispatched>, context: Context, at: number): Promise<void> {
  const { orderId, shipmentId, lines, last } = shipment
  const { tx } = context
  const parcel = unitsBySku(lines)
  if (!(await enterParcel(tx, shipmentId, parcel, at))) return
  const order = await findOrder(tx, orderId)
  if (!order) throw new Error(`${shipmentId} left for ${orderId}, but order.placed has not arrived here`)
  // A write-off took its stock, yet the parcel left: what it took along was available again.
  const wasLost = order.state === 'lost' || order.state === 'refused'
  if (order.state !== 'allocated' && !wasLost) {
    throw new PermanentError(
      `${shipmentId} left for ${orderId}, whose stock is ${order.state} and not allocated: count it, book the difference as a receipt or write-off`,
    )
  }
  const sent = plus(order.sent, parcel)
  const left = minus(order.wanted, sent)
  if (!left) throw new PermanentError(`${shipmentId} has more of a product than ${orderId} was allocated`)
  if (wasLost) return tellLevels(context, await changeAll(tx, parcel, (units) => ({ available: -units })))
  await changeAll(tx, parcel, (units) => ({ allocated: -units }))
  // Nothing follows the last parcel: what it left behind is no longer promised to anybody.
  if (last) tellLevels(context, await changeAll(tx, left, (units) => ({ allocated: -units, available: units })))
  const isDone = last || left.length === 0
  await setSent(tx, orderId, { state: isDone ? 'dispatched' : 'allocated', sent, at })
}

/** False where this parcel has been entered before. */
async function enterParcel(tx: Tx, shipmentId: string, parcel: readonly SkuUnits[], at: number): Promise<boolean> {
  const entries = parcel.map(
    ([sku, units]): LedgerEntry => ({
      sku,
      reference: shipmentId,
      kind: 'dispatch',
      change: -units,
      reason: null,
      at,
    }),
  )
  return (await enterInLedger(tx, entries)).length > 0
}

/** What comes back is on hand; what nobody can buy any more leaves again at once, so that the ledger shows both. */
async function takeBack(goods: DataOf<typeof returnReceived>, context: Context, at: number): Promise<void> {
  const { returnId, lines } = goods
  const came = unitsBySku(lines)
  const thrownAway = unitsBySku(lines.filter(({ restock }) => !restock))
  const entry = (kind: 'return' | 'write_off', [sku, units]: SkuUnits): LedgerEntry =>
    kind === 'return'
      ? { sku, reference: returnId, kind, change: units, reason: null, at }
      : { sku, reference: `${returnId}:write_off`, kind, change: -units, reason: 'returned_unsaleable', at }
  const entered = await enterInLedger(context.tx, [
    ...came.map((line) => entry('return', line)),
    ...thrownAway.map((line) => entry('write_off', line)),
  ])
  const change = unitsBySku(entered.map((one) => ({ sku: one.sku, quantity: one.change })))
  const restocked = change.filter(([, units]) => units !== 0)
  tellLevels(context, await changeAll(context.tx, restocked, (units) => ({ available: units })))
}

export function tellLevels({ publish }: Publishing, changes: readonly LevelChange[]): void {
  for (const change of changes) publish(inventoryLevelChanged, change)
}
