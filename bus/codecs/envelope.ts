/**
 * The two shapes that a message may have, whatever the format of its bytes: CloudEvents 1.0, and the plain envelope
 * `{type, data, metadata}` of other people's programs.
 */
import { BusError } from '../errors.ts'
import type { Message } from '../message.ts'

type Fields = Readonly<Record<string, unknown>>

/** A message as a CloudEvent in structured form. Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md */
export function toCloudEvent(message: Message): Fields {
  const { key, correlationId, causationId, traceparent, headers } = message
  return {
    specversion: '1.0',
    id: message.id,
    type: message.type,
    source: message.source,
    time: new Date(message.time).toISOString(),
    dataversion: message.version,
    ...(key === null ? {} : { partitionkey: key }),
    correlationid: correlationId,
    ...(causationId === null ? {} : { causationid: causationId }),
    ...(traceparent === null ? {} : { traceparent }),
    ...(hasKeys(headers) ? { headers } : {}),
    data: message.data,
  }
}

/**
 * A message as `{type, data, metadata: {eventId, timestamp, source, version}}`. What that envelope has no name for stands in
 * `metadata` beside them, where those who do not know it do not look.
 */
export function toForeignEnvelope(message: Message): Fields {
  const { key, correlationId, causationId, traceparent, headers } = message
  return {
    type: message.type,
    data: message.data,
    metadata: {
      eventId: message.id,
      timestamp: new Date(message.time).toISOString(),
      source: message.source,
      version: `${message.version}.0`,
      ...(key === null ? {} : { key }),
      correlationId,
      ...(causationId === null ? {} : { causationId }),
      ...(traceparent === null ? {} : { traceparent }),
      ...(hasKeys(headers) ? { headers } : {}),
    },
  }
}

/** What was parsed, in either shape, as a message. Throws `undecodable`, naming what is missing. */
export function toMessage(parsed: unknown): Message {
  if (!isFields(parsed)) throw new BusError('undecodable', 'not a CloudEvent: no JSON object')
  return isFields(parsed.metadata) && parsed.specversion === undefined
    ? fromForeignEnvelope(parsed, parsed.metadata)
    : fromCloudEvent(parsed)
}

function fromCloudEvent(event: Fields): Message {
  const what = 'a CloudEvent'
  const time = Date.parse(text(event, 'time', what))
  if (Number.isNaN(time)) throw new BusError('undecodable', `not a CloudEvent: time '${event.time}' is no date`)
  const version = event.dataversion ?? 1
  if (!Number.isSafeInteger(version)) throw new BusError('undecodable', `dataversion '${version}' is no whole number`)
  const id = text(event, 'id', what)
  return {
    id,
    type: text(event, 'type', what),
    version: version as number,
    source: text(event, 'source', what),
    time,
    key: optionalText(event, 'partitionkey', what),
    correlationId: optionalText(event, 'correlationid', what) ?? id,
    causationId: optionalText(event, 'causationid', what),
    traceparent: optionalText(event, 'traceparent', what),
    headers: (event.headers as Record<string, string> | undefined) ?? {},
    data: event.data,
  }
}

function fromForeignEnvelope(envelope: Fields, metadata: Fields): Message {
  const what = 'a {type, data, metadata} envelope'
  const id = text(metadata, 'eventId', what)
  return {
    id,
    type: text(envelope, 'type', what),
    version: majorVersion(metadata.version),
    source: text(metadata, 'source', what),
    time: timeOf(metadata.timestamp),
    key: optionalText(metadata, 'key', what),
    correlationId: optionalText(metadata, 'correlationId', what) ?? id,
    causationId: optionalText(metadata, 'causationId', what),
    traceparent: optionalText(metadata, 'traceparent', what),
    headers: textsOf(metadata.headers),
    data: envelope.data,
  }
}

/** `2`, `"2"`, `"2.1"`, `"v2"` and `"2.1.0"` are version 2; none is version 1. */
function majorVersion(version: unknown): number {
  if (version === undefined || version === null) return 1
  const major = /^v?(\d{1,9})(?:\.\d+)*$/.exec(String(version))?.[1]
  if (major !== undefined && Number(major) >= 1) return Number(major)
  throw new BusError('undecodable', `not a {type, data, metadata} envelope: version '${version}' has no whole number`)
}

/** A date as text, or milliseconds since the epoch. */
function timeOf(timestamp: unknown): number {
  const time = typeof timestamp === 'number' ? timestamp : Date.parse(String(timestamp))
  if (Number.isFinite(time) && !Number.isNaN(new Date(time).getTime())) return Math.floor(time)
  throw new BusError('undecodable', `not a {type, data, metadata} envelope: timestamp '${timestamp}' is no date`)
}

function textsOf(headers: unknown): Readonly<Record<string, string>> {
  if (!isFields(headers)) return {}
  return Object.fromEntries(
    Object.entries(headers).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  )
}

function text(fields: Fields, name: string, what: string): string {
  const value = fields[name]
  if (typeof value === 'string' && value !== '') return value
  throw new BusError('undecodable', `not ${what}: '${name}' is missing`)
}

function optionalText(fields: Fields, name: string, what: string): string | null {
  const value = fields[name]
  if (value === undefined || value === null) return null
  if (typeof value === 'string') return value
  throw new BusError('undecodable', `not ${what}: '${name}' is no text`)
}

export function hasKeys(headers: object): boolean {
  for (const _ in headers) return true
  return false
}

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null
