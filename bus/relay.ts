/**
 * The relay carries the outbox to the broker.
 *
 * R1 Rows go out in the order of their positions, and none before all those ahead of it were confirmed; so the first
 *    time that a message arrives is in order, whoever else relays the same rows.
 * R2 A row is deleted only after the broker confirmed it. A crash between the two sends it again; the inbox knows it.
 * R4 No row is passed over. In SQLite rows become visible in the order of their positions, so a bookmark tells what was
 *    sent. In PostgreSQL a lower position may become visible after a higher one: there every row that is visible is sent,
 *    and exactly those are deleted before more are read; the bookmark is a low-water mark (low-water-mark.ts). Of one key
 *    they are in order all the same: who publishes after another's commit, or under the same row's lock, takes the higher
 *    position.
 * R3 While the broker is away nothing is lost and nobody waits: it is tried again with back-off.
 * R5 A batch with a message that the broker will never take is divided until that one stands alone: it becomes a dead letter
 *    of the outbox (refused.ts), and the others go. What the broker refuses for its set-up (`transport_refused`) is no
 *    message's fault, and waits as in R3.
 * R6 In PostgreSQL the processes of a service take turns, so what one sends no other sends too. Who stands still in its turn
 *    for STILL_MAX_MS loses it: of what it was sending then, another may send the same (R1, R2). In SQLite every process that
 *    has the database open relays for itself.
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { Clock, Timer } from './clock.ts'
import type { Codec } from './codec.ts'
import type { Step } from './consumer.ts'
import type { BusError } from './errors.ts'
import type { Limits } from './limits.ts'
import { endStillTurn, inTurn } from './lock.ts'
import { LowWaterMark } from './low-water-mark.ts'
import { toWire } from './outbox.ts'
import { isRefusal, type OutboxRow, setAside } from './refused.ts'
import { list, sql } from './sql.ts'
import type { MaybePromise, Reader, Store } from './store.ts'
import type { Tracing } from './tracing.ts'
import type { Transport } from './transport.ts'

/** Confirmed rows are deleted after this long, or when there are so many. */
const MARK_MS = 50
const MARK_ROWS = 4_000
/** R6 */
const TURN = 'relay'
const STILL_MAX_MS = 5_000
/** Another's turn lasts as long as a broker confirms; the looks become rarer up to this. */
const TURN_LOOK_MAX_MS = 20
/** So often nobody's turn was ours: it may be that one stands still. */
const LOOKS_TILL_STILL = 50
const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 5_000

function traceparentOf(codec: Codec, body: string | Uint8Array): string | null {
  try {
    return codec.decode(body).traceparent
  } catch {
    return null // written by another codec; it is sent all the same
  }
}

/** By its bytes: a text has up to three for each of its units, and the next message up to messageBytesMax. */
function mayHaveBeenCut(rows: readonly OutboxRow[], { relayBatchBytesMax, messageBytesMax }: Limits): boolean {
  return rows.reduce((sum, { body }) => sum + 3 * body.length, messageBytesMax) > relayBatchBytesMax
}

export type RelayOptions = {
  store: Store
  transport: Transport
  clock: Clock
  limits: Limits
  codec: Codec
  tracing: Tracing | undefined
  onStep: (step: Step) => void
  onFailure: (error: unknown) => void
  /** After failures, all that stood there was sent. */
  onRecovery: () => void
  /** So many more have left the outbox. */
  onSent: (count: number) => void
  newId: () => string
  /** The broker will never take this one; it is a dead letter now. */
  onRefused: (row: OutboxRow, refusal: BusError) => void
}

export class Relay {
  private readonly options: RelayOptions
  private running: Promise<void> | undefined
  private again = false
  private stopped = false
  /** In SQLite. Up to here the broker has confirmed. */
  private sentTo = 0
  /** In SQLite. Up to here what was confirmed is deleted. */
  private markedTo = 0
  /** In PostgreSQL. */
  private readonly lowWater = new LowWaterMark()
  private marking: Promise<void> | undefined
  private markTimer: Timer | undefined
  private retry: { timer: Timer; failures: number } | undefined
  private sweeper: Timer | undefined

