import { BusError } from './errors.ts'
import type { EventType, Schema } from './event.ts'
import { matcher } from './routing.ts'

export type AsyncapiOptions = {
  title: string
  /** Of the description as a whole, as `1.4.0`. */
  version: string
  description?: string
  events: readonly EventType[]
  /** Who hears what: types, or patterns as in `bus.subscribe`: `order.*`, `#`. */
  subscriptions?: readonly { readonly service: string; readonly types: readonly string[] }[]
}

/** A JSON object of an AsyncAPI document. */
export type Json = { [name: string]: unknown }

/** What Standard JSON Schema (https://standardschema.dev/json-schema) adds to Standard Schema. */
type StandardJsonSchema = { readonly input: (options: { target: 'draft-07' }) => Json }

/** AsyncAPI's own schema language is a superset of this draft. */
const JSON_SCHEMA_TARGET = 'draft-07'

/**
 * The events as an AsyncAPI 3.0.0 document, ready for JSON: a channel for each type, a `send` operation of its owner,
 * a `receive` operation of each service that subscribes to it. Payloads are what `jsonCodec` writes: CloudEvents 1.0 in
 * structured JSON. Throws `invalid_argument` for two events of one type and for a subscription that hears none of them.
 * Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
 */
export function asyncapi({ title, version, description, events, subscriptions = [] }: AsyncapiOptions): Json {
  refuseRepeats(events)
  return {
    asyncapi: '3.0.0',
    info: {
      title,
      version,
      ...(description === undefined ? {} : { description }),
      tags: tagsOf(events, subscriptions),
    },
    defaultContentType: 'application/cloudevents+json',
    channels: byType(events, channelOf),
    operations: Object.fromEntries([...events.map(sendOf), ...subscriptions.flatMap((one) => receivesOf(one, events))]),
    components: {
      messages: byType(events, messageOf),
      schemas: { cloudEvent, ...byType(events, dataSchemaOf) },
    },
  }
}

function byType(events: readonly EventType[], describe: (event: EventType) => Json): Json {
  return Object.fromEntries(events.map((event) => [event.type, describe(event)]))
}

function channelOf({ type, summary }: EventType): Json {
  return {
    address: type,
    ...(summary ? { summary } : {}),
    messages: { [type]: { $ref: `#/components/messages/${type}` } },
  }
}

function sendOf({ type, owner, summary }: EventType): [string, Json] {
  return [`${owner}.sends.${type}`, operation('send', owner, type, summary)]
}

function receivesOf(
  { service, types }: NonNullable<AsyncapiOptions['subscriptions']>[number],
  events: readonly EventType[],
): [string, Json][] {
  for (const pattern of types) refuseDeaf(service, pattern, events)
  if (types.length === 0) return []
  const hears = matcher(types.map((pattern) => ({ kind: 'topic', pattern })))
  return events
    .filter(({ type }) => hears({ type, headers: {} }))
    .map(({ type, summary }) => [`${service}.receives.${type}`, operation('receive', service, type, summary)])
}

function operation(action: 'send' | 'receive', service: string, type: string, summary: string): Json {
  return {
    action,
    channel: { $ref: `#/channels/${type}` },
    ...(summary ? { summary } : {}),
    tags: [{ name: service }],
    messages: [{ $ref: `#/channels/${type}/messages/${type}` }],
  }
}

function messageOf(event: EventType): Json {
  const { type, version, owner, summary, example } = event
  return {
    name: type,
    title: `${type}, version ${version}`,
    ...(summary ? { summary } : {}),
    contentType: 'application/cloudevents+json',
    tags: [{ name: owner }],
    correlationId: {
      description: 'Shared by everything that one request set off',
      location: '$message.payload#/correlationid',
    },
    payload: {
      allOf: [
        { $ref: '#/components/schemas/cloudEvent' },
        {
          type: 'object',
          required: ['data'],
          properties: {
            type: { const: type },
            source: { const: owner },
            dataversion: { const: version },
            data: { $ref: `#/components/schemas/${type}` },
          },
        },
      ],
    },
    ...(example === undefined ? {} : { examples: [{ name: 'example', payload: exampleMessage(event) }] }),
  }
}

