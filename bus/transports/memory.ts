/**
 * A broker in this process's memory, for tests, demonstrations and simulations. Several transports on one
 * `memoryBroker()` behave as several processes would: they share subscriptions, shard by shard.
 *
 * M1 A shard has one owner; only the owner is handed its messages, and only its acknowledgements under the present epoch count.
 * M2 Of one shard, messages are handed over in the order of publication; after a change of hands, from the oldest unacknowledged on.
 * M3 An epoch is greater than every earlier one of this broker, and than those of brokers before it (it starts at the time of day).
 * M4 Nothing is ever marked as redelivered: who shares this memory dies together.
 * M5 `receive` is never called from within a call to the transport, so whoever called it is ready.
 */
import { type Clock, type Random, systemClock } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { matcher, SHARDS_DEFAULT, shardOf } from '../routing.ts'
import type { ConsumeOptions, Consumer, Delivery, SubscriptionSpec, Transport } from '../transport.ts'
import { emptyHand, type Hand, Window } from './window.ts'

export type MemoryBrokerOptions = {
  clock?: Clock
  /** Where given, chance decides how much is handed over at a time, and of which shard: each seed is another interleaving. */
  random?: Random
  shards?: number
  /** Messages kept for subscriptions that begin at the beginning; older ones are forgotten. */
  historyMessagesMax?: number
  /** Messages that may wait for one subscription; beyond it, publishing is refused with `log_full`. */
  backlogMessagesMax?: number
}

export type MemoryBroker = {
  readonly clock: Clock
  readonly random: Random | undefined
  readonly shards: number
  readonly historyMessagesMax: number
  readonly backlogMessagesMax: number
  readonly history: Entry[]
  readonly subscriptions: Map<string, Subscription>
  lastEpoch: number
}

type Entry = { readonly message: WireMessage; readonly publishedAt: number }
type Waiting = Entry & { acked: boolean }
/** `waiting[head]` is the oldest unacknowledged; from `next` on nothing is handed to the present owner. */
type Shard = {
  readonly index: number
  waiting: Waiting[]
  head: number
  next: number
  owner: Member | null
  epoch: number
  /** What its owner has of it. */
  readonly hand: Hand
}
type Subscription = {
  readonly name: string
  takes: (message: WireMessage) => boolean
  readonly shards: Shard[]
  readonly members: Member[]
  /** Null: durable. An ephemeral subscription ends with the last transport that declared it. */
  readonly keepers: Set<Transport> | null
  waitingCount: number
}
/** A consumer, as the broker sees it. */
type Member = {
  readonly subscription: Subscription
  readonly options: ConsumeOptions
  readonly window: Window
  /** Which shard is first in turn. */
  turn: number
  scheduled: boolean
}
type MemoryDelivery = Delivery & { readonly entry: Waiting }

const FORGET_AT_ONCE = 1_024

export function memoryBroker(options: MemoryBrokerOptions = {}): MemoryBroker {
  const { clock = systemClock, random, shards = SHARDS_DEFAULT } = options
  const { historyMessagesMax = 100_000, backlogMessagesMax = 1_000_000 } = options
  for (const [name, value] of Object.entries({ shards, historyMessagesMax, backlogMessagesMax }))
    atLeastOne(name, value)
  const lastEpoch = Math.floor(clock.now())
  const subscriptions = new Map<string, Subscription>()
  return { clock, random, shards, historyMessagesMax, backlogMessagesMax, history: [], subscriptions, lastEpoch }
}

