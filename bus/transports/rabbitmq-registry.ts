/**
 * What the broker cannot be asked: which subscriptions there are, how they are bound, how many shards they have, and which
 * epoch was given out last. It is one JSON document, kept as the one message of a queue on the broker itself, so that
 * all processes see the same and no management plugin is needed.
 *
 * G1 It is read and written only under the lock, an exclusive queue: the broker gives it to one connection at a time and
 *    takes it back when that connection ends. Writing uses the same connection, so whoever lost the lock cannot write.
 * G2 The next version is confirmed before the one before it is acknowledged. So after a death at any step at least one
 *    version is in the queue, or on its way back to it; the highest counts, the others are removed with the next write.
 * G3 An epoch is greater than every one that was given out before. A consumer is registered at its queues before the lock
 *    is released, so consumers stand in a queue in the order of their epochs. RabbitMQ activates them in the order of
 *    registration: each owner of a shard has a greater epoch than the one before it.
 * G4 Epochs start at the time of day in seconds, so that they grow even where this queue itself was lost.
 */
import type { ConfirmChannel } from 'amqplib'
import { UnavailableError } from '../errors.ts'
import type { Binding } from '../transport.ts'
import type { Link } from './rabbitmq-link.ts'
import { replyOf } from './rabbitmq-reasons.ts'
import { type Names, quorumArguments } from './rabbitmq-topology.ts'

export type Table = {
  readonly version: number
  readonly shards: number
  /** The last that was given out. */
  readonly epoch: number
  readonly subscriptions: Readonly<Record<string, Entry>>
}

/** Whatever is bound is among `bindings` or `stale`, also when somebody died while changing it. */
export type Entry = { readonly bindings: readonly Binding[]; readonly stale: readonly Binding[] }

export type Locked = {
  readonly table: Table
  readonly channel: ConfirmChannel
  /** Resolves when it is durable. */
  save(changes: Partial<Omit<Table, 'version'>>): Promise<void>
}

const LOCK_WAIT_MAX_MS = 15_000
const LOCK_RETRY_MS = 20
/** An empty registry is looked at again so long: a version may be on its way back from a process that died (G2). */
const RETURN_MAX_MS = 2_000
const RETURN_LOOK_MS = 20

const LOCKED_REPLY = 405

export class Registry {
  private readonly link: Link
  private readonly names: Names
  private readonly shards: number
  private turn: Promise<unknown> = Promise.resolve()
  private known = false

  /** @param shards for a registry that is made now; one that exists has its own */
  constructor(link: Link, names: Names, shards: number) {
    this.link = link
    this.names = names
    this.shards = shards
  }

  /** Runs `work` while no other process looks at the registry (G1). Rejects with UnavailableError where the lock is not to be had. */
  locked<T>(work: (locked: Locked) => Promise<T>): Promise<T> {
    // The broker lets one connection declare its own exclusive queue twice, so here we wait for each other by ourselves.
    const done = this.turn.then(() => this.underLock(work))
    this.turn = done.catch(() => {})
    return done
  }

  read(): Promise<Table> {
    return this.locked(async ({ table }) => table)
  }

  private async underLock<T>(work: (locked: Locked) => Promise<T>): Promise<T> {
    const channel = await this.lock()
    try {
      let held = await this.hold(channel)
      const locked: Locked = {
        get table() {
          return held.table
        },
        channel,
        save: async (changes) => {
          const table = { ...held.table, ...changes, version: held.table.version + 1 }
          await this.write(channel, table)
          for (const deliveryTag of held.tags) channel.ack({ fields: { deliveryTag } } as never)
          held = { table, tags: [] }
        },
      }
      const answer = await work(locked)
      for (const deliveryTag of held.tags) channel.nack({ fields: { deliveryTag } } as never, false, true)
      return answer
    } catch (error) {
      this.known = false // somebody may have deleted the queue
      throw error
    } finally {
      await this.link.answer('the end of a lock', channel.deleteQueue(this.names.lock)).catch(() => {})
      await this.link.closeChannel(channel)
    }
  }

  /** A channel whose connection holds the lock. */
  private async lock(): Promise<ConfirmChannel> {
    const deadline = performance.now() + LOCK_WAIT_MAX_MS
    while (true) {
      const channel = await this.link.confirmChannel()
      try {
        await this.link.answer('a lock', channel.assertQueue(this.names.lock, { exclusive: true, durable: false }))
        return channel
      } catch (error) {
        if (replyOf(error) !== LOCKED_REPLY) throw error
        if (performance.now() > deadline) {
          throw new UnavailableError(
            'transport_unavailable',
            `another process holds '${this.names.lock}' for more than ${LOCK_WAIT_MAX_MS} ms: it is tried again`,
          )
        }
      }
      await new Promise((resolve) => setTimeout(resolve, LOCK_RETRY_MS * (0.5 + Math.random())))
    }
  }

  /** Takes every version that is there; they stay unacknowledged. */
  private async hold(channel: ConfirmChannel): Promise<{ table: Table; tags: number[] }> {
    const { registry } = this.names
    const isNew = !this.known && (await this.declare(channel))
    this.known = true
    const deadline = performance.now() + (isNew ? 0 : RETURN_MAX_MS)
    const tags: number[] = []
    let newest: Table = { version: 0, shards: this.shards, epoch: 0, subscriptions: {} }
    while (true) {
      const message = await this.link.answer('the registry', channel.get(registry))
      if (message) {
        tags.push(message.fields.deliveryTag)
        const table = JSON.parse(message.content.toString()) as Table
        if (table.version > newest.version) newest = table
      } else {
        if (tags.length > 0 || performance.now() >= deadline) return { table: newest, tags }
        await new Promise((resolve) => setTimeout(resolve, RETURN_LOOK_MS))
      }
    }
  }

  private async declare(channel: ConfirmChannel): Promise<boolean> {
    const { registry } = this.names
    const existed = await this.link
      .onChannel((own) => own.checkQueue(registry))
      .then(
        () => true,
        () => false,
      )
    const [major] = this.link.version
    const declared = channel.assertQueue(registry, { durable: true, arguments: quorumArguments(major) })
    await this.link.answer('the registry', declared)
    if (!existed) await this.write(channel, { version: 1, shards: this.shards, epoch: 0, subscriptions: {} })
    return !existed
  }

  private async write(channel: ConfirmChannel, table: Table): Promise<void> {
    channel.sendToQueue(this.names.registry, Buffer.from(JSON.stringify(table)), { persistent: true, mandatory: true })
    await this.link.answer('a confirmation of the registry', channel.waitForConfirms())
  }
}

/** G3, G4: takes the next epoch; the caller registers its consumers before it lets the lock go. */
export async function nextEpoch({ table, save }: Locked): Promise<number> {
  const epoch = Math.max(table.epoch + 1, Math.floor(Date.now() / 1_000))
  await save({ epoch })
  return epoch
}
