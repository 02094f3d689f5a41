/**
 * What all processes of a bus have to agree on: which topics are the bus's, and what each durable subscription takes. It
 * is a compacted topic of one partition, which every process reads from its beginning and then follows.
 *
 * R1 A record names up to where its writer had read. It counts only if nobody wrote the same key since; every reader
 *    decides so by the log alone, so all decide alike. Whose record does not count reads on and writes again.
 * R2 A subscription is a list of versions: bindings, and the offsets from which on they are in force. What was published
 *    under an older version is taken or left by that one, so a change of bindings neither loses nor adds what waits.
 */
import { BusError, UnavailableError } from '../errors.ts'
import type { Binding } from '../transport.ts'
import { api, type Cluster } from './kafka-cluster.ts'
import type { Producer } from './kafka-producer.ts'
import { decodePlain, readBatches } from './kafka-records.ts'

/** For each topic, by its id, the offset of each partition. A topic that is not named begins at 0. */
export type Offsets = Readonly<Record<string, readonly number[]>>
export type Version = { readonly bindings: readonly Binding[]; readonly since: Offsets }
export type Registered = {
  /** Another one: the subscription was removed and made again. */
  readonly incarnation: number
  readonly versions: readonly Version[]
}

type Entry = { touched: number; value: Registered | Owner | null; incarnation: number }
type Owner = Record<string, never>
type Written = { readonly seen: number; readonly value: { versions: readonly Version[] } | Owner }

const FETCH_BYTES_MAX = 4_000_000
const FOLLOW_WAIT_MS = 5_000
const RETRY_MS = 500
const ATTEMPTS_MAX = 20

export class Register {
  readonly topic: string
  private readonly cluster: Cluster
  private readonly producer: Producer
  private readonly trouble: (reason: string | null) => void
  private readonly entries = new Map<string, Entry>()
  private readonly listeners = new Set<() => void>()
  private position = 0
  private id = ''
  private following = false
  private closed = false
  private reading: Promise<void> | undefined

  constructor(cluster: Cluster, producer: Producer, topic: string, trouble: (reason: string | null) => void) {
    this.cluster = cluster
    this.producer = producer
    this.topic = topic
    this.trouble = trouble
  }

  /** The first words of types that have a topic. */
  owners(): string[] {
    return [...this.entries].flatMap(([key, { value }]) => (key.startsWith('topic/') && value ? [key.slice(6)] : []))
  }

  subscription(name: string): Registered | undefined {
    return (this.entries.get(`subscription/${name}`)?.value ?? undefined) as Registered | undefined
  }

  subscriptions(): string[] {
    return [...this.entries].flatMap(([key, { value }]) =>
      key.startsWith('subscription/') && value ? [key.slice('subscription/'.length)] : [],
    )
  }

  addOwner(owner: string): Promise<void> {
    return this.change(`topic/${owner}`, (value) => value ?? {})
  }

  /** `next` makes the new versions of the present ones; undefined: leave it. */
  changeSubscription(
    name: string,
    next: (present: readonly Version[] | undefined) => Promise<readonly Version[] | undefined>,
  ): Promise<void> {
    return this.change(`subscription/${name}`, async (value) => {
      const versions = await next((value as Registered | undefined)?.versions)
      return versions && { versions }
    })
  }

  async removeSubscription(name: string): Promise<void> {
    await this.refresh()
    if (!this.subscription(name)) return
    const message = { id: '', type: 'register', key: `subscription/${name}`, headers: {}, body: null }
    await this.producer.publish([{ topic: this.topic, message }])
    await this.refresh()
  }

  /** Calls `listener` whenever something changed. Answers how to stop that. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Reads to the end as it is now. Whoever calls while somebody reads waits for a reading that begins afterwards. */
  async refresh(): Promise<void> {
    while (this.reading) await this.reading.catch(() => {})
    this.reading = this.readToEnd().finally(() => {
      this.reading = undefined
    })
    return this.reading
  }

  /** From now on hears of changes by itself. */
  follow(): void {
    if (this.following) return
    this.following = true
    void this.followUntilClosed()
  }

  close(): void {
    this.closed = true
    this.cluster.unlink('register')
  }

