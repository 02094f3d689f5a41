/**
 * One subscription in this process: fetches the partitions of the shards it holds, hands over what the bindings take, and
 * writes down how far it came.
 *
 * S1 Of a partition, only what lies before the lowest unfinished message is written down, so nothing unfinished is ever
 *    passed over; after a change of hands what lies behind it may come again.
 * S2 A shard's epoch is one more than its last holder's. It stands in the metadata of the committed offsets and is written
 *    before the first delivery, under the group's generation, so only the present holder can. Where no offsets are kept
 *    (any more), it begins at the time of day.
 * S3 Nothing is left out on the word of an old register: before a message that the bindings do not take is passed over, the
 *    register is read again. So a change of bindings, made anywhere, holds for all that is published after it.
 * S4 Never more than windowMax in flight, and not much more than PREFETCH_BYTES_MAX in memory: then only that is fetched for
 *    which what is here has to wait (S5), which is an answer's worth at most of each partition.
 * S5 Of one shard, messages of different topics are handed over by their time of publication, as far as they are here or
 *    known to be on their way. Kafka itself has no order between topics.
 * S6 A shard that is to be handed over gets nothing more; when what is in flight is finished, or after handOverMs, its lease
 *    is revoked, its offsets are written, and then only it may go to another (G1).
 * S7 Beside the offset of a partition stands how far its holder may have begun, and nothing beyond is handed over before more
 *    is written. So what a process that died may have died of is marked as redelivered, all of that, and not what merely
 *    waits; also where the next holder goes before it came to it.
 */
import { type BusError, UnavailableError } from '../errors.ts'
import { matcher } from '../routing.ts'
import type { Binding, ConsumeOptions, Consumer, Delivery, Lease } from '../transport.ts'
import { api, type Cluster } from './kafka-cluster.ts'
import { Group, type Identity } from './kafka-group.ts'
import {
  type Committed,
  commitOffsets,
  committedOffsets,
  listOffsets,
  type Position,
  positionName,
} from './kafka-offsets.ts'
import { decodeRecord, type Incoming, readBatches } from './kafka-records.ts'
import type { Register, Version } from './kafka-register.ts'
import { emptyHand, type Hand, Window } from './window.ts'

export type ConsumerContext = {
  readonly cluster: Cluster
  readonly register: Register
  /** The topic of an owner. */
  readonly topicOf: (owner: string) => string
  readonly trouble: (part: string, reason: string | null) => void
}

export type Subscribed = {
  readonly name: string
  /** Null: an ephemeral one, which this process has for itself and of which nothing is written down. */
  readonly group: string | null
  /** What it takes now; undefined: it was removed. */
  readonly registered: () => { incarnation: number; versions: readonly Version[] } | undefined
}

type Entry = { readonly offset: number; done: boolean }
type Cursor = {
  readonly owner: string
  readonly topic: string
  readonly topicId: string
  readonly shard: Shard
  /** Fetched up to here. */
  next: number
  /** Where the log ended when it was last read. */
  end: number
  readonly buffer: Incoming[]
  /** How much of `buffer` is handed over. */
  taken: number
  readonly entries: Entry[]
  /** How many of `entries` are finished without a gap. */
  finished: number
  committed: number
  /** Handed over up to here. */
  begun: number
  /** S7. What is written; what `begun` was then; up to where an earlier holder may have begun. */
  reach: number
  begunWhenWritten: number
  readonly suspectTo: number
  stalled: boolean
}
type Shard = {
  readonly index: number
  lease: Lease | null
  readonly cursors: Map<string, Cursor>
  readonly hand: Hand
  leaving: boolean
  gone: boolean
}
type KafkaDelivery = Delivery & { readonly entry: Entry; readonly cursor: Cursor }
type Taken = Incoming & { readonly cursor: Cursor }

