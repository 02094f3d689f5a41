import assert from 'node:assert/strict'
import { test } from 'node:test'
import { orderCancelled, orderCompleted, orderPlaced, orderProgressDue, paymentProcessed } from '@shopsphere/contracts'
import { ada, eve, openTestShop, operator, type TestShop } from './test-shop.ts'

type Sent = { id?: string; event?: string; data: Record<string, unknown> }

/** Reads a stream block by block; comments and settings are passed over, but counted. */
async function listen(shop: TestShop, path: string, options: { who?: typeof ada | null; after?: string } = {}) {
  const { who = ada, after } = options
  const headers = { ...(who && (await shop.as(who))), ...(after !== undefined && { 'last-event-id': after }) }
  const response = await shop.app.request(path, { headers })
  const reader = response.status === 200 ? response.body?.pipeThrough(new TextDecoderStream()).getReader() : undefined
  let text = ''
  const comments: string[] = []
  const next = async (): Promise<Sent | undefined> => {
    for (;;) {
      const end = text.indexOf('\n\n')
      if (end < 0) {
        const { value, done } = await reader!.read()
        if (done) return undefined
        text += value
        continue
      }
      const block = text.slice(0, end)
      text = text.slice(end + 2)
      const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: ?(.*)/s).slice(0, 2)))
      if (fields.data !== undefined) return { ...fields, data: JSON.parse(fields.data) }
      comments.push(block)
    }
  }
  return { response, next, comments, cancel: () => reader!.cancel() }
}

const place = (shop: TestShop, orderId = 'ord_1') =>
  shop.order.bus.publish(orderPlaced, { ...orderPlaced.example!, orderId })
const complete = (shop: TestShop, orderId = 'ord_1') =>
  shop.order.bus.publish(orderCompleted, { ...orderCompleted.example!, orderId })

