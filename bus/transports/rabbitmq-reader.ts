/**
 * One subscription's consumer in this process: registered at the queue of every shard, handed the shards for which it is
 * the oldest there.
 *
 * R1 A process registers at all shards; the broker hands each to the one that registered first, and to the next in line
 *    once that one is gone. Every registration has its own epoch, in the order of the line (registry, G3).
 * R2 At most the window's deliveries are handed over and unfinished; beyond them, the broker's prefetch of each shard waits here.
 * R3 A process with more shards than its part steps back: it takes no more of a shard, finishes what it took, and
 *    registers anew behind the others. Parts differ by one at most.
 * R4 A registration that the broker ended is revoked at once and made again, with back-off, until `close`.
 * R5 `receive` is called in a turn of the event loop of its own, after `consume` has answered.
 */
import { randomUUID } from 'node:crypto'
import type { ConsumeMessage } from 'amqplib'
import { BusError } from '../errors.ts'
import type { ConsumeOptions, Delivery } from '../transport.ts'
import type { Link } from './rabbitmq-link.ts'
import type { Answer, RollCall } from './rabbitmq-roll-call.ts'
import { type Entry, Registration } from './rabbitmq-shard.ts'
import { messageOf } from './rabbitmq-wire.ts'
import { Window } from './window.ts'

export type ReaderOptions = ConsumeOptions & {
  readonly name: string
  /** The shards' queues, in order. */
  readonly queues: readonly string[]
  /** Where those who share it are counted; null: it is this process's alone. */
  readonly members: string | null
  readonly link: Link
  readonly rollCall: RollCall
  /** Runs `work` with the next epoch, under the lock; `repair`: after making anew what may be missing on the broker. */
  readonly underNextEpoch: (repair: boolean, work: (epoch: number) => Promise<void>) => Promise<void>
  /** Publishes a stranger's message again, to this subscription alone, with an id. */
  readonly giveName: (message: ConsumeMessage) => Promise<void>
  readonly warn: (fields: object, text: string) => void
}

const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 2_000
/** How often is looked whether somebody came or went without a word. */
const LOOK_MS = 2_000

export class Reader {
  readonly name: string
  private readonly options: ReaderOptions
  private readonly registrations = new Map<number, Registration>()
  private closed = false
  private started = false
  private readonly window: Window
  private scheduled = false
  private turn = 0
  private readonly touched = new Set<Registration>()
  /** The others can reach it. */
  private isHeard = false
  private keeping: Promise<void> | undefined
  private wake = () => {}
  private balancing: Promise<void> | undefined
  private balanceAgain = false
  /** As last seen; 0: it must be looked at again. */
  private membersSeen = 0
  private looker: NodeJS.Timeout | undefined

  constructor(options: ReaderOptions) {
    this.options = options
    this.window = new Window(options)
    this.name = options.name
  }

  async start(): Promise<void> {
    try {
      await this.register(this.missing(), false)
    } catch (error) {
      await this.close()
      throw error
    }
    this.started = true
    this.schedule()
    if (!this.isWhole) this.keep()
    this.looker = setInterval(() => this.balance(true), LOOK_MS).unref()
  }

  ack(deliveries: readonly Delivery[]): void {
    for (const { entry } of deliveries as readonly Entry[]) {
      if (!entry.registration.finish(entry, this.window)) continue
      this.touched.add(entry.registration)
    }
    if (this.touched.size > 0) this.schedule()
  }

  /** The link is up again. */
  reconnected(): void {
    this.wake()
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    clearInterval(this.looker)
    this.wake()
    const { rollCall } = this.options
    await Promise.all([...this.registrations.values()].map((registration) => registration.close()))
    await this.keeping
    await this.balancing
    await rollCall.ignore(this.name)
    rollCall.tellChanged(this.name)
  }

