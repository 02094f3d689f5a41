/**
 * Publishes batches with confirmations.
 *
 * P1 At most `windowMax` messages are sent and not confirmed; batches are sent in the order of their calls. Each shard has its
 *    channel, which it may share with others: the broker routes the messages of one channel one after another, those of
 *    several at once.
 * P2 A batch resolves when the broker has confirmed every message of it, or rejects with an UnavailableError: when one was
 *    refused, when the connection is lost, when no confirmation comes for `confirmMaxMs`. It always does one of them.
 * P3 Unroutable is confirmed too, after the message was returned: what came back is given to `unroutable` before the
 *    batch resolves, and its failure is the batch's.
 * P4 A channel that the broker closes takes the connection with it: the next one begins with all that it needs. So does a
 *    refusal: a channel whose first message met a queue without a leader was seen to be refused ever after (3.10).
 * P5 Of one key a single message is on its way: the next follows once it is confirmed, and none once it was refused, lost or
 *    returned though somebody wants it. A queue that is full, or whose leader dies, may refuse a message and take the next
 *    one; published again, the first would come after it.
 * P6 A message that is larger than the server takes is refused for good, and only its batch with it. The server says how much it
 *    takes by closing the channel; over the connection that is made then it is not asked again.
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
  readonly items: readonly Item[]
  /** Of `items`, the next to be looked at. */
  next: number
  /** Sent and neither confirmed nor given up. */
  underway: number
  /** Confirmed, and home. */
  done: number
  /** Confirmed, and returned: they keep their keys until it is known whether somebody wants them (P3). */
  returned: Item[]
  settled: boolean
  readonly settle: (error?: Error) => void
}

type Item = { readonly job: Job; readonly message: WireMessage; readonly shard: number }

/** What lasts as long as a connection. */
type Session = {
  readonly link: Link
  readonly channels: readonly ConfirmChannel[]
  unconfirmed: number
  readonly returned: Set<string>
  /** P5: keys of which a message is on its way, with those that wait for it; null: none does. */
  readonly keys: Map<string, Item[] | null>
  /** They waited for their key, which is free now. */
  readonly freed: Item[]
}

/** Enough to keep the broker's cores busy with one publisher (P1). */
const CHANNELS = 4

export class Publisher {
  private readonly options: PublisherOptions
  private session: Session | undefined
  /** Not settled; those with messages that were not looked at yet stand in `waiting` too, in the order of their calls. */
  private readonly jobs = new Set<Job>()
  private readonly waiting: Job[] = []
  private stalled: NodeJS.Timeout | undefined
  private confirmedAt = 0
  /** P6: what the server of this session takes, where that is known. */
  private bytesMax: { readonly value: number; readonly since: Session | undefined } | undefined

  constructor(options: PublisherOptions) {
    this.options = options
  }

