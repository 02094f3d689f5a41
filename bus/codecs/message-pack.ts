import { createRequire } from 'node:module'
import type { Codec } from '../codec.ts'
import { BusError, type ErrorCode } from '../errors.ts'
import type { Message } from '../message.ts'
import { toCloudEvent, toMessage } from './envelope.ts'

/** One level of a payload inside another; a hostile one ends here and not in the stack. */
const NESTING_MAX = 100

type MessagePack = Pick<typeof import('@msgpack/msgpack'), 'encode' | 'decode'>
let loaded: MessagePack | undefined

/**
 * Loaded when the first message needs it, so that a bus reads what others write in MessagePack without having been told, and
 * one that never meets it needs no such package.
 */
function messagePack(code: ErrorCode): MessagePack {
  try {
    loaded ??= createRequire(import.meta.url)('@msgpack/msgpack') as MessagePack
  } catch (cause) {
    throw new BusError(code, 'MessagePack needs a package that is not installed: npm install @msgpack/msgpack', {
      cause,
    })
  }
  return loaded
}

/** A CloudEvent's attributes as one MessagePack map: smaller than JSON, and payloads may hold bytes. Needs @msgpack/msgpack. */
export const messagePackCodec: Codec = {
  contentType: 'application/cloudevents+msgpack',

  encode: (message) =>
    messagePack('invalid_argument').encode(toCloudEvent(message), { ignoreUndefined: true, maxDepth: NESTING_MAX }),

  /** The first byte of a map: up to 15 entries, or 16 or 32 bits of length. */
  recognises: (firstByte) => (firstByte & 0xf0) === 0x80 || firstByte === 0xde || firstByte === 0xdf,

  decode(body): Message {
    const { decode } = messagePack('undecodable')
    let parsed: unknown
    try {
      parsed = decode(typeof body === 'string' ? Buffer.from(body, 'latin1') : body)
    } catch (cause) {
      throw new BusError('undecodable', `not MessagePack: ${(cause as Error).message}`, { cause })
    }
    return toMessage(parsed)
  },
}
