import { createRoute, z } from '@hono/zod-openapi'
import type { Bus, Clock, Store, TransactionContext } from '@shopsphere/bus'
import { contractLimits, paymentNoticeDue } from '@shopsphere/contracts'
import { hasRole, requireCaller, requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Idempotency } from '@shopsphere/runtime/idempotency'
import type { Log } from '@shopsphere/runtime/log'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { type ApiEnv, origin } from '@shopsphere/runtime/request-context'
import type { Context } from 'hono'
import { anyId, lineOf } from '../fields.ts'
import { body, json, signedIn, signedInOrNot } from '../route-parts.ts'
import type { Books } from './books.ts'
import { isCardNumber } from './cards.ts'
import { entryKinds, ledgerOf, overviewOf } from './ledger.ts'
import {
  attemptStatuses,
  type Command,
  findAttempt,
  findRefund,
  PaymentContradiction,
  type PaymentState,
  paymentStatuses,
  refundStatuses,
} from './payment.ts'
import { ForgedNotice, type PaymentProvider, ProviderUnreachable } from './provider.ts'
import { keepNotice, listRefundsInNeed, payments, readTotals } from './queries.ts'

/** Where the provider sends its webhooks. */
export const WEBHOOK_PATH = '/api/payments/webhooks'
const ENTRIES_SHOWN_MAX = 1_000

const pence = z.int().min(0)
const timeMs = z.int().openapi({ description: 'Milliseconds since the epoch' })
const linePart = z.object({ lineNo: z.int(), quantity: z.int(), pence })

const paymentView = z
  .object({
    orderId: z.string(),
    paymentId: z.string(),
    status: z.enum(paymentStatuses),
    currency: z.literal('GBP'),
    totalPence: pence,
    authorizedPence: pence,
    uncapturedPence: pence.openapi({ description: 'Authorised, and neither captured nor given up' }),
    voidedPence: pence,
    capturedPence: pence,
    refundedPence: pence.openapi({ description: 'What has gone back; a refund under way is not in it' }),
    disputeLostPence: pence,
    refundablePence: pence.openapi({ description: 'Captured, and neither gone back nor about to' }),
    holdExpiresAt: timeMs.nullable(),
    attempts: z.array(
      z.object({
        attempt: z.int(),
        status: z.enum(attemptStatuses),
        reason: z.string().nullable(),
        retryable: z.boolean(),
        actionUrl: z.string().nullable(),
        decisionDueAt: timeMs.nullable(),
      }),
    ),
    lines: z.array(linePart.extend({ capturedPence: pence, refundedPence: pence })),
    refunds: z.array(
      z.object({
        refundId: z.string(),
        returnId: z.string().nullable(),
        reason: z.string(),
        refundPence: pence,
        status: z.enum(refundStatuses),
        attempt: z.int(),
      }),
    ),
    disputes: z.array(
      z.object({ disputeId: z.string(), status: z.enum(['opened', 'won', 'lost']), disputedPence: pence }),
    ),
    ledger: z.array(
      z.object({
        kind: z.enum(entryKinds),
        at: timeMs,
        pence,
        lines: z.array(linePart),
        reference: z.string().nullable().openapi({ description: 'The attempt, shipment, refund or dispute' }),
        reason: z.string().nullable(),
      }),
    ),
  })
  .openapi('Payment')

const attemptView = z
  .object({
    orderId: z.string(),
    attempt: z.int(),
    status: z.enum(attemptStatuses),
    reason: z.string().nullable(),
  })
  .openapi('PaymentAttempt')

const refundView = z
  .object({
    orderId: z.string(),
    refundId: z.string(),
    refundPence: pence,
    status: z.enum(refundStatuses),
  })
  .openapi('Refund')

const tags = ['payment']
const ofOrder = { params: z.object({ orderId: anyId }) }
const ofRefund = { params: z.object({ orderId: anyId, refundId: anyId }) }
const idempotencyKey = z.object({ 'idempotency-key': z.string().optional() })
const staffOnly = requireRole('merchant', 'operator')

