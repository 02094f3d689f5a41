import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  cartAbandoned,
  cartCheckedOut,
  cartUpdated,
  inventoryLevelChanged,
  productCreated,
  productDiscontinued,
  productPriceUpdated,
  productUpdated,
  userDeleted,
} from '@shopsphere/contracts'
import { type Asked, openService, type ServiceBench } from '../testing.ts'
import { cart } from './service.ts'

/** A day of 24 seconds: a service looks around every few seconds, and a test need not wait for all of them. */
const HOUR_MS = 1_000
const DAY_MS = 24 * HOUR_MS
const ADA = { userId: 'usr_ada', roles: ['customer'] }
const GRACE = { userId: 'usr_grace', roles: ['customer'] }
const ADDRESS = { name: 'Ada', line1: '12 St James’s Square', city: 'London', postcode: 'SW1Y 4JH', country: 'GB' }

async function openShop() {
  const shop = await openService(cart, { environment: { CART_ABANDONED_MS: String(DAY_MS) } })
  await sold(shop, 'holder', 255)
  await sold(shop, 'lantern', 339)
  return shop
}

const sold = (shop: ServiceBench, sku: string, pricePence: number) =>
  shop.say(productCreated, { ...productCreated.example!, sku, name: `White ${sku}`, pricePence })

const newCart = async (shop: ServiceBench, as: Asked['as'] = null) =>
  (await shop.ask('POST /api/carts', { as })).body.cartId as string
const put = (shop: ServiceBench, cartId: string, sku: string, quantity: unknown, as: Asked['as'] = null) =>
  shop.ask(`PUT /api/carts/${cartId}/lines/${encodeURIComponent(sku)}`, { body: { quantity }, as })
const quoteOf = async (shop: ServiceBench, cartId: string, as: Asked['as'] = null) =>
  (await shop.ask(`GET /api/carts/${cartId}/quote`, { as })).body
const checkOut = (shop: ServiceBench, cartId: string, body: object, as: Asked['as'] = null, key = 'key-1') =>
  shop.ask(`POST /api/carts/${cartId}/check-out`, {
    body: { paymentMethod: 'pm_card_visa', ...body },
    as,
    headers: { 'idempotency-key': key },
  })
const unitsOf = ({ lines }: { lines: { sku: string; quantity: number }[] }) =>
  Object.fromEntries(lines.map(({ sku, quantity }) => [sku, quantity]))

test('a guest fills a cart, at the prices of the catalogue, and each change is told', async () => {
  await using shop = await openShop()
  const made = await shop.ask('POST /api/carts')
  assert.equal(made.status, 201)
  const { cartId } = made.body
  assert.match(cartId, /^crt_/)
  assert.equal(made.headers.get('location'), `/api/carts/${cartId}`)
  await put(shop, cartId, 'holder', 6)
  const filled = await put(shop, cartId, 'lantern', 2)
  assert.deepEqual(filled.body.lines[1], {
    sku: 'lantern',
    name: 'White lantern',
    quantity: 2,
    unitPence: 339,
    linePence: 678,
    availability: null,
    warning: null,
  })
  assert.equal(filled.body.totalPence, 6 * 255 + 2 * 339)
  assert.deepEqual((await shop.ask(`GET /api/carts/${cartId}`)).body, filled.body)
  await put(shop, cartId, 'holder', 6) // as it is: nothing to tell
  await put(shop, cartId, 'holder', 0)
  const told = await shop.told(cartUpdated)
  assert.deepEqual(told.map(unitsOf), [{ holder: 6 }, { holder: 6, lantern: 2 }, { lantern: 2 }])
  assert.deepEqual([told[2]!.totalPence, told[2]!.customerId], [678, null])
})

test('what cannot be in a cart is refused with a clear reason', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  for (const quantity of [-1, 1.5, 1_000_001, 1e300, '6', null]) {
    const answer = await put(shop, cartId, 'holder', quantity)
    assert.deepEqual([answer.status, answer.body.code], [400, 'invalid_request'], String(quantity))
  }
  const unknown = await put(shop, cartId, 'unheard of', 1)
  assert.deepEqual([unknown.status, unknown.body.code, unknown.body.skus], [422, 'unknown_product', ['unheard of']])
  assert.equal((await put(shop, 'crt_nothing', 'holder', 1)).status, 404)
  await sold(shop, 'diamond', 1_000_000_000)
  assert.equal((await put(shop, cartId, 'diamond', 1_000)).status, 200)
  const tooMuch = await put(shop, cartId, 'diamond', 1_001)
  assert.deepEqual([tooMuch.status, tooMuch.body.code], [409, 'conflict'])
  assert.deepEqual(unitsOf((await shop.ask(`GET /api/carts/${cartId}`)).body), { diamond: 1_000 })
})

