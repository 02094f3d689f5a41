/**
 * A message as RabbitMQ carries it: what other programs look at stands where AMQP has a place for it, in the properties.
 * Of ours there are two headers beside the application's own: `x-key` and `x-shard`.
 */
import { isAscii, isUtf8 } from 'node:buffer'
import type { Message, Options } from 'amqplib'
import type { WireMessage } from '../message.ts'

export const SHARD_HEADER = 'x-shard'
const KEY_HEADER = 'x-key'
/** An application's header by one of these names travels behind this prefix, and is matched by no headers binding. */
const ESCAPE = 'x-own-'
const OURS = /^(?:x-own-)*x-(?:key|shard)$/
/** What the broker writes on its way. */
const BROKERS = /^x-(?:death|delivery-count|acquired-count|(?:first|last)-death-(?:queue|reason|exchange))$/
/** Text says so; without it a body is bytes. */
const TEXT_ENCODING = 'utf-8'

export function contentOf({ body }: WireMessage): Buffer {
  return typeof body === 'string' ? Buffer.from(body) : Buffer.from(body.buffer, body.byteOffset, body.byteLength)
}

/** @param at milliseconds since the epoch; AMQP carries whole seconds */
export function propertiesOf(message: WireMessage, shard: number, at: number): Options.Publish {
  const { id, type, key, body } = message
  const headers: Record<string, string> = { [SHARD_HEADER]: String(shard) }
  if (key !== null) headers[KEY_HEADER] = key
  for (const name in message.headers) headers[OURS.test(name) ? ESCAPE + name : name] = message.headers[name]!
  const isText = typeof body === 'string'
  return {
    persistent: true,
    mandatory: true,
    messageId: id,
    type,
    timestamp: Math.floor(at / 1_000),
    contentType: isText ? 'application/cloudevents+json' : 'application/octet-stream',
    ...(isText && { contentEncoding: TEXT_ENCODING }),
    headers,
  }
}

/** Null where it has no id: a stranger's message has to be given one before it may be handed over. */
export function messageOf({ content, fields, properties }: Message): WireMessage | null {
  const { messageId, contentEncoding, headers = {} } = properties
  if (typeof messageId !== 'string' || messageId === '') return null
  const key: unknown = headers[KEY_HEADER]
  return {
    id: messageId,
    type: fields.routingKey,
    key: typeof key === 'string' ? key : null,
    headers: applicationHeaders(headers),
    body: contentEncoding === TEXT_ENCODING ? textOf(content) : content,
  }
}

/** A stranger may call text what is none: its bytes must not be lost. */
function textOf(content: Buffer): string | Buffer {
  if (isAscii(content)) return content.toString('latin1') // quicker by half
  return isUtf8(content) ? content.toString() : content
}

/** When it was published, milliseconds since the epoch; null where its publisher did not say. */
export function publishedAt({ properties }: Message): number | null {
  return typeof properties.timestamp === 'number' ? properties.timestamp * 1_000 : null
}

function applicationHeaders(all: Record<string, unknown>): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const name in all) {
    if (name === SHARD_HEADER || name === KEY_HEADER || BROKERS.test(name)) continue
    if (OURS.test(name)) {
      if (name.startsWith(ESCAPE)) headers[name.slice(ESCAPE.length)] = String(all[name])
      continue
    }
    const value = all[name]
    if (typeof value === 'string') headers[name] = value
    else if (typeof value === 'number' || typeof value === 'boolean') headers[name] = String(value)
  }
  return headers
}
