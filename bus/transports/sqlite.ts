/**
 * The embedded broker: one append-only log in one SQLite file, and for every subscription and shard a cursor into it.
 * Several processes of one machine may open the same file.
 *
 * E1 Publications that wait together are appended together: one fsync for many publishers.
 * E2 A shard of a subscription is delivered by the one process whose id stands beside it; its epoch grows with each owner.
 * E3 A cursor never passes a delivery that is not acknowledged; what lies behind it may be delivered again.
 * E4 A shard that must be given back is given back once nothing of it is in flight.
 * E5 Memory: a tail of the log that all readers share, and at most windowMax deliveries per subscription.
 * E6 Idle processes wait on a file's change, not on a poll; the heartbeat keeps leases and finds what a wake-up missed.
 */
import { randomUUID } from 'node:crypto'
import { closeSync, type FSWatcher, futimesSync, openSync, watch } from 'node:fs'
import { hostname } from 'node:os'
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { type Clock, systemClock, type Timer } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { matcher, shardOf } from '../routing.ts'
import { openDatabase, translate, translated } from '../sqlite.ts'
import type {
  Backlog,
  Binding,
  ConsumeOptions,
  Consumer,
  Delivery,
  Lease,
  SubscriptionSpec,
  Transport,
} from '../transport.ts'

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
const SHARDS = 16
const RETENTION_MS = 24 * 3_600_000
const LOG_BYTES_MAX = 64 * 2 ** 30
const READ_MAX = 512
const TAIL_MESSAGES_MAX = 4_096
const TAIL_BYTES_MAX = 16 * 2 ** 20
/** Acknowledgements are written with the next publication, or after this long. */
const ACK_FLUSH_MS = 25
const TRIM_MAX = 2_000
/** A cursor is moved over messages of others once there are so many. */
const PROGRESS_MIN = 1_000

const tables = `
create table if not exists log (
  position integer primary key autoincrement,
  shard integer not null, type text not null, id text not null, message_key text, headers text not null,
  at integer not null, body blob not null
);
create table if not exists subscription (name text primary key, bindings text not null, ephemeral_of text) without rowid;
create table if not exists share (
  subscription text not null, shard integer not null, position integer not null, owner text, epoch integer not null,
  primary key (subscription, shard)
) without rowid;
create table if not exists member (
  subscription text not null, process text not null, pid integer not null, host text not null, until integer not null,
  primary key (subscription, process)
) without rowid;
create table if not exists setting (name text primary key, value integer not null) without rowid;
`

