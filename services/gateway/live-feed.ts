/**
 * What is said, as it is said, for whoever watches. A view: nothing is stored, nothing is promised beyond the buffer.
 *
 * L1 While nobody watches, nothing is subscribed to and nothing costs anything.
 * L2 From the moment `watch` resolves, nothing that matches is missed, and nothing is shown twice.
 * L3 The buffer outlives the last watcher for a while, so that one who comes back goes on where they were.
 */
import {
  type Clock,
  type Codec,
  type Consumer,
  type Delivery,
  type EventType,
  jsonCodec,
  type Message,
  readingAll,
  type Timer,
  type Transport,
  upcast,
  type WireMessage,
} from '@shopsphere/bus'
import type { Log } from '@shopsphere/runtime/log'

const WINDOW_MAX = 1_000
const BUFFER_MESSAGES_MAX = 5_000
const BUFFER_BYTES_MAX = 16 * 2 ** 20
const LINGER_MS = 60_000

export type Watched = {
  /** Looked at before the message is decoded. */
  readonly wants: (message: Pick<WireMessage, 'type' | 'key' | 'headers'>) => boolean
  /** Called in the order in which things were said, by key; must return at once. */
  readonly show: (message: Message) => void
}

export type Watching = {
  /** False: what came after the message asked for is not in the buffer any more. */
  readonly resumed: boolean
  stop(): void
}

export type LiveFeed = {
  /** Shows what is said from now on; with `after`, first what was said after that message. */
  watch(watched: Watched, after?: string): Promise<Watching>
  /** Closing twice is fine. */
  close(): Promise<void>
}

export function createLiveFeed(options: {
  transport: Transport
  events: readonly EventType[]
  /** Of a subscription that ends with it. */
  newName: () => string
  clock: Clock
  log: Log
  codec?: Codec
  bufferMessagesMax?: number
}): LiveFeed {
  const { transport, clock, log, codec = readingAll(jsonCodec), bufferMessagesMax = BUFFER_MESSAGES_MAX } = options
  const events = new Map(options.events.map((event) => [event.type, event]))
  const watchers = new Set<Watched>()
  const buffer = new Map<string, WireMessage>() // in the order of their coming
  let bufferBytes = 0
  let source: Promise<{ name: string; consumer: Consumer }> | undefined
  let lingering: Timer | undefined
  let closed = false

  async function subscribe(): Promise<{ name: string; consumer: Consumer }> {
    const name = options.newName()
    await transport.open()
    await transport.declare({ name, bindings: [{ kind: 'fanout' }], from: 'now', ephemeral: true })
    let consumer: Consumer | undefined
    const receive = (deliveries: Delivery[]) => {
      for (const { message } of deliveries) take(message)
      consumer?.ack(deliveries)
    }
    consumer = await transport.consume(name, { windowMax: WINDOW_MAX, receive })
    return { name, consumer }
  }

  function take(wire: WireMessage): void {
    if (buffer.has(wire.id)) return
    keep(wire)
    let decoded: Message | undefined
    for (const watched of watchers) {
      if (!watched.wants(wire)) continue
      decoded ??= decode(wire)
      if (decoded) watched.show(decoded)
    }
  }

  function keep(wire: WireMessage): void {
    buffer.set(wire.id, wire)
    bufferBytes += wire.body.length
    for (const [id, { body }] of buffer) {
      if (buffer.size <= bufferMessagesMax && bufferBytes <= BUFFER_BYTES_MAX) return
      buffer.delete(id)
      bufferBytes -= body.length
    }
  }

  /** Undefined for a stranger's message: services make dead letters of those, here there is nothing to show. */
  function decode(wire: WireMessage): Message | undefined {
    const event = events.get(wire.type)
    if (!event) return undefined
    try {
      const message = codec.decode(wire.body)
      return { ...message, data: upcast(event, message.version, message.data) }
    } catch {
      return undefined
    }
  }

  function replay({ wants, show }: Watched, after: string): boolean {
    if (!buffer.has(after)) return false
    let passed = false
    for (const [id, wire] of buffer) {
      if (passed && wants(wire)) {
        const message = decode(wire)
        if (message) show(message)
      }
      if (id === after) passed = true
    }
    return true
  }

  async function unsubscribe(): Promise<void> {
    const ending = source
    source = undefined
    buffer.clear()
    bufferBytes = 0
    try {
      const { name, consumer } = (await ending) ?? {}
      await consumer?.close()
      if (name) await transport.remove(name)
    } catch (error) {
      log.warn({ err: error }, 'the subscription of the live updates could not be ended; the broker forgets it')
    }
  }

  return {
    async watch(watched, after) {
      if (closed) throw new Error('the live feed is closed')
      lingering?.cancel()
      watchers.add(watched) // counted before the wait, so that nobody switches the feed off meanwhile
      const stop = () => {
        if (!watchers.delete(watched) || watchers.size > 0 || closed) return
        lingering = clock.after(LINGER_MS, () => void unsubscribe()) // L3
      }
      try {
        source ??= subscribe()
        await source
      } catch (error) {
        source = undefined
        watchers.delete(watched)
        throw error
      }
      return { resumed: after === undefined || replay(watched, after), stop }
    },
    async close() {
      if (closed) return
      closed = true
      lingering?.cancel()
      watchers.clear()
      await unsubscribe()
    },
  }
}