/** A transport on a broker of its own, or on one that it shares: `memoryTransport(memoryBroker())`. */
export function memoryTransport(brokerOrOptions: MemoryBroker | MemoryBrokerOptions = {}): Transport {
  const broker = 'subscriptions' in brokerOrOptions ? brokerOrOptions : memoryBroker(brokerOrOptions)
  const members = new Map<string, Member>()
  let closed = false

  function openBroker(): MemoryBroker {
    if (closed) throw new BusError('bus_closed', 'this memory transport is closed; make another one')
    return broker
  }

  const transport: Transport = {
    name: 'memory',
    capabilities: { keepsHistory: true, acrossProcesses: false, durable: false },
    state: () => ({ ready: !closed, reason: closed ? 'it is closed' : null }),
    async open() {
      openBroker()
    },
    async declare(spec) {
      declare(openBroker(), spec, transport)
    },
    async publish(messages) {
      publish(openBroker(), messages)
    },
    async consume(name, options) {
      const subscription = find(openBroker(), name)
      atLeastOne('windowMax', options.windowMax)
      if (members.has(name)) {
        throw new BusError(
          'invalid_argument',
          `subscription '${name}' is already consumed here; close that consumer first`,
        )
      }
      const member: Member = { subscription, options, window: new Window(options), turn: 0, scheduled: false }
      members.set(name, member)
      subscription.members.push(member)
      share(broker, subscription)
      return consumer(broker, member, () => members.delete(name))
    },
    async backlog(name) {
      const { waitingCount, shards } = find(openBroker(), name)
      const oldest = shards.map(({ waiting, head }) => waiting[head]?.publishedAt ?? Infinity)
      return { waiting: waitingCount, oldestAt: waitingCount > 0 ? Math.min(...oldest) : null }
    },
    async subscriptions() {
      const all = [...openBroker().subscriptions.values()]
      return all.filter(({ keepers }) => keepers === null).map(({ name }) => name)
    },
    async remove(name) {
      const subscription = openBroker().subscriptions.get(name)
      if (subscription) end(broker, subscription)
    },
    async close() {
      closed = true
      for (const member of [...members.values()]) leave(broker, member)
      members.clear()
      for (const subscription of [...broker.subscriptions.values()]) {
        if (subscription.keepers?.delete(transport) && subscription.keepers.size === 0) end(broker, subscription)
      }
    },
  }
  return transport
}

function declare(broker: MemoryBroker, spec: SubscriptionSpec, by: Transport): void {
  const { name, from, ephemeral = false } = spec
  const takes = matcher(spec.bindings)
  const existing = broker.subscriptions.get(name)
  if (existing) {
    existing.takes = takes
    existing.keepers?.add(by)
    return
  }
  const shards = Array.from({ length: broker.shards }, (_, index): Shard => {
    return { index, waiting: [], head: 0, next: 0, owner: null, epoch: 0, hand: emptyHand() }
  })
  const keepers = ephemeral ? new Set([by]) : null
  const subscription: Subscription = { name, takes, shards, members: [], keepers, waitingCount: 0 }
  broker.subscriptions.set(name, subscription)
  if (from === 'beginning') for (const entry of broker.history) offer(broker, subscription, entry)
}

function publish(broker: MemoryBroker, messages: readonly WireMessage[]): void {
  const publishedAt = broker.clock.now()
  for (const { name, waitingCount } of broker.subscriptions.values()) {
    if (waitingCount + messages.length > broker.backlogMessagesMax) {
      throw new UnavailableError(
        'log_full',
        `${waitingCount} messages wait for subscription '${name}': let it be consumed, or remove it`,
      )
    }
  }
  for (const message of messages) {
    const entry = { message, publishedAt }
    broker.history.push(entry)
    for (const subscription of broker.subscriptions.values()) offer(broker, subscription, entry)
  }
  // Forgotten in lumps: one at a time would move the whole history for every message.
  if (broker.history.length >= broker.historyMessagesMax + FORGET_AT_ONCE) {
    broker.history.splice(0, broker.history.length - broker.historyMessagesMax)
  }
}

function offer(broker: MemoryBroker, subscription: Subscription, entry: Entry): void {
  const { message } = entry
  if (!subscription.takes(message)) return
  const shard = subscription.shards[shardOf(message.key ?? message.id, broker.shards)]!
  shard.waiting.push({ ...entry, acked: false })
  subscription.waitingCount++
  if (shard.owner) schedule(broker, shard.owner)
}

/** Gives every shard an owner, and moves as few as possible so that no member has two more than another. */
function share(broker: MemoryBroker, subscription: Subscription): void {
  const { members, shards } = subscription
  if (members.length === 0) return
  const owned = (member: Member | null) => shards.filter((shard) => shard.owner === member)
  const byWealth = () => [...members].sort((one, other) => owned(one).length - owned(other).length)
  for (const shard of owned(null)) give(broker, shard, byWealth()[0]!)
  while (true) {
    const ranked = byWealth()
    const poorest = ranked[0]!
    const mostOwned = owned(ranked.at(-1)!)
    if (mostOwned.length - owned(poorest).length < 2) return
    const shard = mostOwned.at(-1)!
    revoke(shard)
    give(broker, shard, poorest)
  }
}

