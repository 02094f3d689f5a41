/**
 * An endpoint is a plain queue, topic or channel of a broker that belongs to somebody else, seen as little as a bridge needs
 * it. Unlike a transport it has no subscriptions, keys or promises of its own: what its broker promises is what there is.
 */
import type { Log } from './log.ts'
import type { TransportState } from './transport.ts'

/** What programs say to each other there. */
export type Note = {
  /** The bytes as they came, or as they are to go. */
  readonly body: Buffer
  readonly headers: Readonly<Record<string, string>>
  /** Its author's own id for it, by which a repeat is known; null: it has none. */
  readonly id: string | null
  /** Where the broker orders by key; null: it does not, or there is none. */
  readonly key: string | null
}

/** A note that came, and is to be settled. */
export type Arrival = Note & {
  /** True where it was delivered before, and whoever had it may have died. */
  readonly redelivered: boolean
}

export type ReceiveOptions = {
  /** Processes that say the same name share what comes, where the broker knows such a thing. */
  readonly name: string
  /** Handed over and not yet settled: never more than this. */
  readonly windowMax: number
  /** Must return at once. */
  readonly receive: (arrivals: Arrival[]) => void
  /** What was handed over and is not settled comes again: it must not be begun any more. */
  readonly lost: () => void
}

export type Endpoint = {
  /** For people: `rabbitmq queue order_events`. No address, since addresses have passwords in them. */
  readonly name: string
  /**
   * Connects, and from then on connects again by itself. Resolves also where the broker is away: `state` says so. Rejects
   * with BusError `transport_refused` where waiting cannot help, saying what to change. Opening twice is fine.
   */
  open(context: { readonly log: Log }): Promise<void>
  state(): TransportState
  /** Begins to hand over what comes, on this connection and on those after it. */
  receive(options: ReceiveOptions): Promise<void>
  /** `taken`: it is in our hands, durably. `refused`: it is, and its broker may do what it does with what nobody understands. */
  settle(arrival: Arrival, outcome: 'taken' | 'refused'): void
  /** Resolves when the broker has it. Rejects with UnavailableError where that is not known; then it may be sent again. */
  send(note: Note): Promise<void>
  /** Notes that wait there; 0 where the broker does not say. */
  waiting(): Promise<number>
  /** Hands over no more, tells the broker what was settled, leaves. Closing twice is fine. */
  close(): Promise<void>
}
