/**
 * Publishes batches on one channel with confirmations.
 *
 * P1 At most `windowMax` messages are sent and not confirmed; batches are sent in the order of their calls.
 * P2 A batch resolves when the broker has confirmed every message of it, or rejects with an UnavailableError: when one was
 *    refused, when the connection is lost, when no confirmation comes for `confirmMaxMs`. It always does one of them.
 * P3 Unroutable is confirmed too, after the message was returned: what came back is given to `unroutable` before the
 *    batch resolves, and its failure is the batch's.
 */
import type { ConfirmChannel } from 'amqplib'
import { BusError, UnavailableError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
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
  readonly messages: readonly WireMessage[]
  /** How many were sent. */
  sent: number
  confirmed: number
  settled: boolean
  /** One function for all its messages, which amqplib calls for each. */
  readonly confirm: (error: Error | null) => void
  readonly settle: (error?: Error) => void
}

export class Publisher {
  private readonly options: PublisherOptions
  private channel: ConfirmChannel | undefined
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
    const channel = await link.confirmChannel()
    channel.on('return', ({ properties }) => {
      this.returned.add(properties.messageId)
    })
    channel.once('close', () => {
      if (this.channel === channel) this.lost(link)
    })
    this.link = link
    this.channel = channel
    this.unconfirmed = 0
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (messages.length === 0) return Promise.resolve()
    if (!this.channel || !this.link) return Promise.reject(notConnected())
    if (!this.link.state().ready) return Promise.reject(this.link.away())
    return new Promise((resolve, reject) => {
      const job: Job = {
        messages,
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
    const { channel, options } = this
    const { exchange, windowMax } = options
    if (!channel) return
    const shards = options.shards()
    const at = options.now()
    while (this.unconfirmed < windowMax && this.jobs.length > 0) {
      const job = this.jobs[0]!
      const message = job.messages[job.sent]!
      try {
        const { type } = message
        channel.publish(exchange, type, contentOf(message), propertiesOf(message, shards, at), job.confirm)
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
    const returned = this.returned.size > 0 ? job.messages.filter(({ id }) => this.returned.delete(id)) : [] // P3
    if (returned.length === 0) job.settle()
    else this.settleReturned(job, returned)
  }

  private settleReturned(job: Job, returned: readonly WireMessage[]): void {
    this.options.unroutable(returned).then(
      () => job.settle(),
      (error) => job.settle(translate(error)),
    )
  }

  /** P2: the connection went; what was sent is not known to be safe, and the rest never left. */
  private lost(link: Link): void {
    this.channel = undefined
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
