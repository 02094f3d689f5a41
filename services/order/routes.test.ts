import assert from 'node:assert/strict'
import { test } from 'node:test'
import { contractLimits, orderPlaced, productDiscontinued, productPriceUpdated } from '@shopsphere/contracts'
import {
  about,
  ada,
  address,
  basket,
  bob,
  deliver,
  merchant,
  openShop,
  operator,
  placeOrder,
  tryOrder,
} from './played.ts'

test('the answer comes at once: 202, where to look, and how it stands', async () => {
  await using shop = await openShop()
  const { status, body, headers } = await tryOrder(shop)
  assert.equal(status, 202)
  assert.equal(headers.get('location'), `/api/orders/${body.orderId}`)
  assert.match(body.orderId, /^ord_[\da-f-]{36}$/)
  const { orderId: _, ...shown } = body
  assert.deepEqual(shown, {
    status: 'processing',
    order: 'placed',
    payment: 'pending',
    fulfilment: 'unfulfilled',
    placedAt: shop.clock.now(),
    currency: 'GBP',
    totalPence: 678,
  })
})

test('the same request again makes no second order; without a key it is refused', async () => {
  await using shop = await openShop()
  const headers = { 'idempotency-key': 'once' }
  const first = await tryOrder(shop, basket, { as: ada, headers })
  const second = await tryOrder(shop, basket, { as: ada, headers })
  assert.equal(second.headers.get('idempotency-replayed'), 'true')
  assert.equal(second.body.orderId, first.body.orderId)
  assert.equal((await shop.told(orderPlaced)).length, 1)
  const { status, body } = await shop.ask('POST /api/orders', { as: ada, body: basket })
  assert.deepEqual([status, body.code], [400, 'idempotency_key_required'])
})

test('a guest orders with an e-mail, and looks it up by its id', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop, { ...basket, email: 'guest@example.org', address }, { as: null })
  const [placed] = await shop.told(orderPlaced)
  assert.deepEqual([placed!.customerId, placed!.email, placed!.placedBy], [null, 'guest@example.org', null])
  assert.equal((await shop.ask(`GET /api/orders/${orderId}`)).body.email, 'guest@example.org')
  const off = await shop.ask(`POST /api/orders/${orderId}/cancel`)
  assert.deepEqual([off.status, off.body.status], [200, 'cancelled'])
})

test('a merchant orders for a customer at the prices of the day, or for a guest', async () => {
  await using shop = await openShop()
  const lines = [
    { sku: 'heart', quantity: 3, unitPence: 111, name: 'Heart, second choice' },
    { sku: 'heart', quantity: 1 },
    { sku: 'heart', quantity: 3, unitPence: 111 },
  ]
  const placedAt = 1_291_192_800_000
  await placeOrder(shop, { ...basket, lines, placedAt, customerId: ada.userId }, { as: merchant })
  await placeOrder(shop, { ...basket, lines, placedAt }, { as: merchant })
  const told = await shop.told(orderPlaced)
  const first = told.find((order) => order.customerId !== null)
  const second = told.find((order) => order.customerId === null)
  assert.deepEqual(
    first!.lines.map(({ lineNo, name, quantity, unitPence }) => [lineNo, name, quantity, unitPence]),
    [
      [1, 'Heart, second choice', 3, 111],
      [2, 'Hanging heart', 1, 255],
      [3, 'Hanging heart', 3, 111],
    ],
  )
  const { customerId, email, totalPence, channel, placedBy } = first!
  assert.deepEqual(
    [customerId, email, totalPence, channel, placedBy, first!.placedAt],
    [ada.userId, 'ada@example.org', 921, 'merchant', merchant.userId, placedAt],
  )
  assert.equal(second!.customerId, null)
})

test('only a merchant names prices, names, times and customers', async () => {
  await using shop = await openShop()
  const line = { sku: 'heart', quantity: 1 }
  for (const as of [ada, operator, null]) {
    for (const [change, code] of [
      [{ lines: [{ ...line, unitPence: 1 }] }, 'price_not_allowed'],
      [{ lines: [{ ...line, name: 'Mine' }] }, 'forbidden'],
      [{ placedAt: 1 }, 'forbidden'],
      [{ customerId: bob.userId }, 'forbidden'],
    ] as const) {
      const { status, body } = await tryOrder(shop, { ...basket, ...change }, { as })
      assert.deepEqual([status, body.code], [403, code])
    }
  }
  assert.equal((await tryOrder(shop, { ...basket, customerId: ada.userId })).status, 202)
})

