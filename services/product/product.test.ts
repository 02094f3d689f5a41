import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  productCreated,
  productDiscontinued,
  productPriceUpdated,
  productUpdated,
  userDeleted,
  userRegistered,
  userRoleChanged,
} from '@shopsphere/contracts'
import { type Asked, openService, type ServiceBench } from '../testing.ts'
import { edited, type Product, searchWords, toTell } from './product.ts'
import { product } from './service.ts'

const MERCHANT = { userId: 'usr_merchant', roles: ['merchant'] }
const OTHER = { userId: 'usr_other', roles: ['merchant'] }
const OPERATOR = { userId: 'usr_operator', roles: ['operator'] }
const CUSTOMER = { userId: 'usr_customer', roles: ['customer'] }
const HOLDER = { sku: '85123A', name: 'White hanging heart T-light holder', pricePence: 255 }

async function registered(shop: ServiceBench, ...accounts: (typeof MERCHANT)[]) {
  for (const { userId, roles } of accounts) {
    await shop.say(userRegistered, {
      ...userRegistered.example!,
      userId,
      roles: roles as ('customer' | 'merchant' | 'operator')[],
    })
  }
}

const create = (shop: ServiceBench, body: object = HOLDER, as: Asked['as'] = MERCHANT) =>
  shop.ask('POST /api/products', { body, as })
const change = (shop: ServiceBench, body: object, { as = MERCHANT, version = 1, sku = HOLDER.sku } = {}) =>
  shop.ask(`PATCH /api/products/${encodeURIComponent(sku)}`, { body, as, headers: { 'if-match': `"${version}"` } })

const holder: Product = {
  ...HOLDER,
  description: null,
  category: null,
  attributes: { colour: 'white', size: '12 cm' },
  discontinued: false,
  merchantId: 'usr_merchant',
  version: 3,
  createdAt: 1,
  changedAt: 1,
}

test('a change that changes nothing makes no version, one that does says which kind it is', () => {
  assert.equal(edited(holder, { name: holder.name, attributes: { size: '12 cm', colour: 'white' } }, 2), holder)
  const dearer = edited(holder, { pricePence: 295 }, 2)
  assert.deepEqual([dearer.version, dearer.changedAt], [4, 2])
  assert.deepEqual(toTell(holder, dearer), { described: false, repriced: true, discontinued: false })
  const renamed = edited(holder, { name: 'Cream holder' }, 2)
  assert.deepEqual(toTell(holder, renamed), { described: true, repriced: false, discontinued: false })
  assert.throws(() => edited({ ...holder, discontinued: true }, { pricePence: 1 }, 2), { code: 'conflict' })
})

test('words are searched without case and accents', () => {
  assert.deepEqual(searchWords('  Café\tCRÈME '), ['cafe', 'creme'])
})

test('a merchant adds a product; everybody can read it, and the others hear of it', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  const body = {
    ...HOLDER,
    description: 'Painted metal,\n12 cm.',
    category: 'lighting',
    attributes: { colour: 'white' },
  }
  const made = await create(shop, body)
  assert.equal(made.status, 201)
  assert.equal(made.headers.get('location'), '/api/products/85123A')
  assert.equal(made.headers.get('etag'), '"1"')
  const read = await shop.ask('GET /api/products/85123A')
  assert.deepEqual(read.body, made.body)
  assert.equal(read.headers.get('etag'), '"1"')
  const { attributes: _, ...told } = body
  assert.deepEqual(await shop.told(productCreated), [{ ...told, currency: 'GBP', createdBy: MERCHANT.userId }])
  assert.deepEqual((await create(shop)).body.code, 'already_exists')
})

test('the same request with an Idempotency-Key adds one product and has one answer', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  const ask = () =>
    shop.ask('POST /api/products', { body: HOLDER, as: MERCHANT, headers: { 'idempotency-key': 'key-1' } })
  const [first, again] = [await ask(), await ask()]
  assert.deepEqual([first.status, again.status, again.headers.get('idempotency-replayed')], [201, 201, 'true'])
  assert.deepEqual(again.body, first.body)
  assert.equal((await shop.told(productCreated)).length, 1)
})

