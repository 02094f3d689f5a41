import { createRoute, z } from '@hono/zod-openapi'
import type { Store } from '@shopsphere/bus'
import { requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { problemAnswers } from '@shopsphere/runtime/problem'
import { json, signedIn as security } from '../route-parts.ts'
import { ALL_DAYS, factsBehind, funnelOf, salesBy, salesDimensions, salesTotal } from './queries.ts'
import type { Rebuild } from './rebuild.ts'

const ITEMS_DEFAULT = 100
const ITEMS_MAX = 1_000

const day = z.iso.date().openapi({ description: 'A day (UTC) as 2010-12-01; orders count on the day they were placed' })
const days = z.object({ from: day.optional(), to: day.optional().openapi({ description: 'Included' }) })

const count = z.int()
const sales = {
  orders: count.openapi({ description: 'Orders of which money was captured' }),
  units: count,
  capturedPence: count,
  refundedUnits: count,
  refundedPence: count,
  netPence: count,
}
const factsBehindField = count.openapi({ description: 'How far the figures are behind what is known; 0: not at all' })

const tags = ['analytics']
const middleware = requireRole('merchant', 'operator')

const salesRoute = createRoute({
  method: 'get',
  path: '/api/analytics/sales',
  summary: 'Money captured and refunded, by day, product, customer or country',
  tags,
  security,
  middleware,
  request: {
    query: days.extend({
      by: z.enum(salesDimensions).default('day'),
      limit: z.coerce.number().int().min(1).max(ITEMS_MAX).default(ITEMS_DEFAULT),
    }),
  },
  responses: {
    200: json(
      'Days in their order, everything else by net sales',
      z.object({
        by: z.enum(salesDimensions),
        currency: z.literal('GBP'),
        items: z.array(
          z.object({
            key: z.string().nullable().openapi({ description: 'Day, sku, customer id or country; null: not known' }),
            name: z.string().nullable(),
            ...sales,
          }),
        ),
        total: z.object(sales),
        truncated: z.boolean().openapi({ description: 'True: there are more items than limit' }),
        factsBehind: factsBehindField,
      }),
    ),
    ...problemAnswers(400, 401, 403),
  },
})

const stepCounts = z.object({
  placed: count,
  confirmed: count,
  shipped: count,
  delivered: count,
  returned: count,
  cancelled: count,
})
const cancelledByReason = z.record(z.string(), count)

const funnelRoute = createRoute({
  method: 'get',
  path: '/api/analytics/funnel',
  summary: 'How many orders came how far',
  tags,
  security,
  middleware,
  request: { query: days },
  responses: {
    200: json(
      'Counts of orders; one that came further counts at the steps before too',
      z.object({ orders: stepCounts, cancelled: cancelledByReason, factsBehind: factsBehindField }),
    ),
    ...problemAnswers(400, 401, 403),
  },
})

const summaryRoute = createRoute({
  method: 'get',
  path: '/api/analytics/summary',
  summary: 'Orders, money and the best sellers at a glance',
  tags,
  security,
  middleware,
  request: { query: days },
  responses: {
    200: json(
      'The figures',
      z.object({
        currency: z.literal('GBP'),
        orders: stepCounts,
        cancelled: cancelledByReason,
        sales: z.object({ ...sales, averageOrderPence: count }),
        bestSellers: z.array(z.object({ sku: z.string(), name: z.string().nullable(), units: count, netPence: count })),
        factsBehind: factsBehindField,
      }),
    ),
    ...problemAnswers(400, 401, 403),
  },
})

const progress = z
  .object({
    state: z.enum(['none', 'running', 'done', 'failed']),
    startedAt: z.int().nullable(),
    finishedAt: z.int().nullable(),
    position: z.int(),
    headPosition: z.int(),
    applied: z.int(),
  })
  .openapi('FiguresRebuild')

const startRebuildRoute = createRoute({
  method: 'post',
  path: '/api/analytics/rebuild',
  summary: 'Make the figures anew from the facts, beside the live ones; while one runs, that one is meant',
  tags,
  security,
  middleware: requireRole('operator'),
  responses: { 202: json('Begun: look at Location', progress), ...problemAnswers(401, 403) },
})

const rebuildRoute = createRoute({
  method: 'get',
  path: '/api/analytics/rebuild',
  summary: 'How the rebuild is getting on',
  tags,
  security,
  middleware: requireRole('operator'),
  responses: { 200: json('The last one since the start of the service', progress), ...problemAnswers(401, 403) },
})

const BEST_SELLERS = 5

export function createRoutes({ store, log, rebuild }: { store: Store; log: Log; rebuild: Rebuild }): Api {
  const api = createApi(log)

  api.openapi(salesRoute, async (c) => {
    const { by, limit, ...asked } = c.req.valid('query')
    const range = { ...ALL_DAYS, ...asked }
    const items = await salesBy(store, by, range, limit + 1)
    const answer = {
      by,
      currency: 'GBP' as const,
      items: items.slice(0, limit),
      total: await salesTotal(store, range),
      truncated: items.length > limit,
      factsBehind: await factsBehind(store),
    }
    return c.json(answer, 200)
  })

  api.openapi(funnelRoute, async (c) => {
    const funnel = await funnelOf(store, { ...ALL_DAYS, ...c.req.valid('query') })
    return c.json({ ...funnel, factsBehind: await factsBehind(store) }, 200)
  })

  api.openapi(summaryRoute, async (c) => {
    const range = { ...ALL_DAYS, ...c.req.valid('query') }
    const total = await salesTotal(store, range)
    const best = await salesBy(store, 'product', range, BEST_SELLERS)
    const averageOrderPence = total.orders === 0 ? 0 : Math.round(total.netPence / total.orders)
    const answer = {
      currency: 'GBP' as const,
      ...(await funnelOf(store, range)),
      sales: { ...total, averageOrderPence },
      bestSellers: best.map(({ key, name, units, netPence }) => ({ sku: key ?? '', name, units, netPence })),
      factsBehind: await factsBehind(store),
    }
    return c.json(answer, 200)
  })

  api.openapi(startRebuildRoute, (c) => c.json(rebuild.start(), 202, { location: '/api/analytics/rebuild' }))

  api.openapi(rebuildRoute, (c) => c.json(rebuild.progress(), 200))

  return api
}