// Nothing of a card but what is checked here stands in an answer: the messages never repeat what was sent.
const cardBody = z.strictObject({
  number: z
    .string()
    .transform((text) => text.replace(/[ -]/g, ''))
    .refine(isCardNumber, 'expected the number of a card: 12 to 19 digits, the last one fitting the others'),
  expiryMonth: z.int().min(1).max(12),
  expiryYear: z.int('expected a year').min(2000).max(2100),
  cvc: z.string().regex(/^\d{3,4}$/, 'expected 3 or 4 digits'),
})

const methodRoute = createRoute({
  method: 'post',
  path: '/api/payment-methods',
  summary: 'Gives a card to the payment provider; the shop keeps nothing of it and works with the token alone',
  tags,
  security: signedInOrNot,
  request: { body: body(cardBody) },
  responses: {
    201: json(
      'Saved',
      z.object({ paymentMethod: z.string(), brand: z.string(), last4: z.string() }).openapi('PaymentMethod'),
    ),
    ...problemAnswers(400, 503),
  },
})

const oneRoute = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}/payments',
  summary: 'The payment of an order: attempts, refunds and the ledger',
  tags,
  security: signedInOrNot,
  request: ofOrder,
  responses: { 200: json('The payment', paymentView), ...problemAnswers(401, 404) },
})

const attemptRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/payments',
  summary: 'Tries again, with the same or another means, while the goods are held',
  tags,
  security: signedInOrNot,
  request: { ...ofOrder, headers: idempotencyKey, body: body(z.strictObject({ paymentMethod: anyId })) },
  responses: { 202: json('Asked for', attemptView), ...problemAnswers(400, 401, 404, 409, 422, 503) },
})

const confirmRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/payments/confirm',
  summary: 'The customer has confirmed the payment at their bank',
  tags,
  security: signedInOrNot,
  request: ofOrder,
  responses: { 200: json('What came of it', attemptView), ...problemAnswers(401, 404, 409, 503) },
})

const refundRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/refunds',
  summary: 'Gives money back out of goodwill: an amount, or the price of some units that the customer keeps',
  tags,
  security: signedIn,
  middleware: requireRole('merchant'),
  request: {
    ...ofOrder,
    headers: idempotencyKey,
    body: body(
      z
        .strictObject({
          refundPence: z.int().min(1).max(contractLimits.totalPenceMax).optional(),
          lines: z
            .array(
              z.strictObject({
                lineNo: z.int().min(1).max(contractLimits.linesMax),
                quantity: z.int().min(1).max(contractLimits.quantityMax),
              }),
            )
            .min(1)
            .max(contractLimits.linesMax)
            .optional(),
        })
        .refine(
          ({ refundPence, lines }) => (refundPence === undefined) !== (lines === undefined),
          'expected either refundPence or lines',
        ),
    ),
  },
  responses: { 202: json('Asked for', refundView), ...problemAnswers(400, 401, 403, 404, 409, 422) },
})

const retryRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/refunds/{refundId}/retry',
  summary: 'Asks the provider once more for a refund that needs a person',
  tags,
  security: signedIn,
  middleware: staffOnly,
  request: { ...ofRefund, headers: idempotencyKey },
  responses: { 202: json('Asked for', refundView), ...problemAnswers(400, 401, 403, 404, 409, 422) },
})

const settlementRoute = createRoute({
  method: 'post',
  path: '/api/orders/{orderId}/refunds/{refundId}/settlement',
  summary: 'Notes that a refund which the provider could not carry out was paid by other means',
  tags,
  security: signedIn,
  middleware: staffOnly,
  request: { ...ofRefund, headers: idempotencyKey, body: body(z.strictObject({ note: lineOf(200) })) },
  responses: { 200: json('Settled', refundView), ...problemAnswers(400, 401, 403, 404, 409, 422) },
})

const needRoute = createRoute({
  method: 'get',
  path: '/api/payments/refunds-in-need',
  summary: 'Refunds that the provider does not carry out: a person must help',
  tags,
  security: signedIn,
  middleware: staffOnly,
  request: { query: pageQuery },
  responses: {
    200: json(
      'A page of refunds',
      pageOf(
        z.object({
          refundId: z.string(),
          orderId: z.string(),
          refundPence: pence,
          reason: z.string(),
          since: timeMs,
        }),
      ),
    ),
    ...problemAnswers(400, 401, 403),
  },
})

