/**
 * How much waits for a subscription. Kafka counts offsets, which are neither messages nor what the bindings take, so what
 * lies between the acknowledged and the end is read: exactly up to SCANNED_MAX messages over all partitions, and
 * beyond that in proportion to what was read.
 */
import type { Backlog } from '../transport.ts'
import { api, type Cluster } from './kafka-cluster.ts'
import { startOf, taker } from './kafka-consumer.ts'
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
  readonly end: number
  readonly done: ReadonlySet<number>
  next: number
}

const SCANNED_MAX = 20_000
const FETCH_BYTES_MAX = 4_000_000
const PARTITION_BYTES_MAX = 500_000
const NOTHING: ReadonlySet<number> = new Set()

export async function countBacklog(cluster: Cluster, counted: Counted): Promise<Backlog> {
  const gaps = await gapsOf(cluster, counted)
  const takes = taker(counted.versions)
  let waiting = 0
  let scanned = 0
  let oldestAt: number | null = null
  let open = gaps
  while (open.length > 0 && scanned < SCANNED_MAX) {
    const before = open.reduce((sum, { next }) => sum + next, 0)
    for (const [leader, ofLeader] of Map.groupBy(open, (gap) => leaderOf(cluster, gap))) {
      await scan(cluster, leader, ofLeader, (gap, incoming) => {
        scanned += 1
        if (gap.done.has(incoming.offset) || !takes(gap.topicId, gap.partition, incoming)) return
        waiting += 1
        oldestAt = Math.min(oldestAt ?? incoming.at, incoming.at)
      })
    }
    open = open.filter(({ next, end }) => next < end)
    if (open.reduce((sum, { next }) => sum + next, 0) === before) break
  }
  const rest = open.reduce((sum, { next, end }) => sum + end - next, 0)
  if (rest > 0 && scanned > 0) waiting += Math.round((rest * waiting) / scanned)
  return { waiting, oldestAt }
}

function leaderOf(cluster: Cluster, { topic, partition }: Gap): number {
  return cluster.layout(topic)?.leaders[partition] ?? -1
}

async function gapsOf(cluster: Cluster, { group, versions, topics, view }: Counted): Promise<Gap[]> {
  await cluster.refresh(topics.map(({ topic }) => topic))
  const laidOut = topics.filter(({ topic }) => cluster.layout(topic))
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
    const next = Math.max(start, own?.from ?? committed.get(positionName(topic, partition))?.offset ?? 0)
    const end = ends[topicId]?.[partition] ?? 0
    return next < end ? [{ owner, topic, topicId, partition, end, done: own?.done ?? NOTHING, next }] : []
  })
}

async function scan(
  cluster: Cluster,
  leader: number,
  gaps: readonly Gap[],
  count: (gap: Gap, incoming: { offset: number; at: number; message: ReturnType<typeof decodeRecord> }) => void,
): Promise<void> {
  const topics = [...Map.groupBy(gaps, ({ topicId }) => topicId)].map(([topicId, ofTopic]) => ({
    topicId,
    partitions: ofTopic.map(({ partition, next }) => ({
      partition,
      currentLeaderEpoch: -1,
      fetchOffset: BigInt(next),
      lastFetchedEpoch: -1,
      partitionMaxBytes: PARTITION_BYTES_MAX,
    })),
  }))
  const answer = await cluster
    .link('scan', leader)
    .request(api.fetch, [0, 0, FETCH_BYTES_MAX, 1, 0, -1, topics, [], ''])
    .catch((error) => {
      throw cluster.translate(error)
    })
  const byPlace = new Map(gaps.map((gap) => [positionName(gap.topicId, gap.partition), gap]))
  for (const { topicId, partitions } of answer.responses) {
    for (const part of partitions) {
      const gap = byPlace.get(positionName(topicId, part.partitionIndex))
      if (!gap) continue
      if (part.errorCode !== 0) throw cluster.failure(part.errorCode, `topic '${gap.topic}'`)
      gap.next = readBatches(part.records, gap.next, part.abortedTransactions, (record, offset, at) => {
        if (offset < gap.end) count(gap, { offset, at, message: decodeRecord(record, gap, offset) })
      })
    }
  }
}