test('what is not sold is refused by name, and so is what makes no sense', async () => {
  await using shop = await openShop()
  await shop.say(productDiscontinued, { sku: 'heart' })
  const lines = ['lantern', 'heart', 'unicorn'].map((sku) => ({ sku, quantity: 1 }))
  for (const as of [ada, merchant]) {
    const { status, body } = await tryOrder(shop, { ...basket, lines }, { as })
    assert.deepEqual([status, body.code], [422, 'unknown_product'])
    assert.deepEqual([body.skus, body.unknown, body.discontinued], [['unicorn', 'heart'], ['unicorn'], ['heart']])
  }
  const { quantityMax, linesMax, unitPenceMax } = contractLimits
  const line = { sku: 'lantern', quantity: 1 }
  const refused: [object, string][] = [
    [{ lines: [] }, 'lines'],
    [{ lines: Array.from({ length: linesMax + 1 }, () => line) }, 'lines'],
    ...[0, -1, 1.5, quantityMax + 1, '1'].map((quantity): [object, string] => [
      { lines: [{ ...line, quantity }] },
      'lines.0.quantity',
    ]),
    [{ lines: [{ quantity: 1 }] }, 'lines.0.sku'],
    [{ lines: [{ ...line, unitpence: 1 }] }, 'lines.0'],
    [{ lines: [{ ...line, unitPence: -1 }] }, 'lines.0.unitPence'],
    [{ lines: [{ ...line, quantity: quantityMax, unitPence: unitPenceMax }] }, ''],
    [{ lines: Array.from({ length: 1_001 }, () => ({ ...line, quantity: quantityMax })) }, ''],
    [{ paymentMethod: '4242424242424242' }, 'paymentMethod'],
    [{ paymentMethod: undefined }, 'paymentMethod'],
    [{ email: 'nobody' }, 'email'],
    [{ customerId: '17850' }, 'customerId'],
    [{ address: { name: 'Ada' } }, 'address.line1'],
  ]
  for (const [change, path] of refused) {
    const { status, body } = await tryOrder(shop, { ...basket, ...change }, { as: merchant })
    assert.deepEqual([status, body.code], [400, 'invalid_request'], JSON.stringify(change).slice(0, 200))
    assert.equal(body.errors?.[0]?.path ?? '', path, body.detail)
  }
  assert.equal((await shop.told(orderPlaced)).length, 0)
})

test('a price that changed since the quote: 409 with the new quote, and nothing is ordered', async () => {
  await using shop = await openShop()
  const change = { sku: 'lantern', pricePence: 400, previousPricePence: 339, currency: 'GBP' as const }
  await shop.say(productPriceUpdated, change)
  const { status, body } = await tryOrder(shop, { ...basket, expectedTotalPence: 678 })
  assert.deepEqual([status, body.code], [409, 'price_changed'])
  assert.equal(body.quote.totalPence, 800)
  assert.equal(body.quote.lines[0].unitPence, 400)
  assert.equal((await tryOrder(shop, { ...basket, expectedTotalPence: 800 })).status, 202)
})

test('an order of as many lines as there may be goes through; one that cannot be passed on is refused', async () => {
  await using shop = await openShop()
  const lines = Array.from({ length: contractLimits.linesMax }, () => ({ sku: 'lantern', quantity: 1, unitPence: 1 }))
  const orderId = await placeOrder(shop, { ...basket, lines }, { as: merchant })
  assert.equal((await shop.ask(`GET /api/orders/${orderId}`, { as: merchant })).body.lines.length, lines.length)
  const wide = lines.map((line) => ({ ...line, name: 'x'.repeat(256) }))
  const { status } = await tryOrder(shop, { ...basket, lines: [...wide] }, { as: merchant })
  assert.equal(status, 202)
  const wider = lines.map((line) => ({ ...line, name: '漢'.repeat(160) }))
  const tooLong = await tryOrder(shop, { ...basket, lines: wider }, { as: merchant })
  assert.deepEqual([tooLong.status, tooLong.body.code], [413, 'body_too_large'])
  assert.equal((await shop.told(orderPlaced)).length, 2)
})

test('nobody finds another’s order; merchants and operators find every one', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  for (const request of [`GET /api/orders/${orderId}`, `GET /api/orders/${orderId}/timeline`]) {
    for (const as of [ada, merchant, operator]) assert.equal((await shop.ask(request, { as })).status, 200)
    for (const as of [bob, null]) {
      const { status, body } = await shop.ask(request, { as })
      assert.deepEqual([status, body.code], [404, 'not_found'])
    }
  }
  assert.equal((await shop.ask(`POST /api/orders/${orderId}/cancel`, { as: bob })).status, 404)
  assert.equal((await shop.ask('GET /api/orders/ord_nothing', { as: operator })).status, 404)
  assert.equal((await shop.ask(`GET /api/orders?ids=${orderId}`, { as: bob })).body.items.length, 0)
})

