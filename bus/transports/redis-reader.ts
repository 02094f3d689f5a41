/** One subscription of the Redis transport in one process: which shards it owns, what of them is in flight (S2 to S6, S8). */
import { createHash, randomUUID } from 'node:crypto'
import type { Clock, Timer } from '../clock.ts'
import type { Log } from '../log.ts'
import { matcher } from '../routing.ts'
import type { Binding, ConsumeOptions, Delivery, Lease } from '../transport.ts'
import type { Connection } from './redis-connection.ts'
import { compareIds, idBefore, readEntry } from './redis-entry.ts'
import type { RedisKeys } from './redis-keys.ts'
import { balance, leave, progress } from './redis-scripts.ts'
import { type Item, Unfinished } from './unfinished.ts'
import { emptyHand, type Hand, Window } from './window.ts'

/** Cursors are written this long after an acknowledgement. */
const ACK_FLUSH_MS = 20
/** A cursor is moved over messages of others once there are so many. */
const PROGRESS_MIN = 1_000
/** A reply carries about so much, whatever the messages' sizes and the window. */
const READ_BYTES_MAX = 4 * 2 ** 20
/** Until something was read, messages are taken to be this large. */
const MESSAGE_BYTES_FIRST = 16 * 2 ** 10
/** So much of the window at least is asked for at once, although less has room: what is too much is held until it has. */
const READ_SHARE_MIN = 1 / 4
const RETRY_MS = 100
/** So many entries beyond those that are known here may be handed over before the server must be asked (S8). */
const REACH_AHEAD = 16

type Entry = Item & { readonly id: string; readonly sequence: number; readonly matched: number }
type OwnedShard = {
  readonly lease: Lease
  readonly stream: string
  /** Everything up to here was read; `sequence` counts it from the stream's first entry ever. */
  readTo: string
  sequence: number
  /** How many of them matched, since this process owns it. */
  matched: number
  /** The server knows that so many of those that match may have been handed over (S8). */
  reach: number
  readonly unfinished: Unfinished<Entry>
  readonly hand: Hand
  /** The cursor as the server has it, and its sequence. */
  written: string
  writtenSequence: number
  /** Up to here, and no more than so many that match, a member that was lost may have begun; '' and 0: none was. */
  readonly suspectTo: string
  readonly suspects: number
  leaving: boolean
}
type RedisDelivery = Delivery & { readonly entry: Entry; readonly shard: OwnedShard }

/** What the balance script says of one shard. */
type Row = [
  shard: number,
  epoch: string,
  suspectTo: string,
  leaving: number,
  cursor: string,
  entriesRead: number,
  entriesAdded: number,
  length: number,
  lastId: string,
  firstId: string,
  reach: string,
]

export type Progress = { readonly id: string; readonly sequence: number; readonly finishedBehind: number }

export type ReaderOptions = {
  name: string
  record: string
  instance: string
  consume: ConsumeOptions
  /** For scripts, shared with others. */
  commands: Connection
  /** For waiting; this reader's own. */
  listener: Connection
  keys: RedisKeys
  clock: Clock
  log: Log
  leaseMs: number
  replyTimeoutMs: number
  /** The server forgot the subscription or a part of it: makes it anew, and answers the server's instance now. */
  declareAgain: (name: string, bindings: readonly Binding[], what: string) => Promise<string>
}

export class Reader {
  private readonly options: ReaderOptions
  private readonly member = randomUUID()
  private record = ''
  private recordDigest = ''
  private bindings: readonly Binding[] = []
  private isEphemeral = false
  private matches: ReturnType<typeof matcher> = () => false
  private instance: string
  private readonly owned = new Map<number, OwnedShard>()
  /** Read and not handed over: the window is full. */
  private held: RedisDelivery[] = []
  private readonly dirty = new Set<OwnedShard>()
  private readonly givingUp = new Set<number>()
  private readonly window: Window
  private bytesPerMessage = MESSAGE_BYTES_FIRST
  private controlId = '$'
  private generation = 0
  private balanceAt = 0
  private leaseUntil = 0
  private stopped = false
  private working: Promise<void> | undefined
  private flushing: Promise<void> | undefined
  private flushTimer: Timer | undefined
  private woken = () => {}
  /** Why it does not read now; null: it does. */
  reason: string | null = null

