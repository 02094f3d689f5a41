/** The catalogue: open to everybody to read, to merchants to edit their own. */
import { createRoute, z } from '@hono/zod-openapi'
import type { Reader, TransactionContext } from '@shopsphere/bus'
import { productCreated, productDiscontinued, productPriceUpdated, productUpdated } from '@shopsphere/contracts'
import { requireCaller } from '@shopsphere/runtime/auth'
import { etagOf, matchIfGiven, requireMatch } from '@shopsphere/runtime/etag'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { type ApiEnv, origin } from '@shopsphere/runtime/request-context'
import type { ServiceContext } from '@shopsphere/runtime/service'
import type { Context } from 'hono'
import { displayName, lineOf, paragraphOf, productCode, reasonOf, unitPrice } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import {
  assertMayEdit,
  assertMaySell,
  discontinued,
  type Editor,
  edited,
  type Product,
  searchWords,
  toTell,
} from './product.ts'
import { addProducts, findEditor, findProduct, SEARCH_WORDS_MAX, saveProduct, searchProducts } from './queries.ts'

const PRODUCTS_MAX = 1_000
const ATTRIBUTES_MAX = 50

const description = paragraphOf(4_000).nullable()
const category = lineOf(64).nullable()
const attributes = z
  .record(lineOf(64), lineOf(256))
  .refine((given) => Object.keys(given).length <= ATTRIBUTES_MAX, `expected at most ${ATTRIBUTES_MAX} attributes`)

const newProduct = z
  .strictObject({
    sku: productCode,
    name: displayName,
    description: description.default(null),
    category: category.default(null),
    attributes: attributes.default({}),
    pricePence: unitPrice,
  })
  .openapi('NewProduct')
type NewProduct = z.infer<typeof newProduct>

const changes = z.strictObject({
  name: displayName.optional(),
  description: description.optional(),
  category: category.optional(),
  attributes: attributes.optional(),
  pricePence: unitPrice.optional(),
})

const productShape = z
  .object({
    sku: z.string(),
    name: z.string(),
    description: z.string().nullable(),
    category: z.string().nullable(),
    attributes: z.record(z.string(), z.string()),
    pricePence: z.int(),
    currency: z.literal('GBP'),
    discontinued: z.boolean(),
    merchantId: z.string(),
    changedAt: z.int().openapi({ description: 'Milliseconds since the epoch' }),
  })
  .openapi('Product')

const importedLine = z
  .object({
    line: z.int().openapi({ description: 'Its place in the request, from 1' }),
    outcome: z.enum(['created', 'exists', 'refused']),
    sku: z.string().nullable(),
    reason: z.string().nullable(),
  })
  .openapi('ImportedProduct')
type ImportedLine = z.infer<typeof importedLine>

const tags = ['products']
const bySku = { params: z.object({ sku: productCode }) }
const position = z.string()

const list = createRoute({
  method: 'get',
  path: '/api/products',
  summary: 'Products for sale, or those that a search finds; in the order of their sku',
  tags,
  request: {
    query: pageQuery.extend({
      q: z
        .string()
        .max(200)
        .optional()
        .openapi({
          description: `Up to ${SEARCH_WORDS_MAX} words or parts of words, all of which a product must have`,
        }),
      category: lineOf(64).optional(),
      includeDiscontinued: z.enum(['true', 'false']).default('false'),
    }),
  },
  responses: { 200: json('A page of products', pageOf(productShape)), ...problemAnswers(400) },
})

const get = createRoute({
  method: 'get',
  path: '/api/products/{sku}',
  summary: 'A product, also one that is no longer sold',
  tags,
  request: bySku,
  responses: { 200: json('The product, its version in ETag', productShape), ...problemAnswers(400, 404) },
})

const create = createRoute({
  method: 'post',
  path: '/api/products',
  summary: 'Adds a product; for merchants',
  tags,
  security: signedIn,
  request: { body: body(newProduct) },
  responses: { 201: json('The product', productShape), ...problemAnswers(400, 401, 403, 409, 422) },
})

