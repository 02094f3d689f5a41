/**
 * Publishes batches with confirmations.
 *
 * P1 At most `windowMax` messages are sent and not confirmed; batches are sent in the order of their calls. Within a batch
 *    those of one shard stand together, in their order: a queue takes them in larger pieces. Each shard has its channel,
 *    which it shares with others; the broker routes the messages of one channel one after another, those of two at once.
 * P2 A batch resolves when the broker has confirmed every message of it, or rejects with an UnavailableError: when one was
 *    refused, when the connection is lost, when no confirmation comes for `confirmMaxMs`. It always does one of them.
 * P3 Unroutable is confirmed too, after the message was returned: what came back is given to `unroutable` before the
 *    batch resolves, and its failure is the batch's.
 * P4 A channel that the broker closes takes the connection with it: the next one begins with all that it needs.
 */
import type { ConfirmChannel } from 'amqplib'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import { shardOf } from '../routing.ts'
import { type Link, translate } from './rabbitmq-link.ts'
import { contentOf, propertiesOf } from './rabbitmq-wire.ts'

export type PublisherOptions = {
  readonly exchange: string
  readonly windowMax: number
  readonly confirmMaxMs: number
  readonly now: () => number
  readonly shards: () => number
  /** P3: resolves when these may count as published. */
  readonly unroutable: (messages: readonly WireMessage[]) => Promise<void>
}

type Job = {
  /** By shard (P1). */
  readonly messages: readonly Sharded[]
  /** How many were sent. */
  sent: number
  confirmed: number
  settled: boolean
  /** One function for all its messages, which amqplib calls for each. */
  readonly confirm: (error: Error | null) => void
  readonly settle: (error?: Error) => void
}

type Sharded = { readonly message: WireMessage; readonly shard: number }

/** Enough to keep the broker's cores busy with one publisher. */
const CHANNELS = 2

export class Publisher {
  private readonly options: PublisherOptions
  /** Empty: there is no connection. */
  private channels: ConfirmChannel[] = []
  private link: Link | undefined
  private readonly jobs: Job[] = []
  private readonly returned = new Set<string>()
  private unconfirmed = 0
  private stalled: NodeJS.Timeout | undefined
  private confirmedAt = 0

  constructor(options: PublisherOptions) {
    this.options = options
  }

  async attach(link: Link): Promise<void> {
    const channels: ConfirmChannel[] = []
    while (channels.length < CHANNELS) channels.push(await link.confirmChannel())
    for (const channel of channels) {
      channel.on('return', ({ properties }) => {
        this.returned.add(properties.messageId)
      })
      channel.once('close', () => {
        if (this.channels !== channels) return
        this.lost(link)
        link.tearDown(new Error('the broker closed a channel that publishes')) // P4
      })
    }
    this.link = link
    this.channels = channels
    this.unconfirmed = 0
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (messages.length === 0) return Promise.resolve()
    if (this.channels.length === 0 || !this.link) return Promise.reject(notConnected())
    if (!this.link.state().ready) return Promise.reject(this.link.away())
    return new Promise((resolve, reject) => {
      const job: Job = {
        messages: byShard(messages, this.options.shards()),
        sent: 0,
        confirmed: 0,
        settled: false,
        confirm: (error) => this.confirmed(job, error),
        settle: (error) => {
          if (job.settled) return
          job.settled = true
          if (error) reject(error)
          else resolve()
        },
      }
      this.jobs.push(job)
      this.pump()
    })
  }

  /** P1 */
  private pump(): void {
    const { channels, options } = this
    const { exchange, windowMax } = options
    if (channels.length === 0) return
    const at = options.now()
    while (this.unconfirmed < windowMax && this.jobs.length > 0) {
      const job = this.jobs[0]!
      const { message, shard } = job.messages[job.sent]!
      const channel = channels[shard % CHANNELS]!
      try {
        channel.publish(exchange, message.type, contentOf(message), propertiesOf(message, shard, at), job.confirm)
      } catch (error) {
        this.jobs.shift()
        job.settle(unsendable(message, error))
        continue
      }
      this.unconfirmed++
      job.sent++
      if (job.sent === job.messages.length) this.jobs.shift()
    }
    if (this.unconfirmed > 0) this.watch()
  }

  private confirmed(job: Job, error: Error | null): void {
    this.unconfirmed--
    this.confirmedAt = performance.now()
    job.confirmed++
    if (error) {
      const refused = `RabbitMQ did not confirm a message (${error.message}): a queue is full or has no leader`
      job.settle(new UnavailableError('transport_unavailable', refused, { cause: error }))
    }
    if (job.confirmed === job.messages.length && !job.settled) this.finish(job)
    if (this.unconfirmed <= this.options.windowMax >> 1) this.pump()
  }

  private finish(job: Job): void {
    const came = this.returned.size > 0 ? job.messages.filter(({ message }) => this.returned.delete(message.id)) : []
    if (came.length === 0) job.settle()
    else
      this.settleReturned(
        job,
        came.map(({ message }) => message),
      )
  }

  /** P3 */
  private settleReturned(job: Job, returned: readonly WireMessage[]): void {
    this.options.unroutable(returned).then(
      () => job.settle(),
      (error) => job.settle(translate(error)),
    )
  }

  /** P2: the connection went; what was sent is not known to be safe, and the rest never left. */
  private lost(link: Link): void {
    this.channels = []
    this.unconfirmed = 0
    this.returned.clear()
    clearTimeout(this.stalled)
    this.stalled = undefined
    for (const job of this.jobs.splice(0)) job.settle(link.away())
  }

  /** P2: a half-open connection confirms nothing and says nothing. */
  private watch(): void {
    if (this.stalled) return
    const { confirmMaxMs } = this.options
    this.confirmedAt = Math.max(this.confirmedAt, performance.now())
    const look = () => {
      this.stalled = undefined
      if (this.unconfirmed === 0) return
      const leftMs = this.confirmedAt + confirmMaxMs - performance.now()
      if (leftMs > 0) this.stalled = setTimeout(look, leftMs)
      else this.link?.tearDown(new Error(`nothing was confirmed for ${confirmMaxMs} ms`))
    }
    this.stalled = setTimeout(look, confirmMaxMs)
  }
}

/** P1 */
function byShard(messages: readonly WireMessage[], shards: number): Sharded[] {
  const sharded = messages.map((message) => ({ message, shard: shardOf(message.key ?? message.id, shards) }))
  return sharded.sort((one, other) => one.shard - other.shard) // stable: the order within a shard stays
}

function notConnected(): BusError {
  return new UnavailableError('transport_unavailable', 'no connection to RabbitMQ: it is tried again until it is there')
}

function unsendable({ type, id }: WireMessage, error: unknown): BusError {
  const { message, name } = error as Error
  if (name === 'IllegalOperationError') return translate(error)
  return new BusError('invalid_argument', `message ${id} (${type}) does not fit into AMQP: ${message}`, {
    cause: error,
  })
}