test('a customer has one open cart, which nobody else can see, change, claim, buy or throw away', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop, ADA)
  const again = await shop.ask('POST /api/carts', { as: ADA })
  assert.deepEqual([again.status, again.body.cartId], [200, cartId])
  const both = await Promise.all([newCart(shop, GRACE), newCart(shop, GRACE)])
  assert.equal(both[0], both[1])
  await put(shop, cartId, 'holder', 1, ADA)
  const { hash } = await quoteOf(shop, cartId, ADA)
  for (const as of [GRACE, null]) {
    const answers = [
      await shop.ask(`GET /api/carts/${cartId}`, { as }),
      await shop.ask(`GET /api/carts/${cartId}/quote`, { as }),
      await put(shop, cartId, 'holder', 9, as),
      await shop.ask(`PATCH /api/carts/${cartId}`, { as, body: { email: 'eve@example.org' } }),
      await shop.ask(`DELETE /api/carts/${cartId}`, { as }),
      await checkOut(shop, cartId, { quote: hash }, as),
    ]
    for (const answer of answers) assert.deepEqual([answer.status, answer.body.code], [404, 'not_found'])
  }
  assert.equal((await shop.ask(`POST /api/carts/${cartId}/claim`, { as: GRACE })).status, 404)
  assert.equal((await shop.ask(`POST /api/carts/${cartId}/claim`)).status, 401)
  assert.deepEqual(unitsOf((await shop.ask(`GET /api/carts/${cartId}`, { as: ADA })).body), { holder: 1 })
})

test('prices, names and availability follow the catalogue and the stock', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  await put(shop, cartId, 'holder', 6)
  await shop.pass(1)
  await shop.say(productPriceUpdated, { sku: 'holder', pricePence: 295, previousPricePence: 255, currency: 'GBP' })
  await shop.say(productUpdated, { sku: 'holder', name: 'Cream holder', description: null, category: null })
  await shop.say(inventoryLevelChanged, { sku: 'holder', availability: 'low', available: 4 })
  const quote = await quoteOf(shop, cartId)
  const { name, unitPence, availability, warning } = quote.lines[0]
  assert.deepEqual([name, unitPence, availability, warning], ['Cream holder', 295, 'low', 'not_enough'])
  assert.equal(quote.totalPence, 6 * 295)
})

test('the copy of the catalogue is the same when its news come late, twice or backwards', async () => {
  const at = (order: number[]) => async () => {
    await using shop = await openService(cart)
    const news = [
      () => shop.say(productPriceUpdated, { sku: 'x', pricePence: 2, previousPricePence: 1, currency: 'GBP' }),
      () => shop.say(productUpdated, { sku: 'x', name: 'Second', description: null, category: null }),
      () => shop.say(inventoryLevelChanged, { sku: 'x', availability: 'out', available: 0 }),
      () => shop.say(productCreated, { ...productCreated.example!, sku: 'x', name: 'First', pricePence: 1 }),
    ]
    for (const index of order) await news[index]!()
    const cartId = await newCart(shop)
    await put(shop, cartId, 'x', 1)
    const { name, unitPence, warning } = (await quoteOf(shop, cartId)).lines[0]
    return [name, unitPence, warning]
  }
  const expected = ['Second', 2, 'out_of_stock']
  for (const order of [
    [3, 0, 1, 2],
    [0, 1, 2, 3],
    [2, 1, 3, 0],
    [3, 0, 1, 2, 3],
  ]) {
    assert.deepEqual(await at(order)(), expected, order.join())
  }
})

test('a product that has no name and price yet, or is discontinued, cannot be bought, whatever came first', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  await shop.say(inventoryLevelChanged, { sku: 'early', availability: 'in_stock', available: 9 })
  assert.equal((await put(shop, cartId, 'early', 1)).body.code, 'unknown_product')
  await shop.say(productDiscontinued, { sku: 'late' })
  await sold(shop, 'late', 100)
  assert.equal((await put(shop, cartId, 'late', 1)).body.code, 'unknown_product')
})

