/**
 * One registration at one shard's queue: what the broker has handed to this process and not got back.
 *
 * S1 A registration has a channel of its own, so delivery tags are its order. Acknowledged is up to the lowest unfinished
 *    tag, all at once; what is finished behind a hole is acknowledged singly where it would use up the prefetch.
 *    A nameless message is a hole until it was published again with a name.
 * S2 Acknowledgements leave before the channel is closed; the broker takes back the rest, in order, in front of the queue.
 * S3 Once it is draining nothing more is taken from it, and nothing acknowledged until all that was taken is finished:
 *    the broker would send more for each.
 */
import type { Channel, ConsumeMessage } from 'amqplib'
import type { WireMessage } from '../message.ts'
import type { Delivery, Lease } from '../transport.ts'
import type { Link } from './rabbitmq-link.ts'
import { publishedAt } from './rabbitmq-wire.ts'
import { emptyHand, type Window } from './window.ts'

/** What the broker handed to a registration. A consumer may hand back a copy: its `entry` is still this one. */
export class Entry implements Delivery {
  readonly message: WireMessage
  readonly lease: Lease
  readonly redelivered: boolean
  readonly registration: Registration
  readonly tag: number
  readonly publishedAt: number | null
  readonly entry = this
  /** The consumer is done with it. */
  done = false

  constructor(registration: Registration, received: ConsumeMessage, message: WireMessage) {
    this.message = message
    this.lease = registration.lease
    this.redelivered = received.fields.redelivered
    this.registration = registration
    this.tag = received.fields.deliveryTag
    this.publishedAt = publishedAt(received)
  }
}

export type RegistrationOptions = {
  readonly link: Link
  readonly queue: string
  readonly lease: Lease
  readonly messageOf: (message: ConsumeMessage) => WireMessage | null
  /** Something may be taken. */
  readonly arrived: () => void
  /** A stranger's message without an id. */
  readonly nameless: (message: ConsumeMessage, registration: Registration) => void
  /** The broker ended it: the queue is gone, or the channel, or the connection. */
  readonly lost: (registration: Registration) => void
}

/**
 * The broker puts what comes back at the end of all that came back before, and sends those first. So the order of a key
 * stands only if whoever is next takes all of them at once: everybody must prefetch alike, whatever its window is.
 */
export const PREFETCH = 500

/** The broker writes every acknowledgement into its log, so they leave so many at once, or what there is after a moment. */
const ACK_MESSAGES = PREFETCH >> 2
const ACK_MS = 2

/** Entries of a list that is consumed from its front are forgotten so many at a time. */
const FORGET_AT_ONCE = 1_024

export class Registration {
  readonly lease: Lease
  private readonly options: RegistrationOptions
  private readonly channel: Channel
  /** In the order of their tags, from `first` on; those before are acknowledged to the broker. */
  private entries: Entry[] = []
  private first = 0
  /** The next to be taken. */
  private next = 0
  /** Finished, and not acknowledged to the broker. */
  private finished = 0
  /** Taken and not finished. */
  readonly hand = emptyHand()
  /** Tags of messages that are being given a name, in order. */
  private readonly nameless = new Set<number>()
  draining = false
  closed = false
  /** The broker ended it: the queue is no more, or was moved. */
  cancelled = false
  private drained: (() => void) | undefined
  private acknowledging: NodeJS.Timeout | undefined

  private constructor(options: RegistrationOptions, channel: Channel) {
    this.options = options
    this.channel = channel
    this.lease = options.lease
  }

  static async open(options: RegistrationOptions): Promise<Registration> {
    const { link, queue } = options
    const channel = await link.channel()
    const registration = new Registration(options, channel)
    channel.once('close', () => registration.end())
    try {
      await link.answer('a prefetch', channel.prefetch(PREFETCH))
      await link.answer(
        'a consumer',
        channel.consume(queue, (message) => registration.take(message)),
      )
    } catch (error) {
      registration.closed = true
      await link.closeChannel(channel)
      throw error
    }
    return registration
  }

  /** Those that were not taken yet, as far as there is room. */
  takeInto(deliveries: Delivery[], window: Window): void {
    if (this.draining || this.closed) return
    for (; this.next < this.entries.length; this.next++) {
      const entry = this.entries[this.next]!
      if (!window.hasRoomFor(entry.message)) return
      window.take(this.hand, entry.message)
      deliveries.push(entry)
    }
  }

