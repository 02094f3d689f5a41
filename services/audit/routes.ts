import { createRoute, z } from '@hono/zod-openapi'
import type { Store } from '@shopsphere/bus'
import { requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { decodeCursor, encodeCursor, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { json, signedIn as security } from '../route-parts.ts'
import { type AuditedEvent, effectsTree, inCausalOrder } from './causality.ts'
import { sequenceDiagram } from './diagram.ts'
import { causesOf, effectsOf, eventsOfOrder, findEvent, search } from './queries.ts'

const idText = z.string().min(1).max(128)
const timeMs = z.coerce.number().int().min(0).max(8_640_000_000_000_000)

const eventHead = z
  .object({
    id: z.string(),
    type: z.string(),
    source: z.string(),
    time: z.int().openapi({ description: 'Milliseconds since the epoch' }),
    key: z.string().nullable(),
    correlationId: z.string(),
    causationId: z.string().nullable(),
    traceparent: z.string().nullable(),
    version: z.int(),
  })
  .openapi('AuditedEventHead')

const auditedEvent = eventHead
  .extend({ data: z.unknown().openapi({ description: 'The payload' }) })
  .openapi('AuditedEvent')

type EventWithEffects = z.infer<typeof eventHead> & { effects: EventWithEffects[] }
const eventWithEffects: z.ZodType<EventWithEffects> = eventHead
  .extend({
    get effects() {
      return z.array(eventWithEffects)
    },
  })
  .openapi('EventWithEffects')

const complete = z.boolean().openapi({ description: 'False: there is more than an answer shows' })
const position = z.tuple([z.int(), z.string()])

const staffOnly = requireRole('merchant', 'operator')
const tags = ['audit']

const searchRoute = createRoute({
  method: 'get',
  path: '/api/audit/events',
  summary: 'What was said, newest first. A page may be short, even empty, and still have a next one.',
  tags,
  security,
  middleware: staffOnly,
  request: {
    query: pageQuery.extend({
      type: z
        .string()
        .regex(
          /^(#|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?)$/,
          'a type as order.placed, or order.* for all of order',
        )
        .max(128)
        .optional(),
      key: idText.optional(),
      correlationId: idText.optional(),
      from: timeMs.optional().openapi({ description: 'Milliseconds since the epoch' }),
      to: timeMs.optional().openapi({ description: 'Milliseconds since the epoch, not included' }),
    }),
  },
  responses: { 200: json('A page of events', pageOf(eventHead)), ...problemAnswers(400, 401, 403) },
})

const byId = { params: z.object({ eventId: idText }) }

const eventRoute = createRoute({
  method: 'get',
  path: '/api/audit/events/{eventId}',
  summary: 'One event with its payload',
  tags,
  security,
  middleware: staffOnly,
  request: byId,
  responses: { 200: json('The event', auditedEvent), ...problemAnswers(401, 403, 404) },
})

const causesRoute = createRoute({
  method: 'get',
  path: '/api/audit/events/{eventId}/causes',
  summary: 'What led to an event, the first cause first',
  tags,
  security,
  middleware: staffOnly,
  request: byId,
  responses: {
    200: json('The event and its causes', z.object({ event: eventHead, causes: z.array(eventHead) })),
    ...problemAnswers(401, 403, 404),
  },
})

const effectsRoute = createRoute({
  method: 'get',
  path: '/api/audit/events/{eventId}/effects',
  summary: 'What an event set off, as a tree',
  tags,
  security,
  middleware: staffOnly,
  request: byId,
  responses: {
    200: json('The event with its effects', z.object({ event: eventWithEffects, complete })),
    ...problemAnswers(401, 403, 404),
  },
})

const orderRoute = createRoute({
  method: 'get',
  path: '/api/audit/orders/{orderId}',
  summary: 'Everything about an order in causal order; with format=mermaid as a sequence diagram',
  tags,
  security,
  middleware: staffOnly,
  request: {
    params: z.object({ orderId: idText }),
    query: z.object({ format: z.enum(['json', 'mermaid']).default('json') }),
  },
  responses: {
    200: {
      description: 'Every cause stands before its effects',
      content: {
        'application/json': {
          schema: z.object({ orderId: z.string(), events: z.array(auditedEvent), complete }),
        },
        'text/plain': { schema: z.string().openapi({ description: 'A Mermaid sequence diagram' }) },
      },
    },
    ...problemAnswers(400, 401, 403, 404),
  },
})

export function createRoutes({ store, log }: { store: Store; log: Log }): Api {
  const api = createApi(log)

  const existing = async (id: string): Promise<AuditedEvent> => {
    const event = await store.read((reader) => findEvent(reader, id))
    if (event) return event
    throw problem(404, 'not_found', `There is no event ${id} in the audit log: find it with GET /api/audit/events.`)
  }

  api.openapi(searchRoute, async (c) => {
    const { cursor, limit, ...filter } = c.req.valid('query')
    const before = decodeCursor(position, cursor)
    const { events, next } = await store.read((reader) => search(reader, filter, { before, limit }))
    return c.json({ items: events, nextCursor: next && encodeCursor(next) }, 200)
  })

  api.openapi(eventRoute, async (c) => c.json(await existing(c.req.valid('param').eventId), 200))

  api.openapi(causesRoute, async (c) => {
    const event = await existing(c.req.valid('param').eventId)
    const causes = await store.read((reader) => causesOf(reader, event))
    return c.json({ event: headOf(event), causes: causes.map(headOf) }, 200)
  })

  api.openapi(effectsRoute, async (c) => {
    const event = headOf(await existing(c.req.valid('param').eventId))
    const { events, complete } = await store.read((reader) => effectsOf(reader, [event]))
    return c.json({ event: effectsTree(event, events), complete }, 200)
  })

  api.openapi(orderRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const { events, complete } = await store.read((reader) => eventsOfOrder(reader, orderId))
    if (events.length === 0) throw problem(404, 'not_found', `Nothing was said about an order ${orderId}.`)
    if (c.req.valid('query').format === 'mermaid') return c.text(sequenceDiagram(orderId, events), 200)
    return c.json({ orderId, events: inCausalOrder(events), complete }, 200)
  })

  return api
}

const headOf = ({ data: _, ...head }: AuditedEvent) => head