type LogRow = { position: number; shard: number; at: number; message: WireMessage; bytes: number }
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
  private readonly readers = new Map<string, Reader>()
  private jobs: Job[] = []
  private appending: Promise<void> | undefined
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
    this.shards = options.shards ?? SHARDS
    const alone = path === ':memory:'
    this.capabilities = { keepsHistory: true, acrossProcesses: !alone, durable: !alone }
  }

  async open(): Promise<void> {
    if (this.closing) throw closedError(this.path)
    if (this.log) return
    const database = openDatabase(this.path)
    try {
      translated(this.path, () => database.exec(tables))
      this.statements = prepareStatements(database)
      translated(this.path, () => this.statements!.keepSetting.run('shards', this.shards))
      this.shards = (this.statements.setting.get('shards') as { value: number }).value
      this.log = new Log(this.path, database, this.statements)
    } catch (error) {
      database.close()
      throw error
    }
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
      const start = spec.from === 'beginning' ? log.firstPosition() - 1 : log.lastPosition()
      for (let shard = 0; shard < this.shards; shard++) statements.addShare.run(spec.name, shard, start)
    })
    this.readers.get(spec.name)?.rebind(spec.bindings)
    this.touch()
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (this.closing || !this.log) return Promise.reject(closedError(this.path))
    if (messages.length === 0) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.jobs.push({ messages, resolve, reject })
      this.appending ??= this.append()
    })
  }

  /** E1. Also writes what was acknowledged meanwhile, since a commit is under way anyway. */
  private async append(): Promise<void> {
    const { log, statements } = this.live()
    await nextTurn()
    while (this.jobs.length > 0) {
      const jobs = this.jobs
      this.jobs = []
      try {
        if (this.full) throw fullError(this.path, this.logBytesMax)
        const at = this.clock.now()
        const rows: LogRow[] = []
        log.transaction(() => {
          for (const job of jobs) {
            for (const message of job.messages) {
              const shard = shardOf(message.key ?? message.id, this.shards)
              const headers = JSON.stringify(message.headers)
              const { lastInsertRowid } = statements.append.run(
                shard,
                message.type,
                message.id,
                message.key,
                headers,
                at,
                message.body,
              )
              rows.push({ position: Number(lastInsertRowid), shard, at, message, bytes: message.body.length })
            }
          }
          for (const reader of this.readers.values()) reader.writeCursors()
        })
        log.appended(rows)
        for (const job of jobs) job.resolve()
        this.touch()
        for (const reader of this.readers.values()) reader.wake()
      } catch (error) {
        const failure =
          error instanceof BusError
            ? error
            : new UnavailableError('transport_unavailable', `${this.path}: ${(error as Error).message}`, {
                cause: error,
              })
        for (const job of jobs) job.reject(failure)
      }
      await nextTurn()
    }
    this.appending = undefined
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
    )
    this.readers.set(name, reader)
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
        if (this.closed) return
        log.transaction(() => {
          reader.writeCursors()
          statements.releaseAll.run(name, this.process)
          statements.leave.run(name, this.process)
        })
        this.touch()
      },
    }
  }

  async backlog(name: string): Promise<Backlog> {
    const { statements } = this.live()
    const row = statements.subscription.get(name) as { bindings: string } | undefined
    if (!row) throw new BusError('not_found', `no subscription '${name}'`)
    const matches = matcher(JSON.parse(row.bindings) as Binding[])
    const reader = this.readers.get(name)
    const cursors = new Map<number, number>()
    for (const share of statements.shares.all(name) as Share[])
      cursors.set(share.shard, reader?.cursorOf(share.shard) ?? share.position)
    let waiting = 0
    let oldestAt: number | null = null
    const head = cursors.size === 0 ? Number.MAX_SAFE_INTEGER : Math.min(...cursors.values())
    for (const row of statements.heads.iterate(head) as Iterable<{
      position: number
      shard: number
      type: string
      headers: string
      at: number
    }>) {
      if (row.position <= (cursors.get(row.shard) ?? 0)) continue
      if (reader?.isDone(row.shard, row.position)) continue
      if (!matches({ type: row.type, headers: row.headers === '{}' ? {} : JSON.parse(row.headers) })) continue
      waiting += 1
      oldestAt ??= row.at
    }
    return { waiting, oldestAt }
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
    for (const statement of [statements.removeSubscription, statements.removeShares, statements.removeMembers])
      statement.run(name)
  }

  close(): Promise<void> {
    this.closing ??= (async () => {
      await this.appending
      this.heartbeat?.cancel()
      this.watcher?.close()
      const { log, statements } = this
      if (!log || !statements) return
      for (const reader of this.readers.values()) reader.stop()
      log.transaction(() => {
        for (const reader of this.readers.values()) reader.writeCursors()
        statements.releaseEverything.run(this.process)
        statements.leaveEverything.run(this.process)
        for (const { name } of statements.ephemeralOf.all(this.process) as { name: string }[])
          this.forget(statements, name)
      })
      this.readers.clear()
      this.touch()
      log.database.close()
      if (this.wakeFile !== undefined) closeSync(this.wakeFile)
      this.wakeFile = undefined
    })()
    return this.closing
  }

  private get closed(): boolean {
    return this.closing !== undefined
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
      if (this.readers.size > 0) statements.renew.run(this.clock.now() + this.leaseMs, this.process)
      for (const reader of this.readers.values()) {
        this.join(reader.name)
        this.balance(reader)
        reader.noteProgress()
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
    try {
      if (!this.closing) work()
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error
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
    const { log, statements } = this.live()
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
    if (wanted.length === 0 && released.length === 0) return
    log.transaction(() => {
      reader.writeCursors()
      for (const shard of released) statements.release.run(reader.name, shard, this.process)
      for (const share of wanted) {
        const { changes } = statements.take.run(this.process, reader.name, share.shard, share.epoch)
        if (changes === 1)
          reader.own({ ...share, epoch: share.epoch + 1 }, share.owner === null ? 0 : log.lastPosition())
      }
    })
    if (released.length > 0) this.touch()
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
  }
}

type Share = { shard: number; position: number; owner: string | null; epoch: number }
type Member = { process: string; pid: number; host: string; until: number }

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

/** The log of one open file, with its newest rows in memory for all readers of this process (E5). */
class Log {
  readonly path: string
  readonly database: DatabaseSync
  private readonly statements: Statements
  private tail: LogRow[] = []
  private tailBytes = 0

  constructor(path: string, database: DatabaseSync, statements: Statements) {
    this.path = path
    this.database = database
    this.statements = statements
  }

  transaction<T>(work: () => T): T {
    const { database, path } = this
    try {
      database.exec('begin immediate')
      const value = work()
      database.exec('commit')
      return value
    } catch (error) {
      if (database.isTransaction) database.exec('rollback')
      throw translate(path, error)
    }
  }

  firstPosition(): number {
    return (this.statements.oldest.get() as { position: number } | undefined)?.position ?? this.lastPosition() + 1
  }

  lastPosition(): number {
    // The sequence remembers the last position also when the log was trimmed to nothing.
    return (this.statements.sequence.get() as { seq: number } | undefined)?.seq ?? 0
  }

  sizeBytes(): number {
    const { pages, free, size } = this.statements.size.get() as { pages: number; free: number; size: number }
    return (pages - free) * size
  }

  appended(rows: LogRow[]): void {
    const last = this.tail.at(-1)
    // Another process's rows may lie between: then the tail begins anew, and readers behind it read the file.
    if (last && rows[0]!.position !== last.position + 1) this.clearTail()
    for (const row of rows) {
      this.tail.push(row)
      this.tailBytes += row.bytes
    }
    if (this.tail.length <= TAIL_MESSAGES_MAX && this.tailBytes <= TAIL_BYTES_MAX) return
    const dropped = this.tail.splice(0, Math.max(1, this.tail.length >> 1))
    for (const row of dropped) this.tailBytes -= row.bytes
  }

  private clearTail(): void {
    this.tail = []
    this.tailBytes = 0
  }

  /** Rows after `position`, at most READ_MAX, in order and without a gap. */
  after(position: number): LogRow[] {
    const first = this.tail[0]?.position
    if (first !== undefined && position >= first - 1) {
      const rows = this.tail.slice(position - first + 1, position - first + 1 + READ_MAX)
      if (rows.length > 0) return rows
    }
    const rows = this.statements.after.all(position) as unknown as (Omit<LogRow, 'message' | 'bytes'> &
      Omit<WireMessage, 'key' | 'headers'> & { message_key: string | null; headers: string })[]
    return rows.map((row) => ({
      position: row.position,
      shard: row.shard,
      at: row.at,
      bytes: row.body.length,
      message: {
        id: row.id,
        type: row.type,
        key: row.message_key,
        headers: row.headers === '{}' ? NO_HEADERS : JSON.parse(row.headers),
        body: row.body,
      },
    }))
  }
}

const NO_HEADERS = Object.freeze({})

type Entry = { readonly position: number; done: boolean }
type OwnedShard = {
  readonly lease: Lease
  /** Everything up to here was delivered or did not match. */
  readTo: number
  /** What the file says. */
  written: number
  /** Delivered and not known to be finished up to the lowest unfinished one (E3). */
  entries: Entry[]
  finished: number
  /** Up to here an owner that died may have begun. */
  suspectTo: number
  leaving: boolean
}
type SqliteDelivery = Delivery & { readonly entry: Entry }

/** One subscription in this process. */
class Reader {
  readonly name: string
  private matches: ReturnType<typeof matcher>
  private readonly options: ConsumeOptions
  private readonly log: Log
  private readonly statements: Statements
  private readonly clock: Clock
  private readonly process: string
  private readonly settled: () => void
  private readonly owned = new Map<number, OwnedShard>()
  private readonly dirty = new Set<OwnedShard>()
  private next = 0
  private inFlight = 0
  private scheduled = false
  private stopped = false
  private flush: Timer | undefined

  constructor(
    name: string,
    bindings: Binding[],
    options: ConsumeOptions,
    log: Log,
    statements: Statements,
    clock: Clock,
    process: string,
    settled: () => void,
  ) {
    this.name = name
    this.matches = matcher(bindings)
    this.options = options
    this.log = log
    this.statements = statements
    this.clock = clock
    this.process = process
    this.settled = settled
  }

  rebind(bindings: readonly Binding[]): void {
    this.matches = matcher(bindings)
  }

  wake(): void {
    if (this.scheduled || this.stopped) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      this.pump()
    })
  }

  stop(): void {
    this.stopped = true
    this.flush?.cancel()
  }

  private pump(): void {
    if (this.stopped || this.owned.size === 0 || this.inFlight >= this.options.windowMax) return
    let rows: LogRow[]
    try {
      rows = this.log.after(this.next)
    } catch {
      return // unreadable now; the heartbeat wakes again
    }
    if (rows.length === 0) return
    const deliveries: Delivery[] = []
    for (const row of rows) {
      if (this.inFlight >= this.options.windowMax) break
      this.next = row.position
      const shard = this.owned.get(row.shard)
      if (!shard || shard.leaving || row.position <= shard.readTo) continue
      shard.readTo = row.position
      if (!this.matches(row.message)) continue
      const entry = { position: row.position, done: false }
      shard.entries.push(entry)
      this.inFlight += 1
      const delivery: SqliteDelivery = {
        message: row.message,
        lease: shard.lease,
        redelivered: row.position <= shard.suspectTo,
        entry,
      }
      deliveries.push(delivery)
    }
    this.wake()
    if (deliveries.length > 0) this.options.receive(deliveries)
  }

  ack(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { entry, lease } = delivery as SqliteDelivery
      if (entry.done) continue
      entry.done = true
      const shard = this.owned.get(lease.shard)
      if (shard?.lease !== lease) continue
      this.inFlight -= 1
      this.dirty.add(shard)
    }
    if (this.stopped) return
    this.flush ??= this.clock.after(ACK_FLUSH_MS, () => this.flushNow())
    this.wake()
  }

  private flushNow(): void {
    this.flush = undefined
    if (this.stopped) return
    try {
      if (this.dirty.size > 0) this.log.transaction(() => this.writeCursors())
    } catch {
      this.flush = this.clock.after(ACK_FLUSH_MS, () => this.flushNow())
    }
    if ([...this.owned.values()].some((shard) => shard.leaving)) this.settled()
  }

  /** Lets the cursors of shards to which nothing comes follow the log, so that it can be trimmed behind them. */
  noteProgress(): void {
    for (const shard of this.owned.values())
      if (this.finishedTo(shard) > shard.written + PROGRESS_MIN) this.dirty.add(shard)
    if (this.dirty.size > 0) this.flush ??= this.clock.after(ACK_FLUSH_MS, () => this.flushNow())
  }

  /** The lowest position behind which nothing of the shard is unfinished (E3). */
  private finishedTo(shard: OwnedShard): number {
    const position = lowestFinished(shard)
    return position === shard.readTo && !shard.leaving ? Math.max(position, this.next) : position
  }

  /** Writes how far each shard is; runs inside a transaction of the log. */
  writeCursors(): void {
    for (const shard of this.dirty) {
      const position = this.finishedTo(shard)
      if (position > shard.written) {
        this.statements.writeCursor.run(position, this.name, shard.lease.shard, shard.lease.epoch)
        shard.written = position
      }
    }
    this.dirty.clear()
  }

  cursorOf(shard: number): number | undefined {
    const owned = this.owned.get(shard)
    return owned && this.finishedTo(owned)
  }

  isDone(shard: number, position: number): boolean {
    return this.owned.get(shard)?.entries.some((entry) => entry.position === position && entry.done) ?? false
  }

  own(share: Share, suspectTo: number): void {
    this.owned.set(share.shard, {
      lease: { shard: share.shard, epoch: share.epoch },
      readTo: share.position,
      written: share.position,
      entries: [],
      finished: 0,
      suspectTo,
      leaving: false,
    })
    // The shard's cursor may lie behind where this reader is: what it has seen of other shards is skipped by readTo.
    this.next = this.owned.size === 1 ? share.position : Math.min(this.next, share.position)
    this.wake()
  }

  keep(shards: number[]): void {
    for (const number of shards) {
      const shard = this.owned.get(number)
      if (!shard?.leaving) continue
      shard.leaving = false
      this.next = Math.min(this.next, shard.readTo)
    }
  }

  giveBack(shards: number[]): void {
    for (const number of shards) {
      const shard = this.owned.get(number)
      if (shard) shard.leaving = true
    }
  }

  /** Shards that leave and have nothing in flight any more (E4); they are this reader's no longer. */
  released(): number[] {
    const released: number[] = []
    for (const [number, shard] of this.owned) {
      if (!shard.leaving || shard.entries.some((entry) => !entry.done)) continue
      this.dirty.add(shard)
      released.push(number)
    }
    // Cursors first: `balance` writes them, then lets go.
    for (const number of released) this.owned.delete(number)
    return released
  }

  /** Lets go of shards that others took while this process was not heard of. */
  drop(shares: Share[]): void {
    for (const share of shares) {
      const shard = this.owned.get(share.shard)
      if (!shard || (share.owner === this.process && share.epoch === shard.lease.epoch)) continue
      this.owned.delete(share.shard)
      this.dirty.delete(shard)
      this.inFlight -= shard.entries.filter((entry) => !entry.done).length
      this.options.revoked?.(shard.lease)
    }
  }
}