  constructor(options: ReaderOptions) {
    this.options = options
    this.window = new Window(options.consume)
    this.instance = options.instance
    this.rebind(options.record)
  }

  get name(): string {
    return this.options.name
  }

  start(): void {
    this.working = this.work()
  }

  // --- the loop: everything that reads or changes `owned` happens here, one after another ---

  private async work(): Promise<void> {
    const { listener, clock } = this.options
    await new Promise((resolve) => setImmediate(resolve)) // whoever consumes has its consumer first
    while (!this.stopped) {
      try {
        await listener.open()
        if (this.controlId === '$') this.controlId = await this.lastControlId()
        if (this.generation !== listener.generation) this.balanceAt = 0 // something may have been missed
        if (this.balanceIsDue()) await this.balance()
        this.handOver()
        if (this.room() > 0) await this.read()
        else await this.pause(this.balanceAt - clock.now())
        this.reason = null
      } catch (error) {
        if (this.stopped) break
        this.reason = (error as Error).message
        await this.pause(RETRY_MS)
      }
    }
  }

  /** Also where the clock was set back: then it is not known when it was. */
  private balanceIsDue(): boolean {
    const inMs = this.balanceAt - this.options.clock.now()
    return inMs <= 0 || inMs > this.options.leaseMs
  }

  private async lastControlId(): Promise<string> {
    const { listener, keys } = this.options
    const [last] = (await listener.command(['XREVRANGE', keys.control, '+', '-', 'COUNT', '1'])) as [string, unknown][]
    return last?.[0] ?? '0-0'
  }

  /** Until somebody wakes, or so long. */
  private async pause(delayMs: number): Promise<void> {
    if (this.stopped) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.woken = resolve
    const timer = this.options.clock.after(Math.max(1, delayMs), resolve)
    await promise
    timer.cancel()
  }

  private room(): number {
    const [next] = this.held
    return next && !this.window.hasRoomFor(next.message) ? 0 : this.window.room - this.held.length
  }

  /** Waits for entries of its shards, and for word of members that come and go (S6). */
  private async read(): Promise<void> {
    const { listener, keys, clock, replyTimeoutMs } = this.options
    const shards = [...this.owned.values()].filter((shard) => !shard.leaving)
    const each = Math.max(1, shards.length)
    const wanted = Math.max(this.room(), this.options.consume.windowMax * READ_SHARE_MIN)
    const count = Math.ceil(Math.min(wanted, READ_BYTES_MAX / this.bytesPerMessage) / each)
    const blockMs = Math.max(1, Math.ceil(this.balanceAt - clock.now()))
    const streams = [keys.control, ...shards.map(({ stream }) => stream)]
    const from = [this.controlId, ...shards.map(({ readTo }) => readTo)]
    const reply = (await listener.command(
      ['XREAD', 'COUNT', `${count}`, 'BLOCK', `${blockMs}`, 'STREAMS', ...streams, ...from],
      { bytes: true, timeoutMs: blockMs + replyTimeoutMs },
    )) as [Buffer, [Buffer, Buffer[]][]][] | null
    if (this.stopped) return
    for (const [stream, entries] of reply ?? []) {
      const name = stream.toString()
      if (name === keys.control) this.noteControl(entries)
      else this.take(shards.find((shard) => shard.stream === name)!, entries)
    }
    this.handOver()
  }

  private noteControl(entries: [Buffer, Buffer[]][]): void {
    this.controlId = entries.at(-1)![0].toString('latin1')
    if (entries.some(([, fields]) => fields[1]!.toString() === this.name)) this.balanceAt = 0
  }

