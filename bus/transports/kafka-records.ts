/**
 * How a message lies in a record: its key, its body as the value, and as headers first ours (id, type, whether the body is
 * text), then its own. A record without ours is a stranger's, and gets an id that is the same each time it is read.
 *
 * Batches are written here, not by the client: one pass into one buffer. Layout: https://kafka.apache.org/documentation/#messageformat
 */
import { crc32c, type RecordsBatch } from '@platformatic/kafka'
import type { WireMessage } from '../message.ts'

/** `body: null` deletes its key from a compacted topic. */
export type Outgoing = Omit<WireMessage, 'body'> & { readonly body: WireMessage['body'] | null }

export type Measured = { readonly message: Outgoing; readonly at: number; readonly bytesMax: number }

export type Incoming = { readonly offset: number; readonly at: number; readonly message: WireMessage }

const ID = 'bus-id'
const TYPE = 'bus-type'
const BODY = 'bus-body'
const BATCH_HEAD_BYTES = 61
const CRC_AT = 17
const CRC_FROM = 21
const VARINT_BYTES_MAX = 5
/** Length, attributes, two deltas, two lengths and a count, each at most a varint, and our own headers' names. */
const RECORD_HEAD_BYTES_MAX = 7 * VARINT_BYTES_MAX + 4 * (ID.length + TYPE.length + BODY.length)
const CONTROL_BATCH = 1 << 5
const TRANSACTIONAL_BATCH = 1 << 4
const ABORT_MARKER = 0

export function measure(message: Outgoing, at: number): Measured {
  let bytesMax = RECORD_HEAD_BYTES_MAX + Buffer.byteLength(message.id) + Buffer.byteLength(message.type)
  if (message.key !== null) bytesMax += Buffer.byteLength(message.key)
  if (message.body !== null) bytesMax += Buffer.byteLength(message.body)
  for (const name in message.headers) {
    bytesMax += 2 * VARINT_BYTES_MAX + Buffer.byteLength(name) + Buffer.byteLength(message.headers[name]!)
  }
  return { message, at, bytesMax }
}

export type BatchOrigin = { readonly producerId: bigint; readonly producerEpoch: number; readonly sequence: number }

/** One record batch of these, in this order. */
export function encodeBatch(
  records: readonly Measured[],
  { producerId, producerEpoch, sequence }: BatchOrigin,
): Buffer {
  let bytesMax = BATCH_HEAD_BYTES
  for (const record of records) bytesMax += record.bytesMax
  const buffer = Buffer.allocUnsafe(bytesMax)
  const firstAt = records[0]!.at
  let maxAt = firstAt
  let at = BATCH_HEAD_BYTES
  for (const [delta, record] of records.entries()) {
    maxAt = Math.max(maxAt, record.at)
    at = writeRecord(buffer, at, record, record.at - firstAt, delta)
  }
  buffer.writeBigInt64BE(0n, 0)
  buffer.writeInt32BE(at - 12, 8)
  buffer.writeInt32BE(-1, 12)
  buffer.writeInt8(2, 16)
  buffer.writeInt16BE(0, CRC_FROM)
  buffer.writeInt32BE(records.length - 1, 23)
  buffer.writeBigInt64BE(BigInt(firstAt), 27)
  buffer.writeBigInt64BE(BigInt(maxAt), 35)
  buffer.writeBigInt64BE(producerId, 43)
  buffer.writeInt16BE(producerEpoch, 51)
  buffer.writeInt32BE(sequence, 53)
  buffer.writeInt32BE(records.length, 57)
  buffer.writeUInt32BE(crc32c(buffer.subarray(CRC_FROM, at)) >>> 0, CRC_AT)
  return buffer.subarray(0, at)
}

function writeRecord(
  buffer: Buffer,
  start: number,
  { message }: Measured,
  atDelta: number,
  offsetDelta: number,
): number {
  // The length stands in front and is not known yet: the record is written behind the longest one, then moved up.
  const from = start + VARINT_BYTES_MAX
  let at = from
  buffer[at++] = 0
  at = writeVarint(buffer, at, atDelta)
  at = writeVarint(buffer, at, offsetDelta)
  at = message.key === null ? writeVarint(buffer, at, -1) : writeText(buffer, at, message.key)
  if (message.body === null) at = writeVarint(buffer, at, -1)
  else if (typeof message.body === 'string') at = writeText(buffer, at, message.body)
  else {
    at = writeVarint(buffer, at, message.body.length)
    buffer.set(message.body, at)
    at += message.body.length
  }
  const names = Object.keys(message.headers)
  at = writeVarint(buffer, at, 3 + names.length)
  at = writeText(buffer, writeText(buffer, at, ID), message.id)
  at = writeText(buffer, writeText(buffer, at, TYPE), message.type)
  at = writeText(buffer, writeText(buffer, at, BODY), typeof message.body === 'string' ? 'text' : 'bytes')
  for (const name of names) at = writeText(buffer, writeText(buffer, at, name), message.headers[name]!)
  const lengthAt = writeVarint(buffer, start, at - from)
  buffer.copyWithin(lengthAt, from, at)
  return lengthAt + (at - from)
}