  /** The consumer is done with it. False where that counts no more. */
  finish(entry: Entry, window: Window): boolean {
    if (this.closed || entry.done) return false
    entry.done = true
    window.release(this.hand, entry.message)
    this.finished++
    if (this.draining && this.hand.messages === 0) this.drained?.()
    return true
  }

  /** S1 */
  flush(): void {
    if (this.closed || this.draining || this.finished === 0) return
    if (this.finished >= ACK_MESSAGES) this.acknowledgeNow()
    else this.acknowledging ??= setTimeout(() => this.acknowledgeNow(), ACK_MS)
  }

  private acknowledgeNow(): void {
    this.forgetTimer()
    if (this.closed || this.draining) return
    try {
      this.acknowledge(ACK_MESSAGES)
    } catch {
      // The client is closing the channel already, and `end` follows: the broker takes back what it holds.
    }
  }

  private forgetTimer(): void {
    clearTimeout(this.acknowledging)
    this.acknowledging = undefined
  }

  /** Resolves when the consumer is done with all that it took. */
  async drain(): Promise<void> {
    this.draining = true // S3
    if (this.hand.messages === 0 || this.closed) return
    await new Promise<void>((resolve) => {
      this.drained = resolve
    })
  }

  /** S2 */
  async close(): Promise<void> {
    if (this.closed) return
    this.forgetTimer()
    this.acknowledge(1)
    this.closed = true
    this.drained?.()
    await this.options.link.closeChannel(this.channel)
  }

  /** What it holds, once all that the broker has sent before the question has come (B10). */
  async census(): Promise<{ unacknowledged: number; oldestAt: number | null }> {
    const { link } = this.options
    // The answer comes on the same channel, behind the deliveries; setting the same prefetch changes nothing.
    if (!this.closed) await link.answer('an answer', this.channel.prefetch(PREFETCH))
    let unacknowledged = this.nameless.size
    let oldestAt: number | null = null
    for (let index = this.first; index < this.entries.length && !this.closed; index++) {
      const { done, publishedAt } = this.entries[index]!
      if (done) continue
      unacknowledged++
      if (publishedAt !== null) oldestAt = Math.min(oldestAt ?? publishedAt, publishedAt)
    }
    return { unacknowledged, oldestAt }
  }

  /** Removes a nameless message, which has been published again with a name. */
  settle(message: ConsumeMessage): void {
    if (this.closed) return
    this.nameless.delete(message.fields.deliveryTag)
    this.channel.ack(message)
    this.flush() // it was a hole
  }

  private take(message: ConsumeMessage | null): void {
    if (this.closed) return
    if (!message) {
      this.cancelled = true
      this.end()
      void this.options.link.closeChannel(this.channel)
      return
    }
    const wire = this.options.messageOf(message)
    if (wire) {
      this.entries.push(new Entry(this, message, wire))
      this.options.arrived()
    } else {
      this.nameless.add(message.fields.deliveryTag)
      this.options.nameless(message, this)
    }
  }

  private end(): void {
    if (this.closed) return
    this.forgetTimer()
    this.closed = true
    this.drained?.()
    this.options.lost(this)
  }

  /** S1: singly behind the hole where at least `singlyFrom` are finished there. */
  private acknowledge(singlyFrom: number): void {
    const { entries } = this
    const [hole = Number.POSITIVE_INFINITY] = this.nameless
    let upTo = 0
    while (this.first < this.next && entries[this.first]!.done && entries[this.first]!.tag < hole) {
      upTo = entries[this.first++]!.tag
      this.finished--
    }
    if (upTo > 0) this.channel.ack({ fields: { deliveryTag: upTo } } as never, true)
    if (this.finished >= singlyFrom && this.finished > 0) {
      const kept: Entry[] = []
      for (let index = this.first; index < this.next; index++) {
        const entry = entries[index]!
        if (entry.done) this.channel.ack({ fields: { deliveryTag: entry.tag } } as never)
        else kept.push(entry)
      }
      this.entries = [...kept, ...entries.slice(this.next)]
      this.first = 0
      this.next = kept.length
      this.finished = 0
    } else if (this.first >= FORGET_AT_ONCE) {
      entries.splice(0, this.first)
      this.next -= this.first
      this.first = 0
    }
  }
}
