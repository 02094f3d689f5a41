/**
 * How much waits for a subscription. Kafka counts offsets, which are neither messages nor what the bindings take, so what
 * lies between the acknowledged and the end is read and counted.
 *
 * L1 What was counted is remembered in pieces of PIECE_OFFSETS_MAX, so each call reads only what is new, and the piece that
 *    the acknowledged went into: the count stays exact while a backlog grows or shrinks.
 * L2 A call reads SCANNED_MAX messages at most, of all partitions alike; the next call goes on. What is not counted yet is
 *    estimated by the share that the bindings took of what is counted of that partition, else of that topic, else of all.
 * L3 Compaction takes away what was counted, and nothing tells: a call with little to read counts RECOUNTED_MAX again, those
 *    that were counted longest ago.
 */
import type { Backlog } from '../transport.ts'
import { api, type Cluster } from './kafka-cluster.ts'
import { mayTake, startOf, taker } from './kafka-consumer.ts'
import { committedOffsets, listOffsets, positionName } from './kafka-offsets.ts'
import { decodeRecord, readBatches } from './kafka-records.ts'
import type { Version } from './kafka-register.ts'

export type Counted = {
  readonly group: string | null
  readonly versions: readonly Version[]
  readonly topics: readonly { readonly owner: string; readonly topic: string }[]
  readonly view: (topicId: string, partition: number) => { from: number; done: ReadonlySet<number> } | undefined
}

type Gap = {
  readonly owner: string
  readonly topic: string
  readonly topicId: string
  readonly partition: number
  /** The first that is not acknowledged, and where the log ends. */
  readonly from: number
  readonly end: number
  readonly done: ReadonlySet<number>
  /** In order, and apart where something between is not counted yet. */
  pieces: Piece[]
  scanned: number
}
type Range = { readonly from: number; readonly to: number }
type Piece = { readonly from: number; to: number; readonly countedAt: number; waiting: number; oldestAt: number | null }

const SCANNED_MAX = 20_000
const RECOUNTED_MAX = 1_024
const PIECE_OFFSETS_MAX = 256
/** Of one subscription: some five million messages, in 2 MB. */
const PIECES_MAX = 20_000
const FETCH_BYTES_MAX = 4_000_000
const PARTITION_BYTES_MIN = 50_000
const NOTHING: ReadonlySet<number> = new Set()

/** Of one subscription. */
export class BacklogCounter {
  private readonly cluster: Cluster
  private versions: readonly Version[] = []
  private pieces = new Map<string, Piece[]>()
  private counting: Promise<unknown> = Promise.resolve()

  constructor(cluster: Cluster) {
    this.cluster = cluster
  }

  /** One call after the other: each begins with what the one before has counted. */
  count(counted: Counted): Promise<Backlog> {
    const now = () => this.countNow(counted)
    const answer = this.counting.then(now, now)
    this.counting = answer
    return answer
  }

  private async countNow(counted: Counted): Promise<Backlog> {
    const { versions } = counted
    if (versions !== this.versions) this.pieces.clear()
    this.versions = versions
    const gaps = await gapsOf(this.cluster, counted)
    for (const gap of gaps) gap.pieces = stillValid(this.pieces.get(nameOf(gap)) ?? [], gap)
    if (uncountedIn(gaps) < SCANNED_MAX - RECOUNTED_MAX) forgetLongestAgo(gaps)
    this.pieces = new Map(gaps.map((gap) => [nameOf(gap), gap.pieces]))
    await this.read(gaps, taker(versions))
    return { waiting: waitingIn(gaps), oldestAt: oldestIn(gaps) }
  }

