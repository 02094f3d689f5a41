/**
 * The consumer: one subscription of one service in one process. Everything that can go wrong with a message goes wrong
 * here, so the rules stand first; tests name them.
 *
 * C1 Lanes. Messages of one key form a lane; a lane is worked on by one batch at a time, in order (B3).
 * C2 Outside work runs for up to `concurrency` messages at the same time, before any transaction; what it brought joins
 *    the next batch. It may never cease, so every other batch is of what needs nothing from outside, or of C10.
 * C3 One transaction holds a batch's inbox marks, effects and publications (B1, B2). First all together; if one fails,
 *    everything is undone and done again with a savepoint each, so that only the failing one is undone.
 * C4 The broker is told only after the commit. What it delivers again, the inbox recognises.
 * C5 The first failure moves a message into the deferred table and lets the broker forget it; as long as a key has rows
 *    there, its later messages queue up behind them (B4). Due rows are claimed, which counts the attempt durably, and
 *    run as any delivery.
 * C6 A message that is given up becomes a dead letter. With 'park' its deferred row stays, without a due time, so its
 *    key goes on waiting (B5); with 'skip' the row goes and the next of the key is due.
 * C7 What cannot be decoded, is unknown or too new, has no handler: a dead letter with its bytes (B6).
 * C8 A commit under a lease that somebody else has taken since is refused (B8).
 * C9 A database that is away or a full disk is no attempt: the batch waits and comes again.
 * C10 A delivery that an earlier process may have died of runs alone, its attempt counted before it begins.
 * C11 A stranger's message may be known to the broker by another id than its envelope gives: the inbox knows it by both.
 */
import type { Clock, Random, Timer } from './clock.ts'
import { BusError, PermanentError, UnavailableError } from './errors.ts'
import { type EventType, upcast } from './event.ts'
import type { Limits } from './limits.ts'
import type { Log } from './log.ts'
import type { Message, WireMessage } from './message.ts'
import { type ComposeContext, headersText, Publications, type Publish, type StoredMessage, toWire } from './outbox.ts'
import { matches } from './routing.ts'
import { list, sql } from './sql.ts'
import type { MaybePromise, Reader, Store, Tx } from './store.ts'
import type { Span, Tracing } from './tracing.ts'
import type { Backlog, Binding, Delivery, Lease, Transport, Consumer as TransportConsumer } from './transport.ts'
import { within } from './within.ts'

/** The points at which a process may die; `onStep` lets a test kill it there. */
export const steps = [
  'receive',
  'begin',
  'effect',
  'inbox',
  'outbox',
  'commit',
  'ack',
  'relay',
  'confirm',
  'mark',
] as const
export type Step = (typeof steps)[number]

export type HandlerContext<Data = unknown> = {
  readonly tx: Tx
  readonly publish: Publish
  /** Calls off a later publication by its id. */
  readonly cancel: (id: string) => Promise<void>
  readonly message: Message<Data>
  /** 1 for the first try. */
  readonly attempt: number
}

export type OutsideContext<Data = unknown> = {
  /** `message.id` is the idempotency key: a repeat is the same request. */
  readonly message: Message<Data>
  readonly attempt: number
  /** Aborted when handlerTimeoutMs is over. */
  readonly signal: AbortSignal
  /** Reads what is committed. */
  readonly read: Store['read']
}

export type Handle<Data, Answer = void> = (
  data: Data,
  context: HandlerContext<Data>,
  answer: Answer,
) => MaybePromise<void>

/** A function, or one that reaches outside before its transaction begins. It may run more than once before it commits. */
export type Handler<Data = any, Answer = any> =
  | ((data: Data, context: HandlerContext<Data>) => MaybePromise<void>)
  | {
      readonly outside: (data: Data, context: OutsideContext<Data>) => Promise<Answer> | Answer
      readonly handle: Handle<Data, Answer>
    }

/** Wraps every handler's transaction part; call `next` exactly once. */
export type Middleware = (context: HandlerContext, next: () => Promise<void>) => Promise<void>

export type SubscribeOptions = {
  /** By default the service's name: all its handlers share one subscription, and one order by key. */
  name?: string
  /** Deliveries whose outside work runs at the same time; never two of one key. */
  concurrency?: number
  /** Tries before the message becomes a dead letter. */
  attemptsMax?: number
  /** Waiting time before try n+1: firstMs × factor^(n−1), at most maxMs, less up to half of it by chance with `jitter`. */
  backoff?: { firstMs?: number; factor?: number; maxMs?: number; jitter?: boolean }
  /** What a dead letter does to the later messages of its key. */
  afterDeadLetter?: 'park' | 'skip'
  handlerTimeoutMs?: number
  /** Where a new subscription begins. */
  from?: 'now' | 'beginning'
  /** Ends with the process. */
  ephemeral?: boolean
}

export type Registration = { readonly binding: Binding; readonly handler: Handler; readonly event: EventType | null }

/** What a subscription needs of a broker. */
export type Source = Pick<Transport, 'name' | 'declare' | 'consume' | 'backlog'>

export type ConsumerOptions = {
  service: string
  name: string
  settings: SubscribeOptions
  transport: Source
  /** What comes is no message of ours (bridge.ts): this makes one of it, and what its handling publishes has no cause here. */
  decodeForeign?: (wire: WireMessage) => Message
  store: Store
  events: ReadonlyMap<string, EventType>
  compose: ComposeContext
  limits: Limits
  clock: Clock
  random: Random
  log: Log
  middleware: readonly Middleware[]
  tracing: Tracing | undefined
  onStep: (step: Step) => void
  /** After a commit: `published` rows stand in the outbox, a timer is due at `nextDueAt`. */
  onCommit: (published: number, nextDueAt: number) => void
}

/** A message on its way through this process. */
type Work = {
  readonly wire: WireMessage
  readonly lane: string
  /** From the broker… */
  readonly delivery: Delivery | null
  /** …or from the deferred table. */
  readonly deferred: { readonly position: number; readonly attempts: number } | null
  /** What the handlers brought from outside, by registration. */
  answers: Map<Registration, unknown> | null
  /** Outside work failed with this. */
  outsideError: unknown
  /** Runs alone (C10), with this attempt number. */
  guardedAttempt: number
  /** The `traceparent` of its latest attempt, where somebody traces: the next one links to it. */
  trace: string | null
}

