/**
 * How a message becomes bytes. A bus writes with one codec and reads what any of them wrote: nothing travels beside the
 * bytes, so they have to say it themselves.
 *
 * K1 The first byte tells the format: `{` is JSON, a map's is MessagePack. No two codecs share one but for a format's own
 *    envelopes, which its shape tells apart once it is parsed.
 * K2 Whoever reads needs no setting: a bus that changes its codec still reads its outbox, its dead letters and the log.
 */
import { jsonCodec } from './codecs/json.ts'
import { messagePackCodec } from './codecs/message-pack.ts'
import { BusError } from './errors.ts'
import type { Message } from './message.ts'

export type Codec = {
  readonly contentType: string
  encode(message: Message): string | Uint8Array
  /** True where bytes that begin so are of this format; it is asked nothing else before `decode`. */
  recognises(firstByte: number): boolean
  /** Throws `undecodable`. */
  decode(body: string | Uint8Array): Message
}

/** Writes as `codec` does, and reads what it or one of the library's own wrote. */
export function readingAll(codec: Codec): Codec {
  const readers = [codec, jsonCodec, messagePackCodec].filter((one, index, all) => all.indexOf(one) === index)
  return {
    contentType: codec.contentType,
    encode: (message) => codec.encode(message),
    recognises: (firstByte) => readers.some((reader) => reader.recognises(firstByte)),
    decode(body) {
      const firstByte = typeof body === 'string' ? body.charCodeAt(0) : body[0]
      if (firstByte === undefined || Number.isNaN(firstByte)) throw new BusError('undecodable', 'there are no bytes')
      for (const reader of readers) if (reader.recognises(firstByte)) return reader.decode(body)
      return codec.decode(body) // which says what is wrong with them
    },
  }
}
