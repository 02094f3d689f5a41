/**
 * RabbitMQ, from 3.10 on, with nothing but AMQP 0-9-1: no plugin.
 *
 * Foreign programs bind their own queues to the topic exchange `platform-events` by type (`order.*`), and publish there.
 * What stands behind it is drawn in rabbitmq-topology.ts; how processes agree on it, in rabbitmq-registry.ts.
 *
 * Q1 Two connections: one that publishes, which the broker may stop when it is short of memory or disk, and one that
 *    consumes and asks, which goes on then. Each is made again by itself (rabbitmq-link.ts).
 * Q2 Published is what the broker confirmed and did not return. What it returned is looked up in the registry: where a
 *    subscription wants it, the topology is made anew and it is published again; where none does, that is counted and said.
 * Q3 An epoch comes from the broker and grows with each owner of a shard (rabbitmq-registry.ts G3), so the service's
 *    database can refuse a process that was frozen while the broker gave its shard away.
 * Q4 Waiting is counted as: ready in the queues, then what each process has in hand. What moves meanwhile counts twice,
 *    never not at all. A process that gives no answer in half a second is left out.
 * Q5 A stranger's message without an id is published again with one, to the subscription alone, before it is handed over;
 *    so it keeps its id when it is delivered again. A death between the two steps makes two messages of it. To an ephemeral
 *    subscription, which has nothing that outlives it, it is handed over under an id made up at once.
 */
import { randomUUID } from 'node:crypto'
import type { Channel, ConsumeMessage } from 'amqplib'
import { type Clock, systemClock } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import { type Log, silentLog } from '../log.ts'
import type { WireMessage } from '../message.ts'
import { matcher, validateBindings } from '../routing.ts'
import type {
  Backlog,
  Binding,
  BrokerDeadLetters,
  ConsumeOptions,
  Consumer,
  SubscriptionSpec,
  Transport,
  TransportState,
} from '../transport.ts'
import { firstDeadLetters } from './rabbitmq-dead-letters.ts'
import { bringHome } from './rabbitmq-homeless.ts'
import { closedError, isMissing, Link } from './rabbitmq-link.ts'
import { Publisher } from './rabbitmq-publisher.ts'
import { Reader } from './rabbitmq-reader.ts'
import { nextEpoch, Registry, type Table } from './rabbitmq-registry.ts'
import { RollCall } from './rabbitmq-roll-call.ts'
import { PREFETCH } from './rabbitmq-shard.ts'
import {
  bind,
  declareQueues,
  declareShared,
  deleteSubscription,
  type Names,
  namesOf,
  validateName,
} from './rabbitmq-topology.ts'
import { publishedAt } from './rabbitmq-wire.ts'

export type RabbitmqTransportOptions = {
  /** Gives published messages their time; limits and heartbeats are real time. */
  clock?: Clock
  log?: Log
  /** Stands before the name of everything on the broker, so that several systems can share one. */
  prefix?: string
  exchange?: string
  /** Into how many queues a subscription's keys are dealt out: no more processes than this share it. Fixed by whoever comes first. */
  shards?: number
  /** Sent and not yet confirmed. */
  publishWindowMax?: number
  /** A publication that is not confirmed in this time is unavailable, and its connection is made anew. */
  confirmMaxMs?: number
  /** The same for every other question to the server. */
  answerMaxMs?: number
  /** A process that gives no sign of life for two to three of them loses its shards. */
  heartbeatSeconds?: number
}

export type RabbitmqTransport = Transport & {
  /** What the broker itself rejected, and what it had no queue for: by subscription, those with any. */
  brokerDeadLetters(options?: { firstMax?: number }): Promise<BrokerDeadLetters[]>
  /** Messages that no subscription wanted, since this transport was opened. */
  readonly unwantedCount: number
}

const SHARDS = 4
const PUBLISH_WINDOW_MAX = 1_000
const CONFIRM_MAX_MS = 10_000
const ANSWER_MAX_MS = 10_000
const HEARTBEAT_SECONDS = 3
/** So long the registry's answer that nobody wants a message is believed again (Q2). */
const UNWANTED_MS = 1_000
/** What a queue's oldest message is, when nobody consumes: waited for so long, and believed for so long. */
const PEEK_MAX_MS = 1_000
const PEEK_FRESH_MS = 60_000
const PEEK_LOOK_MS = 5