/** The example as a whole message. Its ids and its time are made up, and the same in every document. */
function exampleMessage({ type, version, owner, key, example }: EventType): Json {
  const partitionkey = key(example)
  return {
    specversion: '1.0',
    id: '01939c1e-7000-7000-8000-0000000000ff',
    type,
    source: owner,
    time: '2024-12-06T12:00:00.000Z',
    datacontenttype: 'application/json',
    dataversion: version,
    ...(partitionkey === null ? {} : { partitionkey }),
    correlationid: '01939c1e-7000-7000-8000-0000000000fe',
    data: example,
  }
}

function dataSchemaOf({ type, version, schema }: EventType): Json {
  const { $schema: _, ...jsonSchema } = jsonSchemaOf(schema) ?? {
    description: `No JSON Schema: the schema library (${schema['~standard'].vendor}) cannot give one of ${type} version ${version}`,
  }
  return withRefsUnder(`#/components/schemas/${type}`, jsonSchema) as Json
}

/** What may be sent, so that a consumer takes fields which it does not know yet. Undefined: the library has no way to say it. */
function jsonSchemaOf(schema: Schema<unknown>): Json | undefined {
  const standard: Schema<unknown>['~standard'] & { jsonSchema?: StandardJsonSchema } = schema['~standard']
  try {
    return standard.jsonSchema?.input({ target: JSON_SCHEMA_TARGET })
  } catch {
    return undefined // Standard JSON Schema: throws for what JSON Schema cannot express
  }
}

/** A schema's references to its own root (`#/definitions/line`) stay right inside the larger document. */
function withRefsUnder(root: string, value: unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => withRefsUnder(root, item))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, inside]) =>
      name === '$ref' && typeof inside === 'string' && inside.startsWith('#')
        ? [name, root + inside.slice(1)]
        : [name, withRefsUnder(root, inside)],
    ),
  )
}

function tagsOf(events: readonly EventType[], subscriptions: readonly { service: string }[]): Json[] {
  const services = new Set([...events.map(({ owner }) => owner), ...subscriptions.map(({ service }) => service)])
  return [...services].map((name) => ({ name, description: `What ${name} says and hears` }))
}

function refuseRepeats(events: readonly EventType[]): void {
  const types = new Set<string>()
  for (const { type } of events) {
    if (types.has(type)) throw new BusError('invalid_argument', `asyncapi: two events are called '${type}'; keep one`)
    types.add(type)
  }
}

function refuseDeaf(service: string, pattern: string, events: readonly EventType[]): void {
  const hears = matcher([{ kind: 'topic', pattern }])
  if (events.some(({ type }) => hears({ type, headers: {} }))) return
  throw new BusError(
    'invalid_argument',
    `asyncapi: ${service} subscribes to '${pattern}', which none of the events is; correct it or add the event`,
  )
}

const text = { type: 'string', minLength: 1 }

/** The attributes that every message has, as `jsonCodec` writes them. */
const cloudEvent: Json = {
  title: 'CloudEvents 1.0, structured JSON',
  description:
    'With the extensions partitionkey and traceparent (https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents/extensions), and our dataversion, correlationid, causationid and headers.',
  type: 'object',
  required: ['specversion', 'id', 'type', 'source', 'time', 'dataversion', 'correlationid', 'data'],
  properties: {
    specversion: { const: '1.0' },
    id: { ...text, description: 'UUIDv7; a repeat of a message is recognised by it' },
    type: { ...text, description: 'The event’s type, which is also its routing key' },
    source: { ...text, description: 'The service that said it' },
    time: { type: 'string', format: 'date-time', description: 'When it was said' },
    datacontenttype: { const: 'application/json' },
    dataversion: { type: 'integer', minimum: 1, description: 'The version of the schema that data has' },
    partitionkey: { ...text, description: 'Messages of one key are handled in order; without it, in any order' },
    correlationid: { ...text, description: 'Shared by everything that one request set off' },
    causationid: { ...text, description: 'The id of the message whose handling published this one' },
    traceparent: { ...text, description: 'W3C Trace Context' },
    headers: { type: 'object', additionalProperties: { type: 'string' }, description: 'For headers routing' },
  },
}