function give(broker: MemoryBroker, shard: Shard, member: Member): void {
  shard.owner = member
  shard.epoch = ++broker.lastEpoch // M3
  schedule(broker, member)
}

/** M1, M2: what the owner had and did not acknowledge is handed to the next one, from the oldest on. */
function revoke(shard: Shard): void {
  const { owner, index, epoch } = shard
  if (!owner) return
  owner.window.drop(shard.hand)
  shard.next = shard.head
  shard.owner = null
  owner.options.revoked?.({ shard: index, epoch })
}

function leave(broker: MemoryBroker, member: Member): void {
  const { members, shards } = member.subscription
  const index = members.indexOf(member)
  if (index < 0) return
  members.splice(index, 1)
  for (const shard of shards) if (shard.owner === member) revoke(shard)
  share(broker, member.subscription)
}

function end(broker: MemoryBroker, subscription: Subscription): void {
  broker.subscriptions.delete(subscription.name)
  subscription.members.length = 0
  for (const shard of subscription.shards) revoke(shard)
}

function consumer(broker: MemoryBroker, member: Member, forget: () => void): Consumer {
  let closed = false
  return {
    ack(deliveries) {
      for (const delivery of deliveries) acknowledge(member, delivery as MemoryDelivery)
      schedule(broker, member)
    },
    async close() {
      if (closed) return
      closed = true
      forget()
      leave(broker, member)
    },
  }
}

function acknowledge(member: Member, { lease, entry }: MemoryDelivery): void {
  const shard = member.subscription.shards[lease.shard]
  if (!shard || shard.owner !== member || shard.epoch !== lease.epoch || entry.acked) return // M1
  entry.acked = true
  member.window.release(shard.hand, entry.message)
  member.subscription.waitingCount--
  while (shard.head < shard.next && shard.waiting[shard.head]!.acked) shard.head++
  if (shard.head >= FORGET_AT_ONCE && shard.head * 2 >= shard.waiting.length) {
    shard.waiting.splice(0, shard.head)
    shard.next -= shard.head
    shard.head = 0
  }
}

function schedule(broker: MemoryBroker, member: Member): void {
  if (member.scheduled) return
  member.scheduled = true
  // M5
  setImmediate(() => {
    member.scheduled = false
    handOver(broker, member)
  })
}

function handOver(broker: MemoryBroker, member: Member): void {
  const { random } = broker
  const { subscription, options } = member
  const { room } = member.window
  const count = random ? Math.min(room, 1 + Math.floor(random() * room)) : room
  const owned = subscription.shards.filter(({ owner }) => owner === member)
  const first = random ? Math.floor(random() * owned.length) : member.turn++
  const deliveries: Delivery[] = []
  for (let step = 0; step < owned.length; step++) take(member, owned[(first + step) % owned.length]!, count, deliveries)
  if (deliveries.length === 0) return
  if (count < room) schedule(broker, member)
  options.receive(deliveries)
}

/** Adds the shard's next messages to `deliveries` until there are `count`. */
function take({ window }: Member, shard: Shard, count: number, deliveries: Delivery[]): void {
  const { index, epoch, waiting, hand } = shard
  for (; deliveries.length < count && shard.next < waiting.length; shard.next++) {
    const entry = waiting[shard.next]!
    if (entry.acked) continue
    if (!window.hasRoomFor(entry.message)) return
    window.take(hand, entry.message)
    const delivery: MemoryDelivery = {
      message: entry.message,
      lease: { shard: index, epoch },
      redelivered: false,
      entry,
    }
    deliveries.push(delivery)
  }
}

function find(broker: MemoryBroker, name: string): Subscription {
  const subscription = broker.subscriptions.get(name)
  if (!subscription) throw new BusError('not_found', `subscription '${name}' does not exist: declare it first`)
  return subscription
}

function atLeastOne(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new BusError('invalid_argument', `${name} must be a whole number from 1, not ${value}`)
  }
}