const FETCH_WAIT_MS = 2_000
const FETCH_BYTES_MAX = 4_000_000
const FETCH_PARTITION_BYTES_MAX = 1_000_000
const PREFETCH_BYTES_MAX = 8_000_000
const PREFETCH_MIN = 10_000
/** Acknowledgements are written after this long, together. */
const COMMIT_MS = 25
/** S7. Offsets beyond what is begun; twice as many as were begun since it was last written, so a busy process seldom waits. */
const AHEAD_MIN = 32
const AHEAD_MAX = 4_096
/** Positions that only passed over messages of others are written once there are so many. */
const PROGRESS_MIN = 1_000
/** Kafka forgets positions that nobody wrote for offsets.retention.minutes (7 days), also of an idle topic. */
const RENEW_MS = 3_600_000
const RETRY_MS = 250
const HANDED_OVER_AT_ONCE = 128
const ENTRIES_KEPT = 1_024
const CLOSE_TIMEOUT_MS = 5_000

const REBALANCE_IN_PROGRESS = 27
const OFFSET_OUT_OF_RANGE = 1

/** The topics of which a subscription may get something. */
export function mayTake(bindings: readonly Binding[], owner: string): boolean {
  return bindings.some((binding) => {
    if (binding.kind === 'direct') return binding.type.split('.')[0] === owner
    if (binding.kind !== 'topic') return true
    const [first] = binding.pattern.split('.')
    return first === '*' || first === '#' || first === owner
  })
}

/** One function for all versions (R2): does the subscription take what lies there? */
export function taker(versions: readonly Version[]) {
  const matchers = versions.map(({ bindings, since }) => ({ takes: matcher(bindings), since })).reverse()
  return (topicId: string, partition: number, { offset, message }: Incoming): boolean => {
    const inForce = matchers.find(({ since }) => (since[topicId]?.[partition] ?? 0) <= offset)
    return inForce?.takes(message) ?? false
  }
}

/** Where a subscription begins in this partition. */
export function startOf(versions: readonly Version[], topicId: string, partition: number): number {
  return versions[0]?.since[topicId]?.[partition] ?? 0
}

export class KafkaConsumer implements Consumer {
  private readonly subscribed: Subscribed
  private readonly context: ConsumerContext
  private readonly options: ConsumeOptions
  private readonly shards = new Map<number, Shard>()
  private readonly fetching = new Map<number, { polling: boolean; wake: () => void }>()
  private readonly prefetchMax: number
  private readonly unlisten: () => void
  private group: Group | undefined
  private incarnation = -1
  private versions: readonly Version[] = []
  private takes: ReturnType<typeof taker> = () => false
  private readonly window: Window
  private buffered = 0
  private bufferedBytes = 0
  private turn = 0
  private pumping = false
  private settling: Promise<void> | undefined
  private settleAgain = false
  private commitTimer: NodeJS.Timeout | undefined
  private committing: Promise<void> = Promise.resolve()
  private reaching = false
  private readonly renewTimer: NodeJS.Timeout
  private stopped = false
  private closing: Promise<void> | undefined

  constructor(subscribed: Subscribed, context: ConsumerContext, options: ConsumeOptions) {
    this.subscribed = subscribed
    this.context = context
    this.options = options
    this.window = new Window(options)
    this.prefetchMax = Math.max(PREFETCH_MIN, options.windowMax)
    this.unlisten = context.register.listen(() => this.registerChanged())
    this.renewTimer = setInterval(() => this.renew(), RENEW_MS)
    this.renewTimer.unref()
    context.register.follow()
    this.registerChanged()
  }