/** What a transaction of a batch came to. */
type Outcome = {
  readonly publications: Publications
  readonly failures: { work: Work; error: unknown }[]
  /** Attempts that end with the transaction. */
  readonly spans: Span[]
  /** Under which it commits (C8). */
  leases: ReadonlyMap<number, Lease>
}

type Lane = { queue: Work[]; busy: boolean }

export type SubscriptionStatus = {
  readonly name: string
  /** Messages on the broker; null: it does not say. */
  readonly waiting: number | null
  /** Milliseconds since the epoch; null: none waits, or the broker does not say. */
  readonly oldestAt: number | null
  /** Null: the broker does not say. */
  readonly oldestAgeMs: number | null
  readonly inFlight: number
  readonly deferred: number
  readonly deadLetters: number
  /** Since this process started: deliveries that were committed, and tries that failed. */
  readonly handledTotal: number
  readonly failedTotal: number
}

const UNAVAILABLE_RETRY_MS = 250
/** A status does not wait longer for the broker to count. */
const COUNTING_MAX_MS = 3_000
/** Beyond the handler's own time, before another process may take up a claimed retry. */
const CLAIM_MARGIN_MS = 5_000
/** A decoded message is remembered on the transport's copy. (A WeakMap of them took a tenth of a consumer's time.) */
const decoded = Symbol('decoded')
type Remembering = WireMessage & { [decoded]?: { event: EventType; message: Message } }

export class Consumer {
  readonly name: string
  private readonly options: ConsumerOptions
  private readonly registrations: Registration[] = []
  private readonly byType = new Map<string, Registration[]>()
  private readonly lanes = new Map<string, Lane>()
  /** Lanes whose first message waits for a batch, and those whose first message waits for its outside work. */
  private readonly ready = new Ready()
  private readonly readyOutside = new Ready()
  /** Back from outside: these join the next batch; those that failed there are dealt with one by one. */
  private brought: Work[] = []
  /** What was logged last of what is away outside. */
  private saidAway = ''
  private outsideRunning = 0
  private running = 0
  private pumping = false
  private inHand = 0
  /** By shard: the epoch under which this process has committed last. */
  private readonly fenceEpochs = new Map<number, number>()
  private deferredInHand = 0
  /** The latest batch began with what came back from outside (C2). */
  private broughtHadItsTurn = false
  private holding = false
  private due: { timer: Timer; at: number } | undefined
  private claiming: Promise<void> | undefined
  private sweeper: Timer | undefined
  private source: TransportConsumer | undefined
  private stopping = false
  private stopped: (() => void) | undefined
  private handledTotal = 0
  private failedTotal = 0
  /** The database took the last batch. */
  private healthy = true

  constructor(options: ConsumerOptions) {
    this.options = options
    this.name = options.name
  }

  /** Another handler joins, with settings of its own: they hold for the whole subscription. Throws `invalid_argument`. */
  configure(settings: SubscribeOptions): void {
    const { settings: known } = this.options
    for (const [key, value] of Object.entries(settings) as [keyof SubscribeOptions, unknown][]) {
      if (known[key] !== undefined && JSON.stringify(known[key]) !== JSON.stringify(value)) {
        const both = `${JSON.stringify(known[key])} and ${JSON.stringify(value)}`
        throw new BusError(
          'invalid_argument',
          `subscription '${this.name}' was given ${both} as ${key}: say it once, or name another subscription`,
        )
      }
    }
    this.options.settings = { ...known, ...settings }
  }

  add(registration: Registration): void {
    this.registrations.push(registration)
    this.byType.clear()
  }

  async declare(): Promise<void> {
    const { settings, transport } = this.options
    const bindings = this.registrations.map((registration) => registration.binding)
    await transport.declare({
      name: this.name,
      bindings,
      from: settings.from ?? 'beginning',
      ...(settings.ephemeral ? { ephemeral: true } : {}),
    })
  }

  /** Starting twice is fine. */
  async start(): Promise<void> {
    this.source ??= await this.options.transport.consume(this.name, {
      windowMax: this.options.limits.windowMax,
      windowBytesMax: this.options.limits.windowBytesMax,
      receive: (deliveries) => this.receive(deliveries),
      revoked: (lease) => this.revoke(lease),
    })
    if (!this.sweeper) this.sweep()
  }

  /** Takes no more, finishes what runs (B12). */
  async stop(): Promise<void> {
    this.stopping = true
    this.sweeper?.cancel()
    this.due?.timer.cancel()
    await this.claiming
    if (this.isWorking) {
      await new Promise<void>((resolve) => {
        this.stopped = resolve
      })
    }
    await this.source?.close()
  }

  /** It consumes, and its database takes what it writes. */
  get serving(): boolean {
    return this.source !== undefined && this.healthy
  }

  /** Nothing received or claimed is unfinished. */
  get idle(): boolean {
    return this.inHand === 0 && this.running === 0 && this.claiming === undefined
  }

  backlog(): Promise<Backlog> {
    return this.options.transport.backlog(this.name)
  }

  async status(): Promise<SubscriptionStatus> {
    const { store, clock } = this.options
    const counts = store.read((reader) =>
      reader.get<{ deferred: number; dead: number }>(sql`
        select (select count(*) from bus_deferred where subscription = ${this.name}) as deferred,
          (select count(*) from bus_dead_letter where subscription = ${this.name} and status = 'open') as dead`),
    )
    const [backlog, counted] = await Promise.all([this.backlogInTime(), counts])
    const { waiting, oldestAt } = backlog ?? { waiting: null, oldestAt: null }
    const oldestAgeMs = oldestAt === null ? 0 : Math.max(0, clock.now() - oldestAt)
    return {
      name: this.name,
      waiting,
      oldestAt,
      oldestAgeMs: waiting === null ? null : oldestAgeMs,
      inFlight: this.inHand,
      deferred: Number(counted!.deferred),
      deadLetters: Number(counted!.dead),
      handledTotal: this.handledTotal,
      failedTotal: this.failedTotal,
    }
  }

  /** Null: the broker is away, or takes longer. */
  private backlogInTime(): Promise<Backlog | null> {
    return within(COUNTING_MAX_MS, 'counting', this.backlog()).catch(() => null)
  }

