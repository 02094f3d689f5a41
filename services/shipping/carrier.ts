/** What shipping asks of a carrier. The simulator implements it; an adapter for a real one would be a file like that. */
import type { Address } from '@shopsphere/contracts'

export type ParcelLimits = {
  /** Lines of an order that one parcel takes. */
  readonly linesPerParcelMax: number
  /** Units that one parcel takes, of all lines together. */
  readonly unitsPerParcelMax: number
}

export type BookingRequest = {
  /** Ours, unique for ever: the same reference is the same booking, however often it is asked for. */
  readonly reference: string
  /** When the parcel can be collected, milliseconds since the epoch. */
  readonly collectAtMs: number
  /** Null: the buyer gave none. */
  readonly address: Address | null
  readonly units: number
}

export type Booking = {
  /** At most 64 characters. A carrier may use one again: only our reference names a parcel. */
  readonly trackingNumber: string
  /** When to ask for news, milliseconds since the epoch; null: the carrier calls us. */
  readonly nextNewsAtMs: number | null
}

export const underWayStatuses = ['accepted', 'in_transit', 'out_for_delivery', 'delivery_attempted'] as const
export const troubleStatuses = ['lost', 'damaged', 'address_unknown'] as const
export const newsStatuses = [...underWayStatuses, ...troubleStatuses, 'delivered', 'returned'] as const

export type CarrierNews = {
  readonly status: (typeof newsStatuses)[number]
  readonly place: string | null
  /** Milliseconds since the epoch. */
  readonly occurredAt: number
}

export type Tracking = {
  /** Everything that ever happened to the parcel, the oldest first, each time anew. */
  readonly history: readonly CarrierNews[]
  /** When it is worth asking again; null: not before the carrier calls. */
  readonly nextNewsAtMs: number | null
}

export type Carrier = {
  /** A code: `royal_mail`. */
  readonly name: string
  readonly limits: ParcelLimits
  /**
   * Asks for a parcel to be collected. One that is never handed over costs nothing and lapses.
   * Throws CarrierRefusal where asking again cannot help; whatever else it throws means: not now.
   */
  book(request: BookingRequest, signal?: AbortSignal): Promise<Booking>
  /** Throws where the carrier cannot be asked now. */
  track(parcel: { reference: string; trackingNumber: string }, signal?: AbortSignal): Promise<Tracking>
}

/** The carrier will not take the parcel as it is. */
export class CarrierRefusal extends Error {
  override readonly name = 'CarrierRefusal'
  readonly kind: 'address_unknown'

  constructor(kind: 'address_unknown', message: string) {
    super(message)
    this.kind = kind
  }
}