test('what cannot be a product is refused', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  const wrong = [
    { ...HOLDER, pricePence: -1 },
    { ...HOLDER, pricePence: 2.55 },
    { ...HOLDER, pricePence: 1_000_000_001 },
    { ...HOLDER, pricePence: '255' },
    { ...HOLDER, sku: '' },
    { ...HOLDER, sku: '..' },
    { ...HOLDER, sku: 'x'.repeat(65) },
    { ...HOLDER, sku: 'a\nb' },
    { ...HOLDER, name: '' },
    { ...HOLDER, unitPence: 255 },
    { ...HOLDER, attributes: Object.fromEntries(Array.from({ length: 51 }, (_, number) => [`a${number}`, 'x'])) },
  ]
  for (const body of wrong) assert.equal((await create(shop, body)).body.code, 'invalid_request', JSON.stringify(body))
  assert.deepEqual(await shop.told(productCreated), [])
})

test('a sku may be any text: slashes, per cents, spaces, other scripts', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  for (const sku of ['A/B', '100%', 'two words', '茶-1', '?q=#', 'bulk']) {
    assert.equal((await create(shop, { ...HOLDER, sku })).status, 201)
    const read = await shop.ask(`GET /api/products/${encodeURIComponent(sku)}`)
    assert.equal(read.body.sku, sku)
    assert.equal((await change(shop, { pricePence: 1 }, { sku })).status, 200)
  }
})

test('prices and descriptions change under If-Match, each with its event', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  await create(shop)
  const bare = await shop.ask('PATCH /api/products/85123A', { body: { pricePence: 1 }, as: MERCHANT })
  assert.deepEqual([bare.status, bare.body.code], [428, 'if_match_required'])
  const dearer = await change(shop, { pricePence: 295 })
  assert.deepEqual([dearer.status, dearer.headers.get('etag'), dearer.body.pricePence], [200, '"2"', 295])
  const stale = await change(shop, { pricePence: 200 })
  assert.deepEqual([stale.status, stale.body.code, stale.headers.get('etag')], [412, 'version_mismatch', '"2"'])
  await change(shop, { name: 'Cream holder', category: 'lighting' }, { version: 2 })
  await change(shop, { name: 'Cream holder' }, { version: 3 }) // nothing to change
  assert.deepEqual(await shop.told(productPriceUpdated), [
    { sku: '85123A', pricePence: 295, previousPricePence: 255, currency: 'GBP' },
  ])
  assert.deepEqual(await shop.told(productUpdated), [
    { sku: '85123A', name: 'Cream holder', description: null, category: 'lighting' },
  ])
  assert.equal((await change(shop, { pricePence: 1 }, { sku: 'nothing' })).status, 404)
})

test('a product that is discontinued leaves the list, can still be read, and is never changed again', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  await create(shop)
  const off = () => shop.ask('POST /api/products/85123A/discontinue', { as: MERCHANT })
  assert.deepEqual([(await off()).body.discontinued, (await off()).status], [true, 200])
  assert.deepEqual(await shop.told(productDiscontinued), [{ sku: '85123A' }])
  assert.deepEqual((await shop.ask('GET /api/products')).body.items, [])
  assert.equal((await shop.ask('GET /api/products?includeDiscontinued=true')).body.items.length, 1)
  assert.equal((await shop.ask('GET /api/products/85123A')).body.discontinued, true)
  assert.equal((await change(shop, { pricePence: 1 }, { version: 2 })).body.code, 'conflict')
})

test('only the product’s merchant and operators edit it', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT, OTHER, OPERATOR, CUSTOMER)
  assert.equal((await create(shop, HOLDER, null)).status, 401)
  assert.equal((await create(shop, HOLDER, CUSTOMER)).status, 403)
  await create(shop)
  for (const as of [OTHER, CUSTOMER]) {
    assert.equal((await change(shop, { pricePence: 1 }, { as })).status, 403)
    assert.equal((await shop.ask('POST /api/products/85123A/discontinue', { as })).status, 403)
  }
  assert.equal((await change(shop, { pricePence: 1 }, { as: OPERATOR })).status, 200)
})

