import { createRoute, z } from '@hono/zod-openapi'
import type { Clock, Store, TransactionContext } from '@shopsphere/bus'
import { contractLimits } from '@shopsphere/contracts'
import { hasRole, requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Idempotency } from '@shopsphere/runtime/idempotency'
import type { Log } from '@shopsphere/runtime/log'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { type ProblemError, problem, problemAnswers } from '@shopsphere/runtime/problem'
import { lineOf, productCode } from '../fields.ts'
import { body, json, signedIn, signedInOrNot } from '../route-parts.ts'
import { receive, writeOff } from './corrections.ts'
import { findStock, findStocks, listLedger, listStock, type Stock } from './queries.ts'
import { availabilityOf, type SkuUnits, unitsBySku, unitsOf } from './stock.ts'

const RECEIPT_LINES_MAX = 1_000
/** On hand of one product, at most. */
const ON_HAND_MAX = contractLimits.unitsMax

const quantity = z.int().min(1).max(contractLimits.quantityMax)
const reason = lineOf(200).nullable().default(null)
const availability = z.enum(['in_stock', 'low', 'out'])

const stockFigures = z
  .object({
    sku: z.string(),
    availability,
    onHand: z.int().openapi({ description: 'available + held + allocated' }),
    available: z.int(),
    held: z.int().openapi({ description: 'For orders that are not paid yet' }),
    allocated: z.int().openapi({ description: 'Promised to paid orders' }),
  })
  .openapi('Stock')
/** What everybody may know; the rest is for staff. */
const publicStock = stockFigures.partial({ onHand: true, held: true, allocated: true }).openapi('PublicStock')
const ledgerEntry = z
  .object({
    reference: z.string().openapi({ description: 'The receipt, write-off, shipment or return' }),
    kind: z.enum(['receipt', 'dispatch', 'return', 'write_off']),
    change: z.int().openapi({ description: 'Of what is on hand' }),
    reason: z.string().nullable(),
    at: z.int().openapi({ description: 'Milliseconds since the epoch' }),
  })
  .openapi('StockLedgerEntry')

const tags = ['inventory']
const bySku = { params: z.object({ sku: productCode }) }
const staffOnly = requireRole('merchant', 'operator')

