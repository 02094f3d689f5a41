import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inventoryReserved, orderPlaced } from '@shopsphere/contracts'
import { openService } from '../testing.ts'
import { audit } from './service.ts'

const operator = { userId: 'usr_operator', roles: ['operator'] }
const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const customer = { userId: 'usr_customer', roles: ['customer'] }
const orderId = orderPlaced.example!.orderId

test('whatever is said can be found: by list, by id, by order', async () => {
  await using shop = await openService(audit)
  const placedId = await shop.say(orderPlaced, orderPlaced.example!)
  await shop.pass(1)
  await shop.say(inventoryReserved, inventoryReserved.example!)
  const found = await shop.ask('GET /api/audit/events?type=order.*', { as: operator })
  assert.equal(found.status, 200)
  assert.deepEqual(
    found.body.items.map((item: { id: string }) => item.id),
    [placedId],
  )
  assert.equal('data' in found.body.items[0], false)
  const one = await shop.ask(`GET /api/audit/events/${placedId}`, { as: merchant })
  assert.deepEqual(one.body.data, orderPlaced.example)
  assert.equal(one.body.version, orderPlaced.version)
  const order = await shop.ask(`GET /api/audit/orders/${orderId}`, { as: operator })
  assert.deepEqual(
    order.body.events.map(({ type }: { type: string }) => type),
    ['order.placed', 'inventory.reserved'],
  )
  for (const what of ['causes', 'effects']) {
    const tree = await shop.ask(`GET /api/audit/events/${placedId}/${what}`, { as: operator })
    assert.equal(tree.body.event.id, placedId)
  }
})

test('pages lead from one to the next', async () => {
  await using shop = await openService(audit)
  for (let count = 0; count < 3; count++) await shop.say(orderPlaced, orderPlaced.example!)
  const first = await shop.ask('GET /api/audit/events?limit=2', { as: operator })
  assert.equal(first.body.items.length, 2)
  const second = await shop.ask(`GET /api/audit/events?limit=2&cursor=${first.body.nextCursor}`, { as: operator })
  assert.equal(second.body.items.length, 1)
  assert.equal(second.body.nextCursor, null)
})

test('only staff may look, and nonsense is refused', async () => {
  await using shop = await openService(audit)
  const cases: [string, { userId: string; roles: string[] } | null, number, string][] = [
    ['GET /api/audit/events', null, 401, 'unauthenticated'],
    ['GET /api/audit/events', customer, 403, 'forbidden'],
    [`GET /api/audit/orders/${orderId}`, customer, 403, 'forbidden'],
    ['GET /api/audit/events/nothing', operator, 404, 'not_found'],
    ['GET /api/audit/events/nothing/effects', operator, 404, 'not_found'],
    ['GET /api/audit/orders/nothing', operator, 404, 'not_found'],
    ['GET /api/audit/events?type=Order', operator, 400, 'invalid_request'],
    ['GET /api/audit/events?from=yesterday', operator, 400, 'invalid_request'],
    ['GET /api/audit/events?cursor=%7B', operator, 400, 'invalid_cursor'],
  ]
  for (const [request, as, status, code] of cases) {
    const answer = await shop.ask(request, { as })
    assert.deepEqual([request, answer.status, answer.body.code], [request, status, code])
  }
})