  /** True where a deferred message is due, or would be without waiting for the clock. */
  async hasDue(): Promise<boolean> {
    const now = this.options.clock.now()
    const row = await this.options.store.read((reader) =>
      reader.get(sql`select 1 as one from bus_deferred where subscription = ${this.name} and due_at <= ${now} limit 1`),
    )
    return row !== undefined
  }

  // --- taking in, and dealing out to batches (C1) ---

  private receive(deliveries: Delivery[]): void {
    if (this.stopping) return // not acknowledged: they come again
    this.options.onStep('receive')
    for (const delivery of deliveries) {
      this.enqueue(newWork(delivery.message, delivery, null))
    }
    queueMicrotask(() => this.pump()) // they came together: nothing is gained by waiting for more
  }

  private enqueue(work: Work): void {
    this.inHand += 1
    let lane = this.lanes.get(work.lane)
    if (!lane) {
      lane = { queue: [], busy: false }
      this.lanes.set(work.lane, lane)
    }
    if (work.deferred) {
      // Older than whatever the broker still delivers of this key.
      this.deferredInHand += 1
      const place = lane.queue.findIndex((other) => !other.deferred)
      lane.queue.splice(place < 0 ? lane.queue.length : place, 0, work)
    } else {
      lane.queue.push(work)
    }
    if (lane.queue.length === 1 || work.deferred) this.offer(work.lane, lane)
  }

  /** Puts an idle lane where its first message belongs. */
  private offer(key: string, lane: Lane): void {
    const first = lane.queue[0]
    if (lane.busy || !first) return
    const queue = this.reachesOutside(first) ? this.readyOutside : this.ready
    queue.add(key)
  }

  private revoke(lease: { shard: number; epoch: number }): void {
    const isLost = ({ delivery }: Work) => delivery?.lease.shard === lease.shard && delivery.lease.epoch === lease.epoch
    for (const [key, lane] of this.lanes) {
      const kept = lane.queue.filter((work) => !isLost(work))
      if (kept.length === lane.queue.length) continue
      this.inHand -= lane.queue.length - kept.length
      lane.queue = kept
      if (kept.length > 0) this.offer(key, lane)
      else if (!lane.busy) this.lanes.delete(key)
    }
    const lost = this.brought.filter(isLost)
    this.brought = this.brought.filter((work) => !isLost(work))
    this.letGo(lost)
  }

  /** In the next turn of the event loop, so that what arrives or comes back together makes one batch. */
  private pumpSoon(): void {
    if (this.pumping) return
    this.pumping = true
    setImmediate(() => {
      this.pumping = false
      this.pump()
    })
  }

  private pump(): void {
    const { settings, limits } = this.options
    const concurrency = settings.concurrency ?? limits.concurrency
    while (!this.stopping && !this.holding && this.outsideRunning < concurrency) {
      const work = this.takeFirst(this.readyOutside)
      if (!work) break
      this.outsideRunning += 1
      void this.bring(work)
    }
    // One batch at a time: what waits meanwhile makes the next one larger, and two large transactions of one service would
    // wait for each other's rows in turn, until the database undoes one of them.
    while (this.running < 1) {
      const batch = this.nextBatch()
      if (batch.length === 0) break
      this.running += 1
      void this.run(batch).then((unfinished) => this.finished(batch, unfinished))
    }
    if (this.stopping && !this.isWorking) this.stopped?.()
  }

  /** C2. Where what it needs is away, it waits and tries again, which is no attempt (C9); only its own key waits. */
  private async bring(work: Work): Promise<void> {
    for (;;) {
      await this.reachOutside(work)
      if (!(work.outsideError instanceof UnavailableError)) break
      this.sayAway(work.outsideError.message, work.wire.id)
      await this.unavailablePause()
      if (this.stopping) break
    }
    this.outsideRunning -= 1
    if (!(work.outsideError instanceof UnavailableError)) {
      this.saidAway = ''
      this.brought.push(work)
    }
    this.pumpSoon()
  }

  /** Once for all messages that find the same away, until one got through. */
  private sayAway(why: string, messageId: string): void {
    if (this.saidAway === why) return
    this.saidAway = why
    this.options.log.warn({ subscription: this.name, messageId }, why)
  }

  private unavailablePause(): Promise<void> {
    return new Promise((resolve) => {
      this.options.clock.after(UNAVAILABLE_RETRY_MS, resolve)
    })
  }

  /** `unfinished` stood in the batch and begins anew. */
  private finished(batch: Work[], unfinished: Work[]): void {
    this.running -= 1
    for (const work of unfinished.toReversed()) {
      this.lanes.get(work.lane)?.queue.unshift(work)
      this.inHand += 1
      if (work.deferred) this.deferredInHand += 1
    }
    this.letGo(batch)
    if (batch.some((work) => work.deferred)) void this.planDue()
    this.pump()
  }

  /** These are in hand no more, and the next of their keys may go on. */
  private letGo(works: readonly Work[]): void {
    this.inHand -= works.length
    for (const work of works) {
      if (work.deferred) this.deferredInHand -= 1
      const lane = this.lanes.get(work.lane)
      if (!lane?.busy) continue
      lane.busy = false
      if (lane.queue.length > 0) this.offer(work.lane, lane)
      else this.lanes.delete(work.lane)
    }
  }

  /** The deferred table is full: for a moment only what can make room in it is worked on. */
  private hold(): void {
    if (this.holding) return
    this.holding = true
    this.options.clock.after(UNAVAILABLE_RETRY_MS, () => {
      this.holding = false
      for (const [key, lane] of this.lanes) this.offer(key, lane)
      this.pump()
    })
  }

  /** Something has begun and is not committed. */
  private get isWorking(): boolean {
    return this.running > 0 || this.outsideRunning > 0 || this.brought.length > 0
  }

