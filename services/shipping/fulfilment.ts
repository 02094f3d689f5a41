/**
 * What shipping decides about one order: its parcels, the carrier's news of them, and who wins when somebody calls off
 * what is about to leave. Pure: a state and a command give facts; a state and a fact give the next state.
 *
 * Facts with the names of contracts are told to everybody; the others stay here.
 */
import type { DataOf } from '@shopsphere/bus'
import type {
  Address,
  orderDelivered,
  orderPartiallyShipped,
  orderShipped,
  PartLine,
  shipmentCancellationRefused,
  shipmentCancelled,
  shipmentCreated,
  shipmentDelivered,
  shipmentDispatched,
  shipmentException,
  shipmentReturned,
  shipmentTrackingUpdated,
} from '@shopsphere/contracts'
import { type CarrierNews, type ParcelLimits, troubleStatuses } from './carrier.ts'
import { pack } from './packing.ts'

/**
 * `waiting`: in its grace; `packed`: parcels are made, none has left; `partly_sent`: some have left; `sent`: all have;
 * `delivered`: each reached the customer (or was refunded); `unknown`: nobody has confirmed such an order.
 */
export type FulfilmentStatus = 'unknown' | 'waiting' | 'packed' | 'partly_sent' | 'sent' | 'delivered' | 'cancelled'

export type Problem = DataOf<typeof shipmentException>['kind'] | 'returned'

export type Parcel = {
  readonly shipmentId: string
  /** From 1 within its order. */
  readonly no: number
  /** 1; one more each time that the same parcel is sent again. */
  readonly sending: number
  readonly lines: readonly PartLine[]
  readonly status: 'packed' | 'under_way' | 'delivered' | 'returned' | 'refunded'
  /** What a person has to look at. */
  readonly problem: Problem | null
  /** Bookings that failed since it was packed. */
  readonly failures: number
  readonly carrier: string | null
  readonly trackingNumber: string | null
  /** When it first left; null: it never did. */
  readonly dispatchedAt: number | null
  readonly deliveredAt: number | null
  /** T6 runs. */
  readonly watched: boolean
  /** The carrier's news that were told. */
  readonly told: readonly CarrierNews[]
}

export type Fulfilment = {
  readonly orderId: string
  readonly customerId: string | null
  readonly email: string | null
  readonly address: Address | null
  readonly placedAt: number
  readonly confirmedAt: number
  readonly status: FulfilmentStatus
  readonly lines: readonly PartLine[]
  readonly parcels: readonly Parcel[]
  /** Line number → units that were asked back and not refused. */
  readonly askedBack: Readonly<Record<number, number>>
  readonly deliveredAt: number | null
  /** The customer's account is gone. */
  readonly forget: boolean
}

/** What the carrier said to a booking; `unavailable`: nothing, for now. */
export type BookingOutcome =
  | { readonly kind: 'booked'; readonly trackingNumber: string; readonly nextNewsAtMs: number | null }
  | { readonly kind: 'refused'; readonly problem: 'address_unknown'; readonly detail: string }
  | { readonly kind: 'unavailable' }

/** A parcel that has to be booked. */
export type PlannedParcel = { readonly no: number; readonly sending: number; readonly lines: readonly PartLine[] }

export type Command =
  | {
      readonly type: 'send'
      readonly parcels: readonly (PlannedParcel & { shipmentId: string; outcome: BookingOutcome })[]
      readonly carrier: string
      readonly shippingDeadlineMs: number
      readonly at: number
    }
  | { readonly type: 'cancel' }
  | { readonly type: 'call_off' }
  | {
      readonly type: 'hear'
      readonly shipmentId: string
      readonly history: readonly CarrierNews[]
      /** Undefined: it was not asked, so what was planned stays. */
      readonly nextNewsAtMs?: number | null
      readonly at: number
    }
  /** T5 and T6. */
  | { readonly type: 'miss_dispatch'; readonly shipmentId: string; readonly detail: string; readonly at: number }
  | { readonly type: 'miss_news'; readonly shipmentId: string; readonly detail: string; readonly at: number }
  | { readonly type: 'send_again'; readonly shipmentId: string; readonly address: Address | null }
  | { readonly type: 'refund'; readonly shipmentId: string; readonly at: number }

