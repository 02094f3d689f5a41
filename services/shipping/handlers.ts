/** What shipping hears: orders that may leave or must not, its own timers, refunds of returns, accounts that are gone. */
import type { DataOf, HandlerContext, Message, OutsideContext } from '@shopsphere/bus'
import {
  orderCancellationRequested,
  orderCancelled,
  orderConfirmed,
  paymentRefunded,
  shipmentDispatchDue,
  shipmentInvestigationDue,
  shipmentPickingDue,
  shipmentTrackingDue,
  userDeleted,
} from '@shopsphere/contracts'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { type Carrier, CarrierRefusal, type Tracking } from './carrier.ts'
import { type Changes, pickingTimer, tellReturn } from './changes.ts'
import {
  type BookingOutcome,
  type Command,
  type Fulfilment,
  type Parcel,
  type PlannedParcel,
  parcelsToBook,
  referenceOf,
  unknownOrder,
} from './fulfilment.ts'
import { addFulfilment, findFulfilment, findReturn, forgetCustomer, type Stored, saveReturn } from './queries.ts'
import { decideReturn } from './returns.ts'

export type ShippingParts = Pick<ServiceContext, 'bus' | 'clock' | 'config' | 'newId' | 'log'> & {
  carrier: Carrier
  changes: Changes
}

/** Calls of the carrier that run at the same time; what is written after them shares a commit. */
const settings = { concurrency: 64 } as const
/**
 * A carrier that is away for a moment is asked again at once, by the bus, while the order's later messages wait. Longer
 * outages are waited for with a timer, so that the order can be called off meanwhile.
 */
const QUICK_ATTEMPTS_MAX = 3
const ASK_AGAIN_MS = 60_000
const HOUR_MS = 3_600_000

type Booked = PlannedParcel & { outcome: BookingOutcome }
type Asked = Pick<OutsideContext, 'attempt' | 'signal' | 'read'> & { message: Message }

export function hear(parts: ShippingParts): void {
  hearOfOrders(parts)
  hearOfParcels(parts)
  hearOfReturns(parts)
}

function hearOfOrders({ bus, clock, config, newId, log, carrier, changes }: ShippingParts): void {
  const { pickingGraceMs, shippingDeadlineMs } = config.timers
  const book = booking(carrier, log)

  const sending = (booked: readonly Booked[]): Command => ({
    type: 'send',
    parcels: booked.map((parcel) => ({ ...parcel, shipmentId: newId('shp') })),
    carrier: carrier.name,
    shippingDeadlineMs,
    at: clock.now(),
  })

  if (pickingGraceMs === 0) {
    bus.subscribe(
      orderConfirmed,
      {
        outside: (order, asked) => book(fulfilmentOf(order, asked.message), asked),
        handle: async (order, context, booked: Booked[]) => {
          await changes.begin(context, fulfilmentOf(order, context.message), sending(booked))
        },
      },
      settings,
    )
  } else {
    bus.subscribe(
      orderConfirmed,
      async (order, { tx, publish, message }) => {
        const { orderId } = order
        if (!(await addFulfilment(tx, fulfilmentOf(order, message)))) return
        publish(shipmentPickingDue, { orderId }, { delayMs: pickingGraceMs, id: pickingTimer(orderId) })
      },
      settings,
    )
  }

  bus.subscribe(
    shipmentPickingDue,
    {
      outside: async ({ orderId }, asked) => {
        const stored = await asked.read((reader) => findFulfilment(reader, orderId))
        return stored ? { stored, booked: await book(stored.state, asked) } : null
      },
      handle: async (_, context, found: { stored: Stored; booked: Booked[] } | null) => {
        if (found) await changes.change(context, found.stored, sending(found.booked))
      },
    },
    settings,
  )

  bus.subscribe(orderCancellationRequested, async ({ orderId, customerId }, context) => {
    await changes.change(context, await storedOrUnknown(context, orderId, customerId), { type: 'cancel' })
  })

  bus.subscribe(orderCancelled, async ({ orderId, customerId, wasConfirmed }, context) => {
    if (!wasConfirmed) return
    const stored = await storedOrUnknown(context, orderId, customerId)
    const { state } = await changes.change(context, stored, { type: 'call_off' })
    if (state.status !== 'cancelled')
      log.error({ orderId, status: state.status }, 'an order was cancelled although a parcel of it had left')
  })
}

function hearOfParcels({ bus, clock, config, log, carrier, changes }: ShippingParts): void {
  const ask = asking(carrier, log)

  bus.subscribe(
    shipmentTrackingDue,
    {
      outside: ask,
      handle: async ({ shipmentId, orderId }, context, asked: AskedNews | null) => {
        if (!asked) return
        const at = clock.now()
        const { stored, tracking } = asked
        if (tracking) await changes.change(context, stored, { type: 'hear', shipmentId, ...tracking, at })
        else context.publish(shipmentTrackingDue, { shipmentId, orderId }, { delayMs: ASK_AGAIN_MS })
      },
    },
    settings,
  )

  bus.subscribe(
    shipmentInvestigationDue,
    {
      outside: ask,
      handle: async ({ shipmentId }, context, asked: AskedNews | null) => {
        if (!asked) return
        const at = clock.now()
        const { stored, tracking } = asked
        const heard = tracking
          ? await changes.change(context, stored, { type: 'hear', shipmentId, ...tracking, at })
          : stored
        if (newsOf(heard.state, shipmentId) > newsOf(stored.state, shipmentId)) return
        const days = Math.round(config.timers.carrierSilenceMs / (24 * HOUR_MS))
        await changes.change(context, heard, { type: 'miss_news', shipmentId, detail: `nothing for ${days} days`, at })
      },
    },
    settings,
  )

  bus.subscribe(shipmentDispatchDue, async ({ orderId, shipmentId }, context) => {
    const stored = await findFulfilment(context.tx, orderId)
    if (!stored) return
    const hours = Math.round(config.timers.shippingDeadlineMs / HOUR_MS)
    const detail = `not sent within ${hours} hours`
    await changes.change(context, stored, { type: 'miss_dispatch', shipmentId, detail, at: clock.now() })
  })
}