test('check-out answers at once with the order’s address and tells order all that it needs', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop, ADA)
  await put(shop, cartId, 'holder', 6, ADA)
  await put(shop, cartId, 'lantern', 1, ADA)
  const { hash } = await quoteOf(shop, cartId, ADA)
  const bought = await checkOut(shop, cartId, { quote: hash, address: ADDRESS, email: 'ada@example.org' }, ADA)
  assert.equal(bought.status, 202)
  const { orderId } = bought.body
  assert.match(orderId, /^ord_/)
  assert.equal(bought.headers.get('location'), `/api/orders/${orderId}`)
  assert.deepEqual(await shop.told(cartCheckedOut), [
    {
      cartId,
      orderId,
      customerId: 'usr_ada',
      email: 'ada@example.org',
      lines: [
        { lineNo: 1, sku: 'holder', name: 'White holder', quantity: 6, unitPence: 255 },
        { lineNo: 2, sku: 'lantern', name: 'White lantern', quantity: 1, unitPence: 339 },
      ],
      totalPence: 1_869,
      currency: 'GBP',
      quoteHash: hash,
      paymentMethod: 'pm_card_visa',
      address: { ...ADDRESS, line2: null, region: null },
      checkedOutAt: shop.clock.now(),
    },
  ])
  const closed = await shop.ask(`GET /api/carts/${cartId}`, { as: ADA })
  assert.deepEqual([closed.body.state, closed.body.orderId], ['checked_out', orderId])
  assert.notEqual(await newCart(shop, ADA), cartId)
})

test('the same check-out again is the same order; a second one is refused and names the first', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  await put(shop, cartId, 'holder', 1)
  const { hash } = await quoteOf(shop, cartId)
  const first = await checkOut(shop, cartId, { quote: hash })
  const again = await checkOut(shop, cartId, { quote: hash })
  assert.deepEqual([again.status, again.body], [202, first.body])
  assert.equal(again.headers.get('idempotency-replayed'), 'true')
  const other = await checkOut(shop, cartId, { quote: hash }, null, 'key-2')
  assert.deepEqual([other.status, other.body.code, other.body.orderId], [409, 'conflict', first.body.orderId])
  assert.equal((await shop.told(cartCheckedOut)).length, 1)
  const keyless = await shop.ask(`POST /api/carts/${cartId}/check-out`, {
    body: { quote: hash, paymentMethod: 'pm_card_visa' },
  })
  assert.equal(keyless.body.code, 'idempotency_key_required')
})

test('a price that changed since the quote stops the check-out and comes with the new quote', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  await put(shop, cartId, 'holder', 2)
  const { hash } = await quoteOf(shop, cartId)
  await shop.pass(1)
  await shop.say(productPriceUpdated, { sku: 'holder', pricePence: 295, previousPricePence: 255, currency: 'GBP' })
  const refused = await checkOut(shop, cartId, { quote: hash })
  assert.deepEqual([refused.status, refused.body.code], [409, 'price_changed'])
  assert.deepEqual(refused.body.quote, await quoteOf(shop, cartId))
  assert.equal(refused.body.quote.totalPence, 590)
  // The customer agrees: the same key may be used, since nothing has happened under it.
  assert.equal((await checkOut(shop, cartId, { quote: refused.body.quote.hash })).status, 202)
  assert.equal((await shop.told(cartCheckedOut))[0]!.totalPence, 590)
})

test('a cart that is empty, or holds what is no longer sold, cannot be checked out', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  const { hash } = await quoteOf(shop, cartId)
  assert.equal((await checkOut(shop, cartId, { quote: hash })).body.code, 'conflict')
  await put(shop, cartId, 'holder', 1)
  await put(shop, cartId, 'lantern', 1)
  await shop.say(productDiscontinued, { sku: 'holder' })
  const quote = await quoteOf(shop, cartId)
  assert.equal(quote.lines[0].warning, 'not_sold')
  const refused = await checkOut(shop, cartId, { quote: quote.hash })
  assert.deepEqual([refused.status, refused.body.code, refused.body.skus], [422, 'unknown_product', ['holder']])
  await put(shop, cartId, 'holder', 0)
  assert.equal((await checkOut(shop, cartId, { quote: (await quoteOf(shop, cartId)).hash })).status, 202)
  for (const body of [{ quote: '' }, { quote: 'x', paymentMethod: '4242424242424242' }, { quote: 'x', unitPence: 1 }]) {
    assert.equal((await checkOut(shop, cartId, body, null, 'key-3')).body.code, 'invalid_request')
  }
})

