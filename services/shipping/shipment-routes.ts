/** Parcels: what a buyer sees of them, the carrier's news, and what a person decides about those in trouble. */
import { createRoute, z } from '@hono/zod-openapi'
import { hasRole, requireCaller, requireRole } from '@shopsphere/runtime/auth'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { type ApiEnv, origin } from '@shopsphere/runtime/request-context'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { tokenSecret } from '@shopsphere/runtime/token-key'
import type { MiddlewareHandler } from 'hono'
import { anyId, lineOf, postalAddress } from '../fields.ts'
import { body, json, signedIn, signedInOrNot } from '../route-parts.ts'
import { answering, mayRead } from './access.ts'
import { newsStatuses } from './carrier.ts'
import { carrierSecret, verify } from './carrier-signature.ts'
import type { Changes } from './changes.ts'
import { type Fulfilment, type Parcel, readReference } from './fulfilment.ts'
import { openReturn } from './open-returns.ts'
import { findFulfilment, listProblems, type Stored } from './queries.ts'
import { partLine, returnShape, showReturn } from './return-shape.ts'
import { type Disposition, dispositions } from './returns.ts'

/** Pieces of news in one history. */
const HISTORY_MAX = 200
const PLACE_CHARACTERS_MAX = 100

const timeMs = z.int().openapi({ description: 'Milliseconds since the epoch' })
const parcelStatuses = ['packed', 'under_way', 'delivered', 'returned', 'refunded'] as const
const problems = [
  'not_dispatched',
  'no_news',
  'lost',
  'damaged',
  'address_unknown',
  'returned',
] as const satisfies readonly Parcel['problem'][]

const news = z
  .strictObject({
    status: z.enum(newsStatuses),
    place: lineOf(PLACE_CHARACTERS_MAX).nullable().default(null),
    occurredAt: timeMs.min(0).max(8_640_000_000_000_000),
  })
  .openapi('CarrierNews')

const shipment = z
  .object({
    shipmentId: z.string(),
    status: z.enum(parcelStatuses),
    problem: z.enum(problems).nullable(),
    carrier: z.string().nullable(),
    trackingNumber: z.string().nullable(),
    lines: z.array(partLine),
    dispatchedAt: timeMs.nullable(),
    deliveredAt: timeMs.nullable(),
    news: z.array(news),
  })
  .openapi('Shipment')

const shipmentsOfOrder = z
  .object({
    orderId: z.string(),
    status: z.enum(['waiting', 'packed', 'partly_sent', 'sent', 'delivered', 'cancelled']),
    deliveredAt: timeMs.nullable(),
    shipments: z.array(shipment),
  })
  .openapi('ShipmentsOfOrder')

const shipmentProblem = z
  .object({ shipmentId: z.string(), orderId: z.string(), kind: z.enum(problems), since: timeMs })
  .openapi('ShipmentProblem')

const tags = ['shipping']
const ofShipment = { params: z.object({ orderId: anyId, shipmentId: anyId }) }

const read = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}/shipments',
  summary: 'The parcels of an order; the buyer’s, or any for a merchant',
  tags,
  security: signedInOrNot,
  request: { params: z.object({ orderId: anyId }) },
  responses: { 200: json('The parcels', shipmentsOfOrder), ...problemAnswers(400, 404) },
})

const listTroubled = createRoute({
  method: 'get',
  path: '/api/shipments/problems',
  summary: 'Parcels that wait for a person’s decision',
  tags,
  security: signedIn,
  middleware: requireRole('merchant', 'operator'),
  request: { query: pageQuery },
  responses: {
    200: json('A page of them', pageOf(shipmentProblem)),
    ...problemAnswers(400, 401, 403),
  },
})