  /** L2. */
  private async read(gaps: readonly Gap[], takes: ReturnType<typeof taker>): Promise<void> {
    const isOpen = (gap: Gap) => uncounted(gap).length > 0
    const scanned = () => gaps.reduce((sum, gap) => sum + gap.scanned, 0)
    const pieces = () => gaps.reduce((sum, gap) => sum + gap.pieces.length, 0)
    let open = gaps.filter(isOpen)
    while (open.length > 0 && scanned() < SCANNED_MAX && pieces() < PIECES_MAX) {
      const before = uncountedIn(open)
      const evenly = open.toSorted((a, b) => a.scanned - b.scanned)
      for (const [leader, ofLeader] of Map.groupBy(evenly, (gap) => leaderOf(this.cluster, gap)))
        await scan(this.cluster, leader, ofLeader, takes)
      open = open.filter(isOpen)
      if (uncountedIn(open) === before) break
    }
  }
}

const nameOf = ({ topicId, partition }: Gap) => positionName(topicId, partition)

/** L1. A piece that begins before the first unfinished is counted again from there; a log that was cut, all over. */
function stillValid(pieces: Piece[], { from, end }: Gap): Piece[] {
  return (pieces.at(-1)?.to ?? 0) > end ? [] : pieces.filter((piece) => piece.from >= from)
}

/** L3. */
function forgetLongestAgo(gaps: readonly Gap[]): void {
  const oldest = gaps.flatMap(({ pieces }) => pieces).sort((a, b) => a.countedAt - b.countedAt)
  const forgotten = new Set(oldest.slice(0, RECOUNTED_MAX / PIECE_OFFSETS_MAX))
  for (const gap of gaps) gap.pieces = gap.pieces.filter((piece) => !forgotten.has(piece))
}

function uncounted({ from, end, pieces }: Gap): Range[] {
  const ranges: Range[] = []
  let at = from
  for (const piece of pieces) {
    if (piece.from > at) ranges.push({ from: at, to: piece.from })
    at = piece.to
  }
  if (at < end) ranges.push({ from: at, to: end })
  return ranges
}

const lengthOf = (ranges: readonly Range[]) => ranges.reduce((sum, { from, to }) => sum + to - from, 0)
const uncountedIn = (gaps: readonly Gap[]) => gaps.reduce((sum, gap) => sum + lengthOf(uncounted(gap)), 0)

function waitingIn(gaps: readonly Gap[]): number {
  const shareOf = (some: readonly Gap[]) => {
    const counted = some.reduce((sum, { pieces }) => sum + lengthOf(pieces), 0)
    return counted === 0 ? null : some.reduce((sum, gap) => sum + found(gap), 0) / counted
  }
  const ofTopics = new Map([...Map.groupBy(gaps, ({ topicId }) => topicId)].map(([id, some]) => [id, shareOf(some)]))
  const ofAll = shareOf(gaps) ?? 0
  let waiting = 0
  for (const gap of gaps) {
    const share = shareOf([gap]) ?? ofTopics.get(gap.topicId) ?? ofAll
    const doneInPieces = [...gap.done].filter((offset) =>
      gap.pieces.some(({ from, to }) => from <= offset && offset < to),
    )
    waiting += found(gap) - doneInPieces.length + share * lengthOf(uncounted(gap))
  }
  return Math.round(waiting)
}

const found = ({ pieces }: Gap) => pieces.reduce((sum, piece) => sum + piece.waiting, 0)

function oldestIn(gaps: readonly Gap[]): number | null {
  const times = gaps.flatMap(({ pieces }) => pieces.flatMap(({ oldestAt }) => oldestAt ?? []))
  return times.length === 0 ? null : times.reduce((oldest, at) => Math.min(oldest, at))
}

function leaderOf(cluster: Cluster, { topic, partition }: Gap): number {
  return cluster.layout(topic)?.leaders[partition] ?? -1
}

