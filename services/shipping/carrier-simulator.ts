/**
 * A carrier without vans. Like real ones it knows a booking by our reference, tells a parcel's whole history each time
 * and is away now and then; some answers are lost after the booking was made.
 *
 * A tracking number holds all that it needs to know of a parcel, so it forgets none when its process ends. What becomes
 * of a parcel is decided by the postcode it goes to, as test cards decide what becomes of a payment:
 * `SIM LOST`, `SIM DAMAGED`, `SIM RETURNED`, `SIM SILENT` (accepted, then no news at all), `SIM REFUSED` (no booking);
 * any other is delivered.
 */
import type { Clock, Random } from '@shopsphere/bus'
import {
  type Booking,
  type BookingRequest,
  type Carrier,
  type CarrierNews,
  CarrierRefusal,
  type ParcelLimits,
  type Tracking,
} from './carrier.ts'

export type CarrierSimulatorOptions = {
  clock: Clock
  /** Decides which calls fail. */
  random: Random
  /** Share of calls that fail, from 0 to 1. */
  failureRate: number
  /** Between two pieces of news, on average. 0: everything happens at once, and only the end of it is told. */
  delayMs: number
  /** Decides, with the reference, how long each step takes. */
  seed: number
  limits?: ParcelLimits
}

export type CarrierSimulator = Carrier & {
  /** From now on this share of calls fails: 1 is an outage. */
  setFailureRate(rate: number): void
}

const ordinaryLimits: ParcelLimits = { linesPerParcelMax: 250, unitsPerParcelMax: 5_000 }
const BOOKINGS_REMEMBERED_MAX = 10_000
const PLACES = ['Birmingham', 'Leeds', 'Bristol', 'Glasgow', 'Norwich', 'Cardiff']

/** What happens to a parcel, step by step, by the letter that its tracking number carries. */
const fates: Readonly<Record<string, readonly CarrierNews['status'][]>> = {
  D: ['accepted', 'in_transit', 'out_for_delivery', 'delivered'],
  L: ['accepted', 'in_transit', 'lost'],
  B: ['accepted', 'in_transit', 'damaged'],
  R: ['accepted', 'in_transit', 'delivery_attempted', 'returned'],
  S: ['accepted'],
}
const fateOfPostcode: Readonly<Record<string, string>> = {
  'SIM LOST': 'L',
  'SIM DAMAGED': 'B',
  'SIM RETURNED': 'R',
  'SIM SILENT': 'S',
}

export function createCarrierSimulator(options: CarrierSimulatorOptions): CarrierSimulator {
  const { clock, random, delayMs, seed, limits = ordinaryLimits } = options
  let { failureRate } = options
  const bookings = new Map<string, Booking>()

  function book({ reference, collectAtMs, address }: BookingRequest): Booking {
    const known = bookings.get(reference)
    if (known) return known
    const postcode = address?.postcode.toUpperCase() ?? ''
    if (postcode === 'SIM REFUSED') throw new CarrierRefusal('address_unknown', `nobody delivers to ${postcode}`)
    const trackingNumber = numberOf(collectAtMs, fateOfPostcode[postcode] ?? 'D', hash(seed, reference))
    const booking = { trackingNumber, nextNewsAtMs: planOf(trackingNumber, delayMs)[0]?.occurredAt ?? null }
    if (bookings.size >= BOOKINGS_REMEMBERED_MAX) bookings.delete(bookings.keys().next().value!)
    bookings.set(reference, booking)
    return booking
  }

  function track(trackingNumber: string): Tracking {
    const plan = planOf(trackingNumber, delayMs)
    const nowMs = clock.now()
    return {
      history: plan.filter(({ occurredAt }) => occurredAt <= nowMs),
      nextNewsAtMs: plan.find(({ occurredAt }) => occurredAt > nowMs)?.occurredAt ?? null,
    }
  }

  const fails = () => failureRate > 0 && random() < failureRate

  return {
    name: 'simulated',
    limits,
    async book(request) {
      const isAway = fails()
      // Half of the failures are answers that get lost on the way back.
      if (!isAway || random() < 0.5) {
        const booking = book(request)
        if (!isAway) return booking
      }
      throw new Error('the simulated carrier does not answer')
    },
    async track({ trackingNumber }) {
      if (fails()) throw new Error('the simulated carrier does not answer')
      return track(trackingNumber)
    },
    setFailureRate(rate) {
      failureRate = rate
    },
  }
}

const numberOf = (collectAtMs: number, fate: string, chance: number) =>
  `SIM${collectAtMs.toString(36).toUpperCase()}${fate}${chance.toString(36).toUpperCase().padStart(7, '0')}`

/** All that will happen to the parcel of this number, and when. */
function planOf(trackingNumber: string, delayMs: number): CarrierNews[] {
  const [, collectAt, fate, chance] = /^SIM(\w+)(\w)(\w{7})$/.exec(trackingNumber) ?? []
  if (fate === undefined) return []
  const statuses = fates[fate] ?? []
  let occurredAt = Number.parseInt(collectAt!, 36)
  if (delayMs === 0) {
    const end = statuses.at(-1)!
    return fate === 'S' ? [] : [{ status: end, place: null, occurredAt }]
  }
  return statuses.map((status, step) => {
    const draw = hash(step, chance!)
    // From half of the delay to one and a half.
    occurredAt += Math.max(1, Math.round(delayMs * (0.5 + draw / 2 ** 32)))
    return { status, place: PLACES[draw % PLACES.length]!, occurredAt }
  })
}

/** FNV-1a with a last mix, 32 bits. */
function hash(seed: number, text: string): number {
  let result = 0x811c9dc5 ^ seed
  for (let index = 0; index < text.length; index++) result = Math.imul(result ^ text.charCodeAt(index), 0x01000193)
  result = Math.imul(result ^ (result >>> 16), 0x85ebca6b)
  return (result ^ (result >>> 13)) >>> 0
}