const tellNews = createRoute({
  method: 'post',
  path: '/api/shipments/carrier-news',
  summary: 'The carrier’s whole history of a parcel; what was told before is passed over',
  description:
    'By a merchant or an operator, or by the carrier itself, who signs the request after Standard Webhooks (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`).',
  tags,
  security: signedInOrNot,
  request: {
    body: body(
      z.strictObject({
        reference: lineOf(128).openapi({ description: 'Ours, as the parcel was booked under' }),
        trackingNumber: lineOf(64),
        history: z.array(news).max(HISTORY_MAX).openapi({ description: 'The oldest first' }),
      }),
    ),
  },
  responses: {
    200: json('Heard', z.object({ shipmentId: z.string(), status: z.enum(parcelStatuses) })),
    ...problemAnswers(400, 401, 403, 404, 409),
  },
})

const readSecret = createRoute({
  method: 'get',
  path: '/api/shipments/carrier-news/secret',
  summary: 'The secret with which the carrier signs its news',
  tags,
  security: signedIn,
  middleware: requireRole('operator'),
  responses: { 200: json('The secret', z.object({ secret: z.string() })), ...problemAnswers(401, 403) },
})

const resend = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/shipments/{shipmentId}/resend',
  summary: 'Sends a parcel again that came back, or that the carrier did not take',
  tags,
  security: signedIn,
  middleware: requireRole('merchant', 'operator'),
  request: {
    ...ofShipment,
    body: body(z.strictObject({ address: postalAddress.nullable().default(null) })),
  },
  responses: {
    202: json('It goes out again', shipmentsOfOrder),
    ...problemAnswers(400, 401, 403, 404, 409),
  },
})

const refund = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/shipments/{shipmentId}/refund',
  summary: 'Gives the money of a parcel back that came back, got lost or is in trouble',
  tags,
  security: signedIn,
  middleware: requireRole('merchant', 'operator'),
  request: {
    ...ofShipment,
    headers: z.object({ 'idempotency-key': z.string().optional() }),
    body: body(
      z.strictObject({
        disposition: z
          .enum(dispositions)
          .optional()
          .openapi({ description: 'By default a parcel that came back is restocked, any other written off' }),
      }),
    ),
  },
  responses: {
    202: json('The return that carries the refund', returnShape),
    ...problemAnswers(400, 401, 403, 404, 409, 422),
  },
})