  /** What came back from outside, and runs of plain messages; one that an earlier process may have died of goes alone. */
  private nextBatch(): Work[] {
    const { batchMax } = this.options.limits
    const isTurnOfOthers = this.broughtHadItsTurn && !this.stopping && this.hasReady()
    const batch = isTurnOfOthers ? [] : this.takeBrought(batchMax)
    this.broughtHadItsTurn = batch.length > 0
    if (this.stopping || batch[0]?.outsideError !== undefined) return batch // of what is new, nothing is begun any more
    while (batch.length < batchMax) {
      const key = this.ready.peek()
      if (key === undefined) break
      const lane = this.lanes.get(key)
      const first = lane?.queue[0]
      if (!lane || lane.busy || !first) {
        this.ready.take()
        continue
      }
      if (first.delivery?.redelivered && !this.holding) {
        if (batch.length > 0) break
        return [this.takeFirst(this.ready)!]
      }
      this.ready.take()
      const room = batchMax - batch.length
      let taken = 0
      while (taken < room && taken < lane.queue.length && this.isPlain(lane.queue[taken]!)) taken += 1
      batch.push(...lane.queue.splice(0, taken))
      lane.busy = taken > 0
    }
    return batch.length === 0 && isTurnOfOthers ? this.takeBrought(batchMax) : batch
  }

  private hasReady(): boolean {
    for (let key = this.ready.peek(); key !== undefined; key = this.ready.peek()) {
      const lane = this.lanes.get(key)
      if (lane && !lane.busy && lane.queue.length > 0) return true
      this.ready.take()
    }
    return false
  }

  private takeBrought(max: number): Work[] {
    const failed = this.brought.findIndex((work) => work.outsideError !== undefined && !(this.holding && work.delivery))
    if (failed >= 0) return this.brought.splice(failed, 1)
    if (!this.holding) return this.brought.splice(0, max)
    const deferred = this.brought.filter((work) => work.deferred)
    this.brought = this.brought.filter((work) => !work.deferred)
    return deferred
  }

  private takeFirst(ready: Ready): Work | undefined {
    for (let key = ready.take(); key !== undefined; key = ready.take()) {
      const lane = this.lanes.get(key)
      if (!lane || lane.busy || lane.queue.length === 0) continue
      lane.busy = true
      return lane.queue.shift()
    }
    return undefined
  }

  private isPlain(work: Work): boolean {
    if (this.holding && work.delivery) return false
    return !work.delivery?.redelivered && !this.reachesOutside(work)
  }

  private reachesOutside(work: Work): boolean {
    if (work.delivery?.redelivered) return false // counted first, then brought in its own batch
    return this.handlersOf(work.wire).some(({ handler }) => typeof handler !== 'function')
  }

  private handlersOf(wire: WireMessage): Registration[] {
    const byHeaders = wire.headers !== undefined && this.registrations.some(({ binding }) => binding.kind === 'headers')
    if (byHeaders) return this.registrations.filter(({ binding }) => matches(binding, wire))
    let found = this.byType.get(wire.type)
    if (!found) {
      found = this.registrations.filter(({ binding }) => matches(binding, wire))
      if (this.byType.size > 10_000) this.byType.clear() // types of strangers are not remembered without end
      this.byType.set(wire.type, found)
    }
    return found
  }

  // --- running a batch ---

  /** Answers what has to begin anew. */
  private async run(batch: Work[]): Promise<Work[]> {
    const { log, onStep } = this.options
    let rest = batch
    for (;;) {
      try {
        await this.runOnce(rest)
        this.healthy = true
        break
      } catch (error) {
        if (error instanceof Fenced) {
          // Whoever took over does that part of the work; the rest is still ours.
          log.warn({ subscription: this.name, count: rest.length }, error.message)
          rest = rest.filter(({ delivery }) => !delivery || !error.isLost(delivery.lease))
          if (rest.length === 0) return []
          continue
        }
        if (error instanceof UnavailableError) {
          if (this.healthy) log.warn({ subscription: this.name }, error.message)
        } else {
          log.error({ subscription: this.name, err: error }, 'a batch failed in an unforeseen way; it is tried again')
        }
        this.healthy = false // C9
        if (error instanceof BusError && error.code === 'backlog_full') {
          this.hold()
          return rest
        }
        await this.unavailablePause()
        if (this.stopping) return []
        if (rest[0]!.outsideError instanceof UnavailableError) return rest // others may have nothing to do with what is away
        for (const work of rest) if (!work.delivery?.redelivered && !work.answers) await this.reachOutside(work)
      }
    }
    const deliveries: Delivery[] = []
    for (const work of rest) if (work.delivery) deliveries.push(work.delivery)
    if (deliveries.length > 0) this.source?.ack(deliveries) // C4
    onStep('ack')
    return []
  }

  private async runOnce(batch: Work[]): Promise<void> {
    const first = batch[0]!
    if (first.delivery?.redelivered) {
      if (first.guardedAttempt === 0 && !(await this.countBefore(first))) return
      await this.reachOutside(first)
    }
    if (batch.length > 1) {
      try {
        await this.commit(batch, 'together')
        return
      } catch (error) {
        if (error instanceof UnavailableError || error instanceof Fenced) throw error
      }
    }
    await this.commit(batch, 'apart')
  }

  /**
   * C3. `together`: a failure goes to the caller, and nothing has happened. `apart`: each failure is dealt with, and the
   * rest stands.
   */
  private async commit(batch: Work[], mode: 'together' | 'apart'): Promise<void> {
    const { store, onStep, onCommit } = this.options
    let outcome!: Outcome
    try {
      await store.transaction((tx) => {
        outcome = { publications: new Publications(this.options.compose), failures: [], spans: [], leases: new Map() }
        // Everything inside has an end, or a handler that never returns would hold the database for ever.
        if (mode === 'apart') return this.runInside(tx, batch, outcome, null)
        return this.withTimeout((_, handlerBegins) => this.runInside(tx, batch, outcome, handlerBegins))
      })
    } catch (error) {
      for (const span of outcome?.spans ?? []) span.fail(error) // undone with its neighbours, and tried anew
      throw error
    } finally {
      for (const span of outcome?.spans ?? []) span.end()
    }
    onStep('commit')
    for (const { shard, epoch } of outcome.leases.values()) this.fenceEpochs.set(shard, epoch)
    this.handledTotal += batch.length - outcome.failures.length
    this.failedTotal += outcome.failures.length
    for (const { work, error } of outcome.failures) this.report(work, error)
    onCommit(outcome.publications.count, outcome.publications.nextDueAt)
    if (outcome.failures.length > 0) void this.planDue()
  }