function writeText(buffer: Buffer, at: number, text: string): number {
  const bytes = text.length < 64 && isAscii(text) ? text.length : Buffer.byteLength(text)
  const from = writeVarint(buffer, at, bytes)
  if (bytes === text.length && bytes < 64) {
    for (let index = 0; index < bytes; index++) buffer[from + index] = text.charCodeAt(index)
    return from + bytes
  }
  return from + buffer.write(text, from)
}

function isAscii(text: string): boolean {
  for (let index = 0; index < text.length; index++) if (text.charCodeAt(index) > 0x7f) return false
  return true
}

/** Zigzag: small numbers of either sign are short. */
function writeVarint(buffer: Buffer, start: number, value: number): number {
  let at = start
  let rest = value >= 0 ? value * 2 : -value * 2 - 1
  while (rest > 0x7f) {
    buffer[at++] = (rest & 0x7f) | 0x80
    rest = Math.floor(rest / 128)
  }
  buffer[at++] = rest
  return at
}

export type Aborted = readonly { readonly producerId: bigint; readonly firstOffset: bigint }[] | null

/**
 * The records of one partition's part of an answer, from `from` on, without what a transaction took back, and where to
 * read on. Offsets have gaps: compaction takes records away, transactions have markers of their own.
 */
export function readBatches(
  batches: readonly RecordsBatch[],
  from: number,
  aborted: Aborted,
): { records: { offset: number; at: number; record: RecordsBatch['records'][number] }[]; next: number } {
  const records: { offset: number; at: number; record: RecordsBatch['records'][number] }[] = []
  const toCome = [...(aborted ?? [])].sort((a, b) => Number(a.firstOffset - b.firstOffset))
  const undone = new Set<bigint>()
  let next = from
  for (const batch of batches) {
    const first = Number(batch.firstOffset)
    next = Math.max(next, first + batch.lastOffsetDelta + 1)
    while (toCome.length > 0 && Number(toCome[0]!.firstOffset) < next) undone.add(toCome.shift()!.producerId)
    if (batch.attributes & CONTROL_BATCH) {
      if (batch.records[0]?.key?.readInt16BE(2) === ABORT_MARKER) undone.delete(batch.producerId)
      continue
    }
    if (batch.attributes & TRANSACTIONAL_BATCH && undone.has(batch.producerId)) continue
    const at = Number(batch.firstTimestamp)
    for (const record of batch.records) {
      const offset = first + record.offsetDelta
      if (offset >= from) records.push({ offset, at: at + Number(record.timestampDelta), record })
    }
  }
  return { records, next }
}

/** The message that lies in a record of this topic. */
export function decodeRecord(
  record: RecordsBatch['records'][number],
  place: { owner: string; topic: string; partition: number; offset: number },
): WireMessage {
  let id: string | undefined
  let type: string | undefined
  let body: string | undefined
  const headers: Record<string, string> = {}
  for (const [nameBytes, valueBytes] of record.headers) {
    const name = nameBytes?.toString() ?? ''
    const value = valueBytes === null ? '' : valueBytes.toString()
    if (name === ID && id === undefined) id = value
    else if (name === TYPE && type === undefined) type = value
    else if (name === BODY && body === undefined) body = value
    else setOwn(headers, name, value)
  }
  const value = record.value ?? Buffer.alloc(0)
  return {
    id: id ?? `${place.topic}/${place.partition}/${place.offset}`,
    type: type ?? place.owner,
    key: record.key === null ? null : record.key.toString(),
    headers,
    // A copy, or one small message would keep the whole answer in memory.
    body: body === 'text' ? value.toString() : new Uint8Array(value),
  }
}

function setOwn(headers: Record<string, string>, name: string, value: string): void {
  if (name === '__proto__')
    Object.defineProperty(headers, name, { value, enumerable: true, configurable: true, writable: true })
  else headers[name] = value
}
