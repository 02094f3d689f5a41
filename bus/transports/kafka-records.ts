/**
 * How a message lies in a record: its key, its body as the value, and as headers first ours (id, type, whether the body is
 * text), then its own. A record without ours is a stranger's, and gets an id that is the same each time it is read.
 *
 * Batches are written here, not by the client: one pass into one buffer. Layout: https://kafka.apache.org/documentation/#messageformat
 */
import { compressionsAlgorithmsByBitmask, crc32c } from '@platformatic/kafka'
import type { WireMessage } from '../message.ts'

/** `body: null` deletes its key from a compacted topic. */
export type Outgoing = Omit<WireMessage, 'body'> & { readonly body: WireMessage['body'] | null }

export type Measured = { readonly message: Outgoing; readonly at: number; readonly bytesMax: number }

export type Incoming = { readonly offset: number; readonly at: number; readonly message: WireMessage }

const ID = 'bus-id'
const TYPE = 'bus-type'
const BODY = 'bus-body'
const TEXT = 'text'
const TEXT_BYTES = Buffer.from(TEXT)
const BATCH_HEAD_BYTES = 61
const CRC_AT = 17
const CRC_FROM = 21
const VARINT_BYTES_MAX = 5
/** Length, attributes, two deltas, two lengths and a count, each at most a varint, and our own headers' names. */
const RECORD_HEAD_BYTES_MAX = 7 * VARINT_BYTES_MAX + 4 * (ID.length + TYPE.length + BODY.length)
const LENGTH_COUNTS_FROM = 12
const COMPRESSION = 0b111
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
  at = writeText(buffer, writeText(buffer, at, BODY), typeof message.body === 'string' ? TEXT : 'bytes')
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

/** Called for each record, `body` standing before its key. */
export type RecordVisitor = (body: RecordBytes, offset: number, at: number) => void

/**
 * Reads the batches of one partition's part of an answer: calls `visit` for each record from `from` on that no transaction
 * took back, and answers where to read on. Offsets have gaps: compaction takes records away, transactions have markers of
 * their own. The last batch may be cut off; it comes whole next time.
 */
export function readBatches(bytes: Buffer | null, from: number, aborted: Aborted, visit: RecordVisitor): number {
  const toCome = [...(aborted ?? [])].sort((a, b) => Number(a.firstOffset - b.firstOffset))
  const undone = new Set<bigint>()
  let next = from
  for (let start = 0; bytes !== null && start + BATCH_HEAD_BYTES <= bytes.length; ) {
    const end = start + LENGTH_COUNTS_FROM + bytes.readInt32BE(start + 8)
    if (end > bytes.length) break
    const first = readOffset(bytes, start)
    const attributes = bytes.readInt16BE(start + CRC_FROM)
    const producerId = bytes.readBigInt64BE(start + 43)
    next = Math.max(next, first + bytes.readInt32BE(start + 23) + 1)
    while (toCome.length > 0 && Number(toCome[0]!.firstOffset) < next) undone.add(toCome.shift()!.producerId)
    const takenBack = (attributes & TRANSACTIONAL_BATCH) !== 0 && undone.has(producerId)
    const records = recordsOf(bytes.subarray(start + BATCH_HEAD_BYTES, end), attributes)
    const isControl = (attributes & CONTROL_BATCH) !== 0
    const count = bytes.readInt32BE(start + 57)
    if (isControl && isAbort(records, count)) undone.delete(producerId)
    if (!isControl && !takenBack) visitRecords(records, count, first, readOffset(bytes, start + 27), from, visit)
    start = end
  }
  return next
}

type Decompression = { decompressSync(bytes: Buffer): Buffer }

/** Offsets and times are far below 2^53. */
function readOffset(bytes: Buffer, at: number): number {
  return bytes.readInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4)
}

function recordsOf(bytes: Buffer, attributes: number): RecordBytes {
  const compression = attributes & COMPRESSION
  if (compression === 0) return new RecordBytes(bytes)
  const algorithm = (compressionsAlgorithmsByBitmask as Record<number, Decompression | undefined>)[compression]
  if (!algorithm) throw new Error(`a batch is compressed in a way (${compression}) that this client does not know`)
  return new RecordBytes(algorithm.decompressSync(bytes))
}

