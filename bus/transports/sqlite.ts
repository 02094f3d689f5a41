/**
 * The embedded broker: one append-only log in one SQLite file, and for every subscription and shard a cursor into it.
 * Several processes of one machine may open the same file.
 *
 * E1 Publications that wait together are appended together: one fsync for many publishers.
 * E2 A shard of a subscription is delivered by the one process whose id stands beside it; its epoch grows with each owner.
 * E3 A cursor never passes a delivery that is not acknowledged; what lies behind it may be delivered again.
 * E4 A shard that must be given back is given back once nothing of it is in flight.
 * E5 Memory: a tail of the log that all readers share, at most windowMax deliveries per subscription, and a few bytes for each
 *    1,024 that wait where somebody asks how many (sqlite-backlog.ts).
 * E6 Idle processes wait on a file's change, not on a poll; the heartbeat keeps leases and finds what a wake-up missed.
 * E7 Beside the cursor of a shard stands its reach: how far its owner may have begun. Nothing beyond is delivered before more is
 *    written, so after a death only what lies up to there is marked as redelivered. Whoever leaves in order takes it back.
 */
import { randomUUID } from 'node:crypto'
import { closeSync, type FSWatcher, futimesSync, openSync, watch } from 'node:fs'
import { hostname } from 'node:os'
import { type Clock, systemClock, type Timer } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { headersText } from '../outbox.ts'
import { matcher, SHARDS_DEFAULT, shardOf } from '../routing.ts'
import { translate } from '../sqlite.ts'
import type { Backlog, ConsumeOptions, Consumer, SubscriptionSpec, Transport, TransportState } from '../transport.ts'
import { type Appender, type AppendValue, appendHere, appendInThread, type Cursor } from './sqlite-appender.ts'
import { BacklogCounter } from './sqlite-backlog.ts'
import { Log, type LogRow, type Member, type Share, type Statements } from './sqlite-log.ts'
import { AHEAD_MIN, Reader } from './sqlite-reader.ts'

export type SqliteTransportOptions = {
  clock?: Clock
  /** A process that has not been heard of for so long loses its shards. */
  leaseMs?: number
  /** Into how many parts a subscription's keys are dealt out: no more processes than this can share it. Fixed at creation of the file. */
  shards?: number
  /** How long the log keeps what every subscription has acknowledged; audits and new subscriptions can still read it. */
  retentionMs?: number
  /** Beyond this size publishing is refused (`log_full`), and the outboxes keep what is said. */
  logBytesMax?: number
}

const LEASE_MS = 5_000
const RETENTION_MS = 24 * 3_600_000
const LOG_BYTES_MAX = 64 * 2 ** 30
const TRIM_MAX = 2_000
/** Batches that the appender has at the same time: while it waits for the disk, the next is ready. */
const BATCHES_MAX = 2
const BATCH_MESSAGES_MAX = 4_000

type Job = { messages: readonly WireMessage[]; resolve: () => void; reject: (error: unknown) => void }

/** A broker in the file `path`. `:memory:` works for one Transport object alone. */
export function sqliteTransport(path: string, options: SqliteTransportOptions = {}): Transport {
  return new SqliteTransport(path, options)
}

class SqliteTransport implements Transport {
  readonly name = 'sqlite'
  readonly capabilities
  private readonly path: string
  private readonly clock: Clock
  private readonly leaseMs: number
  private readonly retentionMs: number
  private readonly logBytesMax: number
  private shards: number
  private readonly process = randomUUID()
  private log: Log | undefined
  private statements: Statements | undefined
  private backlogs: BacklogCounter | undefined
  private readonly readers = new Map<string, Reader>()
  private jobs: Job[] = []
  private appender: Appender | undefined
  private appendsRunning = 0
  private appendScheduled = false
  private settledAppends: (() => void) | undefined
  private wakeFile: number | undefined
  private watcher: FSWatcher | undefined
  private heartbeat: Timer | undefined
  private othersListen = true
  private full = false
  private closing: Promise<void> | undefined

  constructor(path: string, options: SqliteTransportOptions) {
    this.path = path
    this.clock = options.clock ?? systemClock
    this.leaseMs = options.leaseMs ?? LEASE_MS
    this.retentionMs = options.retentionMs ?? RETENTION_MS
    this.logBytesMax = options.logBytesMax ?? LOG_BYTES_MAX
    this.shards = options.shards ?? SHARDS_DEFAULT
    const alone = path === ':memory:'
    this.capabilities = { keepsHistory: true, acrossProcesses: !alone, durable: !alone }
  }

