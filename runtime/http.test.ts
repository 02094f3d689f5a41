import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createRoute, z } from '@hono/zod-openapi'
import { BusError, systemClock, UnavailableError } from '@shopsphere/bus'
import { createTokens, requireCaller, requireRole } from './auth.ts'
import { createApi, createFrontDoor } from './http.ts'
import { createLog } from './log.ts'
import { problem, problemAnswers } from './problem.ts'
import { origin } from './request-context.ts'

const lines: string[] = []
const log = createLog('info', { write: (text) => lines.push(text) })
const tokens = createTokens({ secret: new Uint8Array(32).fill(7), clock: systemClock })

const orderRoute = createRoute({
  method: 'post',
  path: '/api/orders',
  request: {
    body: {
      required: true,
      content: { 'application/json': { schema: z.object({ sku: z.string(), quantity: z.int().min(1) }) } },
    },
  },
  responses: {
    202: { description: 'taken', content: { 'application/json': { schema: z.object({ sku: z.string() }) } } },
    ...problemAnswers(400, 404),
  },
})

function createShop() {
  const api = createApi(log)
  api.openapi(orderRoute, (c) => c.json({ sku: c.req.valid('json').sku }, 202))
  api.get('/api/orders/:id', (c) => {
    throw problem(404, 'not_found', `There is no order ${c.req.param('id')}.`, { looked: 'everywhere' })
  })
  api.get('/api/away', () => {
    throw new UnavailableError('store_unavailable', 'secret path /var/db')
  })
  api.get('/api/full', () => {
    throw new BusError('outbox_full', 'too many')
  })
  api.get('/api/broken', () => {
    throw new TypeError('secret detail')
  })
  api.get('/api/me', (c) => c.json(requireCaller(c)))
  api.get('/api/staff', requireRole('merchant', 'operator'), (c) => c.json(origin(c)))
  api.get('/page', (c) => c.html('<p>', 200, { 'content-security-policy': "default-src 'self'" }))
  const door = createFrontDoor({ log, tokens, bodyBytesMax: 1000 })
  door.route('/', api)
  door.get('/pages/*', (c) => c.text('page'))
  return door
}
const shop = createShop()

async function expectProblem(response: Response | Promise<Response>, status: number, code: string) {
  const answer = await response
  const body = (await answer.json()) as Record<string, unknown>
  assert.equal(answer.status, status)
  assert.equal(body.code, code)
  assert.equal(body.status, status)
  assert.equal(answer.headers.get('content-type'), 'application/problem+json')
  assert.equal(body.requestId, answer.headers.get('x-request-id'))
  return { body, headers: answer.headers }
}

const post = (
  body: string | ReadableStream,
  headers: Record<string, string> = { 'content-type': 'application/json' },
) =>
  shop.request('/api/orders', {
    method: 'POST',
    body,
    headers,
    ...(body instanceof ReadableStream && { duplex: 'half' }),
  } as RequestInit)

test('a valid request is answered', async () => {
  const answer = await post('{"sku":"A","quantity":1}')
  assert.equal(answer.status, 202)
  assert.deepEqual(await answer.json(), { sku: 'A' })
})

test('validation failures name each field', async () => {
  const { body } = await expectProblem(post('{"sku":1,"quantity":0}'), 400, 'invalid_request')
  const errors = body.errors as { in: string; path: string }[]
  assert.deepEqual(
    errors.map(({ in: part, path }) => [part, path]),
    [
      ['body', 'sku'],
      ['body', 'quantity'],
    ],
  )
  assert.match(String(body.detail), /^body, sku: .* \(and 1 more: see errors\)$/)
})

test('malformed JSON', async () => void (await expectProblem(post('{"sku":'), 400, 'malformed_json')))

test('another content type, or none, is refused', async () => {
  await expectProblem(post('sku=A', { 'content-type': 'text/plain' }), 415, 'unsupported_media_type')
  await expectProblem(post(new Blob(['{}']).stream(), {}), 415, 'unsupported_media_type')
})

test('a body that is too large is refused, with and without a content-length', async () => {
  const large = JSON.stringify({ sku: 'A'.repeat(2000), quantity: 1 })
  await expectProblem(
    post(large, { 'content-type': 'application/json', 'content-length': String(large.length) }),
    413,
    'body_too_large',
  )
  await expectProblem(post(large), 413, 'body_too_large')
  await expectProblem(post(new Blob([large]).stream()), 413, 'body_too_large')
})

