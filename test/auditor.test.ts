/** The auditor finds nothing where nothing is wrong, and each invariant's check can fail: it is shown a spoiled copy. */
import assert from 'node:assert/strict'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { after, before, describe, test } from 'node:test'
import { type Clock, skippableClock, sqliteStore, systemClock } from '@shopsphere/bus'
import { createWorld, type World } from '@shopsphere/bus/testing'
import { createLog } from '@shopsphere/runtime/log'
import { createAuditor } from '../auditor/auditor.ts'
import { type Invariant, invariants } from '../auditor/violation.ts'
import { type Shop, startShop } from '../shop.ts'

const log = createLog('silent')
const DAY_MS = 86_400_000
const operator = { email: 'operator@shop.example', password: 'a long enough password' }

/** A test asserts what is inside. */
type Answer = any

/** A shop in a folder, whose days pass when told, and its operator. */
async function openShop(directory: string, environment: Record<string, string> = {}) {
  const clock = skippableClock()
  const shop = await startShop({
    environment: {
      DATA_DIR: directory,
      SEED: '1',
      TOKEN_SECRET: 'a secret for tests, long enough for HS256',
      ADMIN_EMAIL: operator.email,
      ADMIN_PASSWORD: operator.password,
      PICKING_GRACE_MS: '0',
      CARRIER_DELAY_MS: '0',
      ...environment,
    },
    headless: true,
    clock,
    log,
  })
  await shop.idle()
  let token = ''
  let keys = 0
  async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await shop.app.request(path, {
      method,
      headers: {
        'content-type': 'application/json',
        ...(token && { authorization: `Bearer ${token}` }),
        ...(method === 'POST' && { 'idempotency-key': `key-${++keys}` }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const answer = await response.json()
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${JSON.stringify(answer)}`)
    return answer
  }
  const signIn = async () => {
    token = ''
    token = (await ask('POST', '/api/sessions', operator)).token
  }
  await signIn()
  return { shop, clock, ask, signIn }
}

type Opened = Awaited<ReturnType<typeof openShop>>

async function stockShelves({ shop, ask }: Opened) {
  for (const [sku, pricePence, quantity] of [
    ['heart', 255, 100],
    ['lantern', 339, 3],
  ] as const) {
    await ask('POST', '/api/products', { sku, name: sku, pricePence })
    await shop.idle()
    await ask('POST', `/api/inventory/${sku}/receipts`, { quantity })
  }
  await shop.idle()
}

type Orders = { delivered: string; guest: string; outOfStock: string; declined: string; returned: string }

/** Orders that end in each way, and one that comes back in part. */
async function trade(opened: Opened): Promise<Orders> {
  const { shop, clock, ask, signIn } = opened
  await stockShelves(opened)
  const { customerId } = await ask('POST', '/api/customers', { externalReference: 'c1', country: 'GB' })
  await shop.idle()
  const place = async (order: object) =>
    (await ask('POST', '/api/orders', { paymentMethod: 'pm_card_visa', ...order })).orderId as string
  const delivered = await place({ customerId, email: 'ada@example.org', lines: [{ sku: 'heart', quantity: 2 }] })
  const guest = await place({ email: 'eve@example.org', lines: [{ sku: 'lantern', quantity: 1 }] })
  const outOfStock = await place({ customerId, lines: [{ sku: 'lantern', quantity: 50 }] })
  const declined = await place({
    customerId,
    paymentMethod: 'pm_card_declined',
    lines: [{ sku: 'heart', quantity: 1 }],
  })
  const returned = await place({
    customerId,
    lines: [
      { sku: 'heart', quantity: 3 },
      { sku: 'lantern', quantity: 1 },
    ],
  })
  await shop.idle()
  await ask('POST', '/api/returns', { customerId, lines: [{ sku: 'heart', quantity: 1 }] })
  await shop.idle()
  clock.skip(31 * DAY_MS)
  await shop.idle()
  await signIn()
  return { delivered, guest, outOfStock, declined, returned }
}

/** The auditor's findings in a folder in which nobody works. */
async function auditFolder(folder: string) {
  const names = [
    'user',
    'product',
    'cart',
    'order',
    'payment',
    'inventory',
    'shipping',
    'notification',
    'analytics',
    'audit',
  ]
  const stores = new Map(names.map((name) => [name, sqliteStore(join(folder, `${name}.db`))]))
  for (const store of stores.values()) await store.open()
  try {
    return await createAuditor({ stores, clock: systemClock, log }).finish('ended')
  } finally {
    for (const store of stores.values()) await store.close()
  }
}

describe('the books of a shop that is at rest', () => {
  let world: World
  let clean: string
  let orders: Orders
  let copies = 0

  before(async () => {
    world = await createWorld()
    clean = join(world.directory, 'clean')
    const opened = await openShop(clean)
    orders = await trade(opened)
    assert.deepEqual(await opened.shop.auditor.finish('ended'), [])
    await opened.shop.close()
  })
  after(() => world[Symbol.asyncDispose]())

  test('are in order, and stay so in a copy', async () => {
    assert.deepEqual(await auditFolder(clean), [])
  })

  /** What the auditor says of a copy in which `service`'s database was spoiled. */
  async function spoiled(service: string, ...statements: string[]) {
    const folder = join(world.directory, `copy-${++copies}`)
    cpSync(clean, folder, { recursive: true })
    using database = new DatabaseSync(join(folder, `${service}.db`))
    database.exec('pragma ignore_check_constraints = on; pragma foreign_keys = off')
    for (const statement of statements) database.exec(statement)
    database.close()
    return auditFolder(folder)
  }

  const seen = new Set<Invariant>()

  function finds(invariant: Invariant, text: RegExp, spoil: () => [service: string, ...statements: string[]]): void {
    test(`${invariant}: ${text.source.replaceAll('\\', '')}`, async () => {
      const violations = await spoiled(...spoil())
      const found = violations.filter((violation) => violation.invariant === invariant && text.test(violation.text))
      assert.ok(found.length > 0, JSON.stringify(violations, null, 2))
      seen.add(invariant)
    })
  }

  const ofPayment = (orderId: string, type: string) => `stream = 'payment:${orderId}' and type = '${type}'`

  finds('I1', /captured 10510 pence/, () => [
    'payment',
    `update bus_stream_event set data = json_set(data, '$.pence', 10510) where ${ofPayment(orders.delivered, 'captured')}`,
  ])
  finds('I1', /line 1: captured 511 pence/, () => [
    'payment',
    `update bus_stream_event set data = json_set(data, '$.lines[0].pence', 511) where ${ofPayment(orders.delivered, 'captured')}`,
  ])
  finds('I1', /captured 510 pence, refunded 700/, () => [
    'payment',
    `update bus_stream_event set stream = 'payment:${orders.delivered}', version = version + 100,
      data = json_set(data, '$.pence', 700) where ${ofPayment(orders.returned, 'refund_requested')}`,
    `update bus_stream_event set stream = 'payment:${orders.delivered}', version = version + 100
      where ${ofPayment(orders.returned, 'refunded')}`,
  ])
  finds('I1', /the totals say/, () => ['payment', 'update payment_total set charged_pence = charged_pence + 1'])
  finds('I1', /was placed for 511 pence/, () => [
    'order',
    `update bus_stream_event set data = json_set(data, '$.totalPence', 511)
      where stream = 'order:${orders.delivered}' and type = 'placed'`,
  ])

  finds('I2', /510 pence of it have not gone back/, () => [
    'order',
    `update order_row set stage = 'cancelled' where order_id = '${orders.delivered}'`,
  ])
  finds('I2', /its stock is still held/, () => [
    'inventory',
    `update stock_order set state = 'held' where order_id = '${orders.declined}'`,
  ])
  finds('I2', /still authorised/, () => [
    'payment',
    `insert into bus_stream_event (stream, version, type, schema_version, data, meta, at)
      values ('payment:${orders.declined}', 100, 'authorized', 1, '{"attempt":1,"chargeId":"c","pence":255}', null, 1)`,
  ])

  finds('I3', /heart: 96 on hand are not 97 available/, () => [
    'inventory',
    "update stock set available = available + 1 where sku = 'heart'",
  ])
  finds('I3', /below 0/, () => ['inventory', "update stock set held = -1, on_hand = on_hand - 1 where sku = 'heart'"])
  finds('I3', /its ledger comes to/, () => [
    'inventory',
    "delete from stock_ledger where sku = 'heart' and kind = 'receipt'",
  ])
  finds('I3', /heart: 1 held, and orders have 0 of it held/, () => [
    'inventory',
    "update stock set held = held + 1, available = available - 1 where sku = 'heart'",
  ])

  finds('I4', /left without being paid/, () => [
    'payment',
    `delete from bus_stream_event where ${ofPayment(orders.delivered, 'authorized')}`,
  ])
  finds('I4', /2 units left, and 0 were captured/, () => [
    'payment',
    `delete from bus_stream_event where ${ofPayment(orders.delivered, 'captured')}`,
  ])
  finds('I4', /its stock is expired and not allocated/, () => [
    'inventory',
    `update stock_order set state = 'expired' where order_id = '${orders.delivered}'`,
  ])
  finds('I4', /2 units of heart left, and 1 of its stock/, () => [
    'inventory',
    `update stock_order set sent = '[["heart",1]]' where order_id = '${orders.delivered}'`,
  ])

  finds('I5', /has not come to an end/, () => [
    'order',
    `update order_row set stage = 'delivered' where order_id = '${orders.delivered}'`,
  ])

  finds('I6', /was told of order\.shipped by email 2 times/, () => [
    'notification',
    'drop index notification_once',
    `insert into notification select 'ntf_twice', about, step, channel, state, recipient, user_id, order_id, subject,
      reason, attempts, at from notification where about = '${orders.guest}' and step = 'order.shipped'`,
  ])
  finds('I6', /was told of order\.delivered by email 2 times/, () => [
    'order',
    `insert into order_notification select order_id, 'ntf_twice', step, channel, subject, sent_at
      from order_notification where order_id = '${orders.guest}' and step = 'order.delivered'`,
  ])

  finds('I7', /figures_day: 2 rows are not what the facts come to/, () => [
    'analytics',
    'update figures_day__1 set captured_pence = captured_pence + 1',
  ])
  finds('I7', /is listed as cancelled/, () => [
    'order',
    `update order_row set status = 'cancelled' where order_id = '${orders.delivered}'`,
  ])
  finds('I7', /beside the order’s events/, () => [
    'order',
    `update bus_stream set state = json_set(state, '$.totalPence', 1) where stream = 'order:${orders.delivered}'`,
  ])
  finds('I7', /beside the payment’s events/, () => [
    'payment',
    `update bus_stream set state = json_set(state, '$.capturedPence', 1) where stream = 'payment:${orders.delivered}'`,
  ])

  finds('I8', /order\.confirmed was said 0 times/, () => [
    'audit',
    `delete from audit_event where message_key = '${orders.delivered}' and type = 'order.confirmed'`,
  ])
  finds('I8', /payment\.captured was said 0 times/, () => [
    'audit',
    `delete from audit_event where message_key = '${orders.delivered}' and type = 'payment.captured'`,
  ])
  finds('I8', /captured 510 pence, and 509 were told of/, () => [
    'audit',
    `update audit_event set body = json_set(body, '$.capturedPence', 509)
      where message_key = '${orders.delivered}' and type = 'payment.captured'`,
  ])
  finds('I8', /its stock is dispatched, and inventory\.updated was not said/, () => [
    'audit',
    `delete from audit_event where message_key = '${orders.delivered}' and type = 'inventory.updated'`,
  ])
  finds('I8', /inventory\.updated was said 2 times/, () => [
    'audit',
    `insert into audit_event select 'again', type, source, time, message_key, correlation_id, causation_id, traceparent,
      version, body from audit_event where message_key = '${orders.delivered}' and type = 'inventory.updated'`,
  ])
  finds('I8', /inventory does not know it/, () => [
    'inventory',
    `delete from stock_order where order_id = '${orders.declined}'`,
  ])
  finds('I8', /left with 1 products, and 0 of them left the stock ledger/, () => [
    'inventory',
    "delete from stock_ledger where kind = 'dispatch'",
  ])
  finds('I8', /order\.delivered was said 1 times/, () => [
    'shipping',
    `update fulfilment set status = 'sent' where order_id = '${orders.delivered}'`,
  ])
  finds('I8', /return\.closed was said 1 times/, () => ['shipping', 'delete from return_case'])
  finds('I8', /'delivered' in analytics: 0/, () => [
    'analytics',
    `delete from bus_stream_event where stream = 'order:${orders.delivered}' and type = 'delivered'`,
  ])
  finds('I8', /notification\.sent was said/, () => [
    'notification',
    `delete from notification where about = '${orders.guest}' and step = 'order.shipped'`,
  ])
  finds('I8', /shipping knows it, and it was never placed/, () => [
    'order',
    `delete from order_row where order_id = '${orders.delivered}'`,
  ])
  finds('I8', /could not handle: the ledger is closed/, () => [
    'payment',
    `insert into bus_dead_letter (id, subscription, message_id, message_key, type, headers, body, code, cause, detail,
      attempts, failed_at, position, status, parks)
      values ('d1', 'payment', 'm1', 'ord', 'order.placed', '{}', '{}', 'permanent', 'the ledger is closed', '', 1, 1, 1, 'open', 1)`,
  ])
  finds('I8', /1 messages that wait to be handled/, () => [
    'payment',
    `insert into bus_deferred (subscription, message_key, id, type, headers, body, attempts, due_at, claimed_until, reason)
      values ('payment', 'ord', 'm1', 'order.placed', '{}', '{}', 1, 1, 0, '')`,
  ])
  finds('I8', /order committed 1 messages that nobody has heard: order\.placed/, () => [
    'order',
    "insert into bus_outbox (id, type, message_key, headers, body, at) values ('m1', 'order.placed', 'ord', '{}', '{}', 1)",
  ])

  test('each invariant’s check has been seen to fail', () => {
    assert.deepEqual([...seen].sort(), Object.keys(invariants))
  })
})

describe('while the shop runs', () => {
  /** An auditor of the running shop whose minutes pass when told. */
  function watching(shop: Shop, lagging?: () => Promise<boolean>) {
    let aheadMs = 0
    const clock: Clock = { now: () => Date.now() + aheadMs, after: systemClock.after }
    const stores = new Map([...shop.services].map(([name, { bus }]) => [name, bus.store]))
    const auditor = createAuditor({ stores, clock, log, ...(lagging ? { lagging } : {}) })
    /** So many rounds, a little more than a minute apart. */
    const rounds = async (count: number) => {
      for (let round = 0; round < count; round++) {
        await auditor.round()
        aheadMs += 61_000
      }
      return auditor.found
    }
    return { auditor, rounds }
  }

  test('what is under way is no violation; it is looked at when it has rested', async () => {
    await using world = await createWorld()
    const opened = await openShop(world.directory, { PICKING_GRACE_MS: String(DAY_MS) })
    await using shop = opened.shop
    await stockShelves(opened)
    const { rounds } = watching(shop)
    for (let count = 0; count < 3; count++) {
      await opened.ask('POST', '/api/orders', {
        paymentMethod: 'pm_card_visa',
        email: 'eve@example.org',
        lines: [{ sku: 'heart', quantity: 1 }],
      })
    }
    assert.deepEqual((await rounds(1)).violations, [])
    await shop.idle()
    const { looks, waiting, violations } = await rounds(20)
    assert.deepEqual([looks >= 3, waiting, violations], [true, 0, []])
  })

  test('what stays wrong is said once, after it has looked wrong for ten minutes; what comes right is not said', async () => {
    await using world = await createWorld()
    const opened = await openShop(world.directory)
    await using shop = opened.shop
    const orders = await trade(opened)
    const spoil = (state: string, orderId: string) =>
      shop.services.get('inventory')!.bus.store.transaction((tx) =>
        tx.run({
          strings: Object.assign([`update stock_order set state = '${state}' where order_id = '${orderId}'`], {
            raw: [],
          }),
          values: [],
        }),
      )
    const { auditor, rounds } = watching(shop)
    await spoil('held', orders.declined)
    await spoil('held', orders.outOfStock)
    assert.deepEqual((await rounds(5)).violations, [])
    await spoil('released', orders.outOfStock)
    const { violations } = await rounds(30)
    assert.deepEqual([...new Set(violations.map(({ orderId }) => orderId))], [orders.declined])
    const count = violations.length
    await rounds(15)
    assert.equal(auditor.found.violations.length, count)
  })

  test('while a service is behind, nothing is compared', async () => {
    await using world = await createWorld()
    const opened = await openShop(world.directory)
    await using shop = opened.shop
    await stockShelves(opened)
    await opened.ask('POST', '/api/orders', {
      paymentMethod: 'pm_card_visa',
      email: 'eve@example.org',
      lines: [{ sku: 'heart', quantity: 1 }],
    })
    await shop.idle()
    const { rounds } = watching(shop, async () => true)
    const { looks, waiting } = await rounds(5)
    assert.deepEqual([looks, waiting], [0, 1])
  })
})
