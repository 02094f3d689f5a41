/**
 * Apache Kafka (3.1 or later) as the broker.
 *
 * A topic per owner (the first word of a type), partitioned by key; all topics of a bus have the same number of
 * partitions. A subscription is a consumer group. What it takes stands in the register (kafka-register.ts); each process
 * leaves out by itself what the bindings do not take. Partition i of all topics is shard i, and belongs to one process
 * (kafka-group.ts), which hands over and writes down (kafka-consumer.ts).
 *
 * Sessions, requests and polls are timed by real time, as the brokers are, whatever clock the bus has.
 */
import type { Clock } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { validateBindings } from '../routing.ts'
import type {
  Backlog,
  Binding,
  ConsumeOptions,
  Consumer,
  SubscriptionSpec,
  Transport,
  TransportState,
} from '../transport.ts'
import { type KafkaOptions, type KafkaSettings, kafkaSettings } from './kafka-address.ts'
import { BacklogCounter } from './kafka-backlog.ts'
import { api, Cluster } from './kafka-cluster.ts'
import { KafkaConsumer, type Subscribed, startOf } from './kafka-consumer.ts'
import { committedOffsets, listOffsets, positionName } from './kafka-offsets.ts'
import { Producer } from './kafka-producer.ts'
import { Register, type Version } from './kafka-register.ts'

export type { KafkaOptions } from './kafka-address.ts'

/** The name has a dot, which no owner's topic has before a letter beyond f. */
const REGISTER = 'bus.register'
/** A message of messageBytesMax, and what it is wrapped in. */
const TOPIC_MESSAGE_BYTES_MAX = 2_097_152
const REGISTER_MESSAGE_BYTES_MAX = 4_194_304
const TOPIC_TIMEOUT_MS = 10_000
const TOPIC_LOOK_MS = 30
const WATCH_MS = 5_000
const VERSIONS_MAX = 16
const REMOVE_TIMEOUT_MS = 15_000
const REMOVE_LOOK_MS = 100

const TOPIC_EXISTS = 36
const GROUP_UNKNOWN = 69
const GROUP_IN_USE = 68

/**
 * The brokers at `kafka://host:port,host:port`; see `kafkaSettings` for what else an address may say. Throws
 * `invalid_argument` for an address that cannot be read; everything else shows when it is opened.
 */
export function kafkaTransport(address: string, options: KafkaOptions & { clock?: Clock } = {}): Transport {
  const { clock: _, ...rest } = options
  return new KafkaTransport(kafkaSettings(address, rest))
}

/** First words may have letters that a topic's name may not: these stand as a dot and their UTF-16 unit. */
export function topicName(prefix: string, owner: string): string {
  const spelt = (letter: string) => `.${letter.charCodeAt(0).toString(16).padStart(4, '0')}`
  return prefix + owner.replace(/[^A-Za-z0-9_-]/g, spelt)
}

class KafkaTransport implements Transport {
  readonly name = 'kafka'
  readonly capabilities = { keepsHistory: true, acrossProcesses: true, durable: true }
  private readonly settings: KafkaSettings
  private readonly cluster: Cluster
  private readonly producer: Producer
  private readonly register: Register
  private readonly consumers = new Map<string, KafkaConsumer>()
  private readonly counters = new Map<string, BacklogCounter>()
  private readonly ephemeral = new Map<string, readonly Version[]>()
  private readonly owners = new Map<string, Promise<void>>()
  private readonly ready = new Set<string>()
  private readonly troubles = new Map<string, string>()
  private publishing: Promise<unknown> = Promise.resolve()
  private preparing = 0
  private opening: Promise<void> | undefined
  private isOpen = false
  private watch: NodeJS.Timeout | undefined
  private closing: Promise<void> | undefined

  constructor(settings: KafkaSettings) {
    this.settings = settings
    this.cluster = new Cluster(settings)
    this.producer = new Producer(
      this.cluster,
      (topic) => this.topicGone(topic),
      (reason) => this.trouble('publish', reason),
    )
    const registerTopic = settings.prefix + REGISTER
    this.register = new Register(this.cluster, this.producer, registerTopic, (reason) =>
      this.trouble('register', reason),
    )
  }

  open(): Promise<void> {
    this.opening ??= this.cluster
      .patiently(() => this.connect())
      .catch((error) => {
        this.opening = undefined
        throw this.closing ? closedError() : this.cluster.translate(error)
      })
    return this.opening
  }