type FactData = {
  'shipment.created': DataOf<typeof shipmentCreated>
  'shipment.dispatched': DataOf<typeof shipmentDispatched>
  'shipment.tracking_updated': DataOf<typeof shipmentTrackingUpdated>
  'shipment.delivered': DataOf<typeof shipmentDelivered>
  'shipment.exception': DataOf<typeof shipmentException>
  'shipment.returned': DataOf<typeof shipmentReturned>
  'shipment.cancelled': DataOf<typeof shipmentCancelled>
  'shipment.cancellation_refused': DataOf<typeof shipmentCancellationRefused>
  'order.partially_shipped': DataOf<typeof orderPartiallyShipped>
  'order.shipped': DataOf<typeof orderShipped>
  'order.delivered': DataOf<typeof orderDelivered>
  /** The carrier could not be asked; `deadlineAt`: the alert T5, to be set now. */
  booking_postponed: { shipmentId: string; againAt: number; deadlineAt: number | null }
  news_expected: { shipmentId: string; at: number }
  /** T6 begins, or begins anew. */
  silence_watched: { shipmentId: string }
  silence_over: { shipmentId: string }
  parcel_repacked: { shipmentId: string; address: Address | null }
  parcel_sent_again: { shipmentId: string; trackingNumber: string }
  parcel_refunded: { shipmentId: string }
  order_called_off: { orderId: string }
}
export type Fact = { [Type in keyof FactData]: { readonly type: Type; readonly data: FactData[Type] } }[keyof FactData]

/** A person's command does not fit what has happened; the message says what would. */
export class Contradiction extends Error {
  override readonly name = 'Contradiction'
}

const BOOKING_RETRY_FIRST_MS = 60_000
const BOOKING_RETRY_LONGEST_MS = 3_600_000
/** Pieces of news that one parcel's row keeps; beyond them only its end is told. */
const NEWS_KEPT_MAX = 200

export function unknownOrder(orderId: string): Fulfilment {
  return {
    orderId,
    customerId: null,
    email: null,
    address: null,
    placedAt: 0,
    confirmedAt: 0,
    status: 'unknown',
    lines: [],
    parcels: [],
    askedBack: {},
    deliveredAt: null,
    forget: false,
  }
}

/** The parcels that the carrier has to be asked for now. */
export function parcelsToBook(state: Fulfilment, limits: ParcelLimits): PlannedParcel[] {
  if (state.status === 'unknown' || state.status === 'cancelled') return []
  if (state.status === 'waiting')
    return pack(state.lines, limits).map((lines, at) => ({ no: at + 1, sending: 1, lines }))
  return state.parcels.filter(isBookable)
}

/** Under which the carrier knows it. */
export function referenceOf(orderId: string, { no, sending }: { no: number; sending: number }): string {
  return `${orderId}:${no}:${sending}`
}

/** The parts of a reference of ours; null: it is none. */
export function readReference(reference: string): { orderId: string; no: number; sending: number } | null {
  const [, orderId, no, sending] = /^([^:]+):(\d{1,4}):(\d{1,4})$/.exec(reference) ?? []
  return orderId === undefined ? null : { orderId, no: Number(no), sending: Number(sending) }
}

const isBookable = ({ status, problem }: Parcel) => status === 'packed' && problem !== 'address_unknown'
const hasEnded = ({ status }: Parcel) => status === 'delivered' || status === 'refunded'

/** What happens. Throws Contradiction for a person's command that cannot be followed; for events and timers, never. */
export function decide(state: Fulfilment, command: Command): readonly Fact[] {
  switch (command.type) {
    case 'send':
      return send(state, command)
    case 'cancel':
      return cancel(state)
    case 'call_off':
      return hasNothingSent(state) ? [{ type: 'order_called_off', data: { orderId: state.orderId } }] : []
    case 'hear':
      return hear(state, command)
    case 'miss_dispatch':
      return missDispatch(state, command)
    case 'miss_news':
      return missNews(state, command)
    case 'send_again':
      return sendAgain(state, command)
    case 'refund':
      return refund(state, command)
  }
}

type CommandOf<Type extends Command['type']> = Extract<Command, { type: Type }>

/** Collects facts, each decided on the state after the one before. */
function telling(state: Fulfilment) {
  const facts: Fact[] = []
  return {
    facts,
    now: state,
    say(fact: Fact) {
      facts.push(fact)
      this.now = evolve(this.now, fact)
    },
  }
}

