import type { Clock, Random } from './clock.ts'

/**
 * What a handler sees: the CloudEvents 1.0 attributes of one event beside its payload.
 * Source: https://github.com/cloudevents/spec (1.0.2), with the partitioning and distributed-tracing extensions.
 */
export type Message<Data = unknown> = {
  /** UUIDv7, unique for ever; the inbox recognises a repeat by it. */
  readonly id: string
  /** The event's type, which is also its routing key: `order.placed`. */
  readonly type: string
  /** The schema's version that `data` had when it was published. */
  readonly version: number
  /** The service that said it. */
  readonly source: string
  /** When it was said, milliseconds since the Unix epoch. */
  readonly time: number
  /** Messages of one key are handled in the order of their publication; null: in any order. */
  readonly key: string | null
  /** The id shared by everything that one request set off. */
  readonly correlationId: string
  /** The id of the message whose handling published this one; null where a person or a program outside began. */
  readonly causationId: string | null
  /** W3C Trace Context; null where nobody traces. */
  readonly traceparent: string | null
  /** For headers routing, and for what an application wants to carry beside the payload. */
  readonly headers: Readonly<Record<string, string>>
  readonly data: Data
}

/** What a transport carries: the attributes it routes by, and bytes that it does not look into. */
export type WireMessage = {
  readonly id: string
  readonly type: string
  readonly key: string | null
  readonly headers: Readonly<Record<string, string>>
  /** The whole message as a codec wrote it. */
  readonly body: string | Uint8Array
}

/**
 * Makes UUIDv7 ids (RFC 9562): 48 bits of milliseconds, then a counter that only grows within one millisecond, then
 * chance. Ids of one maker sort in the order in which they were made, also when the clock steps back.
 */
export function idMaker(clock: Clock, random: Random): () => string {
  let lastMs = 0
  let counter = 0
  let prefix = ''
  return () => {
    const nowMs = clock.now()
    if (nowMs > lastMs) {
      lastMs = nowMs
      counter = Math.floor(random() * 0x400)
      prefix = ''
    } else if (++counter > 0xfff) {
      lastMs += 1
      counter = 0
      prefix = ''
    }
    if (prefix === '') {
      const time = lastMs.toString(16).padStart(12, '0')
      prefix = `${time.slice(0, 8)}-${time.slice(8)}-7`
    }
    const low = random() * 2 ** 32
    const high = random() * 2 ** 30
    const tail = hex16((low >>> 16) & 0xffff) + hex16(low & 0xffff)
    return `${prefix}${hex16(counter).slice(1)}-${hex16(0x8000 | (high >>> 16))}-${hex16(high & 0xffff)}${tail}`
  }
}

const HEX_BYTES = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

function hex16(value: number): string {
  return HEX_BYTES[value >>> 8]! + HEX_BYTES[value & 0xff]!
}
