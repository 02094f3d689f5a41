import { createRoute, z } from '@hono/zod-openapi'
import { BusError, type Clock, type Store, type TransactionContext } from '@shopsphere/bus'
import { contractLimits } from '@shopsphere/contracts'
import { requireCaller, requireRole } from '@shopsphere/runtime/auth'
import { etagOf, matchIfGiven } from '@shopsphere/runtime/etag'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Idempotency } from '@shopsphere/runtime/idempotency'
import type { Log } from '@shopsphere/runtime/log'
import { decodeCursor, PAGE_LIMIT_MAX, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import type { Caller } from '@shopsphere/runtime/request-context'
import { anyId, displayName, emailAddress, postalAddress, productCode, unitPrice } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import { customerStatuses, fulfilmentStates, orderStates, paymentStates, returnStates, stages } from './axes.ts'
import { customerOf, productsOf } from './copies.ts'
import { NotCancellable } from './order.ts'
import type { OrderBook, Outcome } from './order-book.ts'
import { type AskedOrder, buyerOf, quote, refuseOtherTotal } from './placing.ts'
import {
  type AsOf,
  countOrders,
  detailOf,
  findOrder,
  isStaff,
  listOrderIds,
  summariesOf,
  summaryOf,
  timelineOf,
} from './queries.ts'

const { linesMax, quantityMax, totalPenceMax } = contractLimits

const timeMs = z.int().min(0).max(8_640_000_000_000_000).openapi({ description: 'Milliseconds since the epoch' })
const pence = z.int().openapi({ description: 'Whole pence' })

const newOrder = z
  .strictObject({
    lines: z
      .array(
        z.strictObject({
          sku: productCode,
          quantity: z.int().min(1).max(quantityMax),
          unitPence: unitPrice.optional().openapi({ description: 'Merchants only; otherwise the catalogue’s price' }),
          name: displayName.optional().openapi({ description: 'Merchants only; otherwise the catalogue’s name' }),
        }),
      )
      .min(1)
      .max(linesMax),
    paymentMethod: z
      .string()
      .max(64)
      .regex(/^pm_\w+$/, 'expected a token as pm_card_visa; make one at POST /api/payment-methods'),
    email: emailAddress.nullable().optional().openapi({ description: 'Otherwise the account’s' }),
    address: postalAddress.nullable().optional().openapi({ description: 'Otherwise the account’s' }),
    expectedTotalPence: z
      .int()
      .min(0)
      .max(totalPenceMax)
      .optional()
      .openapi({ description: 'The sum that the customer saw; where it is another now, nothing is ordered' }),
    customerId: z
      .string()
      .max(64)
      .regex(/^usr_[\w-]+$/, 'expected an account’s id as usr_…')
      .nullable()
      .optional()
      .openapi({ description: 'Merchants only: whose order it is; null or left out: a guest’s' }),
    placedAt: timeMs.optional().openapi({ description: 'Merchants only; otherwise now' }),
  })
  .openapi('NewOrder')

const axes = {
  status: z.enum(customerStatuses).openapi({ description: 'What the customer reads; follows from the four axes' }),
  order: z.enum(orderStates),
  payment: z.enum(paymentStates),
  fulfilment: z.enum(fulfilmentStates),
}

const acceptedOrder = z
  .object({
    orderId: z.string(),
    ...axes,
    placedAt: timeMs,
    currency: z.literal('GBP'),
    totalPence: pence,
  })
  .openapi('AcceptedOrder')

const orderSummary = z
  .object({
    orderId: z.string(),
    version: z.int(),
    customerId: z.string().nullable(),
    placedAt: timeMs,
    currency: z.literal('GBP'),
    totalPence: pence,
    lineCount: z.int(),
    units: z.int(),
    ...axes,
    returns: z.array(
      z.object({ returnId: z.string(), state: z.enum(returnStates), units: z.int(), refundPence: pence }),
    ),
    capturedPence: pence,
    refundedPence: pence,
    stalled: z.boolean().openapi({ description: 'Nothing has moved for longer than it should' }),
  })
  .openapi('OrderSummary')

const orderDetail = orderSummary
  .extend({
    channel: z.enum(['direct', 'cart', 'merchant']),
    placedBy: z.string().nullable(),
    email: z.string().nullable(),
    address: z.unknown().openapi({ description: 'A postal address, or null' }),
    lines: z.array(
      z.object({ lineNo: z.int(), sku: z.string(), name: z.string(), quantity: z.int(), unitPence: pence }),
    ),
    parcels: z.array(
      z.object({
        shipmentId: z.string(),
        carrier: z.string(),
        trackingNumber: z.string(),
        shippedAt: timeMs,
        returned: z.boolean(),
      }),
    ),
    cancellation: z
      .object({
        reason: z.string(),
        requestedBy: z.string().nullable(),
        requestedAt: timeMs.nullable(),
        short: z.array(z.object({ sku: z.string(), wanted: z.int(), available: z.int() })),
      })
      .nullable(),
    holdExpiresAt: timeMs.nullable(),
    paymentAction: z.object({ url: z.string(), decisionDueAt: timeMs }).nullable(),
    paymentRefusal: z.string().nullable(),
    refundProblem: z
      .object({ refundId: z.string(), reason: z.string(), attempt: z.int(), willRetry: z.boolean() })
      .nullable(),
    dispute: z.object({ disputeId: z.string(), status: z.string() }).nullable(),
    exception: z.object({ shipmentId: z.string(), kind: z.string(), occurredAt: timeMs }).nullable(),
    deliveredAt: timeMs.nullable(),
  })
  .openapi('Order')

const timeline = z
  .object({
    orderId: z.string(),
    events: z.array(
      z.object({
        version: z.int(),
        at: timeMs,
        type: z.string(),
        cause: z
          .object({ type: z.string(), messageId: z.string() })
          .nullable()
          .openapi({ description: 'The message that set it off; null: a request' }),
        data: z.record(z.string(), z.unknown()),
      }),
    ),
    notifications: z.array(
      z.object({
        notificationId: z.string(),
        step: z.string(),
        channel: z.string(),
        subject: z.string(),
        sentAt: timeMs,
      }),
    ),
  })
  .openapi('OrderTimeline')

const count = z.int().min(0)
const counts = z
  .object({
    total: count,
    nonTerminal: count.openapi({ description: 'Neither completed nor cancelled' }),
    stalled: count,
    byStage: z.record(z.enum(stages), count),
    byStatus: z.partialRecord(z.enum(customerStatuses), count),
  })
  .openapi('OrderCounts')

const tags = ['orders']
/** A token is welcome and not needed. */
const signedInOrNot: Record<string, string[]>[] = [{ bearer: [] }, {}]
const params = z.object({ orderId: anyId })

const placeRoute = createRoute({
  method: 'post',
  path: '/api/orders',
  summary: 'Orders: the answer comes at once, what becomes of it is at its Location',
  description: 'Needs an Idempotency-Key. A merchant orders on behalf of a customer or a guest and may name prices.',
  tags,
  security: signedInOrNot,
  request: { body: body(newOrder) },
  responses: { 202: json('Accepted', acceptedOrder), ...problemAnswers(400, 401, 403, 409, 413, 422, 503) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/api/orders',
  summary: 'Orders, newest first: one’s own; for merchants and operators everybody’s',
  tags,
  security: signedIn,
  request: {
    query: pageQuery.extend({
      customerId: anyId.optional(),
      status: z.enum(customerStatuses).optional(),
      stalled: z.enum(['true']).optional().openapi({ description: 'Only those that stand still; stands alone' }),
      ids: z
        .string()
        .max(PAGE_LIMIT_MAX * (contractLimits.idCharactersMax + 1))
        .transform((text) => text.split(',').filter((id) => id !== ''))
        .refine((ids) => ids.length <= PAGE_LIMIT_MAX, `expected up to ${PAGE_LIMIT_MAX} ids separated by commas`)
        .optional()
        .openapi({
          type: 'string',
          description: `Just these, up to ${PAGE_LIMIT_MAX} separated by commas; stands alone`,
        }),
    }),
  },
  responses: { 200: json('A page', pageOf(orderSummary)), ...problemAnswers(400, 401, 403) },
})

const countsRoute = createRoute({
  method: 'get',
  path: '/api/orders/counts',
  summary: 'How many orders stand where',
  tags,
  security: signedIn,
  middleware: requireRole('merchant', 'operator'),
  responses: { 200: json('Counts', counts), ...problemAnswers(401, 403) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}',
  summary: 'An order, now or as it was',
  tags,
  security: signedInOrNot,
  request: {
    params,
    query: z.object({
      asOf: z.string().max(40).optional().openapi({ description: 'A version (3) or a time (2025-01-31T12:00:00Z)' }),
    }),
  },
  responses: {
    200: json('The order; ETag is its version', orderDetail),
    304: { description: 'It has not changed since the version named in If-None-Match' },
    ...problemAnswers(400, 401, 404),
  },
})

const timelineRoute = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}/timeline',
  summary: 'What happened to an order, and what its customer was sent',
  tags,
  security: signedInOrNot,
  request: { params },
  responses: { 200: json('Oldest first', timeline), ...problemAnswers(401, 404) },
})

const cancelRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/cancel',
  summary: 'Calls an order off, if it is not too late. Asking again changes nothing.',
  description: 'With If-Match only while the order is at that version. `cancelling` in the answer: it will be decided.',
  tags,
  security: signedInOrNot,
  request: { params },
  responses: {
    200: json('It is off', orderSummary),
    202: json('It is locked until payment or shipping has answered', orderSummary),
    ...problemAnswers(400, 401, 404, 409, 412, 422, 503),
  },
})

type Parts = {
  store: Store
  clock: Clock
  newId: (prefix: string) => string
  idempotency: Idempotency
  book: OrderBook
  log: Log
}

export function createRoutes({ store, clock, newId, idempotency, book, log }: Parts): Api {
  const api = createApi(log)

  async function place(
    context: TransactionContext,
    asked: AskedOrder,
    caller: Caller | null,
  ): Promise<Outcome & { orderId: string }> {
    const buyer = buyerOf(asked, caller)
    const { tx } = context
    const skus = asked.lines.map(({ sku }) => sku)
    const quoted = quote(asked.lines, await productsOf(tx, skus))
    refuseOtherTotal(quoted, asked.expectedTotalPence)
    const customer = buyer.customerId === null ? undefined : await customerOf(tx, buyer.customerId)
    if (customer?.deleted) {
      throw problem(409, 'conflict', 'This account was deleted: order without it, as a guest.')
    }
    const placement = {
      orderId: newId('ord'),
      ...buyer,
      ...quoted,
      email: asked.email ?? customer?.email ?? null,
      address: asked.address ?? customer?.address ?? null,
      placedAt: asked.placedAt ?? clock.now(),
      paymentMethod: asked.paymentMethod,
    }
    try {
      const outcome = await book.place(context, placement, { askedBy: buyer.placedBy })
      return { ...outcome, orderId: placement.orderId }
    } catch (error) {
      if (!(error instanceof BusError && error.code === 'message_too_large')) throw error
      throw problem(413, 'body_too_large', 'The order is too long to be passed on in one piece: split it.')
    }
  }

  api.openapi(placeRoute, (c) => {
    const asked = c.req.valid('json')
    return idempotency.run(
      c,
      async (context) => {
        const { orderId, state } = await place(context, asked, c.var.caller)
        const { status, order, payment, fulfilment, placedAt, currency, totalPence } = summaryOf(orderId, {
          state,
          version: 1,
        })
        return {
          status: 202,
          body: { orderId, status, order, payment, fulfilment, placedAt, currency, totalPence },
          headers: { location: `/api/orders/${orderId}` },
        }
      },
      { required: true },
    )
  })

  api.openapi(listRoute, async (c) => {
    const caller = requireCaller(c)
    const { cursor, limit, customerId, status, stalled, ids } = c.req.valid('query')
    const narrowings = [ids, stalled, customerId ?? status].filter((one) => one !== undefined)
    if (narrowings.length > 1) {
      throw problem(400, 'invalid_request', 'Ask for ids alone, for stalled alone, or for customerId and status.')
    }
    if (!isStaff(caller) && ((customerId !== undefined && customerId !== caller.userId) || stalled !== undefined)) {
      throw problem(403, 'forbidden', 'Leave customerId and stalled out: these are your own orders.')
    }
    if (ids) {
      const items = await store.read((reader) => summariesOf(reader, ids, caller))
      return c.json({ items, nextCursor: null }, 200)
    }
    const wanted = {
      customerId: isStaff(caller) ? customerId : caller.userId,
      status,
      stalled: stalled !== undefined,
      before: decodeCursor(anyId, cursor),
      limit: limit + 1,
    }
    const summaries = await store.read(async (reader) =>
      summariesOf(reader, await listOrderIds(reader, wanted), caller),
    )
    return c.json(page(summaries, limit, { item: (row) => row, position: (row) => row.orderId }), 200)
  })

  api.openapi(countsRoute, async (c) => c.json(await store.read(countOrders), 200))

  api.openapi(getRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const asOf = readAsOf(c.req.valid('query').asOf)
    const answer = await store.read(async (reader) => {
      const found = await findOrder(reader, orderId, c.var.caller, asOf)
      if (!found) throw noOrder(orderId, asOf)
      const isKnown = c.req.header('if-none-match') === etagOf(found.version)
      return { found, detail: isKnown ? null : await detailOf(reader, orderId, found) }
    })
    const headers = { etag: etagOf(answer.found.version) }
    return answer.detail === null ? c.body(null, 304, headers) : c.json(answer.detail, 200, headers)
  })

  api.openapi(timelineRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const shown = await store.read(async (reader) => {
      if (!(await findOrder(reader, orderId, c.var.caller))) throw noOrder(orderId)
      return timelineOf(reader, orderId)
    })
    return c.json(shown, 200)
  })

  api.openapi(cancelRoute, (c) => {
    const { orderId } = c.req.valid('param')
    const { caller } = c.var
    return idempotency.run(c, async (context) => {
      const found = await findOrder(context.tx, orderId, caller)
      if (!found) throw noOrder(orderId)
      matchIfGiven(c, found.version)
      const askedBy = caller?.userId ?? null
      const command = { type: 'cancel', data: { requestedBy: askedBy, requestedAt: clock.now() } } as const
      const outcome = await book.carryOut(context, orderId, command, { askedBy }).catch((error: unknown) => {
        throw error instanceof NotCancellable ? problem(409, 'not_cancellable', error.message) : error
      })
      const body = summaryOf(orderId, outcome)
      return { status: body.order === 'cancelled' ? 200 : 202, body, headers: { etag: etagOf(body.version) } }
    })
  })

  return api
}

function noOrder(orderId: string, asOf?: AsOf) {
  const when = asOf ? ' at that time' : ''
  return problem(404, 'not_found', `There is no order ${orderId} of yours${when}: see GET /api/orders.`)
}

/** A version, or a time. Throws the problem `invalid_request`. */
function readAsOf(text: string | undefined): AsOf | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,9}$/.test(text)) return { version: Number(text) }
  const timeMs = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN
  if (timeMs >= 0) return { timeMs }
  throw problem(400, 'invalid_request', 'query, asOf: write a version (3) or a time (2025-01-31T12:00:00Z)')
}