  ack(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { entry, cursor, message } = delivery as KafkaDelivery
      if (entry.done) continue
      entry.done = true
      const { shard } = cursor
      if (shard.gone) continue
      this.window.release(shard.hand, message)
      this.finish(cursor)
      if (shard.leaving && shard.hand.messages === 0) this.handOver(shard)
    }
    if (this.stopped) return
    this.commitSoon()
    this.pumpSoon()
  }

  close(): Promise<void> {
    this.closing ??= this.stop()
    return this.closing
  }

  /** What this process knows better than the committed offsets say; undefined: the partition is not ours. */
  view(topicId: string, partition: number): { from: number; done: ReadonlySet<number> } | undefined {
    const shard = this.shards.get(partition)
    const cursor = [...(shard?.cursors.values() ?? [])].find((one) => one.topicId === topicId)
    if (!cursor || !shard?.lease) return undefined
    const done = cursor.entries.slice(cursor.finished).filter((entry) => entry.done)
    return { from: unfinished(cursor), done: new Set(done.map(({ offset }) => offset)) }
  }

  private async stop(): Promise<void> {
    this.stopped = true
    this.unlisten()
    clearTimeout(this.commitTimer)
    clearInterval(this.renewTimer)
    for (const fetcher of this.fetching.values()) fetcher.wake()
    this.context.cluster.unlink(this.fetchPurpose)
    const leave = async () => {
      await this.commit([...this.shards.values()], true).catch(() => {})
      await this.group?.leave()
    }
    const late = Promise.withResolvers<void>()
    const timer = setTimeout(late.resolve, CLOSE_TIMEOUT_MS)
    await Promise.race([leave(), late.promise])
    clearTimeout(timer)
    for (const shard of this.shards.values()) shard.gone = true
    this.shards.clear()
    this.context.trouble(`group ${this.subscribed.name}`, null)
    this.context.trouble(this.fetchPurpose, null)
  }

  private get fetchPurpose(): string {
    return `fetch ${this.subscribed.name}`
  }

  // --- what is ours ---

  private registerChanged(): void {
    if (this.stopped) return
    const registered = this.subscribed.registered()
    if (registered?.incarnation !== this.incarnation) {
      this.dropAll()
      const leaving = this.group?.leave()
      this.group = undefined
      this.incarnation = registered?.incarnation ?? -1
      if (registered) void Promise.resolve(leaving).then(() => this.join(registered.incarnation))
    }
    if (!registered) return
    if (registered.versions !== this.versions) {
      this.versions = registered.versions
      this.takes = taker(registered.versions)
    }
    this.settle()
  }

  private join(incarnation: number): void {
    if (this.stopped || this.incarnation !== incarnation) return
    const { cluster } = this.context
    const { partitions } = cluster.settings
    if (this.subscribed.group === null) {
      this.assigned(Array.from({ length: partitions }, (_, index) => index))
      return
    }
    this.group = new Group({
      cluster,
      group: this.subscribed.group,
      shards: partitions,
      topics: () => this.owners().map(this.context.topicOf),
      claims: () => new Map([...this.shards].map(([index, { lease }]) => [index, lease?.epoch ?? 0])),
      assigned: (shards) => this.assigned(shards),
      lost: () => this.dropAll(),
      trouble: (reason) => this.context.trouble(`group ${this.subscribed.name}`, reason),
    })
  }

  private owners(): string[] {
    const takes = (owner: string) => this.versions.some(({ bindings }) => mayTake(bindings, owner))
    return this.context.register.owners().filter(takes)
  }

  private assigned(indexes: readonly number[]): void {
    if (this.stopped) return
    for (const shard of this.shards.values()) {
      if (indexes.includes(shard.index) || shard.leaving) continue
      shard.leaving = true
      this.forgetBuffers(shard)
      if (shard.hand.messages === 0 || !shard.lease) this.handOver(shard)
      else setTimeout(() => this.handOver(shard), this.context.cluster.settings.handOverMs).unref()
    }
    for (const index of indexes) {
      if (this.shards.has(index)) continue
      const shard = { index, lease: null, cursors: new Map(), hand: emptyHand(), leaving: false, gone: false }
      this.shards.set(index, shard)
    }
    this.settle()
  }

  /** S6. */
  private handOver(shard: Shard): void {
    if (shard.gone || this.stopped) return
    this.drop(shard)
    const done = () => {
      if (![...this.shards.values()].some(({ leaving }) => leaving)) this.group?.rejoin()
    }
    this.commit([shard], true).then(done, done)
  }

  private dropAll(): void {
    for (const shard of [...this.shards.values()]) this.drop(shard)
  }

  private drop(shard: Shard): void {
    if (shard.gone) return
    shard.gone = true
    this.forgetBuffers(shard)
    this.window.drop(shard.hand)
    this.shards.delete(shard.index)
    if (shard.lease && !this.stopped) this.options.revoked?.(shard.lease)
    this.pumpSoon()
  }

  private forgetBuffers(shard: Shard): void {
    for (const cursor of shard.cursors.values()) {
      const rest = cursor.buffer.slice(cursor.taken)
      if (rest.length > 0) cursor.next = rest[0]!.offset
      for (const item of rest) this.unbuffer(item)
      cursor.buffer.length = 0
      cursor.taken = 0
    }
  }

  private unbuffer({ message }: Incoming): void {
    this.buffered -= 1
    this.bufferedBytes -= message.body.length
  }

  /** Gives every shard its lease and its cursors, as far as they are missing. Never rejects; tries until it is so. */
  private settle(): void {
    if (this.settling) {
      this.settleAgain = true
      return
    }
    this.settling = this.settleUntilDone().finally(() => {
      this.settling = undefined
      if (this.settleAgain) {
        this.settleAgain = false
        this.settle()
      }
    })
  }

  private async settleUntilDone(): Promise<void> {
    while (!this.stopped) {
      try {
        await this.settleOnce()
        return
      } catch (error) {
        const { message } = this.context.cluster.translate(error)
        this.context.trouble(this.fetchPurpose, message)
        await delay(RETRY_MS)
      }
    }
  }

  private async settleOnce(): Promise<void> {
    const { cluster, register, topicOf } = this.context
    const fresh = [...this.shards.values()].filter((shard) => !shard.lease && !shard.leaving)
    if (fresh.length > 0) await register.refresh()
    const owners = this.owners()
    const unknown = owners.map(topicOf).filter((topic) => !cluster.layout(topic))
    if (unknown.length > 0) await cluster.refresh(unknown)
    const missing: { owner: string; shard: Shard }[] = []
    for (const shard of this.shards.values()) {
      if (shard.leaving) continue
      for (const owner of owners) {
        if (!shard.cursors.has(owner) && cluster.layout(topicOf(owner))) missing.push({ owner, shard })
      }
    }
    if (missing.length === 0) return
    const positions = missing.map(({ owner, shard }) => ({ topic: topicOf(owner), partition: shard.index }))
    const known = await this.committed(positions)
    const cursors = missing.map(({ owner, shard }) => this.cursor(owner, shard, known))
    await this.lease(fresh, cursors, known)
    for (const cursor of cursors) if (!cursor.shard.gone) cursor.shard.cursors.set(cursor.owner, cursor)
    this.commitSoon()
    this.fetchFromAll(true)
  }

  private committed(positions: readonly Position[]): Promise<Map<string, Committed>> {
    if (this.subscribed.group === null) return Promise.resolve(new Map())
    return committedOffsets(this.context.cluster, this.subscribed.group, positions)
  }

  private cursor(owner: string, shard: Shard, known: ReadonlyMap<string, Committed>): Cursor {
    const topic = this.context.topicOf(owner)
    const { id: topicId } = this.context.cluster.layout(topic)!
    const committed = known.get(positionName(topic, shard.index))
    const next = Math.max(committed?.offset ?? 0, startOf(this.versions, topicId, shard.index))
    return {
      owner,
      topic,
      topicId,
      shard,
      next,
      end: -1,
      buffer: [],
      taken: 0,
      entries: [],
      finished: 0,
      committed: committed?.offset ?? -1,
      begun: next,
      reach: this.subscribed.group === null ? Number.POSITIVE_INFINITY : 0,
      begunWhenWritten: next,
      suspectTo: committed?.reach ?? 0,
      stalled: false,
    }
  }

  /** S2. */
  private async lease(shards: readonly Shard[], cursors: readonly Cursor[], known: ReadonlyMap<string, Committed>) {
    const leases = new Map<Shard, Lease>()
    for (const shard of shards) {
      const own = cursors.filter((cursor) => cursor.shard === shard)
      if (own.length === 0) continue
      const last = Math.max(...own.map(({ topic }) => known.get(positionName(topic, shard.index))?.epoch ?? 0))
      leases.set(shard, { shard: shard.index, epoch: last > 0 ? last + 1 : Date.now() })
    }
    if (leases.size === 0) return
    if (this.subscribed.group !== null) {
      const commits = cursors.flatMap((cursor) => {
        const lease = leases.get(cursor.shard)
        if (!lease || cursor.shard.gone) return []
        cursor.committed = cursor.next
        cursor.reach = reachFor(cursor)
        const { topic, topicId, next: offset, reach } = cursor
        return [{ topic, topicId, partition: lease.shard, offset, epoch: lease.epoch, reach }]
      })
      if (commits.length > 0) await this.write(commits, this.group?.identity() ?? null)
    }
    for (const [shard, lease] of leases) if (!shard.gone) shard.lease = lease
  }

  /**
   * Rejects where it is not written; the group is told why. `identity` is the membership under which these shards were
   * held when it was asked for: under a later one, they may be another's already.
   */
  private async write(commits: Parameters<typeof commitOffsets>[3], identity: Identity | null): Promise<void> {
    const { cluster } = this.context
    const group = this.subscribed.group!
    if (!identity) throw new UnavailableError('transport_unavailable', `'${group}' is being shared out anew`)
    const code = await commitOffsets(cluster, group, identity, commits)
    if (code === 0) return
    if (code !== REBALANCE_IN_PROGRESS) this.group?.refused(code, identity)
    throw cluster.failure(code, `group '${group}'`)
  }

  // --- fetching ---

  /** `interrupt`: there are new partitions, which a poll that waits does not know. */
  private fetchFromAll(interrupt: boolean): void {
    if (this.stopped) return
    for (const node of new Set([...this.cursors()].map((cursor) => this.leader(cursor)))) {
      const fetcher = this.fetching.get(node)
      if (!fetcher) void this.fetchFrom(node)
      else if (interrupt && fetcher.polling) this.context.cluster.link(this.fetchPurpose, node).interrupt()
      else fetcher.wake()
    }
  }

  private *cursors(): Generator<Cursor> {
    for (const shard of this.shards.values()) {
      if (shard.lease && !shard.leaving) yield* shard.cursors.values()
    }
  }

  private leader({ topic, shard }: Cursor): number {
    return this.context.cluster.layout(topic)?.leaders[shard.index] ?? -1
  }

  /** Long polls to one broker, as long as it leads something of ours. Never rejects. */
  private async fetchFrom(node: number): Promise<void> {
    const fetcher = { polling: false, wake: () => {} }
    this.fetching.set(node, fetcher)
    try {
      while (!this.stopped) {
        const cursors = [...this.cursors()].filter((cursor) => this.leader(cursor) === node)
        if (cursors.length === 0) return
        const asked = this.full() ? cursors.filter(isWaitedFor) : cursors
        if (asked.length === 0) {
          await new Promise<void>((resolve) => {
            fetcher.wake = resolve
          })
          continue
        }
        try {
          fetcher.polling = true
          await this.fetch(node, asked, fetcher)
          this.context.trouble(this.fetchPurpose, null)
        } catch (error) {
          fetcher.polling = false
          if (this.stopped) return
          await this.fetchFailed(cursors, error)
        }
      }
    } finally {
      this.fetching.delete(node)
      // Leaders move: whoever leads them now has to be asked.
      if (!this.stopped && [...this.cursors()].some((cursor) => !this.fetching.has(this.leader(cursor))))
        setImmediate(() => this.fetchFromAll(false))
    }
  }

  /** S4. */
  private full(): boolean {
    return this.buffered >= this.prefetchMax || this.bufferedBytes >= PREFETCH_BYTES_MAX
  }

  private async fetchFailed(cursors: readonly Cursor[], error: unknown): Promise<void> {
    if (error instanceof Error && this.interrupted(cursors)) return
    for (const cursor of cursors) cursor.stalled = true
    const { message } = this.context.cluster.translate(error)
    this.context.trouble(this.fetchPurpose, message)
    await delay(RETRY_MS)
    await this.context.cluster.refresh([...new Set(cursors.map(({ topic }) => topic))]).catch(() => {})
    this.replaceTopicsMadeAnew()
  }

  /** True where the poll was ended because there is more to ask for. */
  private interrupted(asked: readonly Cursor[]): boolean {
    const node = this.leader(asked[0]!)
    const now = [...this.cursors()].filter((cursor) => this.leader(cursor) === node)
    return now.some((cursor) => !asked.includes(cursor))
  }

  /** A topic that was deleted and made again has nothing of what we knew. */
  private replaceTopicsMadeAnew(): void {
    let replaced = false
    for (const cursor of [...this.cursors()]) {
      const layout = this.context.cluster.layout(cursor.topic)
      if (!layout || layout.id === cursor.topicId) continue
      cursor.shard.cursors.delete(cursor.owner)
      replaced = true
    }
    if (replaced) this.settle()
  }

  private async fetch(node: number, cursors: readonly Cursor[], fetcher: { polling: boolean }): Promise<void> {
    const { cluster } = this.context
    this.turn += 1
    const from = this.turn % cursors.length
    const asked = [...cursors.slice(from), ...cursors.slice(0, from)]
    const topics = [...Map.groupBy(asked, ({ topicId }) => topicId)].map(([topicId, ofTopic]) => ({
      topicId,
      partitions: ofTopic.map(({ shard, next }) => ({
        partition: shard.index,
        currentLeaderEpoch: -1,
        fetchOffset: BigInt(next),
        lastFetchedEpoch: -1,
        partitionMaxBytes: FETCH_PARTITION_BYTES_MAX,
      })),
    }))
    const offsets = new Map(asked.map((cursor) => [cursor, cursor.next]))
    const waitMs = FETCH_WAIT_MS
    const answer = await cluster
      .link(this.fetchPurpose, node)
      .request(
        api.fetch,
        [waitMs, 1, FETCH_BYTES_MAX, 1, 0, -1, topics, [], ''],
        waitMs + cluster.settings.requestTimeoutMs,
      )
    fetcher.polling = false
    if (answer.errorCode !== 0) throw cluster.failure(answer.errorCode, 'reading')
    const byPlace = new Map(asked.map((cursor) => [positionName(cursor.topicId, cursor.shard.index), cursor]))
    const read: { cursor: Cursor; items: Incoming[]; next: number; end: number }[] = []
    let failure: BusError | undefined
    for (const { topicId, partitions } of answer.responses) {
      for (const part of partitions) {
        const cursor = byPlace.get(positionName(topicId, part.partitionIndex))
        if (!cursor) continue
        if (part.errorCode === OFFSET_OUT_OF_RANGE) await this.outOfRange(cursor)
        else if (part.errorCode !== 0) failure = cluster.failure(part.errorCode, `topic '${cursor.topic}'`)
        else {
          const items: Incoming[] = []
          const place = { owner: cursor.owner, topic: cursor.topic, partition: part.partitionIndex }
          const { records, abortedTransactions } = part
          const next = readBatches(records, offsets.get(cursor)!, abortedTransactions, (record, offset, at) => {
            items.push({ offset, at, message: decodeRecord(record, place, offset) })
          })
          read.push({ cursor, items, next, end: Number(part.lastStableOffset) })
        }
      }
    }
    // S3.
    const leftOut = ({ cursor, items }: (typeof read)[number]) =>
      items.some((item) => !this.takes(cursor.topicId, cursor.shard.index, item))
    if (read.some(leftOut)) await this.context.register.refresh()
    for (const { cursor, items, next, end } of read) {
      // It may have been given up, and even be had again, while we waited.
      if (cursor.shard.gone || cursor.shard.leaving || cursor.next !== offsets.get(cursor)) continue
      cursor.next = next
      cursor.end = end
      cursor.stalled = false
      for (const item of items) {
        if (!this.takes(cursor.topicId, cursor.shard.index, item)) continue
        cursor.buffer.push(item)
        this.buffered += 1
        this.bufferedBytes += item.message.body.length
      }
      if (unfinished(cursor) - cursor.committed >= PROGRESS_MIN) this.commitSoon()
    }
    this.pump()
    if (failure) throw failure
  }

  /** What lay there is gone: it was kept no longer than the topic says, or the topic was cut. */
  private async outOfRange(cursor: Cursor): Promise<void> {
    const { topic, topicId, shard, next } = cursor
    const begin = (await listOffsets(this.context.cluster, [topic], 'begin'))[topicId]?.[shard.index]
    if (begin === undefined || shard.gone || cursor.next !== next) return
    const lost = begin > next ? begin - next : 0
    cursor.next = begin
    this.context.cluster.settings.log.error(
      { subscription: this.subscribed.name, topic, partition: shard.index, from: next, to: begin, lost },
      lost > 0
        ? 'the topic kept messages too short for this subscription: they are gone. Raise its retention.ms'
        : 'the topic ends before where this subscription was: it is read from its beginning again',
    )
  }

  // --- handing over ---

  private pumpSoon(): void {
    if (this.pumping || this.stopped) return
    this.pumping = true
    setImmediate(() => {
      this.pumping = false
      this.pump()
    })
  }

  private pump(): void {
    if (this.stopped) return
    const deliveries: Delivery[] = []
    const wasFull = this.full()
    const shards = [...this.shards.values()].filter(({ lease, leaving }) => lease && !leaving)
    this.turn += 1
    for (let idle = 0, index = this.turn; idle < shards.length && this.window.room > 0; index++) {
      const taken = this.takeFrom(shards[index % shards.length]!, deliveries)
      idle = taken > 0 ? 0 : idle + 1
    }
    if (wasFull && deliveries.length > 0) this.fetchFromAll(false)
    if (deliveries.length > 0) this.options.receive(deliveries)
  }

  private takeFrom(shard: Shard, deliveries: Delivery[]): number {
    let count = 0
    while (count < HANDED_OVER_AT_ONCE) {
      const taken = nextOf(shard)
      if (!taken) break
      const { cursor, offset, message } = taken
      if (!this.window.hasRoomFor(message)) break
      if (offset >= cursor.reach) {
        this.reachFurther()
        break
      }
      cursor.begun = offset + 1
      cursor.taken += 1
      if (cursor.taken === cursor.buffer.length) {
        cursor.buffer.length = 0
        cursor.taken = 0
      }
      this.unbuffer(taken)
      const entry = { offset, done: false }
      cursor.entries.push(entry)
      this.window.take(shard.hand, message)
      count += 1
      const redelivered = offset < cursor.suspectTo
      const delivery: KafkaDelivery = { message, lease: shard.lease!, redelivered, entry, cursor }
      deliveries.push(delivery)
    }
    return count
  }

  // --- writing down ---

  private finish(cursor: Cursor): void {
    const { entries } = cursor
    while (cursor.finished < entries.length && entries[cursor.finished]!.done) cursor.finished += 1
    if (cursor.finished > ENTRIES_KEPT || cursor.finished === entries.length) {
      entries.splice(0, cursor.finished)
      cursor.finished = 0
    }
  }

  private commitSoon(): void {
    if (this.subscribed.group === null || this.stopped) return
    this.commitTimer ??= setTimeout(() => {
      this.commitTimer = undefined
      this.commit([...this.shards.values()], false).catch(() => {
        this.commitTimer ??= setTimeout(() => {
          this.commitTimer = undefined
          this.commitSoon()
        }, RETRY_MS)
      })
    }, COMMIT_MS)
  }

  private renew(): void {
    for (const cursor of this.cursors()) cursor.committed = -1
    this.commitSoon()
  }

  /** S7. */
  private reachFurther(): void {
    if (this.reaching) return
    this.reaching = true
    const goOn = () => {
      this.reaching = false
      this.pumpSoon()
    }
    this.commit([...this.shards.values()], false).then(goOn, () => setTimeout(goOn, RETRY_MS).unref())
  }

  /** S1. `last`: these shards are given up, and nothing more of them is begun. */
  private commit(shards: readonly Shard[], last: boolean): Promise<void> {
    const identity = this.group?.identity() ?? null
    const run = async () => {
      if (this.subscribed.group === null) return
      const commits = []
      const moved: [Cursor, Pick<Cursor, 'committed' | 'reach' | 'begunWhenWritten'>][] = []
      for (const { lease, cursors, index } of shards) {
        if (!lease) continue
        for (const cursor of cursors.values()) {
          const { topic, topicId, begun, suspectTo } = cursor
          const offset = unfinished(cursor)
          if (offset === cursor.committed && cursor.reach - toBegin(cursor) >= AHEAD_MIN / 2 && !last) continue
          const reach = last ? Math.max(offset, begun, suspectTo) : reachFor(cursor)
          commits.push({ topic, topicId, partition: index, offset, epoch: lease.epoch, reach })
          moved.push([cursor, { committed: offset, reach, begunWhenWritten: begun }])
        }
      }
      if (commits.length === 0) return
      await this.write(commits, identity)
      for (const [cursor, written] of moved) Object.assign(cursor, written)
    }
    this.committing = this.committing.then(run, run)
    return this.committing
  }
}

