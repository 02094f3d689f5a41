/** One subscription of the embedded broker in one process: which shards it owns, what of them is in flight (E2 to E5, E7). */
import type { Clock, Timer } from '../clock.ts'
import { matcher } from '../routing.ts'
import type { Binding, ConsumeOptions, Delivery, Lease } from '../transport.ts'
import type { Cursor } from './sqlite-appender.ts'
import type { Log, LogRow, Share, Statements } from './sqlite-log.ts'
import { type Item, Unfinished } from './unfinished.ts'
import { emptyHand, type Hand, Window } from './window.ts'

/** Acknowledgements are written with the next publication, or after this long. */
const ACK_FLUSH_MS = 25
/** A cursor is moved over messages of others once there are so many. */
const PROGRESS_MIN = 1_000
/** E7. Positions beyond what was read; twice as many as were read since it was last written, so a busy process seldom waits. */
export const AHEAD_MIN = 2_000
const AHEAD_MAX = 16_384

type Entry = Item & { readonly position: number }
type OwnedShard = {
  readonly lease: Lease
  /** Everything up to here was delivered or did not match. */
  readTo: number
  /** What the file says. */
  written: number
  /** Delivered and not known to be finished up to the lowest unfinished one (E3). */
  readonly unfinished: Unfinished<Entry>
  readonly hand: Hand
  /** Up to here an owner that died may have begun. */
  readonly suspectTo: number
  /** E7. What the file says at least, and what had been read when that was written. */
  reach: number
  readWhenWritten: number
  /** E7. The message that waits for more stands here. */
  wanted: number
  leaving: boolean
}
type SqliteDelivery = Delivery & { readonly entry: Entry }

