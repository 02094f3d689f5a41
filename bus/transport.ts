/**
 * A broker, asked for only four things: take a batch and confirm it, deliver what matches to each subscription, forget
 * what was acknowledged, and say how much is waiting. Retries, dead letters, order behind a failure, timers and
 * exactly-once effects are the bus's own work, in the service's store.
 *
 * A transport is whatever passes `transportSuite` (testing/transport-suite.ts).
 */
import type { WireMessage } from './message.ts'

/** Which messages a subscription gets. The four exchange types of AMQP 0-9-1 behave alike on every transport. */
export type Binding =
  | { readonly kind: 'topic'; readonly pattern: string } // words separated by dots; `*` is one word, `#` any number
  | { readonly kind: 'direct'; readonly type: string } // exactly this type
  | { readonly kind: 'fanout' } // everything
  | { readonly kind: 'headers'; readonly match: 'all' | 'any'; readonly headers: Readonly<Record<string, string>> }

export type SubscriptionSpec = {
  /** Durable and unique on the broker; processes that name the same subscription share its work. */
  readonly name: string
  readonly bindings: readonly Binding[]
  /** Where a new subscription begins: `now`, or `beginning` for all that the broker still keeps. */
  readonly from: 'now' | 'beginning'
  /** An ephemeral subscription ends with the process that made it. */
  readonly ephemeral?: boolean
}

/** The right to a part of a subscription's keys. `epoch` grows each time the part changes hands, and fences the loser. */
export type Lease = { readonly shard: number; readonly epoch: number }

export type Delivery = {
  readonly message: WireMessage
  readonly lease: Lease
  /** True where an earlier process may have begun on it and died. */
  readonly redelivered: boolean
}

export type Consumer = {
  /** Forgets these; order does not matter. Not durable at once: after a crash some may be delivered again. */
  ack(deliveries: readonly Delivery[]): void
  /** Stops delivering, writes down what was acknowledged, gives up its leases. Closing twice is fine. */
  close(): Promise<void>
}

export type ConsumeOptions = {
  /** Deliveries handed over and not yet acknowledged: never more than this. */
  readonly windowMax: number
  /** The bytes of their bodies: never more than this, but for one message that is larger, and comes alone. No limit by default. */
  readonly windowBytesMax?: number
  /**
   * Called with the next deliveries, those of one key in the order of publication. It must return at once; the
   * consumer that `consume` answers is ready before the first call.
   */
  readonly receive: (deliveries: Delivery[]) => void
  /** Called when a lease is lost or given up: the deliveries under it must not be begun any more. */
  readonly revoked?: (lease: Lease) => void
}

export type Backlog = {
  /** Messages that match and are not acknowledged. */
  readonly waiting: number
  /** When the oldest of them was published, milliseconds since the epoch; null: none waits. */
  readonly oldestAt: number | null
}

/** A message that the broker itself set aside. */
export type BrokerDeadLetter = {
  /** Null: a stranger published it without one. */
  readonly id: string | null
  readonly type: string
  /** In the broker's words: `rejected`, `expired`, `maxlen`; `no queue` where none took it. */
  readonly reason: string
  readonly body: Uint8Array
}

export type BrokerDeadLetters = {
  readonly subscription: string
  /** Where they lie, by the broker's name for it. */
  readonly queue: string
  readonly count: number
  /** The oldest few, where they were asked for. */
  readonly first: readonly BrokerDeadLetter[]
}

export type TransportCapabilities = {
  /** `from: 'beginning'` reaches messages published before the subscription was made. */
  readonly keepsHistory: boolean
  /** Several operating-system processes can share it. */
  readonly acrossProcesses: boolean
  /** What was confirmed survives `kill -9` and a loss of power. */
  readonly durable: boolean
}

export type TransportState = {
  /** Publications are taken and subscriptions are served now. */
  readonly ready: boolean
  /** Why not, and what happens next, in one sentence; null: ready. */
  readonly reason: string | null
}

export type Transport = {
  readonly name: string
  readonly capabilities: TransportCapabilities
  /**
   * Resolves when the broker can be talked to. Opening twice is fine. Rejects with an UnavailableError where the broker is not
   * there (open again later), and with BusError `transport_refused` where waiting cannot help: credentials, version, rights.
   */
  open(): Promise<void>
  /** How it stands after `open`: connections that are lost are made again by the transport itself (B11). */
  state(): TransportState
  /**
   * Makes the subscription where it is missing and brings its bindings up to date. From then on it gets every matching
   * message, whether or not somebody consumes.
   */
  declare(subscription: SubscriptionSpec): Promise<void>
  /**
   * Takes the batch, in this order. Resolves when every message is durable; rejects with an UnavailableError where that
   * is not known, and then all of them may be published again. What the broker will never take rejects with
   * `message_too_large` or `invalid_argument`: the relay finds the message at fault and goes on without it (relay.ts, R5).
   * `transport_refused` says that the broker's set-up is at fault: everything waits until it is mended.
   */
  publish(messages: readonly WireMessage[]): Promise<void>
  /** Begins to deliver. One consumer per subscription and transport object. */
  consume(name: string, options: ConsumeOptions): Promise<Consumer>
  backlog(name: string): Promise<Backlog>
  /** Names of the durable subscriptions. */
  subscriptions(): Promise<string[]>
  /** Ends a durable subscription: what waits for it is forgotten. */
  remove(name: string): Promise<void>
  /**
   * What the broker itself rejected and keeps aside, by subscription, those with any; with the `firstMax` oldest of each,
   * none by default. Only of brokers that reject; the service's own dead letters stand in its store.
   */
  brokerDeadLetters?(options?: { firstMax?: number }): Promise<BrokerDeadLetters[]>
  /** Closes its consumers, then itself. Closing twice is fine. */
  close(): Promise<void>
}