  state(): TransportState {
    if (this.closing) return { ready: false, reason: 'it is closed' }
    return { ready: true, reason: null } // a file is there; what goes wrong with it, the relay and the readers hear
  }

  async open(): Promise<void> {
    if (this.closing) throw closedError(this.path)
    if (this.log) return
    this.log = Log.open(this.path)
    this.statements = this.log.statements
    this.statements.keepSetting.run('shards', this.shards)
    this.shards = (this.statements.setting.get('shards') as { value: number }).value
    this.backlogs = new BacklogCounter(
      this.shards,
      () => this.live().log,
      (name) => this.readers.get(name),
    )
    this.appender = this.capabilities.acrossProcesses
      ? appendInThread(this.path)
      : appendHere(this.path, this.log.database)
    if (this.capabilities.acrossProcesses) {
      // E6: whoever appends touches this file; everybody else is woken by the operating system.
      const wakePath = `${this.path}-wake`
      this.wakeFile = openSync(wakePath, 'a')
      this.watcher = watch(wakePath, { persistent: false }, () => this.woken())
    }
    this.beat()
  }

  async declare(spec: SubscriptionSpec): Promise<void> {
    const { log, statements } = this.live()
    const bindings = JSON.stringify(spec.bindings)
    matcher(spec.bindings) // refuses a bad pattern before anything is written
    log.transaction(() => {
      statements.declare.run(spec.name, bindings, spec.ephemeral ? this.process : null)
      // A subscription that was removed and comes again must not hand out the epochs it had before.
      const epoch = (statements.setting.get('epoch') as { value: number } | undefined)?.value ?? 0
      const start = spec.from === 'beginning' ? log.firstPosition() - 1 : log.lastPosition()
      for (let shard = 0; shard < this.shards; shard++) statements.addShare.run(spec.name, shard, start, epoch)
    })
    this.readers.get(spec.name)?.rebind(spec.bindings)
    this.touch()
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (this.closing || !this.log) return Promise.reject(closedError(this.path))
    if (messages.length === 0) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.jobs.push({ messages, resolve, reject })
      this.appendSoon()
    })
  }

  /** Whoever publishes in the same turn of the event loop shares the commit (E1). */
  private appendSoon(): void {
    if (this.appendScheduled || this.appendsRunning >= BATCHES_MAX) return
    this.appendScheduled = true
    setImmediate(() => {
      this.appendScheduled = false
      if (this.jobs.length > 0 || (!this.closing && this.hasCursors())) void this.append()
    })
  }

  private hasCursors(): boolean {
    for (const reader of this.readers.values()) if (reader.hasCursors) return true
    return false
  }

  /** Also hands over what was acknowledged meanwhile, since a commit is under way anyway. */
  private async append(): Promise<void> {
    this.appendsRunning += 1
    if (this.full) this.refuseJobs()
    const jobs = this.takeJobs()
    const cursors: Cursor[] = []
    const rows: LogRow[] = []
    const values: AppendValue[] = []
    try {
      for (const reader of this.readers.values()) reader.takeCursors(cursors)
      const at = this.clock.now()
      for (const job of jobs) {
        for (const message of job.messages) {
          const shard = shardOf(message.key ?? message.id, this.shards)
          values.push(shard, message.type, message.id, message.key, headersText(message.headers), at, message.body)
          rows.push({ position: 0, shard, at, message, bytes: message.body.length })
        }
      }
      const first = await this.appender!.append({ rows: values, cursors })
      for (const reader of this.readers.values()) reader.cursorsWritten(cursors)
      for (const [offset, row] of rows.entries()) row.position = first + offset
      if (rows.length > 0) this.log!.appended(rows)
      for (const job of jobs) job.resolve()
      if (rows.length > 0) {
        this.touch()
        for (const reader of this.readers.values()) reader.wake()
      }
    } catch (error) {
      for (const reader of this.readers.values()) reader.untakeCursors()
      const failure =
        error instanceof BusError
          ? error
          : new UnavailableError('transport_unavailable', `${this.path}: ${(error as Error).message}`, { cause: error })
      for (const job of jobs) job.reject(failure)
    } finally {
      this.appendsRunning -= 1
      if (this.jobs.length > 0) this.appendSoon()
      else if (this.appendsRunning === 0) this.settledAppends?.()
    }
  }

  private refuseJobs(): void {
    for (const job of this.jobs.splice(0)) job.reject(fullError(this.path, this.logBytesMax))
  }

  private takeJobs(): Job[] {
    let messages = 0
    let count = 0
    while (count < this.jobs.length && messages < BATCH_MESSAGES_MAX) messages += this.jobs[count++]!.messages.length
    return this.jobs.splice(0, count)
  }

  async consume(name: string, options: ConsumeOptions): Promise<Consumer> {
    const { log, statements } = this.live()
    if (this.readers.has(name))
      throw new BusError(
        'invalid_argument',
        `${name} is consumed here already: one consumer per subscription and transport`,
      )
    const row = statements.subscription.get(name) as { bindings: string } | undefined
    if (!row) throw new BusError('not_found', `no subscription '${name}': declare() it first`)
    const settled = () => this.attempt(() => this.balance(reader))
    const reader = new Reader(
      name,
      JSON.parse(row.bindings),
      options,
      log,
      statements,
      this.clock,
      this.process,
      settled,
      () => this.appendSoon(),
    )
    this.readers.set(name, reader)
    statements.releaseLeftovers.run(name, this.process)
    statements.forgetMembers.run(name, this.clock.now() - this.leaseMs)
    this.join(name)
    this.balance(reader)
    this.touch()
    reader.wake()
    return {
      ack: (deliveries) => reader.ack(deliveries),
      close: async () => {
        if (this.readers.get(name) !== reader) return
        this.readers.delete(name)
        reader.stop()
        // Where the file cannot be written, its lease runs out, and the next one takes what it had.
        this.attempt(() =>
          log.transaction(() => {
            reader.releaseAll()
            statements.leave.run(name, this.process)
          }),
        )
        this.touch()
      },
    }
  }

  async backlog(name: string): Promise<Backlog> {
    this.live()
    const backlog = await this.backlogs!.count(name)
    if (!backlog) throw new BusError('not_found', `no subscription '${name}'`)
    return backlog
  }

  async subscriptions(): Promise<string[]> {
    const rows = this.live().statements.durableNames.all() as { name: string }[]
    return rows.map((row) => row.name)
  }

  async remove(name: string): Promise<void> {
    const { log, statements } = this.live()
    const reader = this.readers.get(name)
    this.readers.delete(name)
    reader?.stop()
    log.transaction(() => this.forget(statements, name))
  }

  private forget(statements: Statements, name: string): void {
    this.backlogs?.forget(name)
    statements.keepEpoch.run(name)
    for (const statement of [statements.removeSubscription, statements.removeShares, statements.removeMembers])
      statement.run(name)
  }

  close(): Promise<void> {
    this.closing ??= (async () => {
      if (this.jobs.length > 0 || this.appendsRunning > 0) {
        await new Promise<void>((resolve) => {
          this.settledAppends = resolve
        })
      }
      for (const reader of this.readers.values()) reader.stop()
      await this.appender?.close()
      this.heartbeat?.cancel()
      this.watcher?.close()
      const { log, statements } = this
      if (!log || !statements) return
      this.unlessAway(() =>
        log.transaction(() => {
          for (const reader of this.readers.values()) reader.releaseAll()
          statements.leaveEverything.run(this.process)
          for (const { name } of statements.ephemeralOf.all(this.process) as { name: string }[])
            this.forget(statements, name)
        }),
      )
      this.readers.clear()
      this.touch()
      log.database.close()
      if (this.wakeFile !== undefined) closeSync(this.wakeFile)
      this.wakeFile = undefined
    })()
    return this.closing
  }

  private live(): { log: Log; statements: Statements } {
    if (this.closing) throw closedError(this.path)
    if (!this.log || !this.statements)
      throw new BusError('invalid_argument', `${this.path}: open() the transport first`)
    return { log: this.log, statements: this.statements }
  }

  // --- who delivers what ---

  /** Renews this process's leases, shares the shards out anew where members came or went, trims the log. */
  private beat(): void {
    if (this.closing || !this.log || !this.statements) return
    const { log, statements } = this
    this.attempt(() => {
      for (const reader of this.readers.values()) {
        statements.renew.run(this.clock.now() + this.leaseMs, reader.name, this.process)
        this.join(reader.name)
        this.balance(reader)
        reader.noteProgress(this.full)
        reader.wake()
      }
      this.countOthers()
      this.full = log.sizeBytes() > this.logBytesMax
      this.trim()
    })
    this.heartbeat = this.clock.after(this.leaseMs / 3, () => this.beat())
  }

  /** The disk may be full or another program may lock the file: publishers hear of it, and the next beat tries again. */
  private attempt(work: () => void): void {
    if (!this.closing) this.unlessAway(work)
  }

  private unlessAway(work: () => void): void {
    try {
      work()
    } catch (error) {
      const translation = translate(this.path, error)
      if (!(translation instanceof UnavailableError)) throw translation
    }
  }

  private join(name: string): void {
    this.statements!.join.run(name, this.process, process.pid, hostname(), this.clock.now() + this.leaseMs)
  }

  private countOthers(): void {
    const others = (this.statements!.others.get(this.process, this.clock.now()) as { count: number }).count
    this.othersListen = others > 0
  }

  private woken(): void {
    if (this.closing || !this.log) return
    this.attempt(() => {
      this.countOthers()
      for (const reader of this.readers.values()) this.balance(reader)
    })
    for (const reader of this.readers.values()) reader.wake()
  }

  private touch(): void {
    if (this.wakeFile === undefined || !(this.othersListen || this.readers.size === 0)) return
    const now = new Date()
    futimesSync(this.wakeFile, now, now)
  }

  /** Takes and gives back shards until this process has its fair part (E2, E4). Reads first: an idle beat writes nothing. */
  private balance(reader: Reader): void {
    const { statements } = this.live()
    const now = this.clock.now()
    const members = statements.members.all(reader.name) as Member[]
    const alive = members
      .filter((member) => member.process === this.process || isAlive(member, now))
      .map((member) => member.process)
    const shares = statements.shares.all(reader.name) as Share[]
    reader.drop(shares)
    const mine = shares.filter((share) => share.owner === this.process)
    const fair =
      Math.floor(this.shards / alive.length) + (alive.indexOf(this.process) < this.shards % alive.length ? 1 : 0)
    reader.keep(mine.slice(0, fair).map((share) => share.shard))
    reader.giveBack(mine.slice(fair).map((share) => share.shard))
    const free = shares.filter((share) => share.owner === null || !alive.includes(share.owner))
    const wanted = free.slice(0, Math.max(0, fair - mine.length))
    const released = reader.released()
    if (wanted.length > 0 || released.length > 0) this.exchange(reader, { wanted, released })
  }

  /** In one transaction. Of the wanted ones it takes those that nobody took meanwhile, from as far as their last owner wrote. */
  private exchange(
    reader: Reader,
    { wanted, released }: { wanted: readonly Share[]; released: readonly number[] },
  ): void {
    const { log, statements } = this.live()
    try {
      const { cursors, taken, last } = log.transaction(() => {
        const cursors = reader.writeCursors()
        for (const shard of released) reader.release(shard)
        const taken = (statements.shares.all(reader.name) as Share[]).filter(({ shard, epoch }) =>
          wanted.some((share) => share.shard === shard && share.epoch === epoch),
        )
        const last = log.lastPosition()
        for (const { shard } of taken) statements.take.run(this.process, last + AHEAD_MIN, reader.name, shard)
        return { cursors, taken, last }
      })
      reader.cursorsWritten(cursors)
      for (const share of taken) reader.own({ ...share, epoch: share.epoch + 1 }, last)
    } catch (error) {
      reader.untakeCursors()
      throw error
    }
    if (released.length > 0) {
      reader.letGo(released)
      this.touch()
    }
  }

  /** Forgets what every subscription has acknowledged and is older than retentionMs, and subscriptions of dead processes. */
  private trim(): void {
    const { log, statements } = this.live()
    const now = this.clock.now()
    const orphans = (statements.ephemerals.all() as { name: string; ephemeral_of: string }[]).filter(
      ({ name, ephemeral_of }) => {
        const members = statements.members.all(name) as Member[]
        return ephemeral_of !== this.process && !members.some((member) => isAlive(member, now))
      },
    )
    const oldest = statements.oldest.get() as { position: number; at: number } | undefined
    const expired = oldest !== undefined && oldest.at < now - this.retentionMs
    if (orphans.length === 0 && !expired) return
    log.transaction(() => {
      for (const { name } of orphans) this.forget(statements, name)
      const { position } = statements.slowest.get() as { position: number | null }
      statements.trim.run(
        Math.min(position ?? Number.MAX_SAFE_INTEGER, (oldest?.position ?? 0) + TRIM_MAX),
        now - this.retentionMs,
      )
    })
    // One chunk at a time, so that nobody waits long; as many as it takes, or a busy log would outgrow its trimming.
    const after = statements.oldest.get() as { position: number } | undefined
    if (oldest && after && after.position > oldest.position) setImmediate(() => this.attempt(() => this.trim()))
  }
}

function isAlive(member: Member, now: number): boolean {
  if (member.until < now) return false
  if (member.host !== hostname() || member.pid === process.pid) return true
  try {
    process.kill(member.pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

const fullError = (path: string, bytesMax: number) =>
  new UnavailableError(
    'log_full',
    `${path} holds over ${bytesMax} bytes: a subscription is far behind. Start its service, or remove the subscription`,
  )

const closedError = (path: string) => new BusError('bus_closed', `${path} is closed`)