function hearOfReturns({ bus, clock, log }: ShippingParts): void {
  bus.subscribe(paymentRefunded, async ({ orderId, returnId }, { tx, publish }) => {
    if (returnId === null) return
    const goods = await findReturn(tx, returnId)
    const stored = await findFulfilment(tx, orderId)
    if (!goods || !stored || (goods.state !== 'received' && goods.outcome !== 'refunded')) {
      log.error({ orderId, returnId, state: goods?.state }, 'a return was refunded that was not received')
      return
    }
    const { state: order } = stored
    const closing = { type: 'close', order, outcome: 'refunded', reason: null, at: clock.now() } as const
    const closed = decideReturn(goods, closing)
    if (closed.fact && (await saveReturn(tx, closed.goods, goods.state))) tellReturn({ publish }, closed.fact)
  })

  bus.subscribe(userDeleted, ({ userId }, { tx }) => forgetCustomer(tx, userId))
}

function fulfilmentOf(order: DataOf<typeof orderConfirmed>, message: Message): Fulfilment {
  const { orderId, customerId, email, address, placedAt } = order
  return {
    ...unknownOrder(orderId),
    customerId,
    email,
    address,
    placedAt,
    confirmedAt: message.time,
    status: 'waiting',
    lines: order.lines.map(({ lineNo, sku, quantity, unitPence }) => ({ lineNo, sku, quantity, unitPence })),
  }
}

/** Calling off an order that was never heard of leaves a row too: should it be confirmed after all, it stays here. */
async function storedOrUnknown({ tx }: HandlerContext, orderId: string, customerId: string | null): Promise<Stored> {
  const stored = await findFulfilment(tx, orderId)
  return stored ?? { state: { ...unknownOrder(orderId), customerId }, version: 0 }
}

/** Asks the carrier to take the parcels that have to go. */
function booking(carrier: Carrier, log: ServiceContext['log']) {
  const bookOne = async (state: Fulfilment, parcel: PlannedParcel, asked: Asked): Promise<BookingOutcome> => {
    const reference = referenceOf(state.orderId, parcel)
    const units = parcel.lines.reduce((sum, { quantity }) => sum + quantity, 0)
    try {
      const request = { reference, collectAtMs: asked.message.time, address: state.address, units }
      return { kind: 'booked', ...(await carrier.book(request, asked.signal)) }
    } catch (error) {
      if (error instanceof CarrierRefusal) return { kind: 'refused', problem: error.kind, detail: error.message }
      if (asked.attempt <= QUICK_ATTEMPTS_MAX) throw error
      log.warn({ reference, err: error }, 'the carrier cannot be asked; the parcel waits')
      return { kind: 'unavailable' }
    }
  }
  return (state: Fulfilment, asked: Asked): Promise<Booked[]> =>
    Promise.all(
      parcelsToBook(state, carrier.limits).map(async (parcel) => ({
        ...parcel,
        outcome: await bookOne(state, parcel, asked),
      })),
    )
}

/** `tracking` null: the carrier cannot be asked now. */
type AskedNews = { stored: Stored; tracking: Tracking | null }

/** Asks the carrier how a parcel is; null where nobody waits for news of it. */
function asking(carrier: Carrier, log: ServiceContext['log']) {
  return async (
    { orderId, shipmentId }: { orderId: string; shipmentId: string },
    { attempt, signal, read }: Asked,
  ): Promise<AskedNews | null> => {
    const stored = await read((reader) => findFulfilment(reader, orderId))
    if (!stored) return null
    const parcel = parcelOf(stored.state, shipmentId)
    if (parcel?.status !== 'under_way') return null
    const reference = referenceOf(orderId, parcel)
    try {
      return { stored, tracking: await carrier.track({ reference, trackingNumber: parcel.trackingNumber! }, signal) }
    } catch (error) {
      if (attempt <= QUICK_ATTEMPTS_MAX) throw error
      log.warn({ reference, err: error }, 'the carrier cannot be asked for news; asked again later')
      return { stored, tracking: null }
    }
  }
}

const parcelOf = (state: Fulfilment, shipmentId: string): Parcel | undefined =>
  state.parcels.find((parcel) => parcel.shipmentId === shipmentId)

/** Grows with each piece of news of a parcel, its end included. */
function newsOf(state: Fulfilment, shipmentId: string): number {
  const parcel = parcelOf(state, shipmentId)
  return parcel ? parcel.told.length + (parcel.status === 'under_way' ? 0 : 1) : 0
}