const totalsRoute = createRoute({
  method: 'get',
  path: '/api/payments/ledger',
  summary: 'All money that was taken, and all that went back',
  tags,
  security: signedIn,
  middleware: staffOnly,
  responses: {
    200: json('The totals', z.object({ currency: z.literal('GBP'), chargedPence: pence, refundedPence: pence })),
    ...problemAnswers(401, 403),
  },
})

const webhookRoute = createRoute({
  method: 'post',
  path: WEBHOOK_PATH,
  summary: 'For the payment provider: signed as Standard Webhooks says; a repeat does no harm',
  tags,
  responses: {
    200: json('Kept, and worked on next', z.object({ received: z.literal(true) })),
    ...problemAnswers(400, 503),
  },
})

export type RouteOptions = {
  bus: Bus
  store: Store
  idempotency: Idempotency
  books: Books
  provider: PaymentProvider
  clock: Clock
  newId: (prefix: string) => string
  log: Log
}

export function createRoutes(options: RouteOptions): Api {
  const { bus, store, idempotency, books, provider, clock, newId, log } = options
  const api = createApi(log)

  /** The payment, for whom it concerns; to anybody else there is none. */
  async function visible(c: Context<ApiEnv>, orderId: string): Promise<PaymentState> {
    const { state } = await store.read((reader) => payments.load(reader, orderId))
    if (state.order && mayRead(c, state.order.customerId)) return state
    const detail = `There is no payment of an order ${orderId}. If the order was just placed, ask again in a moment.`
    throw problem(404, 'not_found', detail)
  }

  /** In the caller's transaction; a contradiction is the caller's. */
  async function apply(context: TransactionContext, orderId: string, command: Command): Promise<PaymentState> {
    try {
      return (await books.apply(context, orderId, command, null)).state
    } catch (error) {
      if (error instanceof PaymentContradiction) throw problem(409, 'conflict', error.message)
      throw error
    }
  }

  api.openapi(methodRoute, async (c) => {
    const card = c.req.valid('json')
    if (Date.UTC(card.expiryYear, card.expiryMonth) <= clock.now())
      throw problem(400, 'invalid_request', 'body, expiryYear: the card has expired, take another one')
    const saved = await answered(provider.savePaymentMethod(card, c.req.raw.signal))
    return c.json(saved, 201)
  })

  api.openapi(oneRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const state = await visible(c, orderId)
    const events = await store.read((reader) => payments.read(reader, orderId, { limit: ENTRIES_SHOWN_MAX }))
    return c.json({ ...overviewOf(orderId, state), ledger: ledgerOf(events) }, 200)
  })

  api.openapi(attemptRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const { paymentMethod } = c.req.valid('json')
    await visible(c, orderId)
    if (!(await answered(provider.hasPaymentMethod(paymentMethod, c.req.raw.signal)))) {
      const detail = 'The provider does not know this payment method: make one at POST /api/payment-methods.'
      throw problem(422, 'unknown_payment_method', detail)
    }
    return idempotency.run(c, async (context) => {
      const state = await apply(context, orderId, { type: 'request_attempt', paymentMethod, at: clock.now() })
      return { status: 202, body: attemptOf(orderId, state, state.attempts.length) }
    })
  })

  api.openapi(confirmRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const before = await visible(c, orderId)
    const waiting = before.attempts.find(({ status }) => status === 'action_required')
    const last = before.attempts.at(-1)
    if (!waiting && last?.status === 'authorized') return c.json(attemptOf(orderId, before, last.attempt), 200)
    if (!waiting || before.off !== null)
      throw problem(409, 'conflict', 'No payment of this order waits for a confirmation.')
    const { attempt, chargeId } = waiting
    const answer = await answered(provider.confirm({ chargeId: chargeId! }, c.req.raw.signal))
    const state = await bus.transaction((context) => {
      const at = clock.now()
      return apply(context, orderId, { type: 'answer', attempt, answer, at, decisionDueAt: books.decisionDueAt() })
    }, origin(c))
    return c.json(attemptOf(orderId, state, attempt), 200)
  })

  api.openapi(refundRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const { refundPence, lines } = c.req.valid('json')
    const requestedBy = requireCaller(c).userId
    await visible(c, orderId)
    return idempotency.run(
      c,
      async (context) => {
        const refundId = newId('rfd')
        const of = lines ? { lines } : refundPence!
        const request = { refundId, returnId: null, reason: 'goodwill', requestedBy, of } as const
        const state = await apply(context, orderId, { type: 'request_refund', ...request })
        return { status: 202, body: refundOf(orderId, state, refundId) }
      },
      { required: true },
    )
  })

  const knownRefund = async (c: Context<ApiEnv>, orderId: string, refundId: string): Promise<void> => {
    if (findRefund(await visible(c, orderId), refundId)) return
    throw problem(404, 'not_found', `The order ${orderId} has no refund ${refundId}.`)
  }

  api.openapi(retryRoute, async (c) => {
    const { orderId, refundId } = c.req.valid('param')
    await knownRefund(c, orderId, refundId)
    return idempotency.run(c, async (context) => {
      const state = await apply(context, orderId, { type: 'retry_refund', refundId })
      return { status: 202, body: refundOf(orderId, state, refundId) }
    })
  })

  api.openapi(settlementRoute, async (c) => {
    const { orderId, refundId } = c.req.valid('param')
    const { note } = c.req.valid('json')
    const settledBy = requireCaller(c).userId
    await knownRefund(c, orderId, refundId)
    return idempotency.run(c, async (context) => {
      const state = await apply(context, orderId, { type: 'settle_refund', refundId, settledBy, note })
      return { status: 200, body: refundOf(orderId, state, refundId) }
    })
  })

  api.openapi(needRoute, async (c) => {
    const { cursor, limit } = c.req.valid('query')
    const afterRefundId = decodeCursor(z.string(), cursor) ?? ''
    const rows = await store.read((reader) => listRefundsInNeed(reader, { afterRefundId, limit: limit + 1 }))
    return c.json(page(rows, limit, { item: (row) => row, position: ({ refundId }) => refundId }), 200)
  })

  api.openapi(totalsRoute, async (c) => c.json({ currency: 'GBP' as const, ...(await store.read(readTotals)) }, 200))

  // Kept in one transaction, answered, and only then worked on: the provider does not wait, and what fails is tried
  // again from what was kept.
  api.openapi(webhookRoute, async (c) => {
    const bytes = new Uint8Array(await c.req.arrayBuffer())
    const notice = await provider.readNotice(bytes, c.req.raw.headers).catch((error: unknown) => {
      if (error instanceof ForgedNotice) throw problem(400, 'invalid_signature', `Not taken: ${error.message}.`)
      throw error
    })
    if (notice) {
      const { orderId, noticeId } = notice
      await bus.transaction(async ({ tx, publish }) => {
        if (await keepNotice(tx, notice, clock.now())) publish(paymentNoticeDue, { orderId, noticeId })
      }, origin(c))
    }
    return c.json({ received: true as const }, 200)
  })

  return api
}

/** Whoever knows the id of a guest's order, which cannot be guessed, is the guest. */
function mayRead(c: Context<ApiEnv>, customerId: string | null): boolean {
  return customerId === null || c.var.caller?.userId === customerId || hasRole(c, 'merchant', 'operator')
}

async function answered<Answer>(asking: Promise<Answer>): Promise<Answer> {
  try {
    return await asking
  } catch (error) {
    if (!(error instanceof ProviderUnreachable)) throw error
    const detail = 'The payment provider does not answer now: send the same request again in a moment.'
    throw problem(503, 'unavailable', detail, {}, { 'retry-after': '2' })
  }
}

function attemptOf(orderId: string, state: PaymentState, attempt: number) {
  const { status, reason } = findAttempt(state, attempt)!
  return { orderId, attempt, status, reason }
}

function refundOf(orderId: string, state: PaymentState, refundId: string) {
  const { pence: refundPence, status } = findRefund(state, refundId)!
  return { orderId, refundId, refundPence, status }
}
