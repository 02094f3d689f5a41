/**
 * How much of the embedded broker's log waits for a subscription.
 *
 * The log only grows at its end, so a block of it is counted once. A look costs what came since the last one and the blocks
 * in which a cursor stands, however much waits: whoever scrapes metrics beside handlers must not hold them up. Of each block
 * that waits a number per shard is kept, some 250 bytes for 1,024 messages.
 */
import { matcher } from '../routing.ts'
import type { Backlog, Binding } from '../transport.ts'
import type { Log, Share } from './sqlite-log.ts'
import type { Reader } from './sqlite-reader.ts'

/** Positions: block `n` is (n × BLOCK, (n + 1) × BLOCK]. */
const BLOCK = 1_024
/** Blocks that are counted for the first time before everything else has its turn. */
const COUNTED_AT_ONCE_MAX = 8

type Head = [position: number, shard: number, type: string, headers: string, at: number]

/** What is known of one subscription. */
type Tally = {
  readonly bindings: string
  readonly matches: ReturnType<typeof matcher>
  /** By block: the messages of each shard that its bindings take. */
  readonly blocks: Map<number, Uint16Array>
}

export class BacklogCounter {
  private readonly shards: number
  private readonly log: () => Log
  private readonly readerOf: (name: string) => Reader | undefined
  private readonly tallies = new Map<string, Tally>()
  private counting: Promise<unknown> = Promise.resolve()
  private counted = 0

  /** @param log throws when it is closed meanwhile */
  constructor(shards: number, log: () => Log, readerOf: (name: string) => Reader | undefined) {
    this.shards = shards
    this.log = log
    this.readerOf = readerOf
  }

  forget(name: string): void {
    this.tallies.delete(name)
  }

  /**
   * Exact for what this process reads, unless the bindings are being changed by another. Of what others read, what is
   * finished and behind an unfinished one, or not written down yet, counts as waiting. Undefined: there is no such
   * subscription.
   */
  async count(name: string): Promise<Backlog | undefined> {
    // One subscription after the other: whoever asks for all must not get the turns of all at once.
    const counted = this.counting.then(() => this.countBlocks(name))
    this.counting = counted.catch(() => {})
    await counted
    return this.sum(name)
  }

  /** Counts the blocks that have come to their end. */
  private async countBlocks(name: string): Promise<void> {
    const tally = this.tallyOf(name)
    if (!tally) return
    const last = this.log().lastPosition()
    const first = blockOf(Math.min(...this.cursorsOf(name)) + 1)
    for (const block of tally.blocks.keys()) if (block < first) tally.blocks.delete(block)
    for (let block = first; (block + 1) * BLOCK <= last; block++) {
      if (tally.blocks.has(block)) continue
      const counts = new Uint16Array(this.shards)
      for (const [, shard] of this.headsOf(block, last, tally)) counts[shard]! += 1
      tally.blocks.set(block, counts)
      if (++this.counted % COUNTED_AT_ONCE_MAX === 0) await new Promise(setImmediate)
    }
  }

  /** In one turn, so that cursors and what is finished belong together. */
  private sum(name: string): Backlog | undefined {
    const tally = this.tallyOf(name)
    if (!tally) return undefined
    const cursors = this.cursorsOf(name)
    const last = this.log().lastPosition()
    let waiting = 0
    let oldestAt: number | null = null
    for (let block = blockOf(Math.min(...cursors) + 1); block <= blockOf(last); block++) {
      const ofBlock = wholly(block, tally.blocks.get(block), cursors)
      if (ofBlock === 0) continue
      if (ofBlock !== undefined && oldestAt !== null) {
        waiting += ofBlock
        continue
      }
      for (const [position, shard, , , at] of this.headsOf(block, last, tally)) {
        if (position <= cursors[shard]!) continue
        waiting += 1
        oldestAt ??= at // a shard's first message after its cursor is not finished
      }
    }
    waiting = Math.max(0, waiting - (this.readerOf(name)?.finishedBehind() ?? 0))
    return { waiting, oldestAt: waiting > 0 ? oldestAt : null }
  }

  private cursorsOf(name: string): number[] {
    const reader = this.readerOf(name)
    const cursors: number[] = Array(this.shards).fill(0)
    for (const { shard, position } of this.log().statements.shares.all(name) as Share[])
      cursors[shard] = reader?.cursorOf(shard) ?? position
    return cursors
  }

  private tallyOf(name: string): Tally | undefined {
    const row = this.log().statements.subscription.get(name) as { bindings: string } | undefined
    if (!row) {
      this.forget(name)
      return undefined
    }
    const { bindings } = row
    let tally = this.tallies.get(name)
    if (tally?.bindings !== bindings) {
      tally = { bindings, matches: matcher(JSON.parse(bindings) as Binding[]), blocks: new Map() }
      this.tallies.set(name, tally)
    }
    return tally
  }

  /** What the subscription takes of a block, in order. */
  private *headsOf(block: number, last: number, { matches }: Tally): Generator<Head> {
    const rows = this.log().statements.heads.all(
      block * BLOCK,
      Math.min(last, (block + 1) * BLOCK),
    ) as unknown as Head[]
    for (const row of rows) {
      const [, , type, headers] = row
      if (matches({ type, headers: headers === '{}' ? {} : JSON.parse(headers) })) yield row
    }
  }
}

const blockOf = (position: number) => Math.floor((position - 1) / BLOCK)

/** What waits of a block; undefined where it is not counted, or a cursor stands before something of it. */
function wholly(block: number, counts: Uint16Array | undefined, cursors: readonly number[]): number | undefined {
  if (!counts) return undefined
  const [before, end] = [block * BLOCK, (block + 1) * BLOCK]
  let waiting = 0
  for (const [shard, cursor] of cursors.entries()) {
    if (cursor <= before) waiting += counts[shard]!
    else if (cursor < end && counts[shard]! > 0) return undefined
  }
  return waiting
}