const oneRoute = createRoute({
  method: 'get',
  path: '/api/inventory/{sku}',
  summary: 'Whether a product is to be had; staff also read what is held and allocated',
  tags,
  security: signedInOrNot,
  request: bySku,
  responses: { 200: json('The stock', publicStock), ...problemAnswers(401, 404) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/api/inventory',
  summary: 'The stock of all products, by sku',
  tags,
  security: signedIn,
  middleware: staffOnly,
  request: { query: pageQuery },
  responses: { 200: json('A page of products', pageOf(stockFigures)), ...problemAnswers(400, 401, 403) },
})

const ledgerRoute = createRoute({
  method: 'get',
  path: '/api/inventory/{sku}/ledger',
  summary: 'Every change of what is on hand of a product, the newest first',
  tags,
  security: signedIn,
  middleware: staffOnly,
  request: { ...bySku, query: pageQuery },
  responses: { 200: json('A page of entries', pageOf(ledgerEntry)), ...problemAnswers(400, 401, 403, 404) },
})

const receiptRoute = createRoute({
  method: 'post',
  path: '/api/inventory/{sku}/receipts',
  summary: 'Goods came in',
  tags,
  security: signedIn,
  middleware: requireRole('merchant'),
  request: { ...bySku, body: body(z.strictObject({ quantity, reason })) },
  responses: {
    201: json('Booked', z.object({ receiptId: z.string(), stock: stockFigures })),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

const receiptsRoute = createRoute({
  method: 'post',
  path: '/api/inventory/receipts',
  summary: `Goods came in: up to ${RECEIPT_LINES_MAX} lines, all or none`,
  tags,
  security: signedIn,
  middleware: requireRole('merchant'),
  request: {
    body: body(
      z.strictObject({
        lines: z
          .array(z.strictObject({ sku: productCode, quantity }))
          .min(1)
          .max(RECEIPT_LINES_MAX),
        reason,
      }),
    ),
  },
  responses: {
    201: json('Booked', z.object({ receiptId: z.string(), products: z.int(), units: z.int() })),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

const writeOffRoute = createRoute({
  method: 'post',
  path: '/api/inventory/{sku}/write-offs',
  summary:
    'Goods are gone. What is available goes first; then unpaid orders lose their hold, then paid ones their allocation',
  tags,
  security: signedIn,
  middleware: requireRole('merchant'),
  request: { ...bySku, body: body(z.strictObject({ quantity, reason })) },
  responses: {
    201: json(
      'Booked',
      z.object({
        writeOffId: z.string(),
        stock: stockFigures,
        heldOrders: z.array(z.string()).openapi({ description: 'Unpaid orders that lost their hold' }),
        allocatedOrders: z.array(z.string()).openapi({ description: 'Paid orders that cannot be filled any more' }),
      }),
    ),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

export type RouteOptions = {
  store: Store
  idempotency: Idempotency
  clock: Clock
  newId: (prefix: string) => string
  log: Log
}

export function createRoutes({ store, idempotency, clock, newId, log }: RouteOptions): Api {
  const api = createApi(log)

  const existing = async (sku: string): Promise<Stock> => {
    const stock = await store.read((reader) => findStock(reader, sku))
    if (stock) return stock
    throw problem(404, 'not_found', `There is no product ${sku} here. If it was just made, ask again in a moment.`)
  }

  /** In the transaction, so that what follows decides on what it reads. */
  const known = async ({ tx }: TransactionContext, sku: string): Promise<Stock> => {
    const stock = await findStock(tx, sku)
    if (stock) return stock
    throw unknownProducts([sku])
  }

  const knownAll = async ({ tx }: TransactionContext, units: readonly SkuUnits[]): Promise<Map<string, Stock>> => {
    const stocks = await findStocks(
      tx,
      units.map(([sku]) => sku),
    )
    const unknown = units.filter(([sku]) => !stocks.has(sku)).map(([sku]) => sku)
    if (unknown.length > 0) throw unknownProducts(unknown)
    return stocks
  }

  api.openapi(oneRoute, async (c) => {
    const stock = figuresOf(await existing(c.req.valid('param').sku))
    if (hasRole(c, 'merchant', 'operator')) return c.json(stock, 200)
    return c.json({ sku: stock.sku, availability: stock.availability, available: stock.available }, 200)
  })

  api.openapi(listRoute, async (c) => {
    const { cursor, limit } = c.req.valid('query')
    const afterSku = decodeCursor(z.string(), cursor) ?? ''
    const rows = await store.read((reader) => listStock(reader, { afterSku, limit: limit + 1 }))
    return c.json(page(rows, limit, { item: figuresOf, position: ({ sku }) => sku }), 200)
  })

  api.openapi(ledgerRoute, async (c) => {
    const { sku } = c.req.valid('param')
    const { cursor, limit } = c.req.valid('query')
    await existing(sku)
    const before = decodeCursor(z.tuple([z.int(), z.string()]), cursor)
    const rows = await store.read((reader) => listLedger(reader, sku, { before, limit: limit + 1 }))
    const item = ({ sku: _, ...entry }: (typeof rows)[number]) => entry
    return c.json(page(rows, limit, { item, position: ({ at, reference }) => [at, reference] }), 200)
  })

  api.openapi(receiptRoute, (c) => {
    const { sku } = c.req.valid('param')
    const { quantity: units, reason: why } = c.req.valid('json')
    return idempotency.run(c, async (context) => {
      checkRoom(await known(context, sku), units)
      const receiptId = newId('rcp')
      await receive(context, [[sku, units]], { reference: receiptId, reason: why, at: clock.now() })
      return { status: 201, body: { receiptId, stock: figuresOf(await known(context, sku)) } }
    })
  })

  api.openapi(receiptsRoute, (c) => {
    const { lines, reason: why } = c.req.valid('json')
    const units = unitsBySku(lines)
    return idempotency.run(c, async (context) => {
      const stocks = await knownAll(context, units)
      for (const [sku, count] of units) checkRoom(stocks.get(sku)!, count)
      const receiptId = newId('rcp')
      await receive(context, units, { reference: receiptId, reason: why, at: clock.now() })
      return { status: 201, body: { receiptId, products: units.length, units: unitsOf(units) } }
    })
  })

  api.openapi(writeOffRoute, (c) => {
    const { sku } = c.req.valid('param')
    const { quantity: units, reason: why } = c.req.valid('json')
    return idempotency.run(c, async (context) => {
      const stock = await known(context, sku)
      if (units > stock.onHand)
        throw problem(409, 'conflict', `Only ${stock.onHand} units of ${sku} are on hand: write off that many at most.`)
      const writeOffId = newId('wof')
      const orders = await writeOff(context, stock, units, { reference: writeOffId, reason: why, at: clock.now() })
      return { status: 201, body: { writeOffId, stock: figuresOf(await known(context, sku)), ...orders } }
    })
  })

  return api
}

const figuresOf = (stock: Stock) => ({ ...stock, availability: availabilityOf(stock.available) })

const SKUS_SHOWN_MAX = 20

function unknownProducts(skus: readonly string[]): ProblemError {
  const shown = skus.slice(0, SKUS_SHOWN_MAX)
  const more = skus.length > shown.length ? ` and ${skus.length - shown.length} more` : ''
  const detail = `No such product here: ${shown.join(', ')}${more}. If it was just made at POST /api/products, inventory hears of it in a moment: send the same request again.`
  return problem(422, 'unknown_product', detail, { skus: shown }, { 'retry-after': '1' })
}

const tooMuch = (sku: string) =>
  problem(409, 'conflict', `There would be more than ${ON_HAND_MAX} units of ${sku} on hand: check the quantity.`)

function checkRoom({ sku, onHand }: Stock, units: number): void {
  if (onHand + units > ON_HAND_MAX) throw tooMuch(sku)
}