test('an order can be read as it was: by version, and by time', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const placedAt = shop.clock.now()
  await shop.pass(10_000)
  await about(shop, orderId).reserved()
  const read = async (asOf: string | number) => {
    const { status, body } = await shop.ask(`GET /api/orders/${orderId}?asOf=${encodeURIComponent(asOf)}`, { as: ada })
    return status === 200 ? `${body.version} ${body.fulfilment}` : body.code
  }
  assert.equal(await read(1), '1 unfulfilled')
  assert.equal(await read(2), '2 reserved')
  assert.equal(await read(new Date(placedAt).toISOString()), '1 unfulfilled')
  assert.equal(await read(new Date(placedAt + 10_000).toISOString()), '2 reserved')
  assert.equal(await read(new Date(placedAt - 1).toISOString()), 'not_found')
  assert.equal(await read(0), 'not_found')
  assert.equal(await read('yesterday'), 'invalid_request')
})

test('ETag is the version: it saves reading again, and guards a cancellation', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  const etag = (await shop.ask(`GET /api/orders/${orderId}`, { as: ada })).headers.get('etag')!
  const again = await shop.ask(`GET /api/orders/${orderId}`, { as: ada, headers: { 'if-none-match': etag } })
  assert.deepEqual([again.status, again.body, again.headers.get('etag')], [304, null, etag])
  await about(shop, orderId).reserved()
  assert.equal(
    (await shop.ask(`GET /api/orders/${orderId}`, { as: ada, headers: { 'if-none-match': etag } })).status,
    200,
  )
  const cancel = `POST /api/orders/${orderId}/cancel`
  const stale = await shop.ask(cancel, { as: ada, headers: { 'if-match': etag } })
  assert.deepEqual([stale.status, stale.body.code], [412, 'version_mismatch'])
  assert.equal((await shop.ask(cancel, { as: ada })).status, 202)
})

test('cancelling twice is no error; cancelling what has left is', async () => {
  await using shop = await openShop()
  const orderId = await placeOrder(shop)
  for (let times = 0; times < 2; times++) {
    const { status, body } = await shop.ask(`POST /api/orders/${orderId}/cancel`, { as: ada })
    assert.deepEqual([status, body.order], [200, 'cancelled'])
  }
  const left = await placeOrder(shop)
  await deliver(shop, left)
  const { status, body } = await shop.ask(`POST /api/orders/${left}/cancel`, { as: ada })
  assert.deepEqual([status, body.code], [409, 'not_cancellable'])
})

test('history: one’s own orders, newest first, page by page', async () => {
  await using shop = await openShop()
  const own: string[] = []
  for (let count = 0; count < 3; count++) own.unshift(await placeOrder(shop))
  await placeOrder(shop, basket, { as: bob })
  const list = async (query: string, as: typeof ada | null = ada) =>
    (await shop.ask(`GET /api/orders${query}`, { as })).body
  const ids = (page: { items: { orderId: string }[] }) => page.items.map(({ orderId }) => orderId)
  const first = await list('?limit=2')
  assert.deepEqual(ids(first), own.slice(0, 2))
  const second = await list(`?limit=2&cursor=${first.nextCursor}`)
  assert.deepEqual([ids(second), second.nextCursor], [own.slice(2), null])
  assert.equal((await list('', operator)).items.length, 4)
  assert.deepEqual(ids(await list(`?customerId=${ada.userId}`, merchant)), own)
  assert.equal((await list('', null)).code, 'unauthenticated')
  assert.equal((await list(`?customerId=${bob.userId}`)).code, 'forbidden')
  assert.equal((await list('?stalled=true')).code, 'forbidden')
  assert.equal((await list('?stalled=true&status=processing', operator)).code, 'invalid_request')
  assert.equal((await list('?cursor=nonsense')).code, 'invalid_cursor')
})

test('orders can be told by status and counted, and by their ids; row and stream agree', async () => {
  await using shop = await openShop()
  const [delivered, cancelled, fresh] = [await placeOrder(shop), await placeOrder(shop), await placeOrder(shop)]
  await deliver(shop, delivered)
  await about(shop, cancelled).outOfStock()
  for (const [status, expected] of [
    ['delivered', delivered],
    ['cancelled', cancelled],
    ['processing', fresh],
  ]) {
    const { body } = await shop.ask(`GET /api/orders?status=${status}`, { as: operator })
    assert.deepEqual(
      body.items.map((item: { orderId: string; status: string }) => [item.orderId, item.status]),
      [[expected, status]],
    )
    assert.equal((await shop.ask(`GET /api/orders?status=${status}`, { as: ada })).body.items.length, 1)
  }
  const { body } = await shop.ask(`GET /api/orders?ids=${fresh},${delivered},ord_none`, { as: merchant })
  assert.deepEqual(
    body.items.map((item: { orderId: string }) => item.orderId),
    [fresh, delivered],
  )
  const counts = await shop.ask('GET /api/orders/counts', { as: merchant })
  assert.deepEqual(counts.body, {
    total: 3,
    nonTerminal: 2,
    stalled: 0,
    byStage: { open: 1, delivered: 1, completed: 0, cancelled: 1 },
    byStatus: { delivered: 1, cancelled: 1, processing: 1 },
  })
  assert.equal((await shop.ask('GET /api/orders/counts', { as: ada })).status, 403)
})