export function addShipmentRoutes(
  api: Api,
  context: Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'config' | 'newId' | 'idempotency'> & { changes: Changes },
): void {
  const { bus, store, clock, config, newId, idempotency, changes } = context
  let secret: string | undefined
  const sharedSecret = () => (secret ??= carrierSecret(tokenSecret(config)))

  const mayTellNews: MiddlewareHandler<ApiEnv> = async (c, next) => {
    const signature = c.req.header('webhook-signature')
    if (signature !== undefined) {
      const id = c.req.header('webhook-id') ?? ''
      const timestamp = c.req.header('webhook-timestamp') ?? ''
      verify(sharedSecret(), { id, timestamp, signature, body: await c.req.text() }, clock.now())
    } else {
      requireCaller(c)
      if (!hasRole(c, 'merchant', 'operator'))
        throw problem(403, 'forbidden', 'Only a merchant or the carrier has news.')
    }
    await next()
  }
  api.use(tellNews.getRoutingPath(), mayTellNews)

  api.openapi(listTroubled, async (c) => {
    const { cursor, limit } = c.req.valid('query')
    const afterShipmentId = decodeCursor(z.string(), cursor) ?? ''
    const rows = await store.read((reader) => listProblems(reader, { afterShipmentId, limit: limit + 1 }))
    return c.json(page(rows, limit, { item: (row) => row, position: ({ shipmentId }) => shipmentId }), 200)
  })

  api.openapi(readSecret, (c) => c.json({ secret: sharedSecret() }, 200))

  api.openapi(tellNews, async (c) => {
    const { reference, trackingNumber, history } = c.req.valid('json')
    const named = readReference(reference)
    const answer = await bus.transaction(async (transaction) => {
      const stored = named && (await findFulfilment(transaction.tx, named.orderId))
      const parcel = stored?.state.parcels.find(({ no }) => no === named?.no)
      if (!stored || !parcel || named!.sending > parcel.sending)
        throw problem(404, 'not_found', `Nothing was booked under the reference '${reference}'.`)
      const { shipmentId, status } = parcel
      // Of an earlier journey of the same parcel: known, and no news any more.
      if (named!.sending < parcel.sending) return { shipmentId, status }
      if (parcel.trackingNumber !== trackingNumber)
        throw problem(409, 'conflict', `The parcel of '${reference}' travels under another tracking number.`)
      const heard = await changes.change(transaction, stored, { type: 'hear', shipmentId, history, at: clock.now() })
      return { shipmentId, status: parcelOf(heard.state, shipmentId)!.status }
    }, origin(c))
    return c.json(answer, 200)
  })

  api.openapi(read, async (c) => {
    const { orderId } = c.req.valid('param')
    const stored = await store.read((reader) => findFulfilment(reader, orderId))
    if (!stored || !mayRead(c, stored.state)) throw noOrder(orderId)
    return c.json(show(stored.state), 200)
  })

  api.openapi(resend, async (c) => {
    const { orderId, shipmentId } = c.req.valid('param')
    const { address } = c.req.valid('json')
    const { state } = await answering(() =>
      bus.transaction(async (transaction) => {
        const stored = await findFulfilment(transaction.tx, orderId)
        requireParcel(stored, orderId, shipmentId)
        return changes.change(transaction, stored!, { type: 'send_again', shipmentId, address })
      }, origin(c)),
    )
    return c.json(show(state), 202)
  })

  api.openapi(refund, (c) => {
    const { orderId, shipmentId } = c.req.valid('param')
    const requestedBy = requireCaller(c).userId
    return idempotency.run(
      c,
      async (transaction) => {
        const stored = await findFulfilment(transaction.tx, orderId)
        const parcel = requireParcel(stored, orderId, shipmentId)
        const { disposition } = c.req.valid('json')
        const received = disposition ?? usualDisposition(parcel)
        if (received === 'restock' && parcel.status !== 'returned')
          throw problem(409, 'conflict', 'Only a parcel that came back can go on the shelf again: send write_off.')
        const at = clock.now()
        await answering(() => changes.change(transaction, stored!, { type: 'refund', shipmentId, at }))
        // These units never arrived, so nothing is taken from what the customer may give back.
        const lines = parcel.lines.map((line) => ({ ...line, disposition: null, reason: null }))
        const reason = `Parcel ${shipmentId}: ${parcel.problem}`
        const goods = await openReturn(transaction, stored!.state, {
          returnId: newId('ret'),
          lines,
          reason,
          requestedBy,
          at,
          received,
        })
        return { status: 202, body: showReturn(goods), headers: { location: `/api/returns/${goods.returnId}` } }
      },
      { required: true },
    )
  })
}

const usualDisposition = ({ status }: Parcel): Disposition => (status === 'returned' ? 'restock' : 'write_off')

const noOrder = (orderId: string) =>
  problem(404, 'not_found', `There is no order ${orderId} that may be sent; one that is not confirmed has no parcels.`)

const parcelOf = (state: Fulfilment, shipmentId: string) =>
  state.parcels.find((parcel) => parcel.shipmentId === shipmentId)

function requireParcel(stored: Stored | undefined, orderId: string, shipmentId: string): Parcel {
  if (!stored) throw noOrder(orderId)
  const parcel = parcelOf(stored.state, shipmentId)
  if (!parcel) throw problem(404, 'not_found', `The order has no parcel ${shipmentId}.`)
  return parcel
}

function show({ orderId, status, deliveredAt, parcels }: Fulfilment): z.infer<typeof shipmentsOfOrder> {
  return {
    orderId,
    status: status === 'unknown' ? 'cancelled' : status,
    deliveredAt,
    shipments: parcels.map((parcel) => ({
      shipmentId: parcel.shipmentId,
      status: parcel.status,
      problem: parcel.problem,
      carrier: parcel.carrier,
      trackingNumber: parcel.trackingNumber,
      lines: [...parcel.lines],
      dispatchedAt: parcel.dispatchedAt,
      deliveredAt: parcel.deliveredAt,
      news: [...parcel.told],
    })),
  }
}
