import assert from 'node:assert/strict'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, test } from 'node:test'
import { createShopClient, orderProgress, ShopError } from './shop-client.ts'

type Seen = { method: string; url: string; key: string | undefined; token: string | undefined; body: unknown }
type Reply = { status: number; body?: unknown }

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  let text = ''
  for await (const piece of request) text += piece
  return text === '' ? undefined : JSON.parse(text)
}

/** A server that signs in by itself and answers everything else as it is told. */
async function serve(answer: (seen: Seen, nth: number) => Reply) {
  const seen: Seen[] = []
  let signIns = 0
  const server = createServer(async (request, response) => {
    const { method = '', url = '', headers } = request
    const one: Seen = {
      method,
      url,
      key: headers['idempotency-key'] as string,
      token: headers.authorization,
      body: await bodyOf(request),
    }
    if (url !== '/api/sessions') seen.push(one)
    else signIns += 1
    const { status, body } =
      url === '/api/sessions' ? { status: 201, body: { token: `t${signIns}` } } : answer(one, seen.length)
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body ?? {}))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  let nowMs = 0
  const time = {
    now: () => nowMs,
    pause: async (delayMs: number) => {
      nowMs += delayMs
    },
  }
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const client = createShopClient({ url, email: 'm@example.org', password: 'secret', time })
  return {
    client,
    seen,
    signIns: () => signIns,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const order = {
  idempotencyKey: 'replay:order:1',
  customerId: 'usr_1',
  placedAtMs: 5,
  country: 'UK',
  lines: [{ sku: 'A', quantity: 2, unitPence: 255 }],
}

test('an order is placed with its key, its customer, its time and its prices, signed in once', async () => {
  await using shop = await serve(() => ({ status: 202, body: { orderId: 'ord_1' } }))
  assert.deepEqual(await Promise.all([shop.client.placeOrder(order), shop.client.placeOrder(order)]), [
    'ord_1',
    'ord_1',
  ])
  assert.deepEqual(shop.seen[0], {
    method: 'POST',
    url: '/api/orders',
    key: 'replay%3Aorder%3A1',
    token: 'Bearer t1',
    body: { customerId: 'usr_1', placedAt: 5, paymentMethod: 'pm_card_visa', lines: order.lines },
  })
  assert.equal(shop.signIns(), 1)
})

test('a stock code may hold blanks and slashes', async () => {
  await using shop = await serve(() => ({ status: 201 }))
  await shop.client.receiveStock({ idempotencyKey: 'replay:stock:BANK/É', sku: 'BANK CHARGES/É', quantity: 2 })
  assert.equal(shop.seen[0]?.url, '/api/inventory/BANK%20CHARGES%2F%C3%89/receipts')
  assert.match(shop.seen[0]?.key ?? '', /^[\x21-\x7e]+$/)
})

describe('what may be tried again is tried again with the same key', () => {
  for (const [name, first] of Object.entries({
    'the shop is busy': { status: 503, body: { code: 'unavailable' } },
    'too many requests': { status: 429, body: { code: 'too_many_requests' } },
    'the product is not known yet': { status: 422, body: { code: 'unknown_product' } },
    'the first request still runs': { status: 409, body: { code: 'idempotency_in_progress' } },
    'the token has ended': { status: 401, body: { code: 'invalid_token' } },
  })) {
    test(name, async () => {
      await using shop = await serve((_, nth) => (nth === 1 ? first : { status: 202, body: { orderId: 'ord_1' } }))
      assert.equal(await shop.client.placeOrder(order), 'ord_1')
      assert.deepEqual(
        shop.seen.map(({ key }) => key),
        ['replay%3Aorder%3A1', 'replay%3Aorder%3A1'],
      )
      assert.equal(shop.signIns(), first.status === 401 ? 2 : 1)
    })
  }

  test('but not for ever', async () => {
    await using shop = await serve(() => ({ status: 503, body: { code: 'unavailable', detail: 'Later.' } }))
    await assert.rejects(shop.client.placeOrder(order), {
      name: 'ShopError',
      message: 'POST /api/orders was answered 503 unavailable: Later.',
    })
  })
})

test('a refusal is thrown at once, in the words of the shop', async () => {
  await using shop = await serve(() => ({
    status: 400,
    body: { code: 'invalid_request', detail: 'lines.0.quantity: too large' },
  }))
  await assert.rejects(
    shop.client.placeOrder(order),
    (error) => error instanceof ShopError && /invalid_request: lines\.0/.test(error.message),
  )
  assert.equal(shop.seen.length, 1)
})

test('a product that is there already is no error', async () => {
  await using shop = await serve(() => ({ status: 409, body: { code: 'already_exists' } }))
  await shop.client.createProduct({ sku: 'A', name: 'thing', pricePence: 100 })
})

test('a shop that is not there is named', async () => {
  const time = { now: () => 0, pause: async () => {} }
  const client = createShopClient({ url: 'http://127.0.0.1:1', email: 'm', password: 'p', time, retryMaxMs: -1 })
  await assert.rejects(client.placeOrder(order), /the shop at http:\/\/127\.0\.0\.1:1 cannot be reached/)
})

test('a return answers line by line, and with a return for each order', async () => {
  const body = {
    returns: [{ returnId: 'ret_2' }, { returnId: 'ret_1' }],
    lines: [{ sku: 'A', quantity: 3, refundPence: 500 }],
  }
  await using shop = await serve(() => ({ status: 202, body }))
  const answer = await shop.client.requestReturn({
    idempotencyKey: 'k',
    customerId: 'usr_1',
    lines: [{ sku: 'A', quantity: 4 }],
  })
  assert.deepEqual(answer, { returnIds: ['ret_2', 'ret_1'], lines: [{ units: 3, pence: 500 }] })
})

test('a return that matches nothing is an answer, not an error', async () => {
  await using shop = await serve(() => ({ status: 422, body: { code: 'nothing_to_return' } }))
  const answer = await shop.client.requestReturn({
    idempotencyKey: 'k',
    customerId: 'usr_1',
    lines: [{ sku: 'A', quantity: 2 }],
  })
  assert.deepEqual(answer, { returnIds: [], lines: [{ units: 0, pence: 0 }] })
})

test('an order is looked at until it is delivered; one that stands still is an error', async () => {
  const states = ['unfulfilled', 'reserved', 'allocated', 'shipped', 'delivered']
  const reply = (fulfilment: string | undefined) => ({ status: 200, body: { order: 'placed', fulfilment } })
  await using moving = await serve((_, nth) =>
    nth === 1 ? { status: 404, body: { code: 'not_found' } } : reply(states[nth - 2]),
  )
  assert.equal(await moving.client.waitUntilDeliveredOrCancelled('ord_1'), 'delivered')
  await using still = await serve(() => reply('reserved'))
  assert.equal(await still.client.waitUntilReservedOrCancelled('ord_1'), 'reserved')
  await assert.rejects(
    still.client.waitUntilDeliveredOrCancelled('ord_1'),
    /ord_1 has not moved for 120000 ms: .*reserved/,
  )
})

test('the axes of an order say how far it is', () => {
  const progress = (order: string, fulfilment: string) => orderProgress({ order, fulfilment })
  assert.deepEqual(
    [
      progress('placed', 'unfulfilled'),
      progress('placed', 'reserved'),
      progress('confirmed', 'shipped'),
      progress('completed', 'delivered'),
    ],
    ['placed', 'reserved', 'reserved', 'delivered'],
  )
  assert.equal(progress('cancelled', 'unfulfilled'), 'cancelled')
})
