/**
 * A message as an entry of a stream. Fields: `id`, `type`, `key` (absent: no key), `headers` (JSON; absent: none), and the
 * body as `text` or as `bytes`.
 */

import type { WireMessage } from '../message.ts'
import { headersText } from '../outbox.ts'
import { shardOf } from '../routing.ts'

/** The type of an entry that some other program wrote without one; nobody defines an event of this name. */
export const UNKNOWN_TYPE = 'unknown'

/** Which of the fields follow, as the append script reads it. */
const HAS_KEY = 1
const HAS_HEADERS = 2
const IS_BYTES = 4

export type Argument = string | Buffer

/** Appends what the append script takes for one message: shard, form, id, type, key?, headers?, body. */
export function pushArguments(into: Argument[], message: WireMessage, shards: number): void {
  const { id, type, key, headers, body } = message
  const text = headersText(headers)
  const hasHeaders = text !== '{}'
  const isText = typeof body === 'string'
  const form = (key === null ? 0 : HAS_KEY) + (hasHeaders ? HAS_HEADERS : 0) + (isText ? 0 : IS_BYTES)
  into.push(`${shardOf(key ?? id, shards)}`, `${form}`, id, type)
  if (key !== null) into.push(key)
  if (hasHeaders) into.push(text)
  into.push(isText ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength))
}

/** The message in an entry; `stranger` where it was not written by this bus, and is made up of what there is. */
export function readEntry(
  stream: string,
  entryId: string,
  fields: readonly Buffer[],
): { message: WireMessage; stranger: boolean; bytes: number } {
  let id: string | undefined
  let type: string | undefined
  let key: string | null = null
  let headers: Readonly<Record<string, string>> | undefined = NO_HEADERS
  let body: string | Buffer | undefined
  let bytes = 0
  for (let at = 0; at < fields.length; at += 2) {
    const value = fields[at + 1]!
    bytes += value.length
    switch (fields[at]!.toString('latin1')) {
      case 'id':
        id = value.toString()
        break
      case 'type':
        type = value.toString()
        break
      case 'key':
        key = value.toString()
        break
      case 'headers':
        headers = parseHeaders(value)
        break
      case 'text':
        body = value.toString()
        break
      case 'bytes':
        body = value
        break
    }
  }
  if (id !== undefined && type !== undefined && body !== undefined && headers !== undefined)
    return { message: { id, type, key, headers, body }, stranger: false, bytes }
  const made = {
    id: `${stream}/${entryId}`, // the same each time that it is read
    type: type ?? UNKNOWN_TYPE,
    key,
    headers: headers ?? NO_HEADERS,
    body: body ?? rawBody(fields),
  }
  return { message: made, stranger: true, bytes }
}

const NO_HEADERS: Readonly<Record<string, string>> = Object.freeze({})

/** Undefined where the text is no object of strings. */
function parseHeaders(value: Buffer): Record<string, string> | undefined {
  try {
    const headers = JSON.parse(value.toString()) as Record<string, string>
    const isRecord = typeof headers === 'object' && headers !== null && !Array.isArray(headers)
    return isRecord && Object.values(headers).every((one) => typeof one === 'string') ? headers : undefined
  } catch {
    return undefined
  }
}

/** The only value as it is; of several, all names and values, one a line. */
function rawBody(fields: readonly Buffer[]): Buffer {
  if (fields.length === 2) return fields[1]!
  return Buffer.concat(fields.flatMap((field, at) => [field, Buffer.from(at % 2 === 0 ? '=' : '\n')]))
}

/** Entry ids are `milliseconds-sequence`. Negative: `a` is older. */
export function compareIds(a: string, b: string): number {
  const [aMs, aSequence] = idParts(a)
  const [bMs, bSequence] = idParts(b)
  return aMs - bMs || aSequence - bSequence
}

/** The highest id below this one: a cursor that stands right before the entry. */
export function idBefore(id: string): string {
  const [ms, sequence] = idParts(id)
  if (sequence > 0) return `${ms}-${sequence - 1}`
  return ms > 0 ? `${ms - 1}-${SEQUENCE_MAX}` : '0-0'
}

/** When the entry was appended, by the server's clock, milliseconds since the epoch. */
export function timeOf(id: string): number {
  return idParts(id)[0]
}

/** Redis takes 64 bits; this is as far as a double counts exactly. */
const SEQUENCE_MAX = Number.MAX_SAFE_INTEGER

function idParts(id: string): [ms: number, sequence: number] {
  const at = id.indexOf('-')
  return at < 0 ? [Number(id), 0] : [Number(id.slice(0, at)), Number(id.slice(at + 1))]
}