const importAll = createRoute({
  method: 'post',
  path: '/api/products/bulk',
  summary: `Adds up to ${PRODUCTS_MAX} products; each line has its own outcome; for merchants`,
  tags,
  security: signedIn,
  request: {
    body: body(
      z.strictObject({
        products: z
          .array(z.unknown())
          .min(1)
          .max(PRODUCTS_MAX)
          .openapi({ type: 'array', items: { $ref: '#/components/schemas/NewProduct' } }),
      }),
    ),
  },
  responses: {
    200: json('One outcome for each line', z.object({ products: z.array(importedLine) })),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

const change = createRoute({
  method: 'patch',
  path: '/api/products/{sku}',
  summary: 'Changes a product; for its merchant. Needs If-Match. Orders that were placed keep their prices.',
  tags,
  security: signedIn,
  request: { ...bySku, body: body(changes) },
  responses: {
    200: json('The product after the change', productShape),
    ...problemAnswers(400, 401, 403, 404, 409, 412, 428),
  },
})

const discontinue = createRoute({
  method: 'post',
  path: '/api/products/{sku}/discontinue',
  summary: 'Takes a product off sale for good; for its merchant',
  tags,
  security: signedIn,
  request: bySku,
  responses: { 200: json('The product', productShape), ...problemAnswers(400, 401, 403, 404, 409, 412) },
})

export function addProductRoutes(
  api: Api,
  { bus, store, clock, idempotency }: Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'idempotency'>,
): void {
  const editorOf = (c: Context<ApiEnv>, reader: Reader): Promise<Editor | undefined> =>
    findEditor(reader, requireCaller(c).userId)

  /** Adds those whose sku is free; answers their positions. */
  async function add({ tx, publish }: TransactionContext, merchantId: string, given: readonly NewProduct[]) {
    const now = clock.now()
    const products = given.map((one): Product => {
      return { ...one, discontinued: false, merchantId, version: 1, createdAt: now, changedAt: now }
    })
    const added = await addProducts(tx, products)
    for (const position of added) {
      const { sku, name, description, category, pricePence } = products[position]!
      publish(productCreated, { sku, name, description, category, pricePence, currency: 'GBP', createdBy: merchantId })
    }
    return { products, added }
  }

  /** Reads, decides, writes and tells in one transaction; answers the product after it. */
  function edit(c: Context<ApiEnv>, sku: string, decide: (product: Product) => Product): Promise<Product> {
    return bus.transaction(async ({ tx, publish }) => {
      const editor = await editorOf(c, tx)
      assertMaySell(editor)
      const before = await findProduct(tx, sku)
      if (!before) throw noProduct(sku)
      assertMayEdit(editor, before)
      const after = decide(before)
      if (after === before) return before
      if (!(await saveProduct(tx, before, after))) throw changedMeanwhile()
      const tell = toTell(before, after)
      const { name, description, category, pricePence } = after
      if (tell.described) publish(productUpdated, { sku, name, description, category })
      if (tell.repriced) {
        publish(productPriceUpdated, { sku, pricePence, previousPricePence: before.pricePence, currency: 'GBP' })
      }
      if (tell.discontinued) publish(productDiscontinued, { sku })
      return after
    }, origin(c))
  }

  api.openapi(list, async (c) => {
    const { q = '', category = null, includeDiscontinued, cursor, limit } = c.req.valid('query')
    const words = searchWords(q)
    if (words.length > SEARCH_WORDS_MAX) {
      throw problem(400, 'invalid_request', `query, q: search for at most ${SEARCH_WORDS_MAX} words.`)
    }
    const afterSku = decodeCursor(position, cursor) ?? ''
    const all = includeDiscontinued === 'true'
    const found = await store.read((reader) =>
      searchProducts(reader, { words, category, afterSku, limit: limit + 1, all }),
    )
    return c.json(page(found, limit, { item: shown, position: ({ sku }) => sku }), 200)
  })

  api.openapi(get, async (c) => {
    const { sku } = c.req.valid('param')
    const product = await store.read((reader) => findProduct(reader, sku))
    if (!product) throw noProduct(sku)
    return c.json(shown(product), 200, { etag: etagOf(product.version) })
  })

  api.openapi(create, (c) => {
    const { userId } = requireCaller(c)
    const given = c.req.valid('json')
    return idempotency.run(c, async (transaction) => {
      assertMaySell(await editorOf(c, transaction.tx))
      const { products, added } = await add(transaction, userId, [given])
      if (added.length === 0) throw problem(409, 'already_exists', `There is a product ${given.sku}: PATCH it instead.`)
      const headers = { location: `/api/products/${encodeURIComponent(given.sku)}`, etag: etagOf(1) }
      return { status: 201, body: shown(products[0]!), headers }
    })
  })

  api.openapi(importAll, (c) => {
    const { userId } = requireCaller(c)
    const lines = c.req.valid('json').products.map((line) => newProduct.safeParse(line))
    return idempotency.run(c, async (transaction) => {
      assertMaySell(await editorOf(c, transaction.tx))
      const good = lines.flatMap((line) => line.data ?? [])
      const { added } = await add(transaction, userId, good)
      const created = new Set(added.map((place) => good[place]))
      const outcomes = lines.map((line, index): ImportedLine => {
        const number = index + 1
        if (!line.success) return { line: number, outcome: 'refused', sku: null, reason: reasonOf(line.error) }
        const outcome = created.has(line.data) ? 'created' : 'exists'
        return { line: number, outcome, sku: line.data.sku, reason: null }
      })
      return { status: 200, body: { products: outcomes } }
    })
  })

  api.openapi(change, async (c) => {
    const { sku } = c.req.valid('param')
    const asked = c.req.valid('json')
    const product = await edit(c, sku, (present) => {
      requireMatch(c, present.version)
      return edited(present, asked, clock.now())
    })
    return c.json(shown(product), 200, { etag: etagOf(product.version) })
  })

  api.openapi(discontinue, async (c) => {
    const { sku } = c.req.valid('param')
    const product = await edit(c, sku, (present) => {
      matchIfGiven(c, present.version)
      return discontinued(present, clock.now())
    })
    return c.json(shown(product), 200, { etag: etagOf(product.version) })
  })
}

function shown(product: Product): z.infer<typeof productShape> {
  const { sku, name, description, category, attributes, pricePence, discontinued, merchantId, changedAt } = product
  return {
    sku,
    name,
    description,
    category,
    attributes,
    pricePence,
    currency: 'GBP',
    discontinued,
    merchantId,
    changedAt,
  }
}

const noProduct = (sku: string) => problem(404, 'not_found', `There is no product ${sku}.`)
const changedMeanwhile = () =>
  problem(409, 'conflict', 'Somebody else changed it at the same moment: read it again, then decide.')