  state(): TransportState {
    if (this.closing) return { ready: false, reason: 'it is closed' }
    if (!this.isOpen) return { ready: false, reason: 'it was not opened yet' }
    const [reason = null] = this.troubles.values()
    return { ready: reason === null, reason }
  }

  async declare({ name, bindings, from, ephemeral }: SubscriptionSpec): Promise<void> {
    validateBindings(bindings)
    await this.live()
    await this.attempt(async () => {
      await this.register.refresh()
      for (const owner of literalOwners(bindings)) await this.prepare(owner)
      if (ephemeral) {
        const since = from === 'now' ? await this.ends() : {}
        if (!this.ephemeral.has(name)) this.ephemeral.set(name, [{ bindings, since }])
        return
      }
      await this.register.changeSubscription(name, (present) => this.versions(name, present, bindings, from))
    })
  }

  async publish(messages: readonly WireMessage[]): Promise<void> {
    await this.live()
    if (messages.length === 0) return
    const owners = new Set(messages.map(({ type }) => ownerOf(type)))
    const send = () =>
      this.producer.publish(messages.map((message) => ({ topic: this.topicOf(ownerOf(message.type)), message })))
    const missing = [...owners].filter((owner) => !this.isPrepared(owner))
    if (missing.length === 0 && this.preparing === 0) return send()
    // Who waits for a topic is not overtaken by who comes later.
    this.preparing += 1
    const before = this.publishing
    const prepared = this.attempt(() => Promise.all(missing.map((owner) => this.prepare(owner))))
    const sent = Promise.allSettled([prepared, before]).then(async () => {
      this.preparing -= 1
      await prepared
      return { done: send() }
    })
    this.publishing = sent
    await (await sent).done
  }

  async consume(name: string, options: ConsumeOptions): Promise<Consumer> {
    await this.live()
    const subscribed = await this.subscribed(name)
    if (this.consumers.has(name)) {
      throw new BusError('invalid_argument', `'${name}' is consumed already: close that consumer first`)
    }
    const consumer = new KafkaConsumer(
      subscribed,
      {
        cluster: this.cluster,
        register: this.register,
        topicOf: (owner) => this.topicOf(owner),
        trouble: (part, reason) => this.trouble(part, reason),
      },
      options,
    )
    this.consumers.set(name, consumer)
    const close = () =>
      consumer.close().finally(() => {
        if (this.consumers.get(name) === consumer) this.consumers.delete(name)
      })
    return { ack: (deliveries) => consumer.ack(deliveries), close }
  }

  /** Exact once all of it was counted, which takes as many calls as it has 20,000 messages (kafka-backlog.ts). */
  async backlog(name: string): Promise<Backlog> {
    await this.live()
    return this.attempt(async () => {
      const { group, registered } = await this.subscribed(name)
      const { versions } = registered()!
      const counter = this.counters.get(name) ?? new BacklogCounter(this.cluster)
      this.counters.set(name, counter)
      return counter.count({
        group,
        versions,
        topics: this.register.owners().map((owner) => ({ owner, topic: this.topicOf(owner) })),
        view: (topicId, partition) => this.consumers.get(name)?.view(topicId, partition),
      })
    })
  }

  async subscriptions(): Promise<string[]> {
    await this.live()
    return this.attempt(async () => {
      await this.register.refresh()
      return this.register.subscriptions()
    })
  }

  async remove(name: string): Promise<void> {
    await this.live()
    await this.attempt(async () => {
      await this.register.removeSubscription(name)
      await this.consumers.get(name)?.close()
      this.consumers.delete(name)
      this.counters.delete(name)
      await this.deleteGroup(this.groupOf(name))
    })
  }

  close(): Promise<void> {
    this.closing ??= this.shut()
    return this.closing
  }

  private async shut(): Promise<void> {
    clearInterval(this.watch)
    await Promise.all([...this.consumers.values()].map((consumer) => consumer.close()))
    this.producer.close()
    this.register.close()
    this.cluster.close()
  }

  // --- opening, and what is wrong ---

  private async connect(): Promise<void> {
    if (this.closing) throw closedError()
    await this.cluster.open()
    await this.makeTopic(this.register.topic, 1, {
      'cleanup.policy': 'compact',
      'max.message.bytes': `${REGISTER_MESSAGE_BYTES_MAX}`,
    })
    await this.register.refresh()
    const owners = this.register.owners()
    await this.cluster.refresh(owners.map((owner) => this.topicOf(owner)))
    for (const owner of owners) if (this.cluster.layout(this.topicOf(owner))) this.checkPartitions(owner)
    if (this.closing) throw closedError()
    this.isOpen = true
    this.watch = setInterval(() => this.look(), WATCH_MS)
    this.watch.unref()
  }

