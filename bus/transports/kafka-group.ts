/**
 * A process's membership in the consumer group of one subscription: who has which shards.
 *
 * G1 A shard is given to a member only if no other claims to hold it. So whoever is to lose one hears of it first, finishes
 *    what it began or is cut off after handOverMs, writes down how far it came, and joins again without it.
 * G2 A member that was left out of a generation has lost everything it held, whatever it thinks.
 * G3 A member that the coordinator has not heard of for a session's length gives up by itself what it holds.
 *
 * The shards of a group are the partition numbers: partition i of every topic belongs to the same member, so that all
 * messages of a key do.
 */
import {
  decodeConsumerProtocolAssignment,
  decodeConsumerProtocolSubscription,
  encodeConsumerProtocolAssignment,
  encodeConsumerProtocolSubscription,
} from '@platformatic/kafka'
import { UnavailableError } from '../errors.ts'
import { api, type Cluster, type Link } from './kafka-cluster.ts'

export type GroupOptions = {
  readonly cluster: Cluster
  readonly group: string
  readonly shards: number
  /** Topics that are named to the broker, for its tools and its retention of offsets. */
  readonly topics: () => string[]
  /** What this member holds now, with the epochs of its leases. */
  readonly claims: () => ReadonlyMap<number, number>
  /** These are ours in this generation; what we hold and is not among them has to be handed over. */
  readonly assigned: (shards: readonly number[]) => void
  /** Everything is lost (G2, G3). */
  readonly lost: () => void
  readonly trouble: (reason: string | null) => void
}

export type Identity = { readonly member: string; readonly generation: number }

const PROTOCOL = 'bus-shards'
const HEARTBEATS_A_SESSION = 12
const RETRY_MS = 300
const LEAVE_TIMEOUT_MS = 2_000
const REBALANCE_TIMEOUT_MS = 10_000

const MEMBER_ID_REQUIRED = 79
const REBALANCE_IN_PROGRESS = 27
const MEMBERSHIP_LOST = [22, 25, 82]
const COORDINATOR_MOVED = [14, 15, 16]

export class Group {
  private readonly options: GroupOptions
  private readonly purpose: string
  private member = ''
  private generation = -1
  private stopped = false
  private wake: () => void = () => {}
  private joinWanted = true
  private lastHeardAt = performance.now()
  private readonly running: Promise<void>

  constructor(options: GroupOptions) {
    this.options = options
    this.purpose = `group ${options.group}`
    this.running = this.run()
  }

  /** What commits have to name; null: not a member at the moment. */
  identity(): Identity | null {
    return this.generation < 0 || this.member === '' ? null : { member: this.member, generation: this.generation }
  }

  /** Something was handed over, or is to be had: share out anew. */
  rejoin(): void {
    this.joinWanted = true
    this.wake()
  }

  /** A commit was refused for this reason. One of an earlier generation says nothing about this one. */
  refused(code: number, { generation }: Identity): void {
    if (generation !== this.generation) return
    if (MEMBERSHIP_LOST.includes(code)) this.lose(code === 25)
    if (COORDINATOR_MOVED.includes(code)) this.options.cluster.forgetCoordinator(this.options.group)
    this.rejoin()
  }