  constructor(options: RelayOptions) {
    this.options = options
  }

  /** The broker took the last batch; false while it is away. */
  get healthy(): boolean {
    return this.retry === undefined
  }

  /** No row up to here is still to be confirmed. */
  get bookmark(): number {
    return this.options.store.dialect === 'sqlite' ? this.sentTo : this.lowWater.position
  }

  get idle(): boolean {
    return this.running === undefined && this.marking === undefined && this.retry === undefined
  }

  /** True where rows stand in the outbox that the broker has not confirmed. */
  async hasUnsent(): Promise<boolean> {
    const row = await this.options.store.read((reader) =>
      reader.get(sql`select 1 as one from bus_outbox where position > ${this.bookmark} limit 1`),
    )
    return row !== undefined
  }

  start(): void {
    this.wake()
    this.sweep()
  }

  /** Rows that a process left behind when it died are found here; one's own are announced by `wake`. */
  private sweep(): void {
    this.sweeper = this.options.clock.after(this.options.limits.sweepMs, () => {
      this.wake()
      if (!this.stopped) this.sweep()
    })
  }

  wake(): void {
    this.again = true
    if (!this.stopped && !this.retry) this.begin()
  }

  private begin(): void {
    this.running ??= this.run()
      .catch((error) => this.failed(error))
      .finally(() => {
        this.running = undefined
        if (this.again && !this.stopped) this.wake()
      })
  }

  private async run(): Promise<void> {
    while (this.again && !this.stopped) {
      this.again = false
      while ((await this.sendBatch()) && !this.stopped);
    }
    if (this.retry) this.options.onRecovery()
    this.retry = undefined
  }

  /** True where more may be waiting. */
  private async sendBatch(): Promise<boolean> {
    const { store } = this.options
    if (store.dialect === 'sqlite') return this.sendFromBookmark()
    for (let looks = 1; !this.stopped; looks++) {
      const more = await store.read((reader) => inTurn(reader, TURN, () => this.sendFromLowWater(reader)))
      if (more !== null) return more
      if (looks % LOOKS_TILL_STILL === 0) await store.read((reader) => endStillTurn(reader, TURN, STILL_MAX_MS))
      await pause(Math.min(TURN_LOOK_MAX_MS, 2 ** looks))
    }
    return false
  }

  private async sendFromBookmark(): Promise<boolean> {
    const rows = await this.options.store.read((reader) => this.readBatch(reader))
    const last = rows.at(-1)
    if (!last) return false
    await this.send(rows)
    this.sentTo = last.position
    this.markSoon()
    return this.mayBeMoreThan(rows)
  }

  private async sendFromLowWater(reader: Reader): Promise<boolean> {
    const { lowWater } = this
    const [isSame, settles, rows] = await Promise.all([
      lowWater.isOfThisServer(reader),
      lowWater.look(reader),
      this.readBatch(reader),
    ])
    if (!isSame) return true
    const last = rows.at(-1)
    const more = last !== undefined && this.mayBeMoreThan(rows)
    if (last) {
      const sent = await this.send(rows)
      await this.markExactly(sent.map(({ position }) => position))
      lowWater.sent(last.position)
    }
    if (settles) lowWater.settle(more ? last.position : Number.POSITIVE_INFINITY)
    return more
  }

  /** The sizes first, so that no more is read than is sent. */
  private readBatch(reader: Reader): MaybePromise<OutboxRow[]> {
    const { relayBatchMax, relayBatchBytesMax } = this.options.limits
    const { bookmark } = this
    return reader.all<OutboxRow>(sql`
      select position, id, type, message_key, headers, body, at from bus_outbox
      where position > ${bookmark} and position <= (
        select max(position) from (
          select position, bytes, sum(bytes) over (order by position) as total from (
            select position, octet_length(body) as bytes from bus_outbox
            where position > ${bookmark} order by position limit ${relayBatchMax}) as first_rows) as sums
        where total <= ${relayBatchBytesMax} or total = bytes)
      order by position`)
  }