  private take(shard: OwnedShard, entries: [Buffer, Buffer[]][]): void {
    let bytes = 0
    for (const [idBytes, fields] of entries) {
      const id = idBytes.toString('latin1')
      const { message, stranger, bytes: size } = readEntry(shard.stream, id, fields)
      bytes += size
      shard.readTo = id
      shard.sequence += 1
      if (stranger) this.noteStranger(message.id)
      if (!this.matches(message)) continue
      shard.matched += 1
      const entry = { id, sequence: shard.sequence, matched: shard.matched, done: false }
      shard.unfinished.add(entry)
      const redelivered = shard.matched <= shard.suspects && compareIds(id, shard.suspectTo) <= 0
      this.held.push({ message, lease: shard.lease, redelivered, entry, shard } satisfies RedisDelivery)
    }
    this.bytesPerMessage = Math.max(1, bytes / entries.length)
    if (shard.sequence - shard.writtenSequence > PROGRESS_MIN) this.dirty.add(shard)
    if (this.dirty.size > 0) this.flushSoon()
  }

  private noteStranger(id: string): void {
    this.options.log.warn({ subscription: this.name, id }, `${id} was not written by this bus: fields are missing`)
  }

  /** Never more than the window, nothing under a lease that may be over (S2, S5), and nothing that the server does not expect (S8). */
  private handOver(): void {
    const { consume, clock } = this.options
    while (!this.stopped && clock.now() < this.leaseUntil) {
      const ready = this.takeReady()
      if (ready.length === 0) break
      consume.receive(ready) // which may acknowledge at once, and so make room
    }
    this.reachOn()
  }

  private takeReady(): RedisDelivery[] {
    const { held, window } = this
    let count = 0
    for (; count < held.length && isWithinReach(held[count]!) && window.hasRoomFor(held[count]!.message); count++)
      window.take(held[count]!.shard.hand, held[count]!.message)
    return held.splice(0, count)
  }

  /** Tells the server what is about to be handed over; it is, once that is written. */
  private reachOn(): void {
    if (this.stopped || this.held.length === 0 || isWithinReach(this.held[0]!)) return
    for (const delivery of this.held) if (!isWithinReach(delivery)) this.dirty.add(delivery.shard)
    void this.flush()
  }

  // --- who owns what ---

  /** One heartbeat: keeps what is ours, takes what is free, gives back what is another's (S2, S4). */
  private async balance(): Promise<void> {
    const { commands, listener, keys, clock, leaseMs, name } = this.options
    this.releaseDrained()
    const released = [...this.givingUp]
    if (released.length > 0) await this.flush()
    const begunAt = clock.now()
    const { generation } = listener
    const [instance, record, ...rows] = (await commands.run(
      balance,
      [keys.settings, keys.subscriptions, ...keys.members(name), keys.control, ...keys.streams],
      [name, this.member, `${leaseMs}`, `${REACH_AHEAD}`, ...released.map(String)],
    )) as [string, string, ...Row[]]
    if (this.stopped) return
    this.generation = generation
    this.leaseUntil = begunAt + leaseMs
    this.balanceAt = begunAt + leaseMs / 3
    for (const shard of released) this.givingUp.delete(shard)
    if (record === '') return this.forgotten(instance)
    this.instance = instance
    this.rebind(record)
    await this.compare(rows)
  }

  /** Shards that leave and have nothing in flight any more are given back with the next heartbeat (S4). */
  private releaseDrained(): void {
    for (const shard of this.owned.values()) {
      if (!shard.leaving || shard.unfinished.lowest()) continue
      this.dirty.add(shard)
      this.drop(shard)
    }
  }

  /** What was read and not handed over is the next owner's. */
  private unhold(shard: OwnedShard): void {
    const first = this.held.find((delivery) => delivery.shard === shard)?.entry
    if (!first) return
    shard.unfinished.takeBack(first)
    shard.readTo = idBefore(first.id)
    shard.sequence = first.sequence - 1
    shard.matched = first.matched - 1
    this.held = this.held.filter((delivery) => delivery.shard !== shard)
  }

