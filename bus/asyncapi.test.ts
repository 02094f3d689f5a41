import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type AsyncapiOptions, asyncapi, type Json } from './asyncapi.ts'
import { jsonCodec } from './codecs/json.ts'
import { type EventType, event, type Schema } from './event.ts'

/** A schema as a library with Standard JSON Schema would give it. */
function schemaWith(jsonSchema?: () => Json): Schema<{ orderId: string }> {
  const standard = {
    version: 1 as const,
    vendor: 'a test',
    validate: (value: unknown) => ({ value: value as { orderId: string } }),
    ...(jsonSchema ? { jsonSchema: { input: jsonSchema, output: jsonSchema } } : {}),
  }
  return { '~standard': standard }
}

const ofOrderId = () => ({
  $schema: 'http://json-schema.org/draft-07/schema#',
  type: 'object',
  properties: { orderId: { type: 'string' } },
  required: ['orderId'],
})

function orderEvent(type: string, schema = schemaWith(ofOrderId), owner?: string): EventType {
  return event(type, {
    version: 1,
    schema,
    key: (order) => order.orderId,
    summary: `${type} is said`,
    example: { orderId: 'ord_1' },
    ...(owner ? { owner } : {}),
  })
}

const events = [
  orderEvent('order.placed'),
  orderEvent('payment.processed'),
  orderEvent('order.shipped', undefined, 'shipping'),
]

function describe(options: Partial<AsyncapiOptions> = {}) {
  const document = asyncapi({ title: 'A shop', version: '1.0.0', events, ...options })
  assert.deepEqual(problemsOf(document), [])
  return document
}

test('each event has a channel, its message with schema and example, and its owner’s send operation', () => {
  const document = describe({ description: 'What services tell each other' })
  assert.deepEqual(document.info, {
    title: 'A shop',
    version: '1.0.0',
    description: 'What services tell each other',
    tags: ['order', 'payment', 'shipping'].map((name) => ({ name, description: `What ${name} says and hears` })),
  })
  assert.deepEqual(Object.keys(at(document, '#/channels')), ['order.placed', 'payment.processed', 'order.shipped'])
  assert.equal(at(document, '#/channels/order.placed').address, 'order.placed')
  assert.deepEqual(Object.keys(at(document, '#/operations')), [
    'order.sends.order.placed',
    'payment.sends.payment.processed',
    'shipping.sends.order.shipped',
  ])
  const { $schema: _, ...schema } = ofOrderId()
  assert.deepEqual(at(document, '#/components/schemas/order.placed'), schema)
})

test('the example is a message that the codec reads', () => {
  const [example] = at(describe(), '#/components/messages/order.shipped').examples as { payload: Json }[]
  const message = jsonCodec.decode(JSON.stringify(example!.payload))
  assert.equal(message.type, 'order.shipped')
  assert.equal(message.source, 'shipping')
  assert.equal(message.key, 'ord_1')
  assert.deepEqual(message.data, { orderId: 'ord_1' })
})

test('the attributes described are those that the codec writes', () => {
  const written = jsonCodec.encode({
    id: '1',
    type: 'order.placed',
    version: 1,
    source: 'order',
    time: 0,
    key: 'k',
    correlationId: 'c',
    causationId: 'd',
    traceparent: 't',
    headers: { a: 'b' },
    data: {},
  })
  const { required, properties } = at(describe(), '#/components/schemas/cloudEvent') as {
    required: string[]
    properties: Json
  }
  assert.deepEqual(Object.keys(JSON.parse(String(written))).sort(), [...Object.keys(properties), 'data'].sort())
  for (const name of required) assert.ok(JSON.parse(String(written))[name] !== undefined, name)
})

test('subscribers receive what their types and patterns match, each once', () => {
  const subscriptions = [
    { service: 'payment', types: ['order.placed'] },
    { service: 'notification', types: ['order.*', 'order.shipped'] },
    { service: 'audit', types: ['#'] },
    { service: 'idle', types: [] },
  ]
  const receives = Object.entries(at(describe({ subscriptions }), '#/operations') as Record<string, Json>)
    .filter(([, { action }]) => action === 'receive')
    .map(([name]) => name)
  assert.deepEqual(receives, [
    'payment.receives.order.placed',
    'notification.receives.order.placed',
    'notification.receives.order.shipped',
    'audit.receives.order.placed',
    'audit.receives.payment.processed',
    'audit.receives.order.shipped',
  ])
})

test('a schema without JSON Schema is described in words and takes anything', () => {
  const unable = schemaWith(() => {
    throw new Error('a transform cannot be expressed')
  })
  for (const schema of [schemaWith(), unable]) {
    const document = describe({ events: [orderEvent('order.placed', schema)] })
    assert.deepEqual(at(document, '#/components/schemas/order.placed'), {
      description: 'No JSON Schema: the schema library (a test) cannot give one of order.placed version 1',
    })
  }
})

