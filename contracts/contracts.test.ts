import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type EventType, upcast, validate } from '@shopsphere/bus'
import { z } from 'zod'
import * as contracts from './index.ts'
import { allEvents, contractLimits, orderPlaced } from './index.ts'
import { text, whole } from './values.ts'

/** Who says what: the table of the order's life, then what the services need beside it. */
const owners: Record<string, string> = {
  user: 'user.registered user.updated user.role_changed user.deleted',
  product: 'product.created product.updated product.price_updated product.discontinued',
  cart: 'cart.updated cart.checked_out cart.abandoned',
  order:
    'order.placed order.confirmed order.cancellation_requested order.cancellation_rejected order.cancelled order.completed order.refunded foreign.order_created',
  payment:
    'payment.processed payment.failed payment.action_required payment.captured payment.refund_requested payment.refunded payment.refund_failed payment.disputed payment.voided',
  inventory:
    'inventory.reserved inventory.reservation_failed inventory.reservation_expired inventory.updated inventory.update_failed inventory.released inventory.level_changed',
  shipping:
    'shipment.created shipment.dispatched shipment.tracking_updated shipment.delivered shipment.exception shipment.returned shipment.cancelled shipment.cancellation_refused order.partially_shipped order.shipped order.delivered return.requested return.approved return.received return.closed',
  notification: 'notification.sent notification.failed',
}
const toThemselves: Record<string, string> = {
  cart: 'cart.reminder_due',
  order: 'order.completion_due order.progress_due',
  payment: 'payment.attempt_due payment.decision_due payment.capture_due payment.refund_due payment.notice_due',
  inventory: 'inventory.hold_expiry_due',
  shipping: 'shipment.picking_due shipment.dispatch_due shipment.tracking_due shipment.investigation_due',
}

/** A payload of each version before today's, as it was once published. */
const oldExamples: Record<string, Record<number, unknown>> = {
  'order.placed': { 1: orderPlacedVersion1(38.1) },
}

const listed = [owners, toThemselves].flatMap((table) =>
  Object.entries(table).flatMap(([owner, types]) => types.split(' ').map((type) => `${owner}: ${type}`)),
)

test('every event of the order’s life exists, with its one owner, and no other', () => {
  assert.deepEqual(allEvents.map(({ owner, type }) => `${owner}: ${type}`).sort(), listed.sort())
})

test('no two events share a type', () => {
  assert.equal(new Set(allEvents.map(({ type }) => type)).size, allEvents.length)
})

test('every exported event is in allEvents, exported under its type in camel case', () => {
  const exported = Object.entries(contracts).filter(([, value]) => 'schema' in value)
  const camelCase = (type: string) => type.replace(/[._](.)/g, (_, letter: string) => letter.toUpperCase())
  assert.deepEqual(exported.map(([name]) => name).sort(), allEvents.map(({ type }) => camelCase(type)).sort())
})

test('what a service sends to itself says so, and only that ends in _due', () => {
  for (const { type, owner, summary } of allEvents) {
    const toItself = Object.values(toThemselves).join(' ').split(' ').includes(type)
    assert.equal(type.endsWith('_due'), toItself, type)
    assert.equal(summary.toLowerCase().includes(`${owner} to itself`), toItself, `${type}: ${summary}`)
  }
})

for (const event of allEvents) {
  test(`${event.type}: has a summary, an example that its schema takes unchanged, and a key`, () => {
    assert.notEqual(event.summary, '')
    assert.deepEqual(validate(event, event.example), event.example)
    assert.ok(event.key(event.example))
  })

  test(`${event.type}: has a limit on every text, list and number`, () => {
    assert.deepEqual(withoutLimit(jsonSchemaOf(event.schema)), [])
  })

  for (let version = 1; version < event.version; version++) {
    test(`${event.type}: version ${version} becomes a valid version ${event.version}`, () => {
      const old = oldExamples[event.type]?.[version]
      assert.ok(old, 'give an old example')
      assert.throws(() => validate(event, old), { code: 'invalid_payload' })
      assert.ok(event.key(upcast(event, version, old)))
    })
  }
}

test('the search for missing limits finds them', () => {
  const schema = z.object({
    a: z.string(),
    b: z.array(z.object({ c: z.int().max(5).min(0), d: z.number() })),
    e: z.int(),
  })
  assert.deepEqual(withoutLimit(jsonSchemaOf(schema)), ['.a', '.b', '.b.[].d', '.e'])
})

test('order.placed version 1: pounds become pence, also where a float is not exact', () => {
  for (const [pounds, pence] of [
    [38.1, 3_810],
    [0.29, 29],
    [1.1, 110],
    [16_888.02, 1_688_802],
    [168_469.6, 16_846_960],
    [0, 0],
  ]) {
    const order = upcast(orderPlaced, 1, orderPlacedVersion1(pounds!))
    assert.equal(order.totalPence, pence)
    assert.equal('total' in order, false)
  }
})