/** One subscription in this process. */
export class Reader {
  readonly name: string
  private matches: ReturnType<typeof matcher>
  private readonly options: ConsumeOptions
  private readonly log: Log
  private readonly statements: Statements
  private readonly clock: Clock
  private readonly process: string
  private readonly settled: () => void
  private readonly writeSoon: () => void
  private readonly owned = new Map<number, OwnedShard>()
  private readonly dirty = new Set<OwnedShard>()
  private next = 0
  private readonly window: Window
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
    writeSoon: () => void,
  ) {
    this.name = name
    this.matches = matcher(bindings)
    this.options = options
    this.window = new Window(options)
    this.log = log
    this.statements = statements
    this.clock = clock
    this.process = process
    this.settled = settled
    this.writeSoon = writeSoon
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
    if (this.stopped || this.owned.size === 0 || this.window.room <= 0) return
    let rows: LogRow[]
    try {
      rows = this.log.after(this.next)
    } catch {
      return // unreadable now; the heartbeat wakes again
    }
    if (rows.length === 0) return
    const deliveries: Delivery[] = []
    let isFull = false
    for (const row of rows) {
      const shard = this.owned.get(row.shard)
      const isNew = shard !== undefined && !shard.leaving && row.position > shard.readTo
      const isOurs = isNew && this.matches(row.message)
      if (this.window.room <= 0 || (isOurs && !this.window.hasRoomFor(row.message))) {
        isFull = true
        break
      }
      if (isOurs && row.position > shard.reach) {
        isFull = true // until it is written
        shard.wanted = row.position
        this.dirty.add(shard)
        this.writeSoon()
        break
      }
      this.next = row.position
      if (isNew) shard.readTo = row.position
      if (!isOurs) continue
      const entry = { position: row.position, done: false }
      shard.unfinished.add(entry)
      this.window.take(shard.hand, row.message)
      const delivery: SqliteDelivery = {
        message: row.message,
        lease: shard.lease,
        redelivered: row.position <= shard.suspectTo,
        entry,
      }
      deliveries.push(delivery)
    }
    if (!isFull) this.wake() // an acknowledgement or what is written does
    if (deliveries.length > 0) this.options.receive(deliveries)
  }

  ack(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { entry, lease, message } = delivery as SqliteDelivery
      if (entry.done) continue
      entry.done = true
      const shard = this.owned.get(lease.shard)
      if (shard?.lease !== lease) continue
      this.window.release(shard.hand, message)
      this.dirty.add(shard)
    }
    if (this.stopped) return
    this.flush ??= this.clock.after(ACK_FLUSH_MS, () => this.flushNow())
    this.wake()
  }

  private flushNow(): void {
    this.flush = undefined
    if (this.stopped) return
    if (this.dirty.size > 0) this.writeSoon()
    if ([...this.owned.values()].some((shard) => shard.leaving)) this.settled()
  }

  /** Lets the cursors of shards to which nothing comes follow the log, so that it can be trimmed behind them: at once where `trimIsDue`. */
  noteProgress(trimIsDue: boolean): void {
    const min = trimIsDue ? 0 : PROGRESS_MIN
    for (const shard of this.owned.values()) if (this.finishedTo(shard) > shard.written + min) this.dirty.add(shard)
    if (this.dirty.size > 0) this.flush ??= this.clock.after(ACK_FLUSH_MS, () => this.flushNow())
  }

  /** The lowest position behind which nothing of the shard is unfinished (E3). */
  private finishedTo(shard: OwnedShard): number {
    const lowest = shard.unfinished.lowest()
    const position = lowest ? lowest.position - 1 : shard.readTo
    return position === shard.readTo && !shard.leaving ? Math.max(position, this.next) : position
  }

  /** Writes how far each shard is, and answers what it wrote; runs inside a transaction of the log. */
  writeCursors(): Cursor[] {
    const cursors: Cursor[] = []
    this.takeCursors(cursors)
    for (const { position, reach, subscription, shard, epoch } of cursors) {
      this.statements.writeCursor.run(position, reach, subscription, shard, epoch)
    }
    return cursors
  }

  get hasCursors(): boolean {
    return this.dirty.size > 0
  }

  /** Hands over how far each shard is, for the appender to write down. */
  takeCursors(into: Cursor[]): void {
    for (const shard of this.dirty) {
      const position = Math.max(shard.written, this.finishedTo(shard))
      const reach = this.reachFor(shard)
      if (position === shard.written && reach === shard.reach) continue
      into.push({ subscription: this.name, shard: shard.lease.shard, epoch: shard.lease.epoch, position, reach })
      shard.written = position
    }
    this.dirty.clear()
  }

  /** E7 */
  private reachFor(shard: OwnedShard): number {
    const ahead = Math.min(AHEAD_MAX, Math.max(AHEAD_MIN, 2 * (this.next - shard.readWhenWritten)))
    return Math.max(shard.reach, Math.max(this.next, shard.wanted) + ahead)
  }

  /** The file has these now. */
  cursorsWritten(cursors: readonly Cursor[]): void {
    for (const { subscription, shard: number, epoch, reach } of cursors) {
      const shard = this.owned.get(number)
      if (subscription !== this.name || shard?.lease.epoch !== epoch) continue
      shard.reach = Math.max(shard.reach, reach)
      shard.readWhenWritten = this.next
    }
    this.wake() // what waits for it, or could not ask while others were written
  }

  /** What was handed over last may not have been written: hand all of it over again. */
  untakeCursors(): void {
    for (const shard of this.owned.values()) this.writeAnew(shard)
  }

  private writeAnew(shard: OwnedShard): void {
    shard.written = 0
    this.dirty.add(shard)
  }

  cursorOf(shard: number): number | undefined {
    const owned = this.owned.get(shard)
    return owned && this.finishedTo(owned)
  }

  /** Finished, and not to be seen by the cursors. */
  finishedBehind(): number {
    let count = 0
    for (const shard of this.owned.values()) count += shard.unfinished.finishedBehind()
    return count
  }

  /** Took over `share` when `last` was the log's newest: no earlier owner began anything later, or beyond its reach. */
  own(share: Share, last: number): void {
    this.owned.set(share.shard, {
      lease: { shard: share.shard, epoch: share.epoch },
      readTo: share.position,
      written: share.position,
      unfinished: new Unfinished<Entry>(),
      hand: emptyHand(),
      suspectTo: Math.min(share.reach, last),
      reach: last + AHEAD_MIN,
      readWhenWritten: share.position,
      wanted: 0,
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

  /** Shards that leave and have nothing in flight any more (E4). */
  released(): number[] {
    const released: number[] = []
    for (const [number, shard] of this.owned) {
      if (!shard.leaving || shard.unfinished.lowest()) continue
      this.writeAnew(shard)
      released.push(number)
    }
    return released
  }

  /** Gives all of them up; runs inside a transaction of the log. What the appender still has of them comes too late. */
  releaseAll(): void {
    this.untakeCursors()
    this.writeCursors()
    for (const number of this.owned.keys()) this.release(number)
  }

  /** What was begun here has ended; what an earlier owner may have begun has not (E7). */
  release(number: number): void {
    this.statements.release.run(this.owned.get(number)!.suspectTo, this.name, number, this.process)
  }

  /** The file says that these are nobody's now. */
  letGo(shards: readonly number[]): void {
    for (const number of shards) {
      const shard = this.owned.get(number)
      if (!shard) continue
      this.owned.delete(number)
      this.options.revoked?.(shard.lease)
    }
  }

  /** Lets go of shards that others took while this process was not heard of. */
  drop(shares: Share[]): void {
    for (const share of shares) {
      const shard = this.owned.get(share.shard)
      if (!shard || (share.owner === this.process && share.epoch === shard.lease.epoch)) continue
      this.owned.delete(share.shard)
      this.dirty.delete(shard)
      this.window.drop(shard.hand)
      this.options.revoked?.(shard.lease)
    }
  }
}
