/** Returns: asked for by the buyer or recorded by a merchant, then approved, received or refused. */
import { createRoute, z } from '@hono/zod-openapi'
import { BusError, type TransactionContext } from '@shopsphere/bus'
import { contractLimits } from '@shopsphere/contracts'
import { hasRole, requireCaller, requireRole } from '@shopsphere/runtime/auth'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { origin } from '@shopsphere/runtime/request-context'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { anyId, lineOf, paragraphOf, productCode } from '../fields.ts'
import { body, json, signedIn, signedInOrNot } from '../route-parts.ts'
import { answering, mayRead } from './access.ts'
import { tellReturn } from './changes.ts'
import type { Fulfilment } from './fulfilment.ts'
import { returnOfCustomer, returnOfOrder } from './open-returns.ts'
import { findFulfilment, findReturn, listReturns, saveFulfilment, saveReturn } from './queries.ts'
import { returnShape, showReturn } from './return-shape.ts'
import {
  type Decided,
  decideReturn,
  dispositions,
  type ReturnCase,
  type ReturnCommand,
  returnStates,
  withAskedBack,
} from './returns.ts'

const SAVES_MAX = 5
const REASON_CHARACTERS_MAX = 500

const quantity = z.int().min(1).max(contractLimits.quantityMax)
const reason = paragraphOf(REASON_CHARACTERS_MAX).nullable().default(null)
const disposition = z.enum(dispositions)
const lineNo = z.int().min(1).max(contractLimits.linesMax)
const idempotencyKey = z.object({ 'idempotency-key': z.string().optional() })

const askedLine = z
  .strictObject({
    lineNo: lineNo.optional(),
    sku: lineOf(contractLimits.skuCharactersMax).optional(),
    quantity,
    reason: paragraphOf(REASON_CHARACTERS_MAX).nullable().optional(),
  })
  .refine((line) => line.lineNo !== undefined || line.sku !== undefined, 'name the line by lineNo or by sku')

const tags = ['returns']
const ofReturn = { params: z.object({ returnId: anyId }) }
const staff = requireRole('merchant', 'operator')

const ask = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/returns',
  summary: 'Asks to give back what was delivered, within the return window',
  tags,
  security: signedInOrNot,
  request: {
    params: z.object({ orderId: anyId }),
    headers: idempotencyKey,
    body: body(z.strictObject({ lines: z.array(askedLine).min(1).max(contractLimits.linesMax), reason })),
  },
  responses: {
    202: json('Asked for; it waits for a merchant’s approval', returnShape),
    ...problemAnswers(400, 404, 409, 422),
  },
})

const foundLine = z.object({
  sku: z.string(),
  requested: z.int().openapi({ description: 'Units asked' }),
  quantity: z.int().openapi({ description: 'Units accepted' }),
  refundPence: z.int(),
  refused: z.literal('nothing_to_return').nullable(),
})