/** Makes the parcels that are not made yet, and sends those that the carrier takes. */
function send(state: Fulfilment, { parcels, carrier, shippingDeadlineMs, at }: CommandOf<'send'>): Fact[] {
  if (state.status === 'unknown' || state.status === 'cancelled') return []
  const { orderId, customerId, email, address } = state
  const story = telling(state)
  if (state.parcels.length === 0) {
    for (const { shipmentId, lines } of parcels)
      story.say({ type: 'shipment.created', data: { shipmentId, orderId, customerId, lines: [...lines], address } })
  }
  for (const { no, outcome } of parcels) {
    const parcel = story.now.parcels.find((candidate) => candidate.no === no)
    if (!parcel || !isBookable(parcel)) continue
    const { shipmentId } = parcel
    const lines = [...parcel.lines]
    if (outcome.kind === 'unavailable') {
      const againAt = at + Math.min(BOOKING_RETRY_FIRST_MS * 2 ** parcel.failures, BOOKING_RETRY_LONGEST_MS)
      const deadlineAt = parcel.failures === 0 ? Math.max(at, state.confirmedAt + shippingDeadlineMs) : null
      story.say({ type: 'booking_postponed', data: { shipmentId, againAt, deadlineAt } })
      continue
    }
    if (outcome.kind === 'refused') {
      const { problem: kind, detail } = outcome
      story.say({ type: 'shipment.exception', data: { shipmentId, orderId, kind, detail, occurredAt: at } })
      continue
    }
    const { trackingNumber, nextNewsAtMs } = outcome
    if (parcel.dispatchedAt !== null) {
      story.say({ type: 'parcel_sent_again', data: { shipmentId, trackingNumber } })
      story.say({
        type: 'shipment.tracking_updated',
        data: { shipmentId, orderId, status: 'accepted', place: null, occurredAt: at },
      })
    } else {
      const last = story.now.parcels.every((other) => other.no === no || other.dispatchedAt !== null)
      const way = { shipmentId, carrier, trackingNumber }
      story.say({ type: 'shipment.dispatched', data: { ...way, orderId, lines, dispatchedAt: at, last } })
      if (last) story.say({ type: 'order.shipped', data: { ...way, orderId, customerId, email, shippedAt: at } })
      else {
        story.say({
          type: 'order.partially_shipped',
          data: { ...way, orderId, customerId, email, lines, shippedAt: at },
        })
      }
    }
    // News that are there at once are asked for at once; only a parcel that takes its time has to be watched.
    if (nextNewsAtMs !== null) story.say({ type: 'news_expected', data: { shipmentId, at: nextNewsAtMs } })
    if (nextNewsAtMs === null || nextNewsAtMs > at) story.say({ type: 'silence_watched', data: { shipmentId } })
  }
  return story.facts
}

const hasNothingSent = ({ status }: Fulfilment) => status === 'unknown' || status === 'waiting' || status === 'packed'

/**
 * The arbiter: whoever is first wins, and the other one hears it. A repeat gets the same answer. An order of which
 * everything that left was refunded may be called off as well: nothing of it is with the customer or on its way there.
 */
function cancel(state: Fulfilment): Fact[] {
  const { orderId } = state
  const kept = state.parcels.find(({ dispatchedAt, status }) => dispatchedAt !== null && status !== 'refunded')
  if (kept === undefined) return [{ type: 'shipment.cancelled', data: { orderId } }]
  const { shipmentId } = kept
  return [{ type: 'shipment.cancellation_refused', data: { orderId, shipmentId, reason: 'already_shipped' } }]
}

/** Tells what is new in a history; repeats, and what comes after the parcel's end, tell nothing. */
function hear(state: Fulfilment, { shipmentId, history, nextNewsAtMs, at }: CommandOf<'hear'>): Fact[] {
  const story = telling(state)
  const parcel = () => story.now.parcels.find((candidate) => candidate.shipmentId === shipmentId)
  const before = parcel()
  if (before?.status !== 'under_way') return []
  const fresh = history.filter((news) => !before.told.some((told) => isSame(told, news)))
  for (const news of fresh) {
    const now = parcel()!
    if (now.status !== 'under_way') break
    const fact = factOf(story.now, now, news)
    if (fact) story.say(fact)
  }
  const after = parcel()!
  if (after.status !== 'under_way') {
    if (after.watched) story.say({ type: 'silence_over', data: { shipmentId } })
    return endWhenAllArrived(story)
  }
  if (after.problem === null && (fresh.length > 0 || !after.watched))
    story.say({ type: 'silence_watched', data: { shipmentId } })
  if (nextNewsAtMs != null)
    story.say({ type: 'news_expected', data: { shipmentId, at: Math.max(nextNewsAtMs, at + 1) } })
  return story.facts
}