  async census(): Promise<Omit<Answer, 'member'>> {
    const held = await Promise.all([...this.registrations.values()].map((registration) => registration.census()))
    const times = held.map(({ oldestAt }) => oldestAt).filter((at) => at !== null)
    return {
      unacknowledged: held.reduce((sum, { unacknowledged }) => sum + unacknowledged, 0),
      oldestAt: times.length > 0 ? Math.min(...times) : null,
      epochs: Object.fromEntries([...this.registrations].map(([shard, { lease }]) => [shard, lease.epoch])),
    }
  }

  // --- handing over ---

  private schedule(): void {
    if (this.scheduled || !this.started) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      for (const registration of this.touched) registration.flush()
      this.touched.clear()
      if (!this.closed) this.handOver()
    })
  }

  /** R2, R5 */
  private handOver(): void {
    const { receive, queues } = this.options
    const deliveries: Delivery[] = []
    const first = this.turn++
    for (let step = 0; step < queues.length; step++) {
      this.registrations.get((first + step) % queues.length)?.takeInto(deliveries, this.window)
    }
    if (deliveries.length > 0) receive(deliveries)
  }

  // --- registering ---

  /** R1 */
  private async register(shards: readonly number[], repair: boolean): Promise<void> {
    const { link, queues, underNextEpoch } = this.options
    await underNextEpoch(repair, async (epoch) => {
      if (!this.isHeard) await this.listen()
      for (const shard of shards) {
        if (this.closed) return
        const registration = await Registration.open({
          link,
          queue: queues[shard]!,
          lease: { shard, epoch },
          messageOf: this.options.members === null ? namedOf : messageOf,
          arrived: () => this.schedule(),
          nameless: (message, by) => void this.giveName(message, by),
          lost: (by) => this.lost(by),
        })
        if (registration.closed) continue // it was ended as soon as it was made: `keep` makes it again
        this.registrations.set(shard, registration)
        if (this.closed) await registration.close()
      }
    })
    this.options.rollCall.tellChanged(this.name)
    if (this.started) this.schedule()
  }

  private async listen(): Promise<void> {
    const { rollCall, members } = this.options
    await rollCall.listen(this.name, {
      members,
      answer: () => this.census(),
      changed: () => this.balance(),
      unheard: () => {
        this.isHeard = false
        if (!this.closed) this.keep()
      },
    })
    this.isHeard = true
  }

  /** R4 */
  private lost(registration: Registration): void {
    this.forget(registration)
    if (registration.cancelled && !this.closed) {
      const where = { subscription: this.name, shard: registration.lease.shard }
      this.options.warn(where, 'its queue was deleted, and what lay in it is gone, or lost its node: it is made again')
    }
    if (!this.closed) this.keep()
  }

  private forget(registration: Registration): void {
    const { lease } = registration
    if (this.registrations.get(lease.shard) === registration) this.registrations.delete(lease.shard)
    this.window.drop(registration.hand)
    this.options.revoked?.(lease)
  }

  /** R4: until every shard has its registration. */
  private keep(): void {
    if (!this.started) return // `start` fails, and says so
    this.keeping ??= this.registerMissing().then(
      () => {
        this.keeping = undefined
        if (!this.isWhole) this.keep()
      },
      (error) => {
        this.keeping = undefined
        this.options.warn({ err: error, subscription: this.name }, 'a subscription is gone and is consumed no more')
      },
    )
  }

  private get isWhole(): boolean {
    return this.closed || (this.isHeard && this.missing().length === 0)
  }

  private missing(): number[] {
    if (this.closed) return []
    const shards = [...this.options.queues.keys()]
    return shards.filter((shard) => !this.registrations.has(shard) && !this.moving.has(shard))
  }

  private async registerMissing(): Promise<void> {
    const { warn } = this.options
    for (let failures = 0; !this.isWhole; failures++) {
      if (failures > 0) await this.pause(Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** failures))
      try {
        await this.register(this.missing(), true)
      } catch (error) {
        if (error instanceof BusError && error.code === 'not_found') throw error
        if (failures === 0) warn({ err: error, subscription: this.name }, 'shards are to be consumed again')
      }
    }
  }

  private pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs * (0.5 + Math.random() / 2))
      this.wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  private async giveName(message: ConsumeMessage, registration: Registration): Promise<void> {
    try {
      await this.options.giveName(message)
      registration.settle(message)
    } catch (error) {
      // It stays with us, unacknowledged, and comes again with the next registration.
      this.options.warn({ err: error, subscription: this.name }, 'a message without an id could not be given one')
      this.forget(registration)
      await registration.close()
      this.keep()
    }
  }

  // --- sharing with others ---

  /** Shards that are being given up, to be registered for anew. */
  private readonly moving = new Set<number>()

  /** R3. `onlyIfChanged`: only where their number is not what it was. */
  private balance(onlyIfChanged = false): void {
    if (this.closed || !this.started) return
    if (this.balancing) {
      this.balanceAgain ||= !onlyIfChanged
      return
    }
    this.balancing = this.rebalance(onlyIfChanged)
      .catch(() => {}) // the connection went, or a queue: `lost` deals with it
      .finally(() => {
        this.balancing = undefined
        if (!this.balanceAgain) return
        this.balanceAgain = false
        this.balance()
      })
  }

  private async rebalance(onlyIfChanged: boolean): Promise<void> {
    const { rollCall, queues, members, link } = this.options
    if (members === null || this.registrations.size < queues.length) return
    const { consumerCount } = await link.onChannel((channel) => channel.checkQueue(members))
    if (onlyIfChanged && consumerCount === this.membersSeen) return
    const answers = await rollCall.ask(this.name, consumerCount - 1)
    // Somebody who is silent may hold anything: it is looked at again until it speaks or the broker drops it.
    this.membersSeen = answers.length === consumerCount - 1 ? consumerCount : 0
    if (this.membersSeen === 0) return
    const own = [...this.registrations].map(([shard, { lease }]) => [shard, lease.epoch])
    const surplus = surplusOf(
      rollCall.member,
      [...answers, { member: rollCall.member, epochs: Object.fromEntries(own) }],
      queues.length,
    )
    await Promise.all(surplus.map((shard) => this.stepBack(shard)))
  }

  private async stepBack(shard: number): Promise<void> {
    const registration = this.registrations.get(shard)
    if (!registration || this.closed) return
    this.moving.add(shard)
    try {
      await registration.drain()
      if (!registration.closed) {
        const closing = registration.close()
        this.forget(registration)
        await closing
      }
    } finally {
      this.moving.delete(shard)
    }
    if (!this.closed) this.keep()
    await this.keeping
  }
}