test('what a handler throws as a problem is the answer, with its members', async () => {
  const { body } = await expectProblem(shop.request('/api/orders/ord_1'), 404, 'not_found')
  assert.equal(body.detail, 'There is no order ord_1.')
  assert.equal(body.looked, 'everywhere')
  assert.equal(body.type, 'urn:shopsphere:problem:not_found')
})

test('a store that is away, and a full outbox, are 503 with Retry-After and without inside knowledge', async () => {
  for (const path of ['/api/away', '/api/full']) {
    const { body, headers } = await expectProblem(shop.request(path), 503, 'unavailable')
    assert(Number(headers.get('retry-after')) > 0)
    assert.equal(JSON.stringify(body).includes('secret'), false)
  }
})

test('an unknown error is 500, logged under the request id, and tells the caller nothing', async () => {
  const { body } = await expectProblem(
    shop.request('/api/broken', { headers: { 'x-request-id': 'request-7' } }),
    500,
    'internal',
  )
  assert.equal(JSON.stringify(body).includes('secret'), false)
  const line = JSON.parse(lines.find((text) => text.includes('request-7'))!)
  assert.equal(line.err.message, 'secret detail')
})

test('an unknown address is 404; a known one with another method is 405 and says which', async () => {
  await expectProblem(shop.request('/api/nothing'), 404, 'route_not_found')
  await expectProblem(shop.request('/pages/x', { method: 'POST' }), 404, 'route_not_found')
  const first = await expectProblem(shop.request('/api/orders', { method: 'PUT' }), 405, 'method_not_allowed')
  assert.equal(first.headers.get('allow'), 'POST')
  const second = await expectProblem(shop.request('/api/orders/ord_1', { method: 'DELETE' }), 405, 'method_not_allowed')
  assert.equal(second.headers.get('allow'), 'GET, HEAD')
})

test('answers carry safe headers; a page keeps its own policy', async () => {
  const answer = await shop.request('/api/orders/ord_1')
  assert.equal(answer.headers.get('x-content-type-options'), 'nosniff')
  assert.equal(answer.headers.get('cache-control'), 'no-store')
  assert.match(answer.headers.get('content-security-policy')!, /default-src 'none'/)
  const page = await shop.request('/page')
  assert.equal(page.headers.get('content-security-policy'), "default-src 'self'")
  assert.equal(page.headers.get('x-frame-options'), 'DENY')
})

test('who asks: nobody, somebody, somebody with a role, a forged token', async () => {
  const bearer = async (userId: string, ...roles: string[]) => ({
    authorization: `Bearer ${(await tokens.issue({ userId, roles })).token}`,
  })
  const { headers } = await expectProblem(shop.request('/api/me'), 401, 'unauthenticated')
  assert.equal(headers.get('www-authenticate'), 'Bearer')
  const me = await shop.request('/api/me', { headers: await bearer('usr_1', 'customer') })
  assert.deepEqual(await me.json(), { userId: 'usr_1', roles: ['customer'] })
  await expectProblem(shop.request('/api/staff'), 401, 'unauthenticated')
  await expectProblem(shop.request('/api/staff', { headers: await bearer('usr_1', 'customer') }), 403, 'forbidden')
  assert.equal((await shop.request('/api/staff', { headers: await bearer('usr_2', 'operator') })).status, 200)
  for (const authorization of ['Bearer x.y.z', 'Bearer', 'Basic abc']) {
    await expectProblem(shop.request('/api/me', { headers: { authorization } }), 401, 'invalid_token')
  }
})

test('the request id and the trace of the caller go on into what the request sets off', async () => {
  const { token } = await tokens.issue({ userId: 'usr_2', roles: ['operator'] })
  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const headers = {
    authorization: `Bearer ${token}`,
    'x-request-id': 'abc',
    traceparent: `00-${traceId}-00f067aa0ba902b7-00`,
  }
  const answer = await shop.request('/api/staff', { headers })
  const { correlationId, traceparent } = (await answer.json()) as Record<string, string>
  assert.equal(correlationId, 'abc')
  assert.match(traceparent!, new RegExp(`^00-${traceId}-(?!00f067aa0ba902b7)[0-9a-f]{16}-00$`))
})