const record = createRoute({
  method: 'post',
  path: '/api/returns',
  summary: 'Records what a customer gives back, of their newest orders first, at the prices paid',
  description:
    'Each line is accepted for the units that can be matched. The goods are here, so the return is approved and received at once and the money goes back; with `received: false` they are still to come, and it waits for approval.',
  tags,
  security: signedIn,
  middleware: requireRole('merchant'),
  request: {
    headers: idempotencyKey,
    body: body(
      z.strictObject({
        customerId: anyId,
        lines: z
          .array(z.strictObject({ sku: productCode, quantity }))
          .min(1)
          .max(contractLimits.linesMax),
        reason,
        received: z.boolean().default(true),
        disposition: disposition.default('restock'),
      }),
    ),
  },
  responses: {
    202: json(
      'One return for each order that something is of, and what became of each line asked',
      z
        .object({ customerId: z.string(), returns: z.array(returnShape), lines: z.array(foundLine) })
        .openapi('RecordedReturns'),
    ),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

const listAll = createRoute({
  method: 'get',
  path: '/api/returns',
  summary: 'Your returns, the newest first; all of them for a merchant',
  tags,
  security: signedIn,
  request: {
    query: pageQuery.extend({
      orderId: anyId.optional(),
      customerId: anyId.optional().openapi({ description: 'Only for a merchant' }),
      state: z.enum(returnStates).optional(),
    }),
  },
  responses: { 200: json('A page of them', pageOf(returnShape)), ...problemAnswers(400, 401) },
})

const readOne = createRoute({
  method: 'get',
  path: '/api/returns/{returnId}',
  summary: 'A return',
  tags,
  security: signedInOrNot,
  request: ofReturn,
  responses: { 200: json('It', returnShape), ...problemAnswers(400, 404) },
})

const approve = createRoute({
  method: 'post',
  path: '/api/returns/{returnId}/approve',
  summary: 'Lets the customer send the units back',
  tags,
  security: signedIn,
  middleware: staff,
  request: ofReturn,
  responses: { 200: json('Approved', returnShape), ...problemAnswers(400, 401, 403, 404, 409) },
})

const receive = createRoute({
  method: 'post',
  path: '/api/returns/{returnId}/receive',
  summary: 'The units are here: restocked or written off, and refunded',
  tags,
  security: signedIn,
  middleware: staff,
  request: {
    ...ofReturn,
    body: body(
      z.strictObject({
        disposition,
        lines: z
          .array(z.strictObject({ lineNo, quantity, disposition: disposition.optional() }))
          .min(1)
          .max(contractLimits.linesMax)
          .optional()
          .openapi({ description: 'What came, where that is not all; the rest may be asked back again' }),
      }),
    ),
  },
  responses: { 200: json('Received', returnShape), ...problemAnswers(400, 401, 403, 404, 409) },
})

const reject = createRoute({
  method: 'post',
  path: '/api/returns/{returnId}/reject',
  summary: 'Refuses a return, or ends one whose goods never came',
  tags,
  security: signedIn,
  middleware: staff,
  request: {
    ...ofReturn,
    body: body(z.strictObject({ reason, outcome: z.enum(['rejected', 'not_received']).default('rejected') })),
  },
  responses: { 200: json('Ended', returnShape), ...problemAnswers(400, 401, 403, 404, 409) },
})

export function addReturnRoutes(
  api: Api,
  {
    bus,
    store,
    clock,
    config,
    newId,
    idempotency,
  }: Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'config' | 'newId' | 'idempotency'>,
): void {
  api.openapi(ask, (c) => {
    const { orderId } = c.req.valid('param')
    const { lines, reason } = c.req.valid('json')
    const isStaff = hasRole(c, 'merchant', 'operator')
    return idempotency.run(
      c,
      async (transaction) => {
        const stored = await findFulfilment(transaction.tx, orderId)
        if (!stored || !mayRead(c, stored.state))
          throw problem(404, 'not_found', `There is no order ${orderId} of which something was sent.`)
        const goods = await returnOfOrder(transaction, {
          orderId,
          asked: lines,
          reason,
          returnId: newId('ret'),
          requestedBy: c.var.caller?.userId ?? null,
          at: clock.now(),
          windowMs: isStaff ? null : config.timers.returnWindowMs,
        })
        return { status: 202, body: showReturn(goods), headers: { location: `/api/returns/${goods.returnId}` } }
      },
      { required: true },
    )
  })

  api.openapi(record, (c) => {
    const { customerId, lines: asked, reason, received, disposition } = c.req.valid('json')
    const requestedBy = requireCaller(c).userId
    return idempotency.run(
      c,
      async (transaction) => {
        const { returns, lines } = await returnOfCustomer(transaction, {
          customerId,
          asked,
          reason,
          requestedBy,
          newReturnId: () => newId('ret'),
          at: clock.now(),
          received: received ? disposition : null,
        })
        if (returns.length === 0) {
          const detail = 'None of these were delivered to this customer and not given back before.'
          throw problem(422, 'nothing_to_return', detail)
        }
        const found = lines.map(({ sku, quantity, units, pence }) => ({
          sku,
          requested: quantity,
          quantity: units,
          refundPence: pence,
          refused: units === 0 ? ('nothing_to_return' as const) : null,
        }))
        return { status: 202, body: { customerId, returns: returns.map(showReturn), lines: found } }
      },
      { required: true },
    )
  })

  api.openapi(listAll, async (c) => {
    const { userId } = requireCaller(c)
    const { cursor, limit, orderId = null, state = null, customerId = null } = c.req.valid('query')
    const filter = {
      customerId: hasRole(c, 'merchant', 'operator') ? customerId : userId,
      orderId,
      state,
      beforeReturnId: decodeCursor(z.string(), cursor) ?? null,
      limit: limit + 1,
    }
    const rows = await store.read((reader) => listReturns(reader, filter))
    return c.json(page(rows, limit, { item: showReturn, position: ({ returnId }) => returnId }), 200)
  })

  api.openapi(readOne, async (c) => {
    const { returnId } = c.req.valid('param')
    const goods = await store.read((reader) => findReturn(reader, returnId))
    if (!goods || !mayRead(c, goods)) throw noReturn(returnId)
    return c.json(showReturn(goods), 200)
  })

  /** Decides the next step of a return, writes it and tells it. */
  const step = (c: Parameters<typeof origin>[0], returnId: string, command: (order: Fulfilment) => ReturnCommand) =>
    answering(() => bus.transaction((transaction) => takeStep(transaction, returnId, command), origin(c)))

  api.openapi(approve, async (c) => {
    const { returnId } = c.req.valid('param')
    const goods = await step(c, returnId, (order) => ({ type: 'approve', order, at: clock.now() }))
    return c.json(showReturn(goods), 200)
  })

  api.openapi(receive, async (c) => {
    const { returnId } = c.req.valid('param')
    const { disposition, lines } = c.req.valid('json')
    const came = lines?.map((line) => ({ ...line, disposition: line.disposition ?? disposition })) ?? null
    const goods = await step(c, returnId, () => ({ type: 'receive', disposition, lines: came, at: clock.now() }))
    return c.json(showReturn(goods), 200)
  })

  api.openapi(reject, async (c) => {
    const { returnId } = c.req.valid('param')
    const { reason, outcome } = c.req.valid('json')
    const goods = await step(c, returnId, (order) => ({ type: 'close', order, outcome, reason, at: clock.now() }))
    return c.json(showReturn(goods), 200)
  })
}

const noReturn = (returnId: string) => problem(404, 'not_found', `There is no return ${returnId}.`)

async function takeStep(
  { tx, publish }: TransactionContext,
  returnId: string,
  command: (order: Fulfilment) => ReturnCommand,
): Promise<ReturnCase> {
  for (let tries = 1; tries <= SAVES_MAX; tries++) {
    const goods = await findReturn(tx, returnId)
    const stored = goods && (await findFulfilment(tx, goods.orderId))
    if (!goods || !stored) throw noReturn(returnId)
    const decided = decideReturn(goods, command(stored.state))
    if (decided.fact === null) return goods
    if (!(await saveReturn(tx, decided.goods, goods.state))) continue
    const free = setFree(goods, decided)
    if (free.length > 0 && !(await saveFulfilment(tx, withAskedBack(stored.state, free, -1), stored.version))) {
      // The return is written already: the whole transaction has to be done again.
      throw new BusError('version_conflict', `${goods.orderId} was changed at the same moment`)
    }
    tellReturn({ publish }, decided.fact)
    return decided.goods
  }
  throw new BusError('version_conflict', `${returnId} was changed at the same moment`)
}

/** Units that were asked back and do not come: they may be asked back again. */
function setFree(before: ReturnCase, { goods, fact }: Decided): ReturnCase['lines'] {
  if (fact?.type === 'return.closed') return goods.outcome === 'refunded' ? [] : before.lines
  if (fact?.type !== 'return.received') return []
  return before.lines.flatMap((line) => {
    const came = goods.lines.find(({ lineNo }) => lineNo === line.lineNo)?.quantity ?? 0
    return came < line.quantity ? [{ ...line, quantity: line.quantity - came }] : []
  })
}