  /** A connection that nobody uses says nothing when it breaks. */
  private look(): void {
    this.cluster.refresh([]).then(
      () => this.trouble('brokers', null),
      (error) => this.trouble('brokers', this.cluster.translate(error).message),
    )
  }

  private trouble(part: string, reason: string | null): void {
    if (this.closing) return
    const was = this.troubles.get(part)
    if (reason === null) {
      this.troubles.delete(part)
      if (was !== undefined) this.settings.log.info({ part }, 'the broker serves this again')
    } else {
      this.troubles.set(part, reason)
      if (was === undefined) this.settings.log.warn({ part, reason }, 'the broker does not serve this at the moment')
    }
  }

  private async live(): Promise<void> {
    if (this.closing) throw closedError()
    if (!this.isOpen) await this.open()
  }

  private async attempt<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.cluster.patiently(work)
    } catch (error) {
      throw this.closing ? closedError() : this.cluster.translate(error)
    }
  }

  // --- topics ---

  private topicOf(owner: string): string {
    return topicName(this.settings.prefix, owner)
  }

  /** The owner's topic is there, is fit for this bus, and every process knows of it. */
  private prepare(owner: string): Promise<void> {
    if (this.isPrepared(owner)) return Promise.resolve()
    let preparing = this.owners.get(owner)
    if (!preparing) {
      preparing = this.cluster.patiently(() => this.makeOwner(owner)).finally(() => this.owners.delete(owner))
      this.owners.set(owner, preparing)
    }
    return preparing
  }

  private isPrepared(owner: string): boolean {
    return this.ready.has(owner) && this.cluster.layout(this.topicOf(owner)) !== undefined
  }

  private async makeOwner(owner: string): Promise<void> {
    const { partitions, insyncReplicasMin } = this.settings
    await this.makeTopic(this.topicOf(owner), partitions, {
      'max.message.bytes': `${TOPIC_MESSAGE_BYTES_MAX}`,
      ...(insyncReplicasMin !== null && { 'min.insync.replicas': `${insyncReplicasMin}` }),
    })
    this.checkPartitions(owner)
    if (!this.register.owners().includes(owner)) await this.register.addOwner(owner)
    this.ready.add(owner)
  }

  private checkPartitions(owner: string): void {
    const topic = this.topicOf(owner)
    const { length } = this.cluster.layout(topic)!.leaders
    const { partitions } = this.settings
    if (length === partitions) return
    throw new BusError(
      'transport_refused',
      `the topic '${topic}' has ${length} partitions, and this bus ${partitions} for each topic, or the order of keys would break: ${
        length < partitions
          ? `add partitions to it while nothing is published, or set partitions=${length}`
          : `set partitions=${length} everywhere`
      }`,
    )
  }

  private async makeTopic(topic: string, partitions: number, configs: Record<string, string>): Promise<void> {
    await this.cluster.refresh([topic])
    const endAt = performance.now() + TOPIC_TIMEOUT_MS
    while (true) {
      const layout = this.cluster.layout(topic)
      if (layout?.leaders.every((leader) => leader >= 0)) return
      if (!layout) await this.createTopic(topic, partitions, configs)
      await new Promise((resolve) => setTimeout(resolve, TOPIC_LOOK_MS))
      if (performance.now() > endAt) {
        throw new UnavailableError('transport_unavailable', `the topic '${topic}' has no leader for each partition yet`)
      }
      await this.cluster.refresh([topic])
    }
  }

  private async createTopic(name: string, numPartitions: number, configs: Record<string, string>): Promise<void> {
    const wanted = {
      name,
      numPartitions,
      replicationFactor: this.settings.replicas,
      assignments: [],
      configs: Object.entries(configs).map(([key, value]) => ({ name: key, value })),
    }
    const answer = await this.cluster.anywhere(api.createTopics, [[wanted], TOPIC_TIMEOUT_MS, false])
    const { errorCode = 0, errorMessage } = answer.topics[0] ?? {}
    if (errorCode !== 0 && errorCode !== TOPIC_EXISTS)
      throw this.cluster.failure(errorCode, `topic '${name}'${errorMessage ? ` (${errorMessage})` : ''}`)
  }

  /** Somebody deleted a topic that we publish to: it is made again. */
  private async topicGone(topic: string): Promise<void> {
    await this.cluster.refresh([topic]).catch(() => {})
    if (this.cluster.layout(topic)) return
    const owner = [...this.ready].find((one) => this.topicOf(one) === topic)
    if (owner === undefined) return
    this.settings.log.error({ topic }, 'the topic was deleted, and what lay in it with it: it is made again')
    this.ready.delete(owner)
    await this.prepare(owner).catch(() => {})
  }

  // --- subscriptions ---

  private groupOf(name: string): string {
    return this.settings.prefix + name
  }

  private async subscribed(name: string): Promise<Subscribed> {
    if (this.ephemeral.has(name)) {
      const versions = this.ephemeral.get(name)!
      await this.register.refresh()
      return { name, group: null, registered: () => ({ incarnation: 0, versions }) }
    }
    if (!this.register.subscription(name)) await this.attempt(() => this.register.refresh())
    if (!this.register.subscription(name)) throw new BusError('not_found', `nobody declared the subscription '${name}'`)
    return { name, group: this.groupOf(name), registered: () => this.register.subscription(name) }
  }

  private async ends() {
    const topics = this.register.owners().map((owner) => this.topicOf(owner))
    await this.cluster.refresh(topics)
    return listOffsets(this.cluster, topics, 'end')
  }

  private async versions(
    name: string,
    present: readonly Version[] | undefined,
    bindings: readonly Binding[],
    from: SubscriptionSpec['from'],
  ): Promise<readonly Version[] | undefined> {
    if (!present) return [{ bindings, since: from === 'now' ? await this.ends() : {} }]
    if (JSON.stringify(present.at(-1)!.bindings) === JSON.stringify(bindings)) return undefined
    const next = [...(await this.stillNeeded(name, present)), { bindings, since: await this.ends() }]
    while (next.length > VERSIONS_MAX) {
      // Rather too much than too little: the oldest two are taken together.
      const [oldest, second] = next.splice(0, 2) as [Version, Version]
      next.unshift({ bindings: [...oldest.bindings, ...second.bindings], since: oldest.since })
    }
    return next
  }

  /** Without those versions of which everything is acknowledged. */
  private async stillNeeded(name: string, versions: readonly Version[]): Promise<readonly Version[]> {
    const places = this.register.owners().flatMap((owner) => {
      const topic = this.topicOf(owner)
      const layout = this.cluster.layout(topic)
      return (layout?.leaders ?? []).map((_, partition) => ({ topic, topicId: layout!.id, partition }))
    })
    const committed = await committedOffsets(this.cluster, this.groupOf(name), places)
    const over = ({ since }: Version) =>
      places.every(({ topic, topicId, partition }) => {
        const done = committed.get(positionName(topic, partition))?.offset ?? startOf(versions, topicId, partition)
        return done >= (since[topicId]?.[partition] ?? 0)
      })
    const first = versions.findLastIndex(over)
    return first > 0 ? versions.slice(first) : versions
  }

  /** Other processes that consume it hear of its end and leave; who died is gone after a session. */
  private async deleteGroup(group: string): Promise<void> {
    const endAt = performance.now() + REMOVE_TIMEOUT_MS
    while (true) {
      const node = await this.cluster.coordinator(group)
      const answer = await this.cluster.link('control', node).request(api.deleteGroups, [[group]])
      const code = answer.results[0]?.errorCode ?? 0
      if (code === 0 || code === GROUP_UNKNOWN) return
      if (code !== GROUP_IN_USE) this.cluster.forgetCoordinator(group)
      if (performance.now() > endAt) throw this.cluster.failure(code, `group '${group}'`)
      await new Promise((resolve) => setTimeout(resolve, REMOVE_LOOK_MS))
    }
  }
}

function ownerOf(type: string): string {
  const dot = type.indexOf('.')
  return dot < 0 ? type : type.slice(0, dot)
}

/** Whose topics the bindings name; they are made before somebody publishes. */
function literalOwners(bindings: readonly Binding[]): Set<string> {
  const owners = new Set<string>()
  for (const binding of bindings) {
    if (binding.kind === 'direct') owners.add(ownerOf(binding.type))
    else if (binding.kind === 'topic' && !/^[*#]/.test(binding.pattern)) owners.add(ownerOf(binding.pattern))
  }
  return owners
}

const closedError = () => new BusError('bus_closed', 'the Kafka transport is closed')
