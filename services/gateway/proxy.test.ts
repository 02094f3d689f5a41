import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { memoryBroker, memoryTransport } from '@shopsphere/bus'
import { createLog } from '@shopsphere/runtime/log'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import { serve } from '@shopsphere/runtime/server'
import { Hono } from 'hono'
import { createForward } from './proxy.ts'
import { ada, openTestShop, operator } from './test-shop.ts'

/** A process that runs the order service, and another that runs payment and passes on what is order's. */
async function openTwoProcesses() {
  const broker = memoryBroker()
  const there = await openTestShop({ services: ['order'], transport: memoryTransport(broker) })
  const server = await serve(there.app, { port: 0, host: '127.0.0.1' })
  const here = await openTestShop({
    services: ['payment'],
    environment: { SERVICE_URLS: `order=${server.url}` },
  })
  return {
    there,
    here,
    server,
    async [Symbol.asyncDispose]() {
      await here[Symbol.asyncDispose]()
      await server.close(0)
      await there[Symbol.asyncDispose]()
    },
  }
}

const codeOf = async (answer: Response) => ((await answer.json()) as { code: string }).code

test('a request for a service elsewhere is passed on with its body, who asks, its id; the answer comes back', async () => {
  await using shops = await openTwoProcesses()
  const headers = { ...(await shops.here.as(ada)), 'content-type': 'application/json', 'x-request-id': 'request-7' }
  const placed = await shops.here.app.request('/api/orders', { method: 'POST', headers, body: '{"lines":[1]}' })
  assert.equal(placed.status, 202)
  assert.deepEqual(await placed.json(), { got: { lines: [1] }, as: ada.userId })
  assert.equal(placed.headers.get('x-request-id'), 'request-7')
  const shown = await shops.here.app.request('/api/orders/ord_1', { headers })
  assert.equal(((await shown.json()) as { order: string }).order, 'placed')
  const missing = await shops.here.app.request('/api/orders/ord_9', { headers })
  assert.equal(missing.status, 404)
  assert.equal(await codeOf(missing), 'not_found')
})

test('the description of the API holds what runs elsewhere, also while that cannot be asked', async () => {
  await using shops = await openTwoProcesses()
  const paths = async () =>
    Object.keys(((await (await shops.here.app.request('/openapi.json')).json()) as { paths: object }).paths)
  assert.ok((await paths()).includes('/api/orders/{orderId}'))
  await shops.server.close(0)
  await shops.here.clock.advance(120_000)
  assert.ok((await paths()).includes('/api/orders/{orderId}'))
})

test('dead letters of a service elsewhere are asked for there', async () => {
  await using shops = await openTwoProcesses()
  const headers = await shops.here.as(operator)
  const list = await shops.here.app.request('/api/operations/dead-letters?service=order', { headers })
  assert.deepEqual(await list.json(), { items: [], nextCursor: null, broker: [] })
  const one = await shops.here.app.request('/api/operations/dead-letters/order/nothing', { headers })
  assert.equal(one.status, 404)
})

test('a service that is away is 502, one that is silent 504', async () => {
  await using shops = await openTwoProcesses()
  await shops.server.close(0)
  const away = await shops.here.app.request('/api/orders/ord_1', { headers: await shops.here.as(ada) })
  assert.equal(away.status, 502)
  assert.equal(await codeOf(away), 'service_unreachable')

  const silent = createServer(() => {})
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const origin = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`
  const lines: string[] = []
  const forward = createForward({ timeoutMs: 20, log: createLog('warn', { write: (line) => void lines.push(line) }) })
  const app = new Hono<ApiEnv>()
  app.get('*', (c) => forward(c, 'order', origin))
  app.onError((error) => Response.json({ code: (error as Error & { code: string }).code }))
  assert.equal(await codeOf(await app.request('/api/orders')), 'service_timeout')
  assert.match(lines.join(''), /"to":"order","origin":"http:.*"msg":"a request could not be passed on"/)
  silent.closeAllConnections()
  await new Promise((resolve) => silent.close(resolve))
})

test('two processes that each believe the other runs a service do not pass a request on for ever', async () => {
  await using shops = await openTwoProcesses()
  // `there` runs no cart, and neither does `here`: told that it is there, the request goes once and not again.
  await using mistaken = await openTestShop({
    services: ['payment'],
    environment: { SERVICE_URLS: `cart=${shops.server.url}` },
  })
  const answer = await mistaken.app.request('/api/carts/crt_1')
  assert.equal(answer.status, 502)
  assert.equal(await codeOf(answer), 'service_unreachable')
})
