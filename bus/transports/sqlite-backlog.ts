/**
 * How much of the embedded broker's log waits for a subscription.
 *
 * The log only grows at its end, so a block of it is counted once. A look costs what came since the last one and the blocks
 * in which a cursor stands, however much waits: whoever scrapes metrics beside handlers must not hold them up.
 */
import { matcher } from '../routing.ts'
import type { Backlog, Binding } from '../transport.ts'
import type { Log, Share } from './sqlite-log.ts'
import type { Reader } from './sqlite-reader.ts'

/** Positions: block `n` is (n × BLOCK, (n + 1) × BLOCK]. */
const BLOCK = 1_024
/** So many are counted for the first time before others have their turn. */
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
  private readonly tallies = new Map<string, Tally>()

  /** @param log throws when it is closed meanwhile */
  constructor(shards: number, log: () => Log) {
    this.shards = shards
    this.log = log
  }

  forget(name: string): void {
    this.tallies.delete(name)
  }

  /** Exact, but for what another process has finished behind an unfinished one. Undefined: there is no such subscription. */
  async count(name: string, reader: Reader | undefined): Promise<Backlog | undefined> {
    const { statements } = this.log()
    const row = statements.subscription.get(name) as { bindings: string } | undefined
    if (!row) {
      this.forget(name)
      return undefined
    }
    const tally = this.tallyOf(name, row.bindings)
    const cursors: number[] = Array(this.shards).fill(0)
    for (const { shard, position } of statements.shares.all(name) as Share[])
      cursors[shard] = reader?.cursorOf(shard) ?? position
    const finishedBehind = reader?.finishedBehind() ?? 0
    const last = this.log().lastPosition()
    const first = blockOf(Math.min(...cursors) + 1)
    for (const block of tally.blocks.keys()) if (block < first) tally.blocks.delete(block)

    let waiting = 0
    let oldestAt: number | null = null
    let counted = 0
    for (let block = first; block <= blockOf(last); block++) {
      let counts = tally.blocks.get(block)
      if (!counts) {
        counts = this.countBlock(block, tally)
        if ((block + 1) * BLOCK <= last) tally.blocks.set(block, counts)
        if (++counted % COUNTED_AT_ONCE_MAX === 0) await new Promise(setImmediate)
      }
      const ofBlock = this.waitingIn(block, counts, cursors, tally)
      // A shard's first message after its cursor is never finished.
      if (waiting === 0 && ofBlock > 0) oldestAt = this.firstIn(block, cursors, tally)
      waiting += ofBlock
    }
    waiting = Math.max(0, waiting - finishedBehind)
    return { waiting, oldestAt: waiting > 0 ? oldestAt : null }
  }

  private tallyOf(name: string, bindings: string): Tally {
    let tally = this.tallies.get(name)
    if (tally?.bindings !== bindings) {
      tally = { bindings, matches: matcher(JSON.parse(bindings) as Binding[]), blocks: new Map() }
      this.tallies.set(name, tally)
    }
    return tally
  }

  private countBlock(block: number, tally: Tally): Uint16Array {
    const counts = new Uint16Array(this.shards)
    for (const [, shard] of this.headsOf(block, tally)) counts[shard]! += 1
    return counts
  }

  private waitingIn(block: number, counts: Uint16Array, cursors: readonly number[], tally: Tally): number {
    const [before, end] = [block * BLOCK, (block + 1) * BLOCK]
    let waiting = 0
    let stands = false
    for (const [shard, cursor] of cursors.entries()) {
      if (cursor <= before) waiting += counts[shard]!
      else if (cursor < end && counts[shard]! > 0) stands = true
    }
    if (!stands) return waiting
    for (const [position, shard] of this.headsOf(block, tally)) {
      const cursor = cursors[shard]!
      if (cursor > before && position > cursor) waiting += 1
    }
    return waiting
  }

  private firstIn(block: number, cursors: readonly number[], tally: Tally): number | null {
    for (const [position, shard, , , at] of this.headsOf(block, tally)) if (position > cursors[shard]!) return at
    return null
  }

  /** What the subscription takes of a block, in order. */
  private *headsOf(block: number, { matches }: Tally): Generator<Head> {
    const rows = this.log().statements.heads.all(block * BLOCK, (block + 1) * BLOCK) as unknown as Head[]
    for (const row of rows) {
      const [, , type, headers] = row
      if (matches({ type, headers: headers === '{}' ? {} : JSON.parse(headers) })) yield row
    }
  }
}

const blockOf = (position: number) => Math.floor((position - 1) / BLOCK)
