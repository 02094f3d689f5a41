import type { Codec } from '../codec.ts'
import { BusError } from '../errors.ts'
import type { Message } from '../message.ts'
import { hasKeys, toForeignEnvelope, toMessage } from './envelope.ts'

const OPENING_BRACE = 0x7b
const utf8 = new TextDecoder('utf-8', { fatal: true })

/** CloudEvents 1.0 in structured JSON. Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md */
export const jsonCodec: Codec = {
  contentType: 'application/cloudevents+json',
  encode: cloudEventText,
  recognises: isJson,
  decode: decodeJson,
}

/** `{type, data, metadata: {eventId, timestamp, source, version}}`, for programs that know events in that shape alone. */
export const foreignEnvelopeCodec: Codec = {
  contentType: 'application/json',
  encode: (message) => JSON.stringify(toForeignEnvelope(message)),
  recognises: isJson,
  decode: decodeJson,
}

function isJson(firstByte: number): boolean {
  return (
    firstByte === OPENING_BRACE || firstByte === 0x20 || firstByte === 0x0a || firstByte === 0x0d || firstByte === 0x09
  )
}

/** Either shape: which one it is stands in what was parsed. */
function decodeJson(body: string | Uint8Array): Message {
  let parsed: unknown
  try {
    parsed = JSON.parse(typeof body === 'string' ? body : utf8.decode(body))
  } catch (cause) {
    throw new BusError('undecodable', `not JSON: ${(cause as Error).message}`, { cause })
  }
  return toMessage(parsed)
}

/** Written by hand, as JSON.stringify of the whole would write it, at twice its speed: every publication comes through here. */
function cloudEventText(message: Message): string {
  const { key, causationId, traceparent, headers } = message
  let text = `{"specversion":"1.0","id":${quoted(message.id)},"type":"${message.type}","source":${quoted(message.source)}`
  text += `,"time":"${isoTime(message.time)}","datacontenttype":"application/json","dataversion":${message.version}`
  if (key !== null) text += `,"partitionkey":${quoted(key)}`
  text += `,"correlationid":${quoted(message.correlationId)}`
  if (causationId !== null) text += `,"causationid":${quoted(causationId)}`
  if (traceparent !== null) text += `,"traceparent":${quoted(traceparent)}`
  if (hasKeys(headers)) text += `,"headers":${JSON.stringify(headers)}`
  return `${text},"data":${JSON.stringify(message.data)}}`
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