test('an order’s updates: a snapshot, then what happens to it and to no other, then the end', async () => {
  await using shop = await openTestShop()
  const live = await listen(shop, '/api/orders/ord_1/live')
  assert.equal(live.response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  assert.deepEqual(await live.next(), { event: 'snapshot', data: { orderId: 'ord_1', order: 'placed' } })
  await place(shop, 'ord_2')
  await shop.order.bus.publish(orderProgressDue, { orderId: 'ord_1', sinceVersion: 1 })
  const id = await place(shop)
  const placed = await live.next()
  assert.deepEqual([placed?.id, placed?.data.type, placed?.data.key], [id, 'order.placed', 'ord_1'])
  await complete(shop)
  assert.equal((await live.next())?.data.type, 'order.completed')
  assert.deepEqual(await live.next(), { id: 'ended', event: 'end', data: { reason: 'terminal' } })
  assert.equal(await live.next(), undefined)
  assert.equal((await listen(shop, '/api/orders/ord_1/live', { after: 'ended' })).response.status, 204)
})

test('an order that has ended shows itself and ends', async () => {
  await using shop = await openTestShop()
  shop.orders.set('ord_1', 'cancelled')
  const live = await listen(shop, '/api/orders/ord_1/live')
  assert.equal((await live.next())?.event, 'snapshot')
  assert.equal((await live.next())?.event, 'end')
  assert.equal(await live.next(), undefined)
})

test('nobody sees another’s order', async () => {
  await using shop = await openTestShop()
  for (const [path, who] of [
    ['/api/orders/ord_1/live', eve],
    ['/api/orders/ord_1/live', null],
    ['/api/orders/ord_9/live', ada],
  ] as const) {
    const { response } = await listen(shop, path, { who })
    assert.equal(response.status, 404)
    assert.equal(((await response.json()) as { code: string }).code, 'not_found')
  }
})

test('who lost the connection goes on where they were', async () => {
  await using shop = await openTestShop()
  const first = await listen(shop, '/api/orders/ord_1/live')
  await first.next()
  const seen = await place(shop)
  assert.equal((await first.next())?.id, seen)
  await first.cancel()
  const missed = await shop.order.bus.publish(orderCancelled, { ...orderCancelled.example!, orderId: 'ord_1' })
  await shop.order.bus.idle()
  const watcher = await listen(shop, '/api/live', { who: operator, after: seen })
  assert.equal((await watcher.next())?.id, missed)
  const second = await listen(shop, '/api/orders/ord_1/live', { after: seen })
  assert.equal((await second.next())?.id, missed)
  assert.equal((await second.next())?.event, 'end')
  await watcher.cancel()
})

test('who comes back too late is told so and gets a new snapshot', async () => {
  await using shop = await openTestShop()
  const first = await listen(shop, '/api/orders/ord_1/live')
  await first.next()
  const seen = await place(shop)
  await first.next()
  await first.cancel()
  await shop.clock.advance(120_000)
  const second = await listen(shop, '/api/orders/ord_1/live', { after: seen })
  assert.equal((await second.next())?.event, 'missed')
  assert.equal((await second.next())?.event, 'snapshot')
  await second.cancel()
})

test('L1 while nobody watches, nothing is subscribed to', async () => {
  await using shop = await openTestShop()
  const counted = shop.transport
  let declared = 0
  const { declare } = counted
  counted.declare = (spec) => {
    if (spec.ephemeral) declared += 1
    return declare.call(counted, spec)
  }
  await place(shop)
  assert.equal(declared, 0)
  const live = await listen(shop, '/api/orders/ord_1/live')
  assert.equal(declared, 1)
  await live.cancel()
})

test('operators see everything, or the types that they name', async () => {
  await using shop = await openTestShop()
  const all = await listen(shop, '/api/live', { who: operator })
  const some = await listen(shop, '/api/live?types=payment.*,order.completed', { who: operator })
  await place(shop, 'ord_7')
  await shop.payment.bus.publish(paymentProcessed, { ...paymentProcessed.example!, authorizedPence: 1 })
  await complete(shop, 'ord_7')
  const types = async (live: typeof all, count: number) => {
    const seen: unknown[] = []
    for (let index = 0; index < count; index++) seen.push((await live.next())?.data.type)
    return seen.sort()
  }
  assert.deepEqual(await types(some, 2), ['order.completed', 'payment.processed'])
  assert.deepEqual((await types(all, 3)).length, 3)
  for (const [path, who, status] of [
    ['/api/live', ada, 403],
    ['/api/live', null, 401],
    ['/api/live?types=,', operator, 400],
    ['/api/live?types=order..placed', operator, 400],
  ] as const) {
    assert.equal((await listen(shop, path, { who })).response.status, status, path)
  }
  await all.cancel()
  await some.cancel()
})

test('a quiet stream has heartbeats, and ends after half an hour to be begun anew', async () => {
  await using shop = await openTestShop()
  const live = await listen(shop, '/api/orders/ord_1/live')
  await live.next()
  await shop.clock.advance(31_000)
  await place(shop)
  await live.next()
  assert.deepEqual(live.comments, ['retry: 2000', ': still here', ': still here'])
  await shop.clock.advance(30 * 60_000)
  assert.deepEqual(await live.next(), { event: 'end', data: { reason: 'lifetime' } })
})

test('one caller may have 20 streams', async () => {
  await using shop = await openTestShop()
  const streams = await Promise.all(Array.from({ length: 20 }, () => listen(shop, '/api/orders/ord_1/live')))
  const oneMore = await listen(shop, '/api/orders/ord_1/live')
  assert.equal(oneMore.response.status, 429)
  await streams[0]!.cancel()
  assert.equal((await listen(shop, '/api/orders/ord_1/live')).response.status, 200)
})

test('closing the gateway ends every stream and refuses new ones', async () => {
  await using shop = await openTestShop()
  const live = await listen(shop, '/api/orders/ord_1/live')
  await live.next()
  await Promise.all([shop.close(), shop.close()])
  assert.deepEqual(await live.next(), { event: 'end', data: { reason: 'closing' } })
  assert.equal(await live.next(), undefined)
  assert.equal((await listen(shop, '/api/orders/ord_1/live')).response.status, 503)
})