const isSame = (a: CarrierNews, b: CarrierNews) => a.status === b.status && a.occurredAt === b.occurredAt

/** What a piece of news means; null: nothing that is told. */
function factOf({ orderId }: Fulfilment, parcel: Parcel, { status, place, occurredAt }: CarrierNews): Fact | null {
  const { shipmentId, lines } = parcel
  switch (status) {
    case 'delivered': {
      // A carrier's clock is not ours: nothing arrives before it left.
      const deliveredAt = Math.max(occurredAt, parcel.dispatchedAt ?? 0)
      return { type: 'shipment.delivered', data: { shipmentId, orderId, deliveredAt } }
    }
    case 'returned':
      return {
        type: 'shipment.returned',
        data: { shipmentId, orderId, lines: [...lines], reason: 'undeliverable', returnedAt: occurredAt },
      }
    case 'lost':
    case 'damaged':
    case 'address_unknown':
      return {
        type: 'shipment.exception',
        data: { shipmentId, orderId, kind: status, detail: place && `last seen in ${place}`, occurredAt },
      }
    default:
      return parcel.told.length >= NEWS_KEPT_MAX
        ? null
        : { type: 'shipment.tracking_updated', data: { shipmentId, orderId, status, place, occurredAt } }
  }
}

function endWhenAllArrived(story: ReturnType<typeof telling>): Fact[] {
  const { status, parcels, orderId, customerId, email } = story.now
  if (status === 'sent' && parcels.every(hasEnded) && parcels.some((parcel) => parcel.status === 'delivered')) {
    const deliveredAt = Math.max(...parcels.map((parcel) => parcel.deliveredAt ?? 0))
    story.say({ type: 'order.delivered', data: { orderId, customerId, email, deliveredAt } })
  }
  return story.facts
}

function missDispatch(state: Fulfilment, { shipmentId, detail, at }: CommandOf<'miss_dispatch'>): Fact[] {
  const parcel = state.parcels.find((candidate) => candidate.shipmentId === shipmentId)
  if (state.status === 'cancelled' || parcel?.status !== 'packed' || parcel.problem !== null) return []
  const { orderId } = state
  return [
    {
      type: 'shipment.exception',
      data: { shipmentId, orderId, kind: 'not_dispatched', detail, occurredAt: at },
    },
  ]
}

function missNews(state: Fulfilment, { shipmentId, detail, at }: CommandOf<'miss_news'>): Fact[] {
  const parcel = state.parcels.find((candidate) => candidate.shipmentId === shipmentId)
  if (parcel?.status !== 'under_way' || parcel.problem !== null) return []
  const { orderId } = state
  return [{ type: 'shipment.exception', data: { shipmentId, orderId, kind: 'no_news', detail, occurredAt: at } }]
}

/**
 * The very same parcel goes out again: no stock moves and nothing is captured. A lost or damaged one would need new units,
 * which are the stock's to give, so it can only be refunded and ordered anew.
 */
function sendAgain(state: Fulfilment, { shipmentId, address }: CommandOf<'send_again'>): Fact[] {
  const parcel = parcelOf(state, shipmentId)
  const neverLeft = parcel.status === 'packed' && parcel.problem !== null
  if (state.status === 'cancelled' || !(parcel.status === 'returned' || neverLeft)) {
    throw new Contradiction(
      'Only a parcel that came back, or that the carrier did not take, can be sent again. Refund a lost or damaged one.',
    )
  }
  return [{ type: 'parcel_repacked', data: { shipmentId, address } }]
}

function refund(state: Fulfilment, { shipmentId }: CommandOf<'refund'>): Fact[] {
  const parcel = parcelOf(state, shipmentId)
  if (parcel.status !== 'returned' && !(parcel.status === 'under_way' && parcel.problem !== null)) {
    throw new Contradiction(
      'Only a parcel that left and came back, got lost or is in trouble is refunded here. Cancel an order that has not left; return one that arrived.',
    )
  }
  const story = telling(state)
  story.say({ type: 'parcel_refunded', data: { shipmentId } })
  if (parcel.watched) story.say({ type: 'silence_over', data: { shipmentId } })
  return endWhenAllArrived(story)
}

