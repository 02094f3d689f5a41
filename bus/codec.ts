import { BusError } from './errors.ts'
import type { Message } from './message.ts'

/** How a message becomes bytes. One per bus; what it wrote is read back by the codec of that content type. */
export type Codec = {
  readonly contentType: string
  encode(message: Message): string | Uint8Array
  /** Throws `undecodable`. */
  decode(body: string | Uint8Array): Message
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** CloudEvents 1.0 in structured JSON. Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md */
export const jsonCodec: Codec = {
  contentType: 'application/cloudevents+json',

  encode(message) {
    // Written by hand, as JSON.stringify of the whole would write it, at twice its speed: every publication comes through here.
    const { key, causationId, traceparent, headers } = message
    let text = `{"specversion":"1.0","id":${quoted(message.id)},"type":"${message.type}","source":${quoted(message.source)}`
    text += `,"time":"${isoTime(message.time)}","datacontenttype":"application/json","dataversion":${message.version}`
    if (key !== null) text += `,"partitionkey":${quoted(key)}`
    text += `,"correlationid":${quoted(message.correlationId)}`
    if (causationId !== null) text += `,"causationid":${quoted(causationId)}`
    if (traceparent !== null) text += `,"traceparent":${quoted(traceparent)}`
    if (hasKeys(headers)) text += `,"headers":${JSON.stringify(headers)}`
    return `${text},"data":${JSON.stringify(message.data)}}`
  },

  decode(body) {
    let parsed: unknown
    try {
      parsed = JSON.parse(typeof body === 'string' ? body : utf8.decode(body))
    } catch (cause) {
      throw new BusError('undecodable', `not JSON: ${(cause as Error).message}`, { cause })
    }
    return fromCloudEvent(parsed)
  },
}

function fromCloudEvent(parsed: unknown): Message {
  if (typeof parsed !== 'object' || parsed === null)
    throw new BusError('undecodable', 'not a CloudEvent: no JSON object')
  const event = parsed as Record<string, unknown>
  const time = Date.parse(text(event, 'time'))
  if (Number.isNaN(time)) throw new BusError('undecodable', `not a CloudEvent: time '${event.time}' is no date`)
  const version = event.dataversion ?? 1
  if (!Number.isSafeInteger(version)) throw new BusError('undecodable', `dataversion '${version}' is no whole number`)
  const id = text(event, 'id')
  return {
    id,
    type: text(event, 'type'),
    version: version as number,
    source: text(event, 'source'),
    time,
    key: optionalText(event, 'partitionkey'),
    correlationId: optionalText(event, 'correlationid') ?? id,
    causationId: optionalText(event, 'causationid'),
    traceparent: optionalText(event, 'traceparent'),
    headers: (event.headers as Record<string, string> | undefined) ?? {},
    data: event.data,
  }
}

/** Ids need no escape, and are most of what comes here. */
const PLAIN = /^[\w.:/-]*$/

function quoted(value: string): string {
  return PLAIN.test(value) ? `"${value}"` : JSON.stringify(value)
}

let lastTime = Number.NaN
let lastIso = ''

function isoTime(time: number): string {
  if (time !== lastTime) {
    lastIso = new Date(time).toISOString()
    lastTime = time
  }
  return lastIso
}

function text(event: Record<string, unknown>, name: string): string {
  const value = event[name]
  if (typeof value === 'string' && value !== '') return value
  throw new BusError('undecodable', `not a CloudEvent: '${name}' is missing`)
}

function optionalText(event: Record<string, unknown>, name: string): string | null {
  const value = event[name]
  if (value === undefined || value === null) return null
  if (typeof value === 'string') return value
  throw new BusError('undecodable', `not a CloudEvent: '${name}' is no text`)
}

function hasKeys(headers: object): boolean {
  for (const _ in headers) return true
  return false
}