  private async compare(rows: readonly Row[]): Promise<void> {
    for (const shard of [...this.owned.values()]) {
      const row = rows.find(([number]) => number === shard.lease.shard)
      if (!row || Number(row[1]) !== shard.lease.epoch) this.lose(shard)
    }
    let gone: string | undefined
    for (const row of rows) {
      const [number, , , leaving, cursor] = row
      const stream = this.options.keys.streams[number]!
      if (cursor === '') gone = stream
      const shard = this.owned.get(number)
      if (!shard) {
        if (cursor !== '') this.own(row)
      } else if (cursor === '' || compareIds(row[8], shard.readTo) < 0) {
        if (cursor !== '') this.sayRolledBack(shard, row)
        this.lose(shard)
        this.giveUp(number) // and take it again under another epoch, from where the server says
      } else {
        shard.leaving = leaving === 1
        if (shard.leaving) this.unhold(shard)
        this.findLost(shard, row)
      }
    }
    if (gone !== undefined) await this.declareAgain(`the stream ${gone}, or its group, is gone`)
    this.wakeIfDrained()
  }

  private giveUp(shard: number): void {
    this.givingUp.add(shard)
    this.balanceAt = 0
  }

  private async declareAgain(what: string): Promise<void> {
    this.instance = await this.options.declareAgain(this.name, this.bindings, what)
    this.balanceAt = 0
  }

  /** The server lost everything, and then it has another instance, or none; or somebody removed the subscription. */
  private async forgotten(instance: string): Promise<void> {
    for (const shard of [...this.owned.values()]) this.lose(shard)
    if (instance !== this.instance) await this.declareAgain('the server lost what it held')
    else if (this.isEphemeral) await this.declareAgain('this process was away for longer than its lease')
  }

  private own(row: Row): void {
    const [number, epoch, suspectTo, leaving, cursor, entriesRead, , , , , reachText] = row
    const reach = reachText === '' ? Infinity : Number(reachText)
    const stream = this.options.keys.streams[number]!
    const shard: OwnedShard = {
      lease: { shard: number, epoch: Number(epoch) },
      stream,
      readTo: cursor,
      sequence: entriesRead,
      matched: 0,
      reach,
      unfinished: new Unfinished<Entry>(),
      hand: emptyHand(),
      written: cursor,
      writtenSequence: entriesRead,
      suspectTo,
      suspects: suspectTo === '' ? 0 : reach,
      leaving: leaving === 1,
    }
    this.owned.set(number, shard)
    this.findLost(shard, row)
  }

  /** S7: entries that went before they were read. The server counts what it ever added; the reader counts what it read. */
  private findLost(shard: OwnedShard, [, , , , , , added, length, lastId, firstId]: Row): void {
    const reachable = shard.readTo === lastId ? 0 : length
    const lost = added - reachable - shard.sequence
    if (lost <= 0) return
    shard.sequence += lost
    this.options.log.error(
      { subscription: this.name, stream: shard.stream, lost, after: shard.readTo, before: firstId },
      `${lost} messages of ${shard.stream} were removed before '${this.name}' had read them, between ${shard.readTo} and ${firstId || 'its end'}: only this bus may trim its streams`,
    )
  }

  private sayRolledBack(shard: OwnedShard, [, , , , , , , , lastId]: Row): void {
    this.options.log.error(
      { subscription: this.name, stream: shard.stream, readTo: shard.readTo, lastId },
      `${shard.stream} ends at ${lastId}, and '${this.name}' had read to ${shard.readTo}: the server came back without its last entries`,
    )
  }

  /** Let go in good order: nothing of it is in flight. */
  private drop(shard: OwnedShard): void {
    this.owned.delete(shard.lease.shard)
    this.givingUp.add(shard.lease.shard)
    this.options.consume.revoked?.(shard.lease)
  }

  /** Another owns it, or it began anew. */
  private lose(shard: OwnedShard): void {
    this.owned.delete(shard.lease.shard)
    this.dirty.delete(shard)
    this.unhold(shard)
    this.window.drop(shard.hand)
    this.options.consume.revoked?.(shard.lease)
  }

  private rebind(record: string): void {
    if (record === this.record) return
    this.record = record
    this.recordDigest = createHash('sha1').update(record).digest('hex')
    for (const shard of this.owned.values()) shard.reach = Infinity // what the old bindings counted means nothing now
    const { bindings, ephemeralOf } = JSON.parse(record) as { bindings: string; ephemeralOf: string }
    this.isEphemeral = ephemeralOf !== ''
    this.bindings = JSON.parse(bindings) as Binding[]
    this.matches = matcher(this.bindings)
  }