/** The lowest offset that is not finished. */
function unfinished(cursor: Cursor): number {
  const { entries, finished } = cursor
  return entries[finished]?.offset ?? toBegin(cursor)
}

/** S7. Never less than what is written: until the broker has the answer, that holds. */
function reachFor(cursor: Cursor): number {
  const ahead = Math.min(AHEAD_MAX, Math.max(AHEAD_MIN, 2 * (cursor.begun - cursor.begunWhenWritten)))
  return Math.max(toBegin(cursor) + ahead, cursor.reach, cursor.suspectTo)
}

/** The lowest offset that can be handed over next. */
const toBegin = ({ buffer, taken, next }: Cursor) => buffer[taken]?.offset ?? next

/** Nothing of it is here, and something is known to lie there. */
function isWaitedFor({ buffer, next, end, stalled }: Cursor): boolean {
  return buffer.length === 0 && next < end && !stalled
}

/** S5. The oldest message here, unless an older one may be on its way. */
function nextOf(shard: Shard): Taken | undefined {
  let oldest: Cursor | undefined
  for (const cursor of shard.cursors.values()) {
    const head = cursor.buffer[cursor.taken]
    if (!head) {
      if (isWaitedFor(cursor)) return undefined
      continue
    }
    const best = oldest?.buffer[oldest.taken]
    if (!best || head.at < best.at || (head.at === best.at && head.message.id < best.message.id)) oldest = cursor
  }
  return oldest && { ...oldest.buffer[oldest.taken]!, cursor: oldest }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
