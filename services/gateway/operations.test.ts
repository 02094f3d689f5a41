import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Message, memoryBroker, memoryTransport } from '@shopsphere/bus'
import { eventually } from '@shopsphere/bus/testing'
import { paymentProcessed } from '@shopsphere/contracts'
import { ada, openTestShop, operator, type TestShop } from './test-shop.ts'

const path = '/api/operations/dead-letters'

async function ask(shop: TestShop, request: string, body?: unknown, who = operator) {
  const [method, url] = request.split(' ') as [string, string]
  const headers = { ...(await shop.as(who)), ...(body !== undefined && { 'content-type': 'application/json' }) }
  const answer = await shop.app.request(url, {
    method,
    headers,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  return { status: answer.status, body: (await answer.json()) as any }
}

/** Says that `count` orders are paid, which order cannot take; answers the dead letters. */
async function refusedPayments(shop: TestShop, count = 1) {
  for (let index = 0; index < count; index++) {
    await shop.payment.bus.publish(paymentProcessed, { ...paymentProcessed.example!, orderId: `ord_${index}` })
  }
  await shop.payment.bus.idle()
  await shop.order.bus.idle()
  const { body } = await ask(shop, `GET ${path}`)
  assert.equal(body.items.length, count)
  return body.items as { id: string; service: string; cause: string; key: string }[]
}

test('the status of every service', async () => {
  await using shop = await openTestShop()
  const { status, body } = await ask(shop, 'GET /api/operations/status')
  assert.equal(status, 200)
  assert.deepEqual(
    body.services.map(({ service }: { service: string }) => service),
    ['order', 'payment'],
  )
  await shop.order.close()
  assert.deepEqual((await ask(shop, 'GET /api/operations/status')).body.unknown, ['order'])
})

test('what waits for a service that does not run here is seen, and its own subscriptions are not shown twice', async () => {
  await using shop = await openTestShop()
  const audit = { name: 'audit', bindings: [{ kind: 'fanout' as const }], from: 'now' as const }
  await shop.transport.declare(audit)
  for (let n = 0; n < 3; n++) await shop.payment.bus.publish(paymentProcessed, paymentProcessed.example!)
  await shop.payment.bus.idle()
  await shop.clock.advance(1_500)
  const { broker } = (await ask(shop, 'GET /api/operations/status')).body
  assert.deepEqual(broker.unknown, [])
  const [{ oldestAt, oldestAgeMs, countedAt, ...waits }, ...others] = broker.subscriptions
  assert.deepEqual([waits, others], [{ name: 'audit', waiting: 3 }, []])
  assert.ok(oldestAgeMs >= 1_500, `${oldestAgeMs} ms`)
  assert.equal(oldestAt, shop.clock.now() - oldestAgeMs)
  assert.equal(countedAt, shop.clock.now())
  const metrics = await (await shop.app.request('/metrics')).text()
  assert.match(metrics, /^bus_backlog_messages\{service="",subscription="audit"\} 3$/m)
  assert.ok(
    metrics.includes(`bus_backlog_oldest_age_seconds{service="",subscription="audit"} ${oldestAgeMs / 1_000}\n`),
  )
  assert.doesNotMatch(metrics, /service="",subscription="order"/)
})

test('a broker that does not say what waits hides nothing else', async () => {
  const transport = memoryTransport(memoryBroker())
  await using shop = await openTestShop({ transport })
  await transport.declare({ name: 'audit', bindings: [{ kind: 'fanout' }], from: 'now' })
  await transport.declare({ name: 'mute', bindings: [{ kind: 'fanout' }], from: 'now' })
  const backlog = transport.backlog.bind(transport)
  transport.backlog = (name) => (name === 'mute' ? Promise.reject(new Error('away')) : backlog(name))
  const { body } = await ask(shop, 'GET /api/operations/status')
  assert.deepEqual(
    [body.broker.subscriptions.map(({ name }: { name: string }) => name), body.broker.unknown],
    [['audit'], ['mute']],
  )
  transport.subscriptions = () => Promise.reject(new Error('away'))
  const away = (await ask(shop, 'GET /api/operations/status')).body
  assert.deepEqual(
    [away.broker.subscriptions.length, away.services.length],
    [1, 2],
    'what was counted last is still shown',
  )
})

test('a broker that counts slowly is asked more rarely, and the last count is shown with its time', async () => {
  const transport = memoryTransport(memoryBroker())
  await using shop = await openTestShop({ transport })
  await transport.declare({ name: 'audit', bindings: [{ kind: 'fanout' }], from: 'now' })
  const backlog = transport.backlog.bind(transport)
  let asked = 0
  const takesMs = 100
  transport.backlog = async (name) => {
    if (name !== 'audit') return backlog(name)
    asked += 1
    await new Promise((resolve) => setTimeout(resolve, takesMs))
    return { waiting: asked, oldestAt: null }
  }
  const look = async () => (await ask(shop, 'GET /api/operations/status')).body.broker.subscriptions[0]
  const [first, again] = [await look(), await look()]
  assert.deepEqual([first.waiting, again, asked], [1, first, 1])
  await eventually(async () => (await look()).waiting === 2)
})

test('what the broker itself rejected stands beside the dead letters, as far as people can read it, and in the metrics', async () => {
  const transport = memoryTransport(memoryBroker())
  await using shop = await openTestShop({ transport })
  const letter = (body: Uint8Array, id: string | null = null) => ({ id, type: 'order.*', reason: 'rejected', body })
  const bodies = [Buffer.from('{"a":1}'), Buffer.from('plain'), Buffer.from([0xff]), Buffer.alloc(70_000)]
  const order = { subscription: 'order', queue: 'order.dead', count: 9, first: bodies.map((body) => letter(body)) }
  const retired = { subscription: 'retired', queue: 'retired.dead', count: 2, first: [letter(bodies[0]!, 'm-1')] }
  const asked: unknown[] = []
  transport.brokerDeadLetters = async (options) => {
    asked.push(options)
    return [order, retired]
  }
  const { broker, items } = (await ask(shop, `GET ${path}`)).body
  assert.deepEqual(items, [])
  assert.deepEqual(
    broker.map(({ subscription, queue, count }: typeof order) => [subscription, queue, count]),
    [
      ['order', 'order.dead', 9],
      ['retired', 'retired.dead', 2],
    ],
  )
  assert.deepEqual(
    broker[0].first.map(({ bytes, message }: { bytes: number; message: unknown }) => [bytes, message]),
    [
      [7, { a: 1 }],
      [5, { text: 'plain' }],
      [1, { base64: '/w==' }],
      [70_000, null],
    ],
  )
  const { message: _, ...rest } = broker[1].first[0]
  assert.deepEqual(rest, { messageId: 'm-1', type: 'order.*', reason: 'rejected', bytes: 7 })
  const names = async (query: string) =>
    (await ask(shop, `GET ${path}?${query}`)).body.broker.map(({ subscription }: typeof order) => subscription)
  assert.deepEqual(await names('service=order'), ['order'])
  assert.deepEqual(await names('service=payment'), [])
  assert.deepEqual(await names('subscription=retired'), ['retired'])
  assert.deepEqual(await names('status=discarded'), [])
  const metrics = await (await shop.app.request('/metrics')).text()
  assert.match(metrics, /^broker_dead_letters\{subscription="order"\} 9$/m)
  assert.match(metrics, /^broker_dead_letters\{subscription="retired"\} 2$/m)
  assert.equal(asked.at(-1), undefined, 'a metric takes nothing out of a queue')
})

test('a broker that cannot say what it rejected hides no dead letter, and no metric', async () => {
  const transport = memoryTransport(memoryBroker())
  await using shop = await openTestShop({ transport })
  await refusedPayments(shop)
  assert.deepEqual((await ask(shop, `GET ${path}`)).body.broker, [], 'one that rejects nothing')
  transport.brokerDeadLetters = () => Promise.reject(new Error('away'))
  const { items, broker } = (await ask(shop, `GET ${path}`)).body
  assert.deepEqual([items.length, broker], [1, null])
  const metrics = await (await shop.app.request('/metrics')).text()
  assert.doesNotMatch(metrics, /^broker_dead_letters\{/m)
  assert.match(metrics, /^bus_dead_letters\{service="order",subscription="order"\} 1$/m)
})

test('what the auditor has found', async () => {
  await using shop = await openTestShop()
  const { body } = await ask(shop, 'GET /api/operations/audit')
  assert.deepEqual([body.looks, body.violations[0].invariant], [7, 'I3'])
})

test('a dead letter is listed, shown whole, rehearsed, redriven; each act with who and why', async () => {
  await using shop = await openTestShop()
  const [letter] = await refusedPayments(shop)
  assert.deepEqual([letter!.service, letter!.cause], ['order', 'the ledger is closed'])
  const at = `${path}/order/${letter!.id}`
  const whole = (await ask(shop, `GET ${at}`)).body
  assert.equal(whole.message.data.orderId, 'ord_0')
  assert.deepEqual(whole.acts, [])
  assert.deepEqual((await ask(shop, `POST ${at}/rehearse`)).body.outcome, 'would_fail')
  shop.repair.done = true
  const rehearsed = (await ask(shop, `POST ${at}/rehearse`)).body
  assert.equal(rehearsed.outcome, 'would_succeed')
  assert.equal(rehearsed.publications[0].type, 'order.placed')
  assert.deepEqual((await ask(shop, `POST ${at}/redrive`, { why: 'the ledger is open again' })).body, { redriven: 1 })
  await shop.order.bus.idle()
  const after = (await ask(shop, `GET ${at}`)).body
  assert.equal(after.status, 'redriven')
  assert.deepEqual(
    after.acts.map(({ act, by, why }: { act: string; by: string; why: string }) => [act, by, why]),
    [['redrive', operator.userId, 'the ledger is open again']],
  )
  assert.deepEqual((await ask(shop, `POST ${at}/redrive`, { why: 'again' })).body, { redriven: 0 })
})

test('a dead letter is edited, with a payload that fits', async () => {
  await using shop = await openTestShop()
  const [letter] = await refusedPayments(shop)
  const at = `${path}/order/${letter!.id}`
  const wrong = await ask(shop, `POST ${at}/edit`, { data: { orderId: 7 }, why: 'a try' })
  assert.deepEqual([wrong.status, wrong.body.code], [400, 'invalid_request'])
  const data = { ...paymentProcessed.example!, orderId: 'ord_0', authorizedPence: 1 }
  assert.equal((await ask(shop, `POST ${at}/edit`, { data, why: 'a penny fits' })).status, 200)
  await shop.order.bus.idle()
  assert.deepEqual((await ask(shop, `GET ${path}`)).body.items, [])
  assert.equal((await ask(shop, `POST ${at}/edit`, { data, why: 'again' })).status, 409)
})

test('a dead letter is discarded', async () => {
  await using shop = await openTestShop()
  const [letter] = await refusedPayments(shop)
  assert.deepEqual((await ask(shop, `POST ${path}/order/${letter!.id}/discard`, { why: 'a test' })).body, {
    status: 'discarded',
  })
  const gone = await ask(shop, `GET ${path}?status=discarded&service=order`)
  assert.equal(gone.body.items[0].id, letter!.id)
})

test('dead letters of one cause are a group, and are redriven together', async () => {
  await using shop = await openTestShop()
  await refusedPayments(shop, 3)
  const groups = (await ask(shop, `GET ${path}/groups`)).body.items
  assert.deepEqual([groups.length, groups[0].count, groups[0].service], [1, 3, 'order'])
  shop.repair.done = true
  const { service, group } = groups[0]
  const first = await ask(shop, `POST ${path}/redrive`, { service, group, why: 'repaired', perSecondMax: 1_000 })
  assert.deepEqual(first.body, { redriven: 3 })
  const all = await ask(shop, `POST ${path}/redrive`, { service, all: true, why: 'what is left' })
  assert.deepEqual(all.body, { redriven: 0 })
})

test('pages lead from one to the next', async () => {
  await using shop = await openTestShop()
  const letters = await refusedPayments(shop, 3)
  const first = (await ask(shop, `GET ${path}?limit=2`)).body
  const second = (await ask(shop, `GET ${path}?limit=2&cursor=${first.nextCursor}`)).body
  assert.deepEqual(
    [...first.items, ...second.items].map(({ id }: { id: string }) => id),
    letters.map(({ id }) => id),
  )
  assert.equal(second.nextCursor, null)
})

test('bytes that are no message are shown as they came, and cannot be edited', async () => {
  const broker = memoryBroker()
  await using shop = await openTestShop({ transport: memoryTransport(broker) })
  const { type } = paymentProcessed
  await shop.transport.publish([{ id: 'm1', type, key: 'ord_1', headers: {}, body: Buffer.from([0xff, 0xfe]) }])
  await shop.order.bus.idle()
  const [letter] = (await ask(shop, `GET ${path}`)).body.items
  assert.equal(letter.code, 'undecodable')
  const whole = (await ask(shop, `GET ${path}/order/${letter.id}`)).body
  assert.deepEqual(whole.message, { base64: '//4=' })
  const data = paymentProcessed.example satisfies Message['data']
  assert.equal((await ask(shop, `POST ${path}/order/${letter.id}/edit`, { data, why: 'a try' })).status, 409)
})

test('only operators, only with a reason, only what exists', async () => {
  await using shop = await openTestShop()
  const cases: [string, unknown, typeof operator, number, string][] = [
    ['GET /api/operations/status', undefined, ada, 403, 'forbidden'],
    [`GET ${path}`, undefined, ada, 403, 'forbidden'],
    [`POST ${path}/redrive`, { service: 'order', all: true, why: 'x' }, ada, 403, 'forbidden'],
    [`POST ${path}/redrive`, { service: 'order', all: true }, operator, 400, 'invalid_request'],
    [`POST ${path}/redrive`, { service: 'order', why: 'x' }, operator, 400, 'invalid_request'],
    [`POST ${path}/redrive`, { service: 'order', group: 'none', why: 'x' }, operator, 400, 'invalid_request'],
    [`POST ${path}/redrive`, { service: 'nobody', all: true, why: 'x' }, operator, 404, 'not_found'],
    [`GET ${path}?service=nobody`, undefined, operator, 404, 'not_found'],
    [`GET ${path}/order/nothing`, undefined, operator, 404, 'not_found'],
    [`POST ${path}/order/nothing/rehearse`, undefined, operator, 404, 'not_found'],
    [`POST ${path}/order/nothing/discard`, { why: ' ' }, operator, 400, 'invalid_request'],
  ]
  for (const [request, body, who, status, code] of cases) {
    const answer = await ask(shop, request, body, who)
    assert.deepEqual([request, answer.status, answer.body.code], [request, status, code])
  }
})
