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
    return JSON.stringify({
      specversion: '1.0',
      id: message.id,
      type: message.type,
      source: message.source,
      time: new Date(message.time).toISOString(),
      datacontenttype: 'application/json',
      dataversion: message.version,
      partitionkey: message.key ?? undefined,
      correlationid: message.correlationId,
      causationid: message.causationId ?? undefined,
      traceparent: message.traceparent ?? undefined,
      headers: hasKeys(message.headers) ? message.headers : undefined,
      data: message.data,
    })
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