  /** The batch's transaction. With `handlerBegins` all together: it is called before each handler; without, apart. */
  private async runInside(tx: Tx, batch: Work[], outcome: Outcome, handlerBegins: (() => void) | null): Promise<void> {
    const { onStep } = this.options
    onStep('begin')
    const leases = this.leasesOf(batch)
    await this.takeFences(tx, leases)
    outcome.leases = leases
    // Asked together, so that they are one way to a server and back.
    const [, fresh, blocked] = await Promise.all([
      this.holdFences(tx, leases),
      this.markInbox(tx, batch),
      this.blockedLanes(tx, batch),
    ])
    onStep('inbox')
    for (const work of batch) {
      if (work.delivery && !fresh.has(work)) continue
      if (work.delivery && blocked.has(work.lane)) {
        await this.defer(tx, work, 0, null, 'waits behind another message of its key')
        continue
      }
      if (work.deferred && !(await this.stillDeferred(tx, work))) continue
      if (handlerBegins) {
        handlerBegins()
        await this.attempt(work, tx, outcome)
      } else if (!(await this.invokeApart(work, tx, outcome, blocked))) continue
      await this.succeeded(tx, work, blocked)
    }
    onStep('effect')
    await outcome.publications.write(tx)
    onStep('outbox')
  }

  /** In a savepoint; a failure is dealt with here. True: it succeeded. */
  private async invokeApart(work: Work, tx: Tx, outcome: Outcome, blocked: Set<string>): Promise<boolean> {
    const { publications, failures } = outcome
    const mark = publications.mark()
    try {
      if (work.outsideError !== undefined) throw work.outsideError
      await tx.savepoint((scoped) => this.withTimeout(() => this.attempt(work, scoped, outcome)))
      return true
    } catch (error) {
      if (error instanceof UnavailableError) throw error
      publications.backTo(mark)
      failures.push({ work, error })
      await this.failed(tx, work, error, attemptOf(work), blocked)
      return false
    }
  }

  /** One try of a message's handlers, as a span where somebody traces. */
  private attempt(work: Work, tx: Tx, { publications, spans }: Outcome): Promise<void> {
    const { tracing } = this.options
    if (!tracing) return this.invoke(work, tx, publications)
    const { id, type } = work.wire
    const span = tracing.start({
      name: `process ${type}`,
      kind: 'consumer',
      parent: this.parentOf(work.wire),
      link: work.trace,
      attributes: {
        'messaging.system': this.options.transport.name,
        'messaging.operation.type': 'process',
        'messaging.destination.name': type,
        'messaging.destination.subscription.name': this.name,
        'messaging.message.id': id,
        'shopsphere.attempt': attemptOf(work),
      },
    })
    work.trace = span.traceparent
    spans.push(span)
    return this.invoke(work, tx, publications, span.traceparent).catch((error) => {
      span.fail(error)
      throw error
    })
  }

  private parentOf(wire: WireMessage): string | null {
    try {
      return this.decode(wire).traceparent
    } catch {
      return null // what cannot be read is told of by the attempt
    }
  }

  private async invoke(work: Work, tx: Tx, publications: Publications, trace?: string): Promise<void> {
    const registrations = this.handlersOf(work.wire)
    const message = this.decode(work.wire)
    if (registrations.length === 0) {
      throw new PermanentError(`no handler of '${this.name}' takes ${work.wire.type}`, { code: 'no_handler' })
    }
    if (isArrival(work) && message.id !== work.wire.id && !(await this.isFirst(tx, message.id))) return // C11
    const { correlationId, id } = message
    const causationId = this.options.decodeForeign ? null : id
    const traceparent = trace ?? message.traceparent
    const context: HandlerContext = {
      tx,
      message,
      attempt: attemptOf(work),
      publish: publications.publishFrom({ correlationId, causationId, traceparent }, tx),
      cancel: (id) => publications.cancel(tx, id),
    }
    for (const registration of registrations) {
      const { handler } = registration
      if (typeof handler !== 'function' && !work.answers?.has(registration)) {
        // It was blocked or handled when the outside work was due, and is neither any more: begin again.
        throw new UnavailableError(
          'store_unavailable',
          `${work.wire.type} ${work.wire.id}: its outside work has to be done first`,
        )
      }
      const call =
        typeof handler === 'function'
          ? () => handler(message.data, context)
          : () => handler.handle(message.data, context, work.answers?.get(registration))
      await this.throughMiddleware(context, call)
    }
  }

  /** For a rehearsal: the handlers alone, without outside work. */
  async tryOut(message: StoredMessage, tx: Tx, publications: Publications): Promise<void> {
    const work = newWork(toWire(message), null, null)
    const reachesOutside = this.handlersOf(work.wire).some(({ handler }) => typeof handler !== 'function')
    if (reachesOutside) {
      throw new BusError(
        'invalid_argument',
        `${message.type}: its handler reaches outside, which cannot be undone; redrive it instead`,
      )
    }
    await this.withTimeout(() => this.invoke(work, tx, publications))
  }

  private throughMiddleware(context: HandlerContext, call: () => MaybePromise<void>): MaybePromise<void> {
    const { middleware } = this.options
    if (middleware.length === 0) return call()
    const step = async (index: number): Promise<void> => {
      const next = middleware[index]
      if (next) await next(context, () => step(index + 1))
      else await call()
    }
    return step(0)
  }

  /**
   * Decodes, upcasts and validates; once for all subscriptions of the process that get the same copy, so handlers must not
   * change a payload. (Freezing it deep took a tenth of a service's time.) Throws C7's errors.
   */
  private decode(wire: Remembering): Message {
    if (this.options.decodeForeign) return this.options.decodeForeign(wire)
    const event = this.options.events.get(wire.type)
    if (!event)
      throw new PermanentError(`no definition of '${wire.type}' was given to ${this.options.service}`, {
        code: 'unknown_event',
      })
    const known = wire[decoded]
    if (known?.event === event) return known.message
    const raw = this.options.compose.codec.decode(wire.body)
    if (raw.type !== wire.type)
      throw new PermanentError(`routed as '${wire.type}' but says it is '${raw.type}'`, { code: 'undecodable' })
    const data = upcast(event, raw.version, raw.data)
    const message = Object.freeze({ ...raw, data, key: raw.key ?? event.key(data) })
    wire[decoded] = { event, message }
    return message
  }

