import assert from 'node:assert/strict'
import { test } from 'node:test'
import { allEvents } from '@shopsphere/contracts'
import { mergeOpenapi } from './documents.ts'
import { ownerOf } from './owners.ts'
import { openTestShop } from './test-shop.ts'

test('an address belongs to one service; the most exact entry counts', () => {
  assert.equal(ownerOf('/api/orders'), 'order')
  assert.equal(ownerOf('/api/orders/ord_1/cancellation'), 'order')
  assert.equal(ownerOf('/api/orders/ord_1/payments/confirm'), 'payment')
  assert.equal(ownerOf('/api/ordersomething'), undefined)
  assert.equal(ownerOf('/health/live'), undefined)
})

test('the API description holds the routes of every service and the gateway’s own', async () => {
  await using shop = await openTestShop()
  const document = (await (await shop.app.request('/openapi.json')).json()) as {
    paths: Record<string, object>
    components: { schemas: Record<string, object>; securitySchemes: object }
  }
  for (const path of [
    '/api/orders/{orderId}',
    '/api/orders/{orderId}/live',
    '/api/operations/dead-letters',
    '/metrics',
  ])
    assert.ok(document.paths[path], path)
  assert.ok(document.components.schemas.Order)
  assert.ok(document.components.schemas.Problem)
  assert.ok('bearer' in document.components.securitySchemes)
})

test('two services may give a schema the same name', () => {
  const documentWith = (type: string) => ({
    paths: { [`/${type}`]: { get: { responses: { 200: { schema: { $ref: '#/components/schemas/Item' } } } } } },
    components: { schemas: { Item: { type }, Same: { type: 'null' } } },
  })
  const merged = mergeOpenapi([
    { name: 'cart', document: documentWith('string') },
    { name: 'order', document: documentWith('number') },
  ]) as unknown as { paths: Record<string, object>; components: { schemas: object } }
  assert.deepEqual(merged.components.schemas, {
    Item: { type: 'string' },
    Same: { type: 'null' },
    'order.Item': { type: 'number' },
  })
  assert.match(JSON.stringify(merged.paths['/string']), /schemas\/Item"/)
  assert.match(JSON.stringify(merged.paths['/number']), /schemas\/order\.Item"/)
})

test('the description of the events comes from the contracts', async () => {
  await using shop = await openTestShop()
  const document = (await (await shop.app.request('/asyncapi.json')).json()) as {
    asyncapi: string
    channels: object
    operations: object
  }
  assert.equal(document.asyncapi, '3.0.0')
  assert.equal(Object.keys(document.channels).length, allEvents.length)
  assert.ok('order.receives.payment.processed' in document.operations)
})

test('the start page says where things are, and may run nothing', async () => {
  await using shop = await openTestShop()
  const answer = await shop.app.request('/')
  const page = await answer.text()
  for (const text of ['/openapi.json', '/asyncapi.json', '← hears', '<b>payment</b>: processed'])
    assert.ok(page.includes(text), text)
  assert.ok(!page.includes('<script'))
  assert.match(answer.headers.get('content-security-policy')!, /default-src 'none'/)
})

test('health: alive, ready, and not ready with who is not', async () => {
  await using shop = await openTestShop()
  assert.equal((await shop.app.request('/health/live')).status, 200)
  const ready = await shop.app.request('/health/ready')
  assert.equal(ready.status, 200)
  await shop.order.close()
  const one = await shop.app.request('/health/ready')
  assert.equal(one.status, 503)
  assert.deepEqual(((await one.json()) as { services: object[] }).services, [
    { name: 'order', ready: false },
    { name: 'payment', ready: true },
  ])
  await shop.transport.close()
  const broker = (await (await shop.app.request('/health/ready')).json()) as { broker: object }
  assert.deepEqual(broker.broker, { name: 'memory', ready: false, reason: 'it is closed' })
})

test('metrics tell of requests and of every bus', async () => {
  await using shop = await openTestShop()
  await shop.app.request('/health/live')
  const answer = await shop.app.request('/metrics')
  const text = await answer.text()
  assert.match(answer.headers.get('content-type')!, /text\/plain/)
  assert.match(text, /http_request_duration_seconds_count\{[^}]*route="\/health\/live"/)
  assert.match(text, /bus_ready\{service="payment"\} 1/)
})

test('unknown addresses are 404, wrong methods 405, and what runs nowhere is 502 with what to do', async () => {
  await using shop = await openTestShop()
  assert.equal((await shop.app.request('/api/nothing')).status, 404)
  assert.equal((await shop.app.request('/api/orders/ord_1', { method: 'DELETE' })).status, 405)
  const nowhere = await shop.app.request('/api/carts/crt_1')
  assert.equal(nowhere.status, 502)
  assert.match(((await nowhere.json()) as { detail: string }).detail, /cart .*SERVICES.*SERVICE_URLS/)
})

test('pages of other origins may not call the API, unless they are named', async () => {
  const origin = 'https://shop.example'
  await using closed = await openTestShop()
  assert.equal(
    (await closed.app.request('/health/live', { headers: { origin } })).headers.get('access-control-allow-origin'),
    null,
  )
  await using open = await openTestShop({ environment: { CORS_ORIGINS: origin } })
  const allowed = async (from: string) =>
    (await open.app.request('/health/live', { headers: { origin: from } })).headers.get('access-control-allow-origin')
  assert.equal(await allowed(origin), origin)
  assert.equal(await allowed('https://elsewhere.example'), null)
})

test('signing in and placing orders have limits, by caller, for a minute', async () => {
  const environment = { SIGN_INS_PER_MINUTE: '2', ORDERS_PER_MINUTE: '2' }
  const { ada, eve, openTestShop: open, operator } = await import('./test-shop.ts')
  await using shop = await open({ environment, limited: true })
  const order = async (who: { userId: string; roles: string[] }) => {
    const headers = { ...(await shop.as(who)), 'content-type': 'application/json' }
    return shop.app.request('/api/orders', { method: 'POST', headers, body: '{}' })
  }
  const statuses = async (who: typeof ada) => [(await order(who)).status, (await order(who)).status]
  assert.deepEqual(await statuses(ada), [202, 202])
  const refused = await order(ada)
  assert.equal(refused.status, 429)
  assert.equal(((await refused.json()) as { code: string }).code, 'too_many_requests')
  assert.ok(Number(refused.headers.get('retry-after')) > 0)
  assert.equal((await order(eve)).status, 202)
  assert.deepEqual([...(await statuses(operator)), (await order(operator)).status], [202, 202, 202])
  await shop.clock.advance(60_000)
  assert.equal((await order(ada)).status, 202)
  const signIn = () => shop.app.request('/api/sessions', { method: 'POST' })
  assert.deepEqual([(await signIn()).status, (await signIn()).status, (await signIn()).status], [502, 502, 429])
})