/** Whatever is this process's alone ends with it, so an id need not outlive the delivery. */
function namedOf(message: ConsumeMessage) {
  const { properties } = message
  return messageOf(message) ?? messageOf({ ...message, properties: { ...properties, messageId: randomUUID() } })
}

/** Of those shards for which `member` is first in line, the ones that are more than its part. */
export function surplusOf(member: string, all: readonly Pick<Answer, 'member' | 'epochs'>[], shards: number): number[] {
  const members = all.map((one) => one.member).sort()
  const part = (name: string) =>
    Math.floor(shards / members.length) + (members.indexOf(name) < shards % members.length ? 1 : 0)
  const lines = Array.from({ length: shards }, (_, shard) =>
    all
      .filter(({ epochs }) => epochs[shard] !== undefined)
      .sort((one, other) => one.epochs[shard]! - other.epochs[shard]!)
      .map((one) => one.member),
  )
  const held = (name: string) => lines.filter(([first]) => first === name).length
  const mine = [...lines.keys()].filter((shard) => lines[shard]![0] === member)
  const isWanted = (shard: number) => {
    const next = lines[shard]![1]
    return next !== undefined && held(next) < part(next)
  }
  // First those whose next in line has too little.
  mine.sort((one, other) => Number(isWanted(other)) - Number(isWanted(one)))
  return mine.slice(0, Math.max(0, mine.length - part(member))).sort((one, other) => one - other)
}