test('what this service has heard decides, not the token: a role that was taken away ends at once', async () => {
  await using shop = await openService(product)
  const unknown = await create(shop)
  assert.deepEqual([unknown.status, unknown.headers.get('retry-after')], [403, '1'])
  assert.match(unknown.body.detail, /has not heard of your account yet/)
  await registered(shop, { ...MERCHANT, roles: ['customer'] })
  assert.match((await create(shop)).body.detail, /Only a merchant/)
  const { userId } = MERCHANT
  await shop.say(userRoleChanged, { userId, roles: ['customer', 'merchant'], changedBy: null })
  assert.equal((await create(shop)).status, 201)
  await shop.pass(1)
  await shop.say(userRoleChanged, { userId, roles: ['customer'], changedBy: null })
  assert.equal((await change(shop, { pricePence: 1 })).status, 403)
  await registered(shop, OPERATOR)
  await shop.say(userDeleted, { userId: OPERATOR.userId, deletedAt: 1 })
  assert.equal((await change(shop, { pricePence: 1 }, { as: OPERATOR })).status, 403)
})

test('news of an account that come late or twice do not give back what was taken', async () => {
  await using shop = await openService(product)
  const { userId } = MERCHANT
  await shop.say(userRegistered, { ...userRegistered.example!, userId, roles: ['merchant'] })
  await shop.say(userDeleted, { userId, deletedAt: 1 })
  await registered(shop, MERCHANT)
  await shop.say(userRoleChanged, { userId, roles: ['operator'], changedBy: null })
  assert.match((await create(shop)).body.detail, /was deleted/)
  assert.equal(await shop.deadLetters(), 0)
})

test('products are found by words and category, page by page', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT)
  const wares = [
    { sku: 'a1', name: 'Crème brûlée dish', category: 'kitchen' },
    { sku: 'a2', name: 'White metal lantern', description: 'For the garden', category: 'lighting' },
    { sku: 'a3', name: 'Red metal lantern', category: 'lighting' },
    { sku: 'a4', name: '100% cotton bag_large', category: 'bags' },
  ]
  for (const ware of wares) await create(shop, { ...ware, pricePence: 100 })
  const found = async (query: string) => {
    const { body } = await shop.ask(`GET /api/products?${query}`)
    return body.items.map(({ sku }: { sku: string }) => sku).join(' ')
  }
  assert.equal(await found('q=creme+BRULEE'), 'a1')
  assert.equal(await found('q=metal'), 'a2 a3')
  assert.equal(await found('q=lantern+garden'), 'a2')
  assert.equal(await found('q=a3'), 'a3')
  assert.equal(await found('q=100%25'), 'a4')
  assert.equal(await found('q=_'), 'a4')
  assert.equal(await found(`q=${encodeURIComponent("' or 1=1 --")}`), '')
  assert.equal(await found('category=lighting'), 'a2 a3')
  assert.equal(await found('q=red&category=lighting'), 'a3')
  const first = await shop.ask('GET /api/products?limit=3')
  assert.equal(await found(`limit=3&cursor=${first.body.nextCursor}`), 'a4')
  assert.equal((await shop.ask('GET /api/products?q=a+b+c+d+e+f')).body.code, 'invalid_request')
  assert.equal((await shop.ask('GET /api/products?limit=0')).status, 400)
})

test('products come a thousand at a time, each line with its outcome', async () => {
  await using shop = await openService(product)
  await registered(shop, MERCHANT, CUSTOMER)
  await create(shop)
  const bulk = (products: unknown[], as = MERCHANT) => shop.ask('POST /api/products/bulk', { body: { products }, as })
  const ware = { name: 'Lantern', pricePence: 339 }
  const { body } = await bulk([
    { ...ware, sku: 'n1' },
    { ...ware, sku: '85123A' },
    { ...ware, sku: 'n1' },
    { sku: 'n2' },
  ])
  assert.deepEqual(
    body.products.map(({ line, outcome, sku }: Record<string, unknown>) => [line, outcome, sku]),
    [
      [1, 'created', 'n1'],
      [2, 'exists', '85123A'],
      [3, 'exists', 'n1'],
      [4, 'refused', null],
    ],
  )
  assert.match(body.products[3].reason, /^name: /)
  assert.equal((await bulk([{ ...ware, sku: 'n3' }], CUSTOMER)).status, 403)
  const many = Array.from({ length: 1_001 }, (_, number) => ({ ...ware, sku: `m${number}` }))
  assert.equal((await bulk(many)).status, 400)
  assert.equal((await bulk(many.slice(1))).status, 200)
  assert.equal((await shop.told(productCreated)).length, 2 + 1_000)
})