  private async change(
    key: string,
    next: (value: Entry['value'] | undefined) => Promise<Written['value'] | undefined> | Written['value'] | undefined,
  ): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      await this.refresh()
      const before = this.entries.get(key)
      const value = await next(before?.value ?? undefined)
      if (
        value === undefined ||
        (before?.value && JSON.stringify(withoutIncarnation(before.value)) === JSON.stringify(value))
      )
        return
      const written: Written = { seen: this.position - 1, value }
      const message = { id: '', type: 'register', key, headers: {}, body: JSON.stringify(written) }
      await this.producer.publish([{ topic: this.topic, message }])
      await this.refresh()
      const after = this.entries.get(key)?.value
      if (after && JSON.stringify(withoutIncarnation(after)) === JSON.stringify(value)) return
    }
    throw new UnavailableError(
      'transport_unavailable',
      `others change '${key}' in '${this.topic}' all the time: try again`,
    )
  }

  private async readToEnd(): Promise<void> {
    while (!this.closed) {
      const end = await this.read('control', 0)
      if (this.position >= end) return
    }
    throw new BusError('bus_closed', 'the transport is closed')
  }

  private async followUntilClosed(): Promise<void> {
    while (!this.closed) {
      try {
        await this.read('register', FOLLOW_WAIT_MS)
        this.trouble(null)
      } catch (error) {
        if (this.closed) return
        this.trouble(this.cluster.translate(error).message)
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref())
        await this.cluster.refresh([this.topic]).catch(() => {})
      }
    }
  }

  /** One fetch from where we are; answers the end of the log. */
  private async read(purpose: string, waitMs: number): Promise<number> {
    const layout = this.cluster.layout(this.topic)
    if (!layout) throw new UnavailableError('transport_unavailable', `the topic '${this.topic}' is not there`)
    if (this.id !== layout.id) {
      // Made anew: nothing of what we knew stands there.
      this.id = layout.id
      this.position = 0
      this.entries.clear()
    }
    const wanted = {
      partition: 0,
      currentLeaderEpoch: -1,
      fetchOffset: BigInt(this.position),
      lastFetchedEpoch: -1,
      partitionMaxBytes: FETCH_BYTES_MAX,
    }
    const topics = [{ topicId: layout.id, partitions: [wanted] }]
    const link = this.cluster.link(purpose, layout.leaders[0] ?? -1)
    const answer = await link
      .request(
        api.fetch,
        [waitMs, 1, FETCH_BYTES_MAX, 1, 0, -1, topics, [], ''],
        waitMs + this.cluster.settings.requestTimeoutMs,
      )
      .catch((error) => {
        throw this.cluster.translate(error)
      })
    const part = answer.responses[0]?.partitions[0]
    const code = answer.errorCode || (part?.errorCode ?? 3)
    if (code !== 0) {
      await this.cluster.refresh([this.topic])
      throw this.cluster.failure(code, `topic '${this.topic}'`)
    }
    let changed = false
    const from = Number(wanted.fetchOffset)
    const next = readBatches(part!.records, from, part!.abortedTransactions, (record, offset) => {
      const { key, value } = decodePlain(record)
      if (offset < this.position || key === null) return // the follower was here before
      this.apply(offset, key, value)
      changed = true
    })
    this.position = Math.max(this.position, next)
    if (changed) for (const listener of this.listeners) listener()
    return Number(part!.lastStableOffset)
  }

  /** R1. */
  private apply(offset: number, key: string, text: string | null): void {
    const entry = this.entries.get(key) ?? { touched: -1, value: null, incarnation: 0 }
    this.entries.set(key, entry)
    const untouched = entry.touched
    entry.touched = offset
    if (text === null) {
      entry.value = null
      return
    }
    const { seen, value } = JSON.parse(text) as Written
    if (entry.value !== null && untouched > seen) return
    if (entry.value === null) entry.incarnation = offset
    entry.value = 'versions' in value ? { ...(value as Registered), incarnation: entry.incarnation } : (value as Owner)
  }
}

function withoutIncarnation(value: Registered | Owner): object {
  const { incarnation, ...rest } = value as Registered
  return rest
}