/** @param url as `amqp://user:password@host:5672/virtual-host`; the virtual host `/` is written `%2F` or left out */
export function rabbitmqTransport(url: string, options: RabbitmqTransportOptions = {}): RabbitmqTransport {
  return new Rabbitmq(url, options)
}

class Rabbitmq implements RabbitmqTransport {
  readonly name = 'rabbitmq'
  readonly capabilities = { keepsHistory: false, acrossProcesses: true, durable: true }
  unwantedCount = 0
  private readonly clock: Clock
  private readonly log: Log
  private readonly names: Names
  private readonly publishing: Link
  private readonly consuming: Link
  private readonly registry: Registry
  private readonly rollCall: RollCall
  private readonly publisher: Publisher
  private readonly readers = new Map<string, Reader>()
  /** Ephemeral subscriptions of this process: their bindings. */
  private readonly ephemeral = new Map<string, readonly Binding[]>()
  private readonly publications = new Set<Promise<unknown>>()
  private readonly saidUnwanted = new Set<string>()
  private readonly peeked = new Map<string, { oldestAt: number | null; waiting: number; atMs: number }>()
  private lastRead: { table: Table; at: number } | undefined
  private shards = 0
  private opened = false
  private closing: Promise<void> | undefined
  private readonly lostLinks = new Set<string>()

  constructor(url: string, options: RabbitmqTransportOptions) {
    const { clock = systemClock, log = silentLog, prefix = '', exchange = 'platform-events', shards = SHARDS } = options
    const { publishWindowMax = PUBLISH_WINDOW_MAX, confirmMaxMs = CONFIRM_MAX_MS } = options
    const { answerMaxMs = ANSWER_MAX_MS, heartbeatSeconds = HEARTBEAT_SECONDS } = options
    for (const [name, value] of Object.entries({
      shards,
      publishWindowMax,
      confirmMaxMs,
      answerMaxMs,
      heartbeatSeconds,
    }))
      atLeastOne(name, value)
    this.clock = clock
    this.log = log
    this.names = namesOf(prefix, exchange)
    const common = { heartbeatSeconds, answerMaxMs }
    this.publishing = new Link(url, {
      ...common,
      name: `${this.names.events} publishing`,
      up: async (link) => {
        await link.onChannel((channel) => declareShared(channel, this.names)) // it may be what was missing
        await this.publisher.attach(link)
        this.madeLink('publishing')
      },
      down: (error) => this.lostLink('publishing', error),
    })
    this.consuming = new Link(url, {
      ...common,
      name: `${this.names.events} consuming`,
      up: async () => {
        await this.attachConsuming()
        this.madeLink('consuming')
      },
      down: (error) => this.lostLink('consuming', error),
    })
    this.registry = new Registry(this.consuming, this.names, shards)
    this.rollCall = new RollCall(this.names)
    this.publisher = new Publisher({
      exchange: this.names.events,
      windowMax: publishWindowMax,
      confirmMaxMs,
      now: () => this.clock.now(),
      shards: () => this.shards,
      unroutable: (messages) => this.publishAgain(messages),
    })
  }

  async open(): Promise<void> {
    if (this.closing) throw closedError()
    // The consuming one first: it makes the exchange, and learns how many shards there are.
    await this.consuming.open()
    await this.publishing.open()
    if (this.closing) throw closedError()
    this.opened = true
  }

  state(): TransportState {
    const [publishing, consuming] = [this.publishing.state(), this.consuming.state()]
    return publishing.ready ? consuming : publishing
  }