  private mayBeMoreThan(rows: readonly OutboxRow[]): boolean {
    const { limits } = this.options
    return rows.length === limits.relayBatchMax || mayHaveBeenCut(rows, limits)
  }

  /** R1: awaited before the next batch is read. Answers what the broker has confirmed. */
  private async send(rows: OutboxRow[]): Promise<OutboxRow[]> {
    const { onStep, onSent, tracing } = this.options
    onStep('relay')
    const sent = await this.publish(rows)
    onStep('confirm')
    if (tracing) this.trace(sent, tracing)
    onSent(rows.length)
    return sent
  }

  /** Answers what the broker has confirmed: all, but for what it will never take (R5). */
  private async publish(rows: OutboxRow[]): Promise<OutboxRow[]> {
    const { transport, store, onRefused } = this.options
    try {
      await transport.publish(rows.map(toWire))
      return rows
    } catch (error) {
      if (!isRefusal(error)) throw error
      if (rows.length === 1) {
        if (await setAside(store, rows[0]!, error, this.options)) onRefused(rows[0]!, error)
        return []
      }
      const half = rows.length >> 1
      const first = await this.publish(rows.slice(0, half))
      return [...first, ...(await this.publish(rows.slice(half)))]
    }
  }

  /** Each message's way from its transaction to the broker, which has just confirmed it. */
  private trace(rows: readonly OutboxRow[], tracing: Tracing): void {
    const { codec, transport } = this.options
    for (const { id, type, at, body } of rows) {
      const span = tracing.start({
        name: `send ${type}`,
        kind: 'producer',
        parent: traceparentOf(codec, body),
        attributes: {
          'messaging.system': transport.name,
          'messaging.operation.type': 'send',
          'messaging.destination.name': type,
          'messaging.message.id': id,
          'messaging.batch.message_count': rows.length,
        },
        startedAt: Number(at),
      })
      span.end()
    }
  }

  /** R4. Where it fails they are sent again, and known again. */
  private async markExactly(positions: number[]): Promise<void> {
    const { store, onStep } = this.options
    await store.transaction((tx) => tx.run(sql`delete from bus_outbox where position in ${list(positions)}`))
    onStep('mark')
  }

  private markSoon(): void {
    if (this.marking || this.stopped) return
    if (this.sentTo - this.markedTo >= MARK_ROWS) this.markNow()
    else this.markTimer ??= this.options.clock.after(MARK_MS, () => this.markNow())
  }

  private markNow(): void {
    this.markTimer?.cancel()
    this.markTimer = undefined
    this.marking ??= this.mark().finally(() => {
      this.marking = undefined
    })
  }

  /** Deletes what was confirmed (R2): many at once, since each deletion costs pages and a commit. */
  private async mark(): Promise<void> {
    const { store, onStep, onFailure } = this.options
    try {
      while (this.markedTo < this.sentTo) {
        const upTo = this.sentTo
        await store.transaction(async (tx) => {
          await tx.run(sql`delete from bus_outbox where position <= ${upTo}`)
        })
        this.markedTo = upTo
        onStep('mark')
      }
    } catch (error) {
      onFailure(error) // they stay, and are deleted with the next
    }
  }

  private failed(error: unknown): void {
    const { clock, onFailure } = this.options
    onFailure(error)
    if (this.stopped) return
    const failures = (this.retry?.failures ?? 0) + 1
    const delayMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** failures)
    const timer = clock.after(delayMs, () => {
      this.again = true
      this.begin()
    })
    this.retry = { timer, failures }
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.sweeper?.cancel()
    this.retry?.timer.cancel()
    await this.running
    this.markTimer?.cancel()
    await this.marking
    if (this.markedTo < this.sentTo) await this.mark()
  }
}