function parcelOf({ parcels }: Fulfilment, shipmentId: string): Parcel {
  const parcel = parcels.find((candidate) => candidate.shipmentId === shipmentId)
  if (!parcel) throw new Contradiction(`The order has no parcel ${shipmentId}.`)
  return parcel
}

export function evolve(state: Fulfilment, fact: Fact): Fulfilment {
  switch (fact.type) {
    case 'shipment.created':
      return { ...state, status: 'packed', parcels: [...state.parcels, newParcel(state.parcels.length + 1, fact.data)] }
    case 'booking_postponed':
      return changed(state, fact.data.shipmentId, ({ failures }) => ({ failures: failures + 1 }))
    case 'shipment.dispatched': {
      const { carrier, trackingNumber, dispatchedAt } = fact.data
      return changed(state, fact.data.shipmentId, () => ({
        status: 'under_way',
        problem: null,
        carrier,
        trackingNumber,
        dispatchedAt,
      }))
    }
    case 'parcel_sent_again': {
      const { trackingNumber } = fact.data
      return changed(state, fact.data.shipmentId, () => ({ status: 'under_way', trackingNumber }))
    }
    case 'order.partially_shipped':
      return { ...state, status: 'partly_sent' }
    case 'order.shipped':
      return { ...state, status: 'sent' }
    case 'shipment.tracking_updated': {
      const { status, place, occurredAt } = fact.data
      return changed(state, fact.data.shipmentId, ({ told }) => ({
        problem: null,
        told: [...told, { status, place, occurredAt }],
      }))
    }
    case 'shipment.delivered': {
      const { deliveredAt } = fact.data
      return changed(state, fact.data.shipmentId, () => ({ status: 'delivered', problem: null, deliveredAt }))
    }
    case 'order.delivered':
      return { ...state, status: 'delivered', deliveredAt: fact.data.deliveredAt }
    case 'shipment.exception': {
      const { kind, occurredAt } = fact.data
      return changed(state, fact.data.shipmentId, ({ told }) => ({
        problem: kind,
        told: isTrouble(kind) ? [...told, { status: kind, place: null, occurredAt }] : told,
      }))
    }
    case 'shipment.returned': {
      const { returnedAt: occurredAt } = fact.data
      return changed(state, fact.data.shipmentId, ({ told }) => ({
        status: 'returned',
        problem: 'returned',
        told: [...told, { status: 'returned', place: null, occurredAt }],
      }))
    }
    case 'silence_watched':
      return changed(state, fact.data.shipmentId, () => ({ watched: true }))
    case 'silence_over':
      return changed(state, fact.data.shipmentId, () => ({ watched: false }))
    case 'parcel_repacked':
      return {
        ...changed(state, fact.data.shipmentId, ({ sending }) => ({
          status: 'packed',
          sending: sending + 1,
          problem: null,
          failures: 0,
        })),
        address: fact.data.address ?? state.address,
      }
    case 'parcel_refunded':
      return changed(state, fact.data.shipmentId, () => ({ status: 'refunded', problem: null }))
    case 'shipment.cancelled':
    case 'order_called_off':
      return { ...state, status: 'cancelled' }
    case 'shipment.cancellation_refused':
    case 'news_expected':
      return state
  }
}

const isTrouble = (kind: string): kind is (typeof troubleStatuses)[number] =>
  (troubleStatuses as readonly string[]).includes(kind)

function newParcel(no: number, { shipmentId, lines }: FactData['shipment.created']): Parcel {
  return {
    shipmentId,
    no,
    sending: 1,
    lines,
    status: 'packed',
    problem: null,
    failures: 0,
    carrier: null,
    trackingNumber: null,
    dispatchedAt: null,
    deliveredAt: null,
    watched: false,
    told: [],
  }
}

function changed(state: Fulfilment, shipmentId: string, change: (parcel: Parcel) => Partial<Parcel>): Fulfilment {
  const parcels = state.parcels.map((parcel) =>
    parcel.shipmentId === shipmentId ? { ...parcel, ...change(parcel) } : parcel,
  )
  return { ...state, parcels }
}