async function gapsOf(cluster: Cluster, { group, versions, topics, view }: Counted): Promise<Gap[]> {
  const taken = topics.filter(({ owner }) => versions.some(({ bindings }) => mayTake(bindings, owner)))
  await cluster.refresh(taken.map(({ topic }) => topic))
  const laidOut = taken.filter(({ topic }) => cluster.layout(topic))
  const names = laidOut.map(({ topic }) => topic)
  const places = laidOut.flatMap(({ owner, topic }) =>
    cluster.layout(topic)!.leaders.map((_, partition) => ({ owner, topic, partition })),
  )
  const [ends, begins, committed] = await Promise.all([
    listOffsets(cluster, names, 'end'),
    listOffsets(cluster, names, 'begin'),
    group === null || places.length === 0 ? new Map() : committedOffsets(cluster, group, places),
  ])
  return places.flatMap(({ owner, topic, partition }) => {
    const { id: topicId } = cluster.layout(topic)!
    const own = view(topicId, partition)
    const start = Math.max(startOf(versions, topicId, partition), begins[topicId]?.[partition] ?? 0)
    const from = Math.max(start, own?.from ?? committed.get(positionName(topic, partition))?.offset ?? 0)
    const end = ends[topicId]?.[partition] ?? 0
    const done = own?.done ?? NOTHING
    return from < end ? [{ owner, topic, topicId, partition, from, end, done, pieces: [], scanned: 0 }] : []
  })
}

/** Counts what one answer has of the first uncounted range of each. */
async function scan(
  cluster: Cluster,
  leader: number,
  gaps: readonly Gap[],
  takes: ReturnType<typeof taker>,
): Promise<void> {
  const partitionMaxBytes = Math.max(PARTITION_BYTES_MIN, Math.floor(FETCH_BYTES_MAX / gaps.length))
  const wanted = gaps.map((gap) => ({ gap, range: uncounted(gap)[0]! }))
  const topics = [...Map.groupBy(wanted, ({ gap }) => gap.topicId)].map(([topicId, ofTopic]) => ({
    topicId,
    partitions: ofTopic.map(({ gap, range }) => ({
      partition: gap.partition,
      currentLeaderEpoch: -1,
      fetchOffset: BigInt(range.from),
      lastFetchedEpoch: -1,
      partitionMaxBytes,
    })),
  }))
  const answer = await cluster
    .link('scan', leader)
    .request(api.fetch, [0, 0, FETCH_BYTES_MAX, 1, 0, -1, topics, [], ''])
    .catch((error) => {
      throw cluster.translate(error)
    })
  const byPlace = new Map(wanted.map((one) => [nameOf(one.gap), one]))
  for (const { topicId, partitions } of answer.responses) {
    for (const part of partitions) {
      const one = byPlace.get(positionName(topicId, part.partitionIndex))
      if (!one) continue
      const { gap, range } = one
      if (part.errorCode !== 0) throw cluster.failure(part.errorCode, `topic '${gap.topic}'`)
      const begun = (from: number) => ({ from, to: from, countedAt: performance.now(), waiting: 0, oldestAt: null })
      // The piece before goes on while it has room, so a backlog that is looked at often does not come in crumbs.
      const before = gap.pieces.find(({ from, to }) => to === range.from && to - from < PIECE_OFFSETS_MAX)
      let piece = before ?? begun(range.from)
      const pieces = before ? [] : [piece]
      const next = readBatches(part.records, range.from, part.abortedTransactions, (record, offset, at) => {
        if (offset >= range.to) return
        gap.scanned += 1
        if (offset >= piece.from + PIECE_OFFSETS_MAX) {
          piece.to = offset
          piece = begun(offset)
          pieces.push(piece)
        }
        if (!takes(topicId, gap.partition, { offset, at, message: decodeRecord(record, gap, offset) })) return
        piece.waiting += 1
        piece.oldestAt = Math.min(piece.oldestAt ?? at, at)
      })
      piece.to = Math.min(next, range.to)
      if (piece.to === range.from) continue
      gap.pieces.push(...pieces)
      gap.pieces.sort((a, b) => a.from - b.from)
    }
  }
}
