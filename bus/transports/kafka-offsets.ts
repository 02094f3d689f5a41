/** What the cluster keeps about positions: where partitions end, and how far a group came. */
import { api, type Cluster } from './kafka-cluster.ts'
import type { Offsets } from './kafka-register.ts'

/** `epoch` of the last lease of the partition; `reach`: up to where it or an earlier holder may have begun. */
export type Committed = { readonly offset: number; readonly epoch: number; readonly reach: number }
export type Position = { readonly topic: string; readonly partition: number }
/** `topicId`: of the topic that the offset belongs to. One that was deleted and made again has another. */
export type Commit = Position & Committed & { readonly topicId: string }

const LATEST = -1n
const EARLIEST = -2n

export const positionName = (topic: string, partition: number) => `${topic}/${partition}`

/** The end (or the beginning that is still kept) of each partition of these topics, by the topic's id. */
export async function listOffsets(
  cluster: Cluster,
  topics: readonly string[],
  which: 'end' | 'begin',
): Promise<Offsets> {
  const byLeader = new Map<number, Map<string, number[]>>()
  for (const topic of topics) {
    for (const [partition, leader] of (cluster.layout(topic)?.leaders ?? []).entries()) {
      const ofLeader = byLeader.get(leader) ?? new Map<string, number[]>()
      byLeader.set(leader, ofLeader)
      ofLeader.set(topic, [...(ofLeader.get(topic) ?? []), partition])
    }
  }
  const found: Record<string, number[]> = {}
  const timestamp = which === 'end' ? LATEST : EARLIEST
  await Promise.all(
    [...byLeader].map(async ([leader, ofLeader]) => {
      const asked = [...ofLeader].map(([name, partitions]) => ({
        name,
        partitions: partitions.map((partitionIndex) => ({ partitionIndex, currentLeaderEpoch: -1, timestamp })),
      }))
      const answer = await asks(cluster, () => cluster.link('control', leader).request(api.listOffsets, [-1, 0, asked]))
      for (const { name, partitions } of answer.topics) {
        const { id, leaders } = cluster.layout(name)!
        found[id] ??= Array.from(leaders, () => 0)
        for (const { partitionIndex, errorCode, offset } of partitions) {
          if (errorCode !== 0) {
            await cluster.refresh([name])
            throw cluster.failure(errorCode, `topic '${name}'`)
          }
          found[id][partitionIndex] = Number(offset)
        }
      }
    }),
  )
  return found
}

/** How far the group came with these, by `positionName`; what it never wrote down is not in the answer. */
export async function committedOffsets(
  cluster: Cluster,
  group: string,
  positions: readonly Position[],
): Promise<Map<string, Committed>> {
  const topics = [...Map.groupBy(positions, ({ topic }) => topic)].map(([name, ofTopic]) => ({
    name,
    partitionIndexes: ofTopic.map(({ partition }) => partition),
  }))
  const node = await cluster.coordinator(group)
  const answer = await asks(cluster, () =>
    cluster.link('commit', node).request(api.offsetFetch, [[{ groupId: group, memberEpoch: -1, topics }], false]),
  )
  const found = new Map<string, Committed>()
  const [ofGroup] = answer.groups
  if (ofGroup?.errorCode !== 0) {
    cluster.forgetCoordinator(group)
    throw cluster.failure(ofGroup?.errorCode ?? 15, `group '${group}'`)
  }
  for (const { name, partitions } of ofGroup.topics) {
    for (const { partitionIndex, committedOffset, metadata, errorCode } of partitions) {
      if (errorCode !== 0) throw cluster.failure(errorCode, `group '${group}'`)
      if (committedOffset < 0n) continue
      const { epoch, reach, topicId } = readMetadata(metadata)
      const isOfAnother = topicId !== null && topicId !== cluster.layout(name)?.id
      const known = isOfAnother ? { offset: 0, reach: 0 } : { offset: Number(committedOffset), reach }
      found.set(positionName(name, partitionIndex), { ...known, epoch })
    }
  }
  return found
}

/** Writes down how far the group came. Answers the worst of the codes; 0: all is written. */
export async function commitOffsets(
  cluster: Cluster,
  group: string,
  { member, generation }: { member: string; generation: number },
  commits: readonly Commit[],
): Promise<number> {
  const topics = [...Map.groupBy(commits, ({ topic }) => topic)].map(([name, ofTopic]) => ({
    name,
    partitions: ofTopic.map(({ partition, offset, epoch, reach, topicId }) => ({
      partitionIndex: partition,
      committedOffset: BigInt(offset),
      committedLeaderEpoch: -1,
      committedMetadata: `${epoch} ${reach} ${topicId}`,
    })),
  }))
  const node = await cluster.coordinator(group)
  const answer = await asks(cluster, () =>
    cluster.link('commit', node).request(api.offsetCommit, [group, generation, member, null, topics]),
  )
  let worst = 0
  for (const { partitions } of answer.topics) for (const { errorCode } of partitions) worst ||= errorCode
  return worst
}

/** Offsets that somebody else wrote, to go back or to skip, have none. */
function readMetadata(text: string | null | undefined): { epoch: number; reach: number; topicId: string | null } {
  const parts = /^(\d+) (\d+) (\S+)$/.exec(text ?? '')
  return { epoch: Number(parts?.[1] ?? 0), reach: Number(parts?.[2] ?? 0), topicId: parts?.[3] ?? null }
}

async function asks<R>(cluster: Cluster, ask: () => Promise<R>): Promise<R> {
  try {
    return await ask()
  } catch (error) {
    throw cluster.translate(error)
  }
}