  async declare({ name, bindings, ephemeral = false }: SubscriptionSpec): Promise<void> {
    this.assertOpen()
    validateBindings(bindings)
    validateName(this.names, name)
    if (ephemeral) return this.declareEphemeral(name, bindings)
    await this.registry.locked(async ({ table, save, channel }) => {
      const entry = table.subscriptions[name]
      const stale = entry ? [...entry.bindings, ...entry.stale] : []
      const isNew = JSON.stringify(entry) !== JSON.stringify({ bindings, stale: [] })
      const note = (stale: readonly Binding[]) =>
        save({ subscriptions: { ...table.subscriptions, [name]: { bindings, stale } } })
      if (isNew && entry) await note(stale)
      await this.consuming.answer('a subscription', this.build(channel, table, name, bindings, stale))
      if (isNew) await note([])
    })
    this.lastRead = undefined
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (this.closing || !this.opened) return Promise.reject(this.notOpen())
    const publication = this.publisher.publish(messages)
    this.publications.add(publication)
    const forget = () => this.publications.delete(publication)
    publication.then(forget, forget)
    return publication
  }

  async consume(name: string, options: ConsumeOptions): Promise<Consumer> {
    this.assertOpen()
    atLeastOne('windowMax', options.windowMax)
    if (this.readers.has(name))
      throw new BusError(
        'invalid_argument',
        `${name} is consumed here already: one consumer per subscription and transport`,
      )
    const reader = new Reader({
      ...options,
      name,
      queues: this.queuesOf(name),
      members: this.ephemeral.has(name) ? null : this.names.members(name),
      link: this.consuming,
      rollCall: this.rollCall,
      underNextEpoch: (repair, work) => this.underNextEpoch(name, repair, work),
      giveName: (message) => this.giveName(name, message),
      warn: (fields, text) => this.log.warn(fields, text),
    })
    this.readers.set(name, reader)
    const forget = () => {
      if (this.readers.get(name) === reader) this.readers.delete(name)
    }
    try {
      await reader.start()
    } catch (error) {
      forget()
      throw error
    }
    return {
      ack: (deliveries) => reader.ack(deliveries),
      close: async () => {
        await reader.close()
        forget()
      },
    }
  }

  /** Q4 */
  async backlog(name: string): Promise<Backlog> {
    this.assertOpen()
    const queues = this.queuesOf(name)
    const [ready, members] = await this.consuming
      .onChannel((channel) => this.countOf(channel, name))
      .catch((error) => {
        throw isMissing(error) ? notDeclared(name) : error
      })
    const total = ready.reduce((sum, count) => sum + count, 0)
    const reader = this.readers.get(name)
    if (members === 0 && !reader)
      return {
        waiting: total,
        oldestAt:
          total > 0
            ? await this.peek(
                name,
                queues.filter((_, index) => ready[index]! > 0),
                total,
              )
            : null,
      }
    const own = reader ? [await reader.census()] : []
    const answers = [...own, ...(await this.rollCall.ask(name, members - own.length))]
    const times = answers.map(({ oldestAt }) => oldestAt).filter((at) => at !== null)
    const waiting = answers.reduce((sum, { unacknowledged }) => sum + unacknowledged, total)
    return { waiting, oldestAt: waiting > 0 && times.length > 0 ? Math.min(...times) : null }
  }

  /** What is ready in each queue, and how many processes share the subscription. */
  private async countOf(channel: Channel, name: string): Promise<[ready: number[], members: number]> {
    const counts = await Promise.all(this.queuesOf(name).map((queue) => channel.checkQueue(queue)))
    const ready = counts.map(({ messageCount }) => messageCount)
    if (this.ephemeral.has(name)) return [ready, this.readers.has(name) ? 1 : 0]
    return [ready, (await channel.checkQueue(this.names.members(name))).consumerCount]
  }

  async subscriptions(): Promise<string[]> {
    this.assertOpen()
    return Object.keys((await this.registry.read()).subscriptions)
  }

  async remove(name: string): Promise<void> {
    this.assertOpen()
    await this.readers.get(name)?.close()
    this.readers.delete(name)
    await this.registry.locked(async ({ table, save, channel }) => {
      const { [name]: _, ...subscriptions } = table.subscriptions
      await save({ subscriptions })
      const gone = deleteSubscription(channel, this.names, { name, shards: table.shards })
      await this.consuming.answer('an end of a subscription', gone)
    })
  }