  // --- acknowledgements (S3) ---

  ack(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { entry, shard, message } = delivery as RedisDelivery
      if (entry.done) continue
      entry.done = true
      if (this.owned.get(shard.lease.shard) !== shard) continue
      this.window.release(shard.hand, message)
      this.dirty.add(shard)
    }
    if (this.stopped) return
    this.flushSoon()
    this.wakeIfDrained()
    this.woken()
  }

  private flushSoon(): void {
    if (this.flushing) return
    this.flushTimer ??= this.options.clock.after(ACK_FLUSH_MS, () => {
      this.flushTimer = undefined
      void this.flush()
    })
  }

  /** Word on the control stream brings every member's loop here, this one's too. */
  private wakeIfDrained(): void {
    const drained = [...this.owned.values()].some((shard) => shard.leaving && !shard.unfinished.lowest())
    if (!drained || this.balanceAt === 0) return
    this.balanceAt = 0
    const { commands, keys } = this.options
    void commands.command(['XADD', keys.control, 'MAXLEN', '~', '100', '*', 'subscription', this.name]).catch(() => {}) // the next heartbeat gives it back
  }

  private async flush(): Promise<void> {
    while (this.flushing) await this.flushing
    if (this.dirty.size === 0) return
    this.flushing = this.writeCursors().finally(() => {
      this.flushing = undefined
    })
    await this.flushing
    if (this.dirty.size > 0 && !this.stopped) this.flushSoon()
  }

  private async writeCursors(): Promise<void> {
    const { commands, keys, name } = this.options
    const shards = [...this.dirty]
    this.dirty.clear()
    const moves: string[] = []
    const moved: (() => void)[] = []
    for (const shard of shards) {
      const { id, sequence, matched } = this.finishedTo(shard)
      const reach = Math.max(shard.reach, shard.matched + REACH_AHEAD)
      if (id === shard.written && reach === shard.reach) continue
      const { shard: number, epoch } = shard.lease
      const behind = reach === Infinity ? '' : `${reach - matched} ${epoch} ${this.recordDigest}`
      moves.push(`${number}`, `${epoch}`, id, `${sequence}`, behind)
      moved.push(() => {
        shard.written = id
        shard.writtenSequence = sequence
        shard.reach = Math.max(shard.reach, reach)
      })
    }
    if (moves.length === 0) return
    try {
      const written = (await commands.run(
        progress,
        [keys.members(name)[1], ...keys.streams],
        [name, this.member, ...moves],
      )) as number
      if (written === moved.length) for (const note of moved) note()
      else this.balanceAt = 0 // a lease or a group is gone: the heartbeat finds out which
    } catch {
      for (const shard of shards) this.dirty.add(shard) // unreachable now: written with the next ones
      return
    }
    if (this.held.length > 0) setImmediate(() => this.handOver())
  }

  /** The last entry up to which nothing is unfinished (S3). */
  private finishedTo(shard: OwnedShard): { id: string; sequence: number; matched: number } {
    const lowest = shard.unfinished.lowest()
    if (!lowest) return { id: shard.readTo, sequence: shard.sequence, matched: shard.matched }
    return { id: idBefore(lowest.id), sequence: lowest.sequence - 1, matched: lowest.matched - 1 }
  }

  /** How far a shard of this reader is; undefined: another's. */
  progressOf(shard: number): Progress | undefined {
    const owned = this.owned.get(shard)
    if (!owned) return undefined
    return { ...this.finishedTo(owned), finishedBehind: owned.unfinished.finishedBehind() }
  }

  // --- the end ---

  async close(): Promise<void> {
    this.stopped = true
    this.flushTimer?.cancel()
    this.options.listener.close()
    this.woken()
    await this.working
    await this.flush()
    const { commands, keys, name } = this.options
    const [members, leases] = keys.members(name)
    await commands.run(leave, [members, leases, keys.control], [name, this.member]).catch(() => {}) // its lease runs out
  }
}

function isWithinReach({ entry, shard }: RedisDelivery): boolean {
  return entry.matched <= shard.reach
}