  async leave(): Promise<void> {
    this.stopped = true
    this.wake()
    const { cluster, group } = this.options
    const { member } = this
    this.generation = -1
    // A join may hang in the coordinator; leaving goes past it on another connection.
    if (member !== '') {
      try {
        const node = await cluster.coordinator(group)
        await cluster.link('control', node).request(api.leaveGroup, [group, [{ memberId: member }]], LEAVE_TIMEOUT_MS)
      } catch {
        // The session ends by itself.
      }
    }
    cluster.unlink(this.purpose)
    await this.running
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      try {
        const link = await this.link()
        if (this.joinWanted) await this.join(link)
        else await this.heartbeat(link)
        this.lastHeardAt = performance.now()
        this.options.trouble(null)
        if (!this.joinWanted) await this.pause(this.options.cluster.settings.sessionTimeoutMs / HEARTBEATS_A_SESSION)
      } catch (error) {
        if (this.stopped) return
        const failure = this.options.cluster.translate(error)
        if (!(error instanceof Moved)) this.options.trouble(failure.message)
        if (!(failure instanceof UnavailableError)) this.lose(false)
        this.options.cluster.forgetCoordinator(this.options.group)
        this.giveUpWhenOver()
        await this.pause(RETRY_MS)
        await this.options.cluster.refresh([]).catch(() => {})
      }
    }
  }

  private async link(): Promise<Link> {
    const { cluster, group } = this.options
    return cluster.link(this.purpose, await cluster.coordinator(group))
  }

  private pause(delayMs: number): Promise<void> {
    if (this.stopped) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs)
      this.wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** G3. */
  private giveUpWhenOver(): void {
    if (performance.now() - this.lastHeardAt > this.options.cluster.settings.sessionTimeoutMs) this.lose(false)
  }

  private lose(forgotten: boolean): void {
    if (forgotten) this.member = ''
    this.generation = -1
    this.joinWanted = true
    this.options.lost()
  }

  private async heartbeat(link: Link): Promise<void> {
    const { group, cluster } = this.options
    const before = performance.now()
    const { sessionTimeoutMs, requestTimeoutMs } = cluster.settings
    const timeoutMs = Math.min(requestTimeoutMs, sessionTimeoutMs / 2)
    if (before - this.lastHeardAt > sessionTimeoutMs) this.lose(false) // this process stood still
    const { errorCode } = await link.request(api.heartbeat, [group, this.generation, this.member, null], timeoutMs)
    if (errorCode === 0) return
    if (errorCode === REBALANCE_IN_PROGRESS) this.joinWanted = true
    else if (MEMBERSHIP_LOST.includes(errorCode)) this.lose(errorCode === 25)
    else this.throwCode(errorCode)
  }

  private async join(link: Link): Promise<void> {
    const { group, cluster, topics, shards } = this.options
    this.joinWanted = false
    const { sessionTimeoutMs, requestTimeoutMs } = cluster.settings
    const claims = [...this.options.claims()].map(([shard, epoch]) => [shard, epoch])
    const metadata = encodeConsumerProtocolSubscription({
      version: 0,
      topics: topics(),
      userData: Buffer.from(JSON.stringify(claims)),
    })
    const joined = await link
      .request(
        api.joinGroup,
        [group, sessionTimeoutMs, REBALANCE_TIMEOUT_MS, this.member, null, 'consumer', [{ name: PROTOCOL, metadata }]],
        REBALANCE_TIMEOUT_MS + requestTimeoutMs,
      )
      .catch((error) => {
        this.joinWanted = true
        throw error
      })
    if (this.stopped) {
      if (joined.memberId) this.member = joined.memberId
      return
    }
    if (joined.errorCode !== 0) return this.joinRefused(joined.errorCode, joined.memberId)
    this.lastHeardAt = performance.now()
    this.member = joined.memberId
    // G2: between two generations in a row nobody else can have had what we claim.
    if (joined.generationId !== this.generation + 1 && this.options.claims().size > 0) this.options.lost()
    this.generation = joined.generationId
    const assignments =
      joined.leader === joined.memberId
        ? shareOut(shards, joined.members.map(readClaims)).map(({ memberId, shards: mine }) => ({
            memberId,
            assignment: encodeConsumerProtocolAssignment({
              version: 0,
              assignedPartitions: topics().map((topic) => ({ topic, partitions: mine })),
              userData: Buffer.from(JSON.stringify(mine)),
            }),
          }))
        : []
    const synced = await link
      .request(api.syncGroup, [group, this.generation, this.member, null, 'consumer', PROTOCOL, assignments])
      .catch((error) => {
        this.joinWanted = true
        throw error
      })
    if (this.stopped) return
    if (synced.errorCode !== 0) return this.joinRefused(synced.errorCode, this.member)
    const { userData } = decodeConsumerProtocolAssignment(synced.assignment)
    this.options.assigned(JSON.parse(userData.toString()) as number[])
  }

  private joinRefused(code: number, memberId: string): void {
    this.joinWanted = true
    if (code === MEMBER_ID_REQUIRED) this.member = memberId
    else if (MEMBERSHIP_LOST.includes(code)) this.lose(true)
    else if (code !== REBALANCE_IN_PROGRESS) this.throwCode(code)
  }

  private throwCode(code: number): never {
    const failure = this.options.cluster.failure(code, `group '${this.options.group}'`)
    if (COORDINATOR_MOVED.includes(code)) throw new Moved(failure.code, failure.message)
    throw failure
  }
}

/** Not worth a word: the coordinator is somewhere else, or not ready yet. */
class Moved extends UnavailableError {}

type Claims = { readonly memberId: string; readonly claims: ReadonlyMap<number, number> }

function readClaims({ memberId, metadata }: { memberId: string; metadata: Buffer }): Claims {
  const { userData } = decodeConsumerProtocolSubscription(metadata)
  return { memberId, claims: new Map(JSON.parse(userData.toString()) as [number, number][]) }
}

/**
 * Who gets which shard. Each member keeps what it holds up to its fair part; what is over is taken away; what nobody
 * holds goes to those who have least (G1).
 */
export function shareOut(shards: number, members: readonly Claims[]): { memberId: string; shards: number[] }[] {
  const sorted = [...members].sort((a, b) => b.claims.size - a.claims.size || (a.memberId < b.memberId ? -1 : 1))
  const fair = (index: number) => Math.floor(shards / sorted.length) + (index < shards % sorted.length ? 1 : 0)
  const holders = new Map<number, { member: Claims; epoch: number }>()
  for (const member of sorted) {
    for (const [shard, epoch] of member.claims) {
      if (shard < shards && (holders.get(shard)?.epoch ?? -1) < epoch) holders.set(shard, { member, epoch })
    }
  }
  const shares = sorted.map((member, index) => {
    const held = [...member.claims.keys()]
      .filter((shard) => holders.get(shard)?.member === member)
      .sort((a, b) => a - b)
    return { memberId: member.memberId, shards: held.slice(0, fair(index)), room: 0, index }
  })
  for (const share of shares) share.room = fair(share.index) - share.shards.length
  const free = Array.from({ length: shards }, (_, shard) => shard).filter((shard) => !holders.has(shard))
  for (const shard of free) {
    const share = shares.reduce((most, one) => (one.room > most.room ? one : most))
    share.shards.push(shard)
    share.room -= 1
  }
  return shares.map(({ memberId, shards: mine }) => ({ memberId, shards: mine }))
}