test('an order of linesMax lines is taken, one line more is refused', () => {
  const { linesMax } = contractLimits
  assert.ok(linesMax >= 1_000, 'real invoices have some 700 lines')
  const withLines = (count: number) => ({
    ...orderPlaced.example!,
    lines: Array.from({ length: count }, (_, index) => ({
      ...orderPlaced.example!.lines[0]!,
      lineNo: Math.min(index + 1, linesMax),
    })),
  })
  assert.equal(validate(orderPlaced, withLines(linesMax)).lines.length, linesMax)
  assert.throws(() => validate(orderPlaced, withLines(linesMax + 1)), new RegExp(`lines: .*${linesMax}`))
})

test('quantities and money beyond their limits are refused, naming the field', () => {
  const withLine = (line: object) => ({
    ...orderPlaced.example!,
    lines: [{ ...orderPlaced.example!.lines[0]!, ...line }],
  })
  assert.ok(validate(orderPlaced, withLine({ quantity: 1_000_000 })))
  for (const quantity of [0, -1, 1.5, 1_000_001, Number.NaN, '6']) {
    assert.throws(() => validate(orderPlaced, withLine({ quantity })), /lines\.0\.quantity: /)
  }
  assert.throws(() => validate(orderPlaced, withLine({ unitPence: 2.55 })), /lines\.0\.unitPence: /)
  assert.throws(() => validate(orderPlaced, { ...orderPlaced.example, currency: 'EUR' }), /currency: /)
})

test('texts and whole numbers take and refuse what zod alone would, in the same words', () => {
  const values = ['', 'a', '12345', '123456', '\u{1f600}12', '\u{1f600}1234', null, undefined, ['a'], { length: 3 }]
  const numbers = [-1, -0, 0, 1, 5, 6, 1.5, '3', 3n, true, Number.NaN, Infinity, 2 ** 53, Number.MAX_SAFE_INTEGER]
  const pairs: [z.ZodType, z.ZodType][] = [
    [text(5), z.string().min(1).max(5)],
    [whole(0, 5), z.int().min(0).max(5)],
    [
      whole(1, 2 ** 60),
      z
        .int()
        .min(1)
        .max(2 ** 60),
    ],
  ]
  for (const [ours, zods] of pairs) {
    for (const value of [...values, ...numbers]) {
      for (const [one, other] of [
        [ours, zods],
        [z.object({ field: ours.nullable() }), z.object({ field: zods.nullable() })],
      ]) {
        const given = one === ours ? value : { field: value }
        const [is, shouldBe] = [one!.safeParse(given), other!.safeParse(given)]
        assert.deepEqual([is.data, is.error?.issues], [shouldBe.data, shouldBe.error?.issues])
      }
    }
    assert.deepEqual(z.toJSONSchema(ours), z.toJSONSchema(zods))
  }
})

function orderPlacedVersion1(total: number) {
  const { totalPence: _, ...same } = orderPlaced.example!
  return { ...same, total }
}

type JsonSchema = {
  type?: string
  const?: unknown
  enum?: unknown[]
  maxLength?: number
  maxItems?: number
  minimum?: number
  maximum?: number
  properties?: Record<string, JsonSchema>
  items?: JsonSchema
  anyOf?: JsonSchema[]
}

function jsonSchemaOf({ '~standard': standard }: EventType['schema']): JsonSchema {
  assert.ok('jsonSchema' in standard, 'the schema library gives no JSON Schema')
  const { input } = standard.jsonSchema as { input: (options: { target: string }) => JsonSchema }
  return input({ target: 'draft-07' })
}

/** The paths of all texts, lists and numbers in a JSON Schema that have no upper limit. */
function withoutLimit(schema: JsonSchema, path = ''): string[] {
  const { type = '', properties = {}, items, anyOf = [] } = schema
  const parts: [string, JsonSchema][] = [...Object.entries(properties), ...anyOf.map(unnamed)]
  if (items) parts.push(['[]', items])
  return [
    ...(isUnlimited(schema, type) ? [path] : []),
    ...parts.flatMap(([name, part]) => withoutLimit(part, `${path}.${name}`)),
  ]
}

function isUnlimited(schema: JsonSchema, type: string): boolean {
  if ('const' in schema || 'enum' in schema) return false
  if (type === 'string') return schema.maxLength === undefined
  if (type === 'array') return schema.maxItems === undefined
  if (type === 'integer') return schema.minimum === undefined || (schema.maximum ?? Infinity) >= Number.MAX_SAFE_INTEGER
  return type === 'number'
}

function unnamed(part: JsonSchema): [string, JsonSchema] {
  return ['', part]
}