test('signing in makes the guest’s cart the customer’s, or puts it into the one that there is', async () => {
  await using shop = await openShop()
  const first = await newCart(shop)
  await put(shop, first, 'holder', 1)
  const claim = (cartId: string, as = ADA) => shop.ask(`POST /api/carts/${cartId}/claim`, { as })
  const claimed = await claim(first)
  assert.deepEqual([claimed.status, claimed.body.cartId, claimed.body.customerId], [200, first, 'usr_ada'])
  assert.equal((await shop.ask(`GET /api/carts/${first}`)).status, 404)
  const second = await newCart(shop)
  await put(shop, second, 'holder', 2)
  await put(shop, second, 'lantern', 3)
  const merged = await claim(second)
  assert.equal(merged.body.cartId, first)
  assert.deepEqual(unitsOf(merged.body), { holder: 3, lantern: 3 })
  assert.deepEqual((await claim(second)).body, merged.body) // again: nothing is added twice
  assert.equal((await claim(second, GRACE)).status, 404)
  assert.equal((await put(shop, second, 'holder', 1, ADA)).body.mergedInto, first)
  const told = await shop.told(cartUpdated)
  const last = (cartId: string) => unitsOf(told.findLast((one) => one.cartId === cartId)!)
  assert.deepEqual([last(first), last(second)], [{ holder: 3, lantern: 3 }, {}])
})

test('T8: a cart that is left alone for a day is told of once; each change moves the day on', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  await shop.ask(`PATCH /api/carts/${cartId}`, { body: { email: 'guest@example.org' } })
  await put(shop, cartId, 'holder', 1)
  await shop.pass(20 * HOUR_MS)
  await put(shop, cartId, 'holder', 2)
  await shop.pass(20 * HOUR_MS)
  assert.deepEqual(await shop.told(cartAbandoned), [])
  await shop.pass(4 * HOUR_MS)
  const lines = [{ sku: 'holder', name: 'White holder', quantity: 2, unitPence: 255 }]
  assert.deepEqual(await shop.told(cartAbandoned), [
    { cartId, customerId: null, email: 'guest@example.org', lines, totalPence: 510, currency: 'GBP' },
  ])
  await put(shop, cartId, 'holder', 3)
  await shop.pass(3 * DAY_MS)
  assert.equal((await shop.told(cartAbandoned)).length, 1)
})

test('T8: nobody is reminded of a cart that was bought, emptied, thrown away, merged or deleted with its account', async () => {
  await using shop = await openShop()
  const filled = async (as: Asked['as'] = null) => {
    const cartId = await newCart(shop, as)
    await put(shop, cartId, 'holder', 1, as)
    return cartId
  }
  const bought = await filled()
  await checkOut(shop, bought, { quote: (await quoteOf(shop, bought)).hash })
  await put(shop, await filled(), 'holder', 0)
  const thrown = await filled()
  assert.equal((await shop.ask(`DELETE /api/carts/${thrown}`)).status, 204)
  assert.equal((await shop.ask(`DELETE /api/carts/${thrown}`)).status, 404)
  const own = await filled(ADA)
  await shop.ask(`POST /api/carts/${await filled()}/claim`, { as: ADA })
  await shop.say(userDeleted, { userId: 'usr_ada', deletedAt: 1 })
  assert.equal((await shop.ask(`GET /api/carts/${own}`, { as: ADA })).status, 404)
  await shop.pass(3 * DAY_MS)
  assert.deepEqual(await shop.told(cartAbandoned), [])
  assert.equal(await shop.deadLetters(), 0)
})

test('an edit of another version than the present one is refused', async () => {
  await using shop = await openShop()
  const cartId = await newCart(shop)
  const ask = (quantity: number) =>
    shop.ask(`PUT /api/carts/${cartId}/lines/holder`, { body: { quantity }, headers: { 'if-match': '"1"' } })
  assert.deepEqual([(await ask(1)).headers.get('etag'), (await ask(2)).body.code], ['"2"', 'version_mismatch'])
})