  /** Does the outside work of a message, if it has any and its key is not blocked. Never throws: see `outsideError`. */
  private async reachOutside(work: Work): Promise<void> {
    const registrations = this.handlersOf(work.wire).filter(({ handler }) => typeof handler !== 'function')
    if (registrations.length === 0) return
    work.outsideError = undefined
    const { store } = this.options
    try {
      // The transaction finds the same, and acknowledges or defers without what would have come from outside.
      if (work.delivery && (await store.read((reader) => this.isKnown(reader, work))) !== 'new') return
      const message = this.decode(work.wire)
      const answers = new Map<Registration, unknown>()
      await this.withTimeout(async (signal) => {
        for (const registration of registrations) {
          const { outside } = registration.handler as Exclude<Handler, (...args: never[]) => unknown>
          const context: OutsideContext = {
            message,
            attempt: attemptOf(work),
            signal,
            read: (reading) => store.read(reading),
          }
          answers.set(registration, await outside(message.data, context))
        }
      })
      work.answers = answers
    } catch (error) {
      work.outsideError = error
    }
  }

  private async isKnown(reader: Reader, work: Work): Promise<'handled' | 'blocked' | 'new'> {
    const row = await reader.get<{ handled: number | null; blocked: number | null }>(sql`
      select (select 1 from bus_inbox where subscription = ${this.name} and id = ${work.wire.id}) as handled,
        (select 1 from bus_deferred where subscription = ${this.name} and message_key = ${work.lane} limit 1) as blocked`)
    return row?.handled ? 'handled' : row?.blocked ? 'blocked' : 'new'
  }

  /** C10. Counts the attempt in a commit of its own, so that a message which kills its process is not tried for ever. */
  private async countBefore(work: Work): Promise<boolean> {
    const { store, limits, settings } = this.options
    const attemptsMax = settings.attemptsMax ?? limits.attemptsMax
    const outcome = await store.transaction(async (tx) => {
      if ((await this.isKnown(tx, work)) === 'handled') return 'handled'
      // The process that died may have died of it: that counts as the first attempt, where there is more than one.
      const row = await tx.get<{ attempts: number }>(sql`
        insert into bus_attempt (subscription, id, attempts) values (${this.name}, ${work.wire.id}, ${Math.min(2, attemptsMax)})
        on conflict (subscription, id) do update set attempts = bus_attempt.attempts + 1 returning attempts`)
      work.guardedAttempt = Number(row!.attempts)
      if (work.guardedAttempt <= attemptsMax) return 'run'
      await this.markInbox(tx, [work])
      const blocked = new Set<string>()
      await this.failed(
        tx,
        work,
        new BusError('attempts_exhausted', `the process died in each of ${attemptsMax} attempts`),
        attemptsMax,
        blocked,
      )
      return 'dead'
    })
    return outcome === 'run'
  }

  // --- the batch's bookkeeping, inside its transaction ---

  /** By shard, the latest of each. Throws Fenced where the batch holds an earlier one as well. */
  private leasesOf(batch: Work[]): Map<number, Lease> {
    const leases = new Map<number, Lease>()
    const lost = new Set<string>()
    for (const { delivery } of batch) {
      if (!delivery) continue
      const { lease } = delivery
      const other = leases.get(lease.shard)
      if (other && other.epoch !== lease.epoch) lost.add(leaseName(other.epoch < lease.epoch ? other : lease))
      if (!other || other.epoch < lease.epoch) leases.set(lease.shard, lease)
    }
    if (lost.size > 0) throw new Fenced(this.name, lost)
    return leases
  }

  /** C8. Under a lease that nothing was committed under yet, its epoch is written first. */
  private async takeFences(tx: Tx, leases: ReadonlyMap<number, Lease>): Promise<void> {
    const untaken = [...leases.values()].filter(({ shard, epoch }) => this.fenceEpochs.get(shard) !== epoch)
    for (const { shard, epoch } of untaken.toSorted((a, b) => a.shard - b.shard)) {
      await tx.run(sql`
        insert into bus_fence (subscription, shard, epoch) values (${this.name}, ${shard}, ${epoch})
        on conflict (subscription, shard) do update set epoch = excluded.epoch where bus_fence.epoch < excluded.epoch`)
    }
  }

  /** C8. Where transactions run side by side, nobody takes over before this one has ended. */
  private async holdFences(tx: Tx, leases: ReadonlyMap<number, Lease>): Promise<void> {
    if (leases.size === 0) return
    const held = await tx.all<{ shard: number; epoch: number }>(
      tx.dialect === 'postgres'
        ? sql`
            select shard, epoch from bus_fence where subscription = ${this.name} and shard in ${list([...leases.keys()])}
            order by shard for share`
        : sql`select shard, epoch from bus_fence where subscription = ${this.name}`,
    )
    const later = held.filter(({ shard, epoch }) => Number(epoch) > (leases.get(Number(shard))?.epoch ?? Infinity))
    if (later.length === 0) return
    throw new Fenced(this.name, new Set(later.map(({ shard }) => leaseName(leases.get(Number(shard))!))))
  }

  private async markInbox(tx: Tx, batch: Work[]): Promise<Set<Work>> {
    const arrived = batch.filter((work) => work.delivery)
    if (arrived.length === 0) return new Set()
    const at = this.options.clock.now()
    const rows = arrived.map((work) => ({ subscription: this.name, id: work.wire.id, at }))
    const inserted = await tx.insert('bus_inbox', rows, { orIgnore: true })
    return new Set(inserted.map((position) => arrived[position]!))
  }

  private async isFirst(tx: Tx, id: string): Promise<boolean> {
    const row = { subscription: this.name, id, at: this.options.clock.now() }
    return (await tx.insert('bus_inbox', [row], { orIgnore: true })).length === 1
  }

  private async blockedLanes(tx: Tx, batch: Work[]): Promise<Set<string>> {
    const any = await tx.get(sql`select 1 as one from bus_deferred where subscription = ${this.name} limit 1`)
    if (!any) return new Set()
    const lanes = [...new Set(batch.map((work) => work.lane))]
    const rows = await tx.all<{ message_key: string }>(sql`
      select distinct message_key from bus_deferred where subscription = ${this.name} and message_key in ${list(lanes)}`)
    return new Set(rows.map((row) => row.message_key))
  }

  /** Written and not only read, so that where transactions run side by side nobody else takes it up meanwhile. */
  private async stillDeferred(tx: Tx, work: Work): Promise<boolean> {
    const { position, attempts } = work.deferred!
    const held = await tx.run(
      sql`update bus_deferred set claimed_until = claimed_until where position = ${position} and attempts = ${attempts}`,
    )
    return held > 0
  }