test('references inside a schema resolve inside the document', () => {
  const tree = () => ({ $ref: '#/definitions/node', definitions: { node: { properties: { child: { $ref: '#' } } } } })
  const document = describe({ events: [orderEvent('order.placed', schemaWith(tree))] })
  assert.equal(
    at(document, '#/components/schemas/order.placed').$ref,
    '#/components/schemas/order.placed/definitions/node',
  )
})

test('an event without summary or example is described all the same', () => {
  const bare = event('order.placed', { version: 1, schema: schemaWith(ofOrderId), key: () => null })
  const message = at(describe({ events: [bare] }), '#/components/messages/order.placed')
  assert.equal('examples' in message, false)
  assert.equal('summary' in message, false)
})

test('two events of one type, and a subscription that hears nothing, are refused by name', () => {
  assert.throws(
    () => describe({ events: [...events, orderEvent('order.placed')] }),
    /two events are called 'order.placed'/,
  )
  const deaf = [{ service: 'cart', types: ['order.placed', 'product.*'] }]
  assert.throws(() => describe({ subscriptions: deaf }), {
    code: 'invalid_argument',
    message: /cart subscribes to 'product\.\*'/,
  })
})

test('the document is plain JSON, and the same each time', () => {
  const document = describe()
  assert.deepEqual(JSON.parse(JSON.stringify(document)), document)
  assert.deepEqual(describe(), document)
})

test('the check of a document finds what is broken', () => {
  const document = describe()
  at(document, '#/channels/order.placed').messages = {}
  at(document, '#/operations/payment.sends.payment.processed').channel = { $ref: '#/channels/gone' }
  assert.deepEqual(problemsOf(document), [
    'channel order.placed: no message',
    'operation order.sends.order.placed: a message that is not of its channel',
    'operation payment.sends.payment.processed: no channel',
    'operation payment.sends.payment.processed: a message that is not of its channel',
    'ref #/channels/order.placed/messages/order.placed: leads nowhere',
    'ref #/channels/gone: leads nowhere',
  ])
})

/** What AsyncAPI 3.0.0 asks of a document, as far as ours can go wrong. */
function problemsOf(document: Json): string[] {
  return [
    ...(document.asyncapi === '3.0.0' ? [] : ['not AsyncAPI 3.0.0']),
    ...Object.entries(at(document, '#/channels') as Record<string, Json>).flatMap(([name, channel]) => [
      ...(typeof channel.address === 'string' ? [] : [`channel ${name}: no address`]),
      ...(Object.keys((channel.messages as Json) ?? {}).length > 0 ? [] : [`channel ${name}: no message`]),
    ]),
    ...Object.entries(at(document, '#/operations') as Record<string, Json>).flatMap(([name, operation]) =>
      operationProblems(document, name, operation),
    ),
    ...['messages', 'schemas'].flatMap((kind) =>
      Object.keys(at(document, `#/components/${kind}`))
        .filter((name) => !/^[a-zA-Z0-9.\-_]+$/.test(name))
        .map((name) => `component ${name}: not a name`),
    ),
    ...refsOf(document)
      .filter((ref) => resolve(document, ref) === undefined)
      .map((ref) => `ref ${ref}: leads nowhere`),
  ]
}

function operationProblems(document: Json, name: string, operation: Json): string[] {
  const channelRef = (operation.channel as { $ref: string }).$ref
  const channel = resolve(document, channelRef)
  const messages = operation.messages as { $ref: string }[]
  const ofChannel = ({ $ref }: { $ref: string }) =>
    channel !== undefined && $ref.startsWith(`${channelRef}/messages/`) && resolve(document, $ref) !== undefined
  return [
    ...(['send', 'receive'].includes(String(operation.action)) ? [] : [`operation ${name}: no action`]),
    ...(channel ? [] : [`operation ${name}: no channel`]),
    ...(messages.length > 0 && messages.every(ofChannel)
      ? []
      : [`operation ${name}: a message that is not of its channel`]),
  ]
}

function refsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, inside]) =>
    name === '$ref' && typeof inside === 'string' ? [inside] : refsOf(inside),
  )
}

/** What a `#/…` pointer leads to; undefined: nothing. */
function resolve(document: Json, pointer: string): Json | undefined {
  let found: unknown = document
  for (const step of pointer.split('/').slice(1)) found = (found as Json | undefined)?.[step]
  return found as Json | undefined
}

function at(document: Json, pointer: string): Json {
  const found = resolve(document, pointer)
  assert.ok(found, `${pointer} leads nowhere`)
  return found
}