function lowestFinished(shard: OwnedShard): number {
  const { entries } = shard
  let { finished } = shard
  while (finished < entries.length && entries[finished]!.done) finished += 1
  shard.finished = finished
  if (finished === entries.length) {
    shard.entries = []
    shard.finished = 0
    return shard.readTo
  }
  if (finished > 256) {
    shard.entries = entries.slice(finished)
    shard.finished = 0
  }
  return shard.entries[shard.finished]!.position - 1
}

type Statements = ReturnType<typeof prepareStatements>

function prepareStatements(database: DatabaseSync) {
  const prepare = (text: string): StatementSync => database.prepare(text)
  return {
    keepSetting: prepare('insert into setting (name, value) values (?, ?) on conflict do nothing'),
    setting: prepare('select value from setting where name = ?'),
    append: prepare('insert into log (shard, type, id, message_key, headers, at, body) values (?, ?, ?, ?, ?, ?, ?)'),
    after: prepare(
      `select position, shard, type, id, message_key, headers, at, body from log where position > ? order by position limit ${READ_MAX}`,
    ),
    heads: prepare('select position, shard, type, headers, at from log where position > ? order by position'),
    oldest: prepare('select position, at from log order by position limit 1'),
    sequence: prepare("select seq from sqlite_sequence where name = 'log'"),
    size: prepare(
      'select page_count as pages, freelist_count as free, page_size as size from pragma_page_count, pragma_freelist_count, pragma_page_size',
    ),
    trim: prepare('delete from log where position <= ? and at < ?'),
    slowest: prepare('select min(position) as position from share'),
    declare: prepare(
      'insert into subscription (name, bindings, ephemeral_of) values (?, ?, ?) on conflict (name) do update set bindings = excluded.bindings',
    ),
    subscription: prepare('select bindings from subscription where name = ?'),
    durableNames: prepare('select name from subscription where ephemeral_of is null order by name'),
    ephemerals: prepare('select name, ephemeral_of from subscription where ephemeral_of is not null'),
    ephemeralOf: prepare('select name from subscription where ephemeral_of = ?'),
    removeSubscription: prepare('delete from subscription where name = ?'),
    removeShares: prepare('delete from share where subscription = ?'),
    removeMembers: prepare('delete from member where subscription = ?'),
    addShare: prepare(
      'insert into share (subscription, shard, position, owner, epoch) values (?, ?, ?, null, 0) on conflict do nothing',
    ),
    shares: prepare('select shard, position, owner, epoch from share where subscription = ? order by shard'),
    take: prepare('update share set owner = ?, epoch = epoch + 1 where subscription = ? and shard = ? and epoch = ?'),
    release: prepare('update share set owner = null where subscription = ? and shard = ? and owner = ?'),
    releaseAll: prepare('update share set owner = null where subscription = ? and owner = ?'),
    releaseEverything: prepare('update share set owner = null where owner = ?'),
    writeCursor: prepare('update share set position = ? where subscription = ? and shard = ? and epoch = ?'),
    join: prepare(
      'insert into member (subscription, process, pid, host, until) values (?, ?, ?, ?, ?) on conflict do nothing',
    ),
    renew: prepare('update member set until = ? where process = ?'),
    leave: prepare('delete from member where subscription = ? and process = ?'),
    leaveEverything: prepare('delete from member where process = ?'),
    members: prepare('select process, pid, host, until from member where subscription = ? order by process'),
    others: prepare('select count(*) as count from member where process <> ? and until >= ?'),
  }
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

const fullError = (path: string, bytesMax: number) =>
  new UnavailableError(
    'log_full',
    `${path} holds over ${bytesMax} bytes: a subscription is far behind. Start its service, or remove the subscription`,
  )

const closedError = (path: string) => new BusError('bus_closed', `${path} is closed`)