  private async succeeded(tx: Tx, work: Work, blocked: Set<string>): Promise<void> {
    if (work.guardedAttempt > 0)
      await tx.run(sql`delete from bus_attempt where subscription = ${this.name} and id = ${work.wire.id}`)
    if (!work.deferred) return
    await tx.run(sql`delete from bus_deferred where position = ${work.deferred.position}`)
    await this.releaseNext(tx, work.lane, blocked)
  }

  /** The next message of a key, if one waits, is due now. */
  private async releaseNext(tx: Tx, lane: string, blocked: Set<string>): Promise<void> {
    const released = await tx.run(nextOfKeyIsDue(this.name, lane, this.options.clock.now()))
    if (released > 0) return
    const other = await tx.get(
      sql`select 1 as one from bus_deferred where subscription = ${this.name} and message_key = ${lane} limit 1`,
    )
    if (!other) blocked.delete(lane)
  }

  private async defer(tx: Tx, work: Work, attempts: number, dueAt: number | null, reason: string): Promise<void> {
    await this.refuseFullBacklog(tx)
    const { wire } = work
    await tx.insert('bus_deferred', [
      {
        subscription: this.name,
        message_key: work.lane,
        id: wire.id,
        type: wire.type,
        headers: headersText(wire.headers),
        body: wire.body,
        attempts,
        due_at: dueAt,
        claimed_until: 0,
        reason,
        trace: work.trace,
      },
    ])
  }

  private async refuseFullBacklog(tx: Tx): Promise<void> {
    const max = this.options.limits.deferredMessagesMax
    const bounds = await tx.get<{ low: number | null; high: number | null }>(
      sql`select min(position) as low, max(position) as high from bus_deferred`,
    )
    if (!bounds?.high || Number(bounds.high) - Number(bounds.low) + 1 < max) return
    const count = await tx.get<{ count: number }>(
      sql`select count(*) as count from bus_deferred where subscription = ${this.name}`,
    )
    if (Number(count!.count) >= max) {
      throw new UnavailableError(
        'backlog_full',
        `'${this.name}' has ${max} messages waiting behind retries and dead letters: redrive or discard its dead letters`,
      )
    }
  }

  /** C5, C6. `attempt` is the one that just failed. */
  private async failed(tx: Tx, work: Work, error: unknown, attempt: number, blocked: Set<string>): Promise<void> {
    const { settings, limits, clock } = this.options
    if (work.guardedAttempt > 0)
      await tx.run(sql`delete from bus_attempt where subscription = ${this.name} and id = ${work.wire.id}`)
    blocked.add(work.lane)
    if (!isPermanent(error) && attempt < (settings.attemptsMax ?? limits.attemptsMax)) {
      const dueAt = clock.now() + this.backoffMs(attempt)
      if (work.deferred) {
        await tx.run(sql`
          update bus_deferred set due_at = ${dueAt}, claimed_until = 0, reason = ${textOf(error)}, trace = ${work.trace}
          where position = ${work.deferred.position}`)
      } else {
        await this.defer(tx, work, attempt, dueAt, textOf(error))
      }
      return
    }
    const parks = (settings.afterDeadLetter ?? 'park') === 'park'
    await this.bury(tx, work, error, attempt, parks)
    if (parks && !work.deferred) await this.defer(tx, work, attempt, null, textOf(error))
    else if (parks)
      await tx.run(
        sql`update bus_deferred set due_at = null, claimed_until = 0, attempts = ${attempt}, trace = ${work.trace} where position = ${work.deferred!.position}`,
      )
    else {
      if (work.deferred) await tx.run(sql`delete from bus_deferred where position = ${work.deferred.position}`)
      await this.releaseNext(tx, work.lane, blocked)
    }
  }

  private async bury(tx: Tx, work: Work, error: unknown, attempts: number, parks: boolean): Promise<void> {
    const { wire } = work
    const now = this.options.clock.now()
    await tx.insert('bus_dead_letter', [
      {
        id: this.options.compose.newId(),
        subscription: this.name,
        message_id: wire.id,
        message_key: work.lane,
        type: wire.type,
        headers: headersText(wire.headers),
        body: wire.body,
        code: codeOf(error, attempts),
        cause: textOf(error),
        detail: (error as Error)?.stack ?? String(error),
        attempts,
        failed_at: now,
        position: now,
        status: 'open',
        parks: parks ? 1 : 0,
        trace: work.trace,
      },
    ])
  }

  private backoffMs(attempt: number): number {
    const {
      firstMs = this.options.limits.backoffFirstMs,
      factor = 2,
      maxMs = this.options.limits.backoffMaxMs,
      jitter = true,
    } = this.options.settings.backoff ?? {}
    const fullMs = Math.min(maxMs, firstMs * factor ** (attempt - 1))
    return Math.round(jitter ? fullMs * (0.5 + this.options.random() / 2) : fullMs)
  }

  private report(work: Work, error: unknown): void {
    const { id: messageId, type, [decoded]: known } = work.wire as Remembering
    const { correlationId, traceparent } = known?.message ?? {}
    const traceId = traceparent?.split('-')[1]
    const ids = { messageId, ...(correlationId && { correlationId }), ...(traceId && { traceId }) }
    this.options.log.warn(
      { subscription: this.name, type, ...ids, attempt: attemptOf(work), err: error },
      'a handler failed',
    )
  }

  // --- deferred messages that are due (C5) ---

  private sweep(): void {
    this.sweeper = this.options.clock.after(this.options.limits.sweepMs, () => this.sweep())
    void this.planDue()
  }

  /** Sets the clock for the next due row; somebody may have changed it from outside (a redrive, another process). */
  async planDue(): Promise<void> {
    if (this.stopping || this.claimRoom <= 0) return // what is in hand plans anew when it is done
    try {
      const row = await this.options.store.read((reader) =>
        reader.get<{ at: number | null }>(sql`
          select min(case when claimed_until > due_at then claimed_until else due_at end) as at from bus_deferred
          where subscription = ${this.name} and due_at is not null`),
      )
      if (row?.at === null || row?.at === undefined || this.stopping) return
      const at = Number(row.at)
      if (this.due && this.due.at <= at) return
      this.due?.timer.cancel()
      const delayMs = Math.max(0, at - this.options.clock.now())
      if (delayMs === 0) return this.claimSoon()
      this.due = { at, timer: this.options.clock.after(delayMs, () => this.claimSoon()) }
    } catch (error) {
      this.options.log.warn(
        { subscription: this.name, err: error },
        'the deferred messages could not be read; tried again with the next sweep',
      )
    }
  }