  async brokerDeadLetters({ firstMax = 0 } = {}): Promise<BrokerDeadLetters[]> {
    const found: BrokerDeadLetters[] = []
    for (const subscription of await this.subscriptions()) {
      const queue = this.names.deadQueue(subscription)
      const { count, first } = await this.consuming.onChannel(async (channel) => {
        const { messageCount: count } = await channel.checkQueue(queue)
        const max = Math.min(firstMax, count)
        return { count, first: await firstDeadLetters(channel, this.names, { subscription, max }) }
      })
      if (count > 0) found.push({ subscription, queue, count, first })
    }
    return found
  }

  close(): Promise<void> {
    this.closing ??= (async () => {
      await Promise.allSettled(this.publications)
      await Promise.all([...this.readers.values()].map((reader) => reader.close()))
      this.readers.clear()
      await Promise.all([this.publishing.close(), this.consuming.close()])
    })()
    return this.closing
  }

  private assertOpen(): void {
    if (this.closing || !this.opened) throw this.notOpen()
  }

  private notOpen(): BusError {
    return this.closing ? closedError() : new BusError('invalid_argument', 'rabbitmq: open() the transport first')
  }

  // --- connections ---

  private async attachConsuming(): Promise<void> {
    await this.consuming.onChannel((channel) => declareShared(channel, this.names))
    this.shards = (await this.registry.read()).shards
    await this.rollCall.attach(this.consuming)
    for (const [name, bindings] of this.ephemeral) await this.makeEphemeral(name, bindings, [])
    for (const reader of this.readers.values()) reader.reconnected()
  }

  private lostLink(which: string, error: Error): void {
    if (this.closing) return
    this.lostLinks.add(which)
    this.log.warn({ err: error }, `the ${which} connection to RabbitMQ is lost and is being made again`)
  }

  private madeLink(which: string): void {
    if (this.lostLinks.delete(which)) this.log.info({}, `the ${which} connection to RabbitMQ is there again`)
  }

  // --- subscriptions ---

  private queuesOf(name: string): string[] {
    if (this.ephemeral.has(name)) return [this.names.ephemeral(name, this.rollCall.member)]
    return Array.from({ length: this.shards }, (_, shard) => this.names.shard(name, shard))
  }

  private async build(
    channel: Channel,
    { shards }: Table,
    name: string,
    bindings: readonly Binding[],
    stale: readonly Binding[],
  ): Promise<void> {
    const [major] = this.consuming.version
    const home = () =>
      bringHome(this.consuming, this.names, { name, shards }, ({ count, late }) => {
        const text = 'messages that had found no queue were brought home from its dead ones'
        const fields = { subscription: name, count, outOfOrderMax: late ? count : 0 }
        this.log.warn(fields, late ? `${text}; some may stand behind later ones of their keys` : text)
      })
    await declareQueues(channel, this.names, { name, shards, major }, home)
    await home() // what came between the last look and the binding (H3)
    await bind(channel, this.names, { kind: 'exchange', name: this.names.subscription(name) }, bindings, stale)
  }

  private async declareEphemeral(name: string, bindings: readonly Binding[]): Promise<void> {
    const stale = this.ephemeral.get(name) ?? []
    await this.makeEphemeral(name, bindings, stale)
    this.ephemeral.set(name, bindings)
  }

  /** The connection's end is its end. */
  private async makeEphemeral(name: string, bindings: readonly Binding[], stale: readonly Binding[]): Promise<void> {
    const queue = this.names.ephemeral(name, this.rollCall.member)
    await this.consuming.onChannel(async (channel) => {
      await channel.assertQueue(queue, { exclusive: true, durable: false })
      await bind(channel, this.names, { kind: 'queue', name: queue }, bindings, stale)
    })
  }

  private underNextEpoch(name: string, repair: boolean, work: (epoch: number) => Promise<void>): Promise<void> {
    return this.registry.locked(async (locked) => {
      const entry = locked.table.subscriptions[name]
      const isEphemeral = this.ephemeral.has(name)
      if (!entry && !isEphemeral) throw notDeclared(name)
      if (repair && entry) {
        const built = this.build(locked.channel, locked.table, name, entry.bindings, [])
        await this.consuming.answer('a subscription', built)
      }
      await work(await nextEpoch(locked))
    })
  }