function visitRecords(
  records: RecordBytes,
  count: number,
  firstOffset: number,
  firstAt: number,
  from: number,
  visit: RecordVisitor,
): void {
  for (let index = 0; index < count; index++) {
    const length = records.varint()
    const end = records.position + length
    records.position += 1
    const at = firstAt + records.varint()
    const offset = firstOffset + records.varint()
    if (offset >= from) visit(records, offset, at)
    records.position = end
  }
}

function isAbort(records: RecordBytes, count: number): boolean {
  if (count === 0) return false
  records.varint()
  records.position += 1
  records.varint()
  records.varint()
  return records.varint() >= 4 && records.bytes.readInt16BE(records.position + 2) === ABORT_MARKER
}

/** Reads what stands in a record, one field after another. No Buffer is made for a field: they cost more than the text. */
export class RecordBytes {
  readonly bytes: Buffer
  position = 0

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  varint(): number {
    let value = 0
    let scale = 1
    for (let byte = 0x80; byte >= 0x80; scale *= 128) {
      byte = this.bytes[this.position++]!
      value += (byte & 0x7f) * scale
    }
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }

  /** Null: there is none. */
  text(): string | null {
    const length = this.varint()
    if (length < 0) return null
    const from = this.position
    this.position += length
    return length === 0 ? '' : this.bytes.toString('utf8', from, this.position)
  }

  /** The same text as `known`, which is then not made again; else a new one. */
  textLike(known: string, knownBytes: Buffer): string | null {
    const from = this.position
    const { length } = knownBytes
    if (this.varint() === length) {
      let same = 0
      while (same < length && this.bytes[this.position + same] === knownBytes[same]) same++
      if (same === length) {
        this.position += length
        return known
      }
    }
    this.position = from
    return this.text()
  }
}

/** The message that lies in a record of this owner's topic; see `RecordVisitor`. */
export function decodeRecord(
  record: RecordBytes,
  place: { readonly owner: string; readonly topic: string; readonly partition: number },
  offset: number,
): WireMessage {
  const key = record.text()
  const valueLength = record.varint()
  const valueFrom = record.position
  record.position += Math.max(0, valueLength)
  let id: string | null = null
  let type: string | null = null
  let body: string | null = null
  const headers: Record<string, string> = {}
  for (let left = record.varint(); left > 0; left--) {
    const name = nameOf(record)
    if (name === ID && id === null) id = record.text()
    else if (name === TYPE && type === null) type = typeOf(record)
    else if (name === BODY && body === null) body = record.textLike(TEXT, TEXT_BYTES)
    else setOwn(headers, name, record.text() ?? '')
  }
  const valueTo = valueFrom + Math.max(0, valueLength)
  return {
    id: id ?? `${place.topic}/${place.partition}/${offset}`,
    type: type ?? place.owner,
    key,
    headers,
    // A copy, or one small message would keep the whole answer in memory.
    body:
      body === TEXT
        ? record.bytes.toString('utf8', valueFrom, valueTo)
        : Uint8Array.prototype.slice.call(record.bytes, valueFrom, valueTo),
  }
}

/** Key and value of a record as text. */
export function decodePlain(record: RecordBytes): { key: string | null; value: string | null } {
  return { key: record.text(), value: record.text() }
}

const ID_BYTES = Buffer.from(ID)
const TYPE_BYTES = Buffer.from(TYPE)
const BODY_BYTES = Buffer.from(BODY)

function nameOf(record: RecordBytes): string {
  // Told apart by their lengths and read by one comparison each.
  const from = record.position
  const length = record.varint()
  record.position = from
  if (length === ID_BYTES.length) return record.textLike(ID, ID_BYTES) ?? ''
  if (length !== TYPE_BYTES.length) return record.text() ?? ''
  if (record.bytes[from + 1 + BODY.length - 1] === BODY_BYTES[BODY.length - 1])
    return record.textLike(BODY, BODY_BYTES) ?? ''
  return record.textLike(TYPE, TYPE_BYTES) ?? ''
}

/** One type comes many times in a row. */
let lastType = { text: '', bytes: Buffer.alloc(0) }

function typeOf(record: RecordBytes): string | null {
  const type = record.textLike(lastType.text, lastType.bytes)
  if (type !== null && type !== lastType.text) lastType = { text: type, bytes: Buffer.from(type) }
  return type
}

function setOwn(headers: Record<string, string>, name: string, value: string): void {
  if (name === '__proto__')
    Object.defineProperty(headers, name, { value, enumerable: true, configurable: true, writable: true })
  else headers[name] = value
}