  private claimSoon(): void {
    this.due = undefined
    if (this.stopping) return
    this.claiming ??= this.claimDue().then(
      () => {
        this.claiming = undefined
        void this.planDue()
      },
      (error) => {
        this.claiming = undefined // they are still due: whoever looked at once would claim, and fail, without a pause
        this.options.log.warn(
          { subscription: this.name, err: error },
          'due messages could not be claimed; tried again with the next sweep',
        )
      },
    )
  }

  /** As many as can begin at once: a claim that waited in a queue would run out before its work began. */
  private get claimRoom(): number {
    const { settings, limits } = this.options
    const reachOutside = this.registrations.some(({ handler }) => typeof handler !== 'function')
    const max = reachOutside ? (settings.concurrency ?? limits.concurrency) : limits.batchMax
    return max - this.deferredInHand
  }

  private async claimDue(): Promise<void> {
    const { store, clock, settings, limits } = this.options
    const claimMs = (settings.handlerTimeoutMs ?? limits.handlerTimeoutMs) + CLAIM_MARGIN_MS
    const room = this.claimRoom
    if (room <= 0) return
    const rows = await store.transaction(async (tx) => {
      const now = clock.now()
      return tx.all<
        StoredMessage & { position: number; message_key: string; attempts: number; trace: string | null }
      >(sql`
        update bus_deferred set attempts = attempts + 1, claimed_until = ${now + claimMs}
        where claimed_until <= ${now} and position in (
          select position from bus_deferred
          where subscription = ${this.name} and due_at <= ${now} and claimed_until <= ${now} order by due_at limit ${room})
        returning position, id, type, message_key, headers, body, attempts, trace`)
    })
    for (const row of rows) {
      this.enqueue(
        newWork(
          { ...toWire(row) },
          null,
          { position: Number(row.position), attempts: Number(row.attempts) },
          row.message_key,
          row.trace,
        ),
      )
    }
    this.pumpSoon()
  }

  /** Rejects with `handler_timeout` once handlerTimeoutMs have passed since the work, or its latest handler, began. */
  private async withTimeout<T>(work: (signal: AbortSignal, handlerBegins: () => void) => Promise<T>): Promise<T> {
    const { clock, settings, limits } = this.options
    const timeoutMs = settings.handlerTimeoutMs ?? limits.handlerTimeoutMs
    const abort = new AbortController()
    let begunAt = clock.now()
    let timer: Timer | undefined
    const late = new Promise<never>((_, reject) => {
      const look = () => {
        const leftMs = begunAt + timeoutMs - clock.now()
        if (leftMs > 0) {
          timer = clock.after(leftMs, look)
          return
        }
        const error = new BusError(
          'handler_timeout',
          `not done after ${timeoutMs} ms: make the handler quicker, or raise handlerTimeoutMs`,
        )
        reject(error)
        abort.abort(error)
      }
      timer = clock.after(timeoutMs, look)
    })
    const handlerBegins = () => {
      begunAt = clock.now()
    }
    try {
      return await Promise.race([work(abort.signal, handlerBegins), late])
    } finally {
      timer?.cancel()
    }
  }
}

/** Makes the first waiting message of a key due. Used where its predecessor has left: done, discarded, skipped. */
export function nextOfKeyIsDue(subscription: string, key: string, now: number) {
  return sql`
    update bus_deferred set due_at = ${now}, claimed_until = 0
    where position = (select min(position) from bus_deferred where subscription = ${subscription} and message_key = ${key})
      and due_at is null`
}

/** Keys of lanes, first in, first out. */
class Ready {
  private keys: string[] = []
  private head = 0

  add(key: string): void {
    this.keys.push(key)
  }

  peek(): string | undefined {
    return this.keys[this.head]
  }

  take(): string | undefined {
    const key = this.keys[this.head]
    if (key === undefined) return undefined
    this.head += 1
    if (this.head === this.keys.length) {
      this.keys = []
      this.head = 0
    } else if (this.head > 1_024) {
      this.keys = this.keys.slice(this.head)
      this.head = 0
    }
    return key
  }
}

const leaseName = ({ shard, epoch }: Lease) => `${shard}/${epoch}`

/** Some of a batch's leases belong to others by now. */
class Fenced extends BusError {
  private readonly lost: ReadonlySet<string>

  constructor(subscription: string, lost: ReadonlySet<string>) {
    const which = [...lost].join(', ')
    super(
      'fenced',
      `'${subscription}' lost its lease (shard/epoch ${which}): what it was doing there is left to the process that took over`,
    )
    this.lost = lost
  }

  isLost(lease: Lease): boolean {
    return this.lost.has(leaseName(lease))
  }
}

function newWork(
  wire: WireMessage,
  delivery: Delivery | null,
  deferred: Work['deferred'],
  lane = wire.key ?? wire.id,
  trace: string | null = null,
): Work {
  return { wire, lane, delivery, deferred, answers: null, outsideError: undefined, guardedAttempt: 0, trace }
}

/** Not a rehearsal. */
function isArrival({ delivery, deferred }: Work): boolean {
  return delivery !== null || deferred !== null
}

function attemptOf(work: Work): number {
  return work.deferred?.attempts ?? Math.max(1, work.guardedAttempt)
}

const PERMANENT: ReadonlySet<string> = new Set([
  'undecodable',
  'unknown_event',
  'version_too_new',
  'no_upcaster',
  'no_handler',
  'permanent',
  'attempts_exhausted',
])

/** Errors that another try cannot mend. An invalid payload of the handler's own publication is mended by a new release only. */
function isPermanent(error: unknown): boolean {
  return (
    error instanceof PermanentError ||
    (error instanceof BusError &&
      (PERMANENT.has(error.code) || error.code === 'invalid_payload' || error.code === 'not_owner'))
  )
}

function codeOf(error: unknown, attempts: number): string {
  if (error instanceof BusError) return error.code
  return attempts > 0 ? 'attempts_exhausted' : 'permanent'
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