  async attach(link: Link): Promise<void> {
    const channels: ConfirmChannel[] = []
    while (channels.length < CHANNELS) channels.push(await link.confirmChannel())
    const session: Session = { link, channels, unconfirmed: 0, returned: new Set(), keys: new Map(), freed: [] }
    for (const channel of channels) {
      channel.on('return', ({ properties }) => {
        session.returned.add(properties.messageId)
      })
      channel.on('error', (error) => this.refuseTooLarge(session, error))
      channel.once('close', () => this.giveUp(session, new Error('the broker closed a channel that publishes')))
    }
    // Learned over the last one, it holds for this one; later the server may have been told otherwise.
    this.bytesMax = this.bytesMax?.since && { ...this.bytesMax, since: undefined }
    this.session = session
  }

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (messages.length === 0) return Promise.resolve()
    if (!this.session) return Promise.reject(notConnected())
    const { link } = this.session
    if (!link.state().ready) return Promise.reject(link.away())
    const refusal = this.bytesMax && tooLargeAmong(messages, this.bytesMax.value)
    if (refusal) return Promise.reject(refusal)
    return new Promise((resolve, reject) => {
      const items: Item[] = []
      const job: Job = {
        items,
        next: 0,
        underway: 0,
        done: 0,
        returned: [],
        settled: false,
        settle: (error) => {
          if (job.settled) return
          job.settled = true
          this.jobs.delete(job)
          if (error) reject(error)
          else resolve()
        },
      }
      const shards = this.options.shards()
      for (const message of messages) items.push({ job, message, shard: shardOf(message.key ?? message.id, shards) })
      this.jobs.add(job)
      this.waiting.push(job)
      this.pump()
    })
  }

  /** P1 */
  private pump(): void {
    const { session } = this
    if (!session) return
    while (session.unconfirmed < this.options.windowMax) {
      const item = session.freed.shift() ?? this.nextItem(session)
      if (!item) break
      this.send(session, item)
    }
    if (session.unconfirmed > 0) this.watch()
  }

  /** The next whose key is free; those that are passed over wait for theirs (P5). */
  private nextItem({ keys }: Session): Item | undefined {
    for (let job = this.waiting[0]; job; job = this.waiting[0]) {
      while (!job.settled && job.next < job.items.length) {
        const item = job.items[job.next++]!
        const { key } = item.message
        if (key === null) return item
        const behind = keys.get(key)
        if (behind === undefined) {
          keys.set(key, null)
          return item
        }
        if (behind === null) keys.set(key, [item])
        else behind.push(item)
      }
      this.waiting.shift()
    }
    return undefined
  }

  private send(session: Session, item: Item): void {
    const { message, shard, job } = item
    const { exchange, now } = this.options
    const channel = session.channels[shard % CHANNELS]!
    if (job.settled) {
      this.free(session, item)
      return
    }
    try {
      channel.publish(exchange, message.type, contentOf(message), propertiesOf(message, shard, now()), (error) =>
        this.answered(session, item, error),
      )
    } catch (error) {
      job.settle(unsendable(message, error))
      this.free(session, item)
      return
    }
    session.unconfirmed++
    job.underway++
  }

  private answered(session: Session, item: Item, error: Error | null): void {
    const { job } = item
    session.unconfirmed--
    job.underway--
    if (session !== this.session) return
    if (error) {
      if (error.message !== NACKED) return // the channel was closed: `giveUp` follows
      const refused = 'RabbitMQ refused a message: a queue is full or has no leader'
      job.settle(new UnavailableError('transport_unavailable', refused, { cause: error }))
      this.giveUp(session, new Error(refused))
      return
    }
    this.confirmedAt = performance.now()
    if (session.returned.delete(item.message.id)) job.returned.push(item)
    else this.home(session, item)
    if (job.underway === 0 && job.returned.length > 0) this.askUnroutable(session, job)
    if (session.unconfirmed <= this.options.windowMax >> 1) this.pump()
  }

  /** It is where it belongs. */
  private home(session: Session, item: Item): void {
    const { job } = item
    job.done++
    if (job.done === job.items.length) job.settle()
    this.free(session, item)
  }

  /** P5: with its batch go those whose message of its key would come next. */
  private fail(session: Session, item: Item, error: BusError): void {
    item.job.settle(error)
    const { key } = item.message
    for (const { job } of (key !== null && session.keys.get(key)) || []) job.settle(error)
    this.free(session, item)
  }

  /** P5 */
  private free({ keys, freed }: Session, { message: { key } }: Item): void {
    if (key === null) return
    const next = keys.get(key)?.shift()
    if (next) freed.push(next)
    else keys.delete(key)
  }

  /** P3 */
  private askUnroutable(session: Session, job: Job): void {
    const returned = job.returned.splice(0)
    this.options
      .unroutable(returned.map(({ message }) => message))
      .then(
        () => {
          for (const item of returned) this.home(session, item)
        },
        (error) => {
          for (const item of returned) this.fail(session, item, translate(error))
        },
      )
      .then(() => this.pump())
  }

  /** P6 */
  private refuseTooLarge(session: Session, error: Error): void {
    const [, text] = /larger than configured max size (\d+)/.exec(error.message) ?? []
    if (text === undefined) return
    this.bytesMax = { value: Number(text), since: session }
    for (const job of [...this.jobs]) {
      const refusal = tooLargeAmong(
        job.items.map(({ message }) => message),
        Number(text),
      )
      if (refusal) job.settle(refusal)
    }
  }

  /** P2, P4: what was sent is not known to be safe, and the rest never left. */
  private giveUp(session: Session, why: Error): void {
    if (this.session !== session) return
    this.session = undefined
    clearTimeout(this.stalled)
    this.stalled = undefined
    this.waiting.length = 0
    for (const job of [...this.jobs]) job.settle(session.link.away())
    session.link.tearDown(why)
  }

  /** P2: a half-open connection confirms nothing and says nothing. */
  private watch(): void {
    if (this.stalled) return
    const { confirmMaxMs } = this.options
    this.confirmedAt = Math.max(this.confirmedAt, performance.now())
    const look = () => {
      this.stalled = undefined
      if (!this.session || this.session.unconfirmed === 0) return
      const leftMs = this.confirmedAt + confirmMaxMs - performance.now()
      if (leftMs > 0) this.stalled = setTimeout(look, leftMs)
      else this.session.link.tearDown(new Error(`nothing was confirmed for ${confirmMaxMs} ms`))
    }
    this.stalled = setTimeout(look, confirmMaxMs)
  }
}

/** How amqplib says basic.nack. */
const NACKED = 'message nacked'

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

function tooLargeAmong(messages: readonly WireMessage[], bytesMax: number): BusError | undefined {
  const culprit = messages.find(({ body }) => Buffer.byteLength(body) > bytesMax)
  if (!culprit) return undefined
  const { id, type, body } = culprit
  const text = `message ${id} (${type}) has ${Buffer.byteLength(body)} bytes and this RabbitMQ takes ${bytesMax}`
  return new BusError(
    'message_too_large',
    `${text}: raise its max_message_size, or lower messageBytesMax so that it is refused where it is published`,
  )
}