  /** Q5 */
  private async giveName(name: string, { content, fields, properties }: ConsumeMessage): Promise<void> {
    const channel = await this.consuming.confirmChannel()
    try {
      channel.publish(this.names.subscription(name), fields.routingKey, content, {
        ...properties,
        persistent: true,
        mandatory: true,
        messageId: randomUUID(),
      })
      await this.consuming.answer('a confirmation', channel.waitForConfirms())
    } finally {
      await this.consuming.closeChannel(channel)
    }
  }

  // --- what came back ---

  /** Q2 */
  private async publishAgain(messages: readonly WireMessage[]): Promise<void> {
    const table = await this.readLately()
    const takers = Object.values(table.subscriptions).map(({ bindings }) => matcher(bindings))
    const wanted = messages.filter((message) => takers.some((takes) => takes(message)))
    const unwanted = messages.length - wanted.length
    if (unwanted > 0) this.sayUnwanted(messages, wanted)
    if (wanted.length === 0) return
    await this.repair()
    throw new UnavailableError(
      'transport_unavailable',
      `RabbitMQ had no queue for ${wanted.length} messages that are wanted: its queues were made anew, publish again`,
    )
  }

  private async readLately(): Promise<Table> {
    if (!this.lastRead || performance.now() - this.lastRead.at > UNWANTED_MS)
      this.lastRead = { table: await this.registry.read(), at: performance.now() }
    return this.lastRead.table
  }

  private sayUnwanted(messages: readonly WireMessage[], wanted: readonly WireMessage[]): void {
    for (const message of messages) {
      if (wanted.includes(message)) continue
      this.unwantedCount++
      const { type } = message
      if (this.saidUnwanted.has(type)) continue
      this.saidUnwanted.add(type)
      this.log.info({ type, messageId: message.id }, 'no subscription wants this type: it was published to nobody')
    }
  }

  /** Makes anew whatever is missing of every durable subscription. */
  private repair(): Promise<void> {
    return this.registry.locked(async ({ table, channel }) => {
      for (const [name, { bindings }] of Object.entries(table.subscriptions))
        await this.consuming.answer('a subscription', this.build(channel, table, name, bindings, []))
      this.log.warn({ subscriptions: Object.keys(table.subscriptions) }, 'queues were missing and have been made anew')
    })
  }

  /**
   * When the oldest message of these queues was published. Nobody consumes them, so a consumer gets the first of each; it
   * must take as much as any other would (PREFETCH), so what was seen is believed for a while.
   */
  private async peek(name: string, queues: readonly string[], waiting: number): Promise<number | null> {
    const known = this.peeked.get(name)
    const isFresh = known && waiting >= known.waiting && performance.now() - known.atMs < PEEK_FRESH_MS
    if (isFresh) return known.oldestAt
    const channel = await this.consuming.channel()
    try {
      await channel.prefetch(PREFETCH)
      const times = (await Promise.all(queues.map((queue) => this.firstOf(channel, queue)))).filter((at) => at !== null)
      const oldestAt = times.length > 0 ? Math.min(...times) : null
      this.peeked.set(name, { oldestAt, waiting, atMs: performance.now() })
      return oldestAt
    } finally {
      await this.consuming.closeChannel(channel) // gives them back, in order
      await this.returned(name, waiting)
    }
  }

  /** The broker takes back what a closed channel had a moment later; whoever counts before would count too few. */
  private async returned(name: string, waiting: number): Promise<void> {
    const deadline = performance.now() + PEEK_MAX_MS
    while (performance.now() < deadline) {
      const [ready, members] = await this.consuming.onChannel((channel) => this.countOf(channel, name))
      if (members > 0 || ready.reduce((sum, count) => sum + count, 0) >= waiting) return
      await new Promise((resolve) => setTimeout(resolve, PEEK_LOOK_MS))
    }
  }

  private firstOf(channel: Channel, queue: string): Promise<number | null> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(null), PEEK_MAX_MS)
      const seen = (message: ConsumeMessage | null) => {
        clearTimeout(timer)
        resolve(message && publishedAt(message))
      }
      channel.consume(queue, seen).catch(() => seen(null))
    })
  }
}

function notDeclared(name: string): BusError {
  return new BusError('not_found', `no subscription '${name}': declare() it first`)
}

function atLeastOne(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 1) return
  throw new BusError('invalid_argument', `${name} must be a whole number from 1, not ${value}`)
}
