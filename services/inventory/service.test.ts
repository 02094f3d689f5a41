import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { type Reader, sql, sqliteStore } from '@shopsphere/bus'
import {
  inventoryLevelChanged,
  inventoryReleased,
  inventoryReservationExpired,
  inventoryReservationFailed,
  inventoryReserved,
  inventoryUpdated,
  inventoryUpdateFailed,
  orderCancelled,
  orderPlaced,
  paymentProcessed,
  productCreated,
  returnReceived,
  shipmentDispatched,
} from '@shopsphere/contracts'
import { defineService } from '@shopsphere/runtime/service'
import { openService, type ServiceBench } from '../testing.ts'
import { inventory } from './service.ts'

const merchant = { userId: 'usr_merchant', roles: ['merchant'] }
const customer = { userId: 'usr_customer', roles: ['customer'] }
const MINUTE_MS = 60_000

/** Products whose figures are not those of the ledger, or not those of the orders. */
async function findStockViolations(reader: Reader): Promise<string[]> {
  const orders = await reader.all<{ state: 'held' | 'allocated'; wanted: string; sent: string }>(
    sql`select state, wanted, sent from stock_order where state in ('held', 'allocated')`,
  )
  const rows = await reader.all<{ sku: string; on_hand: number; held: number; allocated: number; ledger: number }>(sql`
    select sku, on_hand, held, allocated,
      (select coalesce(sum(change), 0) from stock_ledger where stock_ledger.sku = stock.sku) as ledger
    from stock`)
  const unitsIn = (text: string, sku: string) => new Map<string, number>(JSON.parse(text)).get(sku) ?? 0
  const kept = (sku: string, place: string) =>
    orders
      .filter(({ state }) => state === place)
      .reduce((sum, { wanted, sent }) => sum + unitsIn(wanted, sku) - unitsIn(sent, sku), 0)
  return rows
    .filter(
      (row) =>
        row.on_hand !== row.ledger ||
        row.held !== kept(row.sku, 'held') ||
        row.allocated !== kept(row.sku, 'allocated'),
    )
    .map((row) => JSON.stringify(row))
}

/** A shop with so many units of each product. At its end, the figures must agree with the ledger and with the orders. */
async function openShop(units: Record<string, number>, { environment = {} } = {}) {
  let findViolations: () => Promise<string[]> = async () => []
  const audited = defineService({
    ...inventory,
    wire(context) {
      findViolations = () => context.store.read(findStockViolations)
      return inventory.wire(context)
    },
  })
  const bench = await openService(audited, { environment })
  for (const sku of Object.keys(units)) await bench.say(productCreated, { ...productCreated.example!, sku })
  const lines = Object.entries(units)
    .filter(([, quantity]) => quantity > 0)
    .map(([sku, quantity]) => ({ sku, quantity }))
  if (lines.length > 0) await bench.ask('POST /api/inventory/receipts', { as: merchant, body: { lines } })
  return Object.assign(bench, {
    violations: () => findViolations(),
    async figures(sku: string) {
      const { body } = await bench.ask(`GET /api/inventory/${sku}`, { as: merchant })
      return `${body.onHand}=${body.available}+${body.held}+${body.allocated}`
    },
    async close() {
      assert.deepEqual(await findViolations(), [])
      assert.equal(await bench.deadLetters(), 0)
      await bench[Symbol.asyncDispose]()
    },
  })
}

type Line = readonly [sku: string, quantity: number]
const linesOf = (lines: readonly Line[]) =>
  lines.map(([sku, quantity], index) => ({ lineNo: index + 1, sku, name: sku, quantity, unitPence: 100 }))
const place = (bench: ServiceBench, orderId: string, ...lines: Line[]) =>
  bench.say(orderPlaced, { ...orderPlaced.example!, orderId, lines: linesOf(lines) })
const pay = (bench: ServiceBench, orderId: string) =>
  bench.say(paymentProcessed, { ...paymentProcessed.example!, orderId })
const cancel = (bench: ServiceBench, orderId: string) =>
  bench.say(orderCancelled, { ...orderCancelled.example!, orderId })
const dispatch = (bench: ServiceBench, orderId: string, shipmentId: string, last: boolean, ...lines: Line[]) =>
  bench.say(shipmentDispatched, { ...shipmentDispatched.example!, orderId, shipmentId, last, lines: linesOf(lines) })

test('an order is held, allocated when it is paid, and leaves', async () => {
  const shop = await openShop({ A: 50, B: 50 })
  await place(shop, 'ord_1', ['A', 2], ['B', 3], ['A', 1])
  assert.equal(await shop.figures('A'), '50=47+3+0')
  assert.deepEqual(await shop.told(inventoryReserved), [
    { orderId: 'ord_1', holdExpiresAt: shop.clock.now() + 15 * MINUTE_MS },
  ])
  await pay(shop, 'ord_1')
  assert.equal(await shop.figures('A'), '50=47+0+3')
  assert.deepEqual(await shop.told(inventoryUpdated), [{ orderId: 'ord_1', allocatedUnits: 6 }])
  await dispatch(shop, 'ord_1', 'shp_1', false, ['B', 3])
  assert.equal(await shop.figures('B'), '47=47+0+0')
  await dispatch(shop, 'ord_1', 'shp_2', true, ['A', 2], ['A', 1])
  assert.equal(await shop.figures('A'), '47=47+0+0')
  await shop.pass(20 * MINUTE_MS)
  assert.deepEqual(await shop.told(inventoryReservationExpired), [])
  await shop.close()
})

test('an order that cannot be filled whole holds nothing; each short sku is named once, with what is left', async () => {
  const shop = await openShop({ A: 50, B: 4 })
  await place(shop, 'ord_1', ['A', 2], ['B', 3], ['B', 3], ['C', 1])
  assert.deepEqual(await shop.told(inventoryReservationFailed), [
    {
      orderId: 'ord_1',
      short: [
        { sku: 'B', wanted: 6, available: 4 },
        { sku: 'C', wanted: 1, available: 0 },
      ],
    },
  ])
  assert.equal(await shop.figures('A'), '50=50+0+0')
  assert.equal(await shop.figures('B'), '4=4+0+0')
  await cancel(shop, 'ord_1')
  assert.deepEqual(await shop.told(inventoryReleased), [])
  await shop.close()
})

test('the last unit can be had, by one order only', async () => {
  const shop = await openShop({ A: 3 })
  await place(shop, 'ord_1', ['A', 3])
  await place(shop, 'ord_2', ['A', 1])
  assert.equal((await shop.told(inventoryReserved)).length, 1)
  assert.equal((await shop.told(inventoryReservationFailed))[0]!.orderId, 'ord_2')
  assert.equal(await shop.figures('A'), '3=0+3+0')
  await shop.close()
})

test('a hold runs out after T1; a payment that comes later is refused', async () => {
  const shop = await openShop({ A: 50 }, { environment: { HOLD_MS: '60000' } })
  await place(shop, 'ord_1', ['A', 5])
  await shop.pass(MINUTE_MS - 1)
  assert.equal(await shop.figures('A'), '50=45+5+0')
  await shop.pass(1)
  assert.equal(await shop.figures('A'), '50=50+0+0')
  assert.deepEqual(await shop.told(inventoryReservationExpired), [{ orderId: 'ord_1', expiredAt: shop.clock.now() }])
  await pay(shop, 'ord_1')
  await pay(shop, 'ord_1')
  assert.deepEqual(await shop.told(inventoryUpdateFailed), [{ orderId: 'ord_1', reason: 'hold_gone', short: [] }])
  await shop.close()
})

test('a cancelled order gives back what it held or was promised, once', async () => {
  const shop = await openShop({ A: 50 })
  await place(shop, 'ord_1', ['A', 5])
  await place(shop, 'ord_2', ['A', 7])
  await pay(shop, 'ord_2')
  for (const orderId of ['ord_1', 'ord_2', 'ord_1', 'ord_2']) await cancel(shop, orderId)
  assert.equal(await shop.figures('A'), '50=50+0+0')
  assert.deepEqual(await shop.told(inventoryReleased), [
    { orderId: 'ord_1', was: 'held', releasedUnits: 5 },
    { orderId: 'ord_2', was: 'allocated', releasedUnits: 7 },
  ])
  await shop.pass(20 * MINUTE_MS)
  assert.deepEqual(await shop.told(inventoryReservationExpired), [])
  await shop.close()
})

test('an order that is called off before it is heard of holds nothing', async () => {
  const shop = await openShop({ A: 50 })
  await cancel(shop, 'ord_1')
  await place(shop, 'ord_1', ['A', 5])
  assert.equal(await shop.figures('A'), '50=50+0+0')
  assert.deepEqual(await shop.told(inventoryReserved), [])
  await shop.close()
})

test('everything twice has the same end', async () => {
  const shop = await openShop({ A: 50 })
  for (let time = 0; time < 2; time++) await place(shop, 'ord_1', ['A', 5])
  for (let time = 0; time < 2; time++) await pay(shop, 'ord_1')
  for (let time = 0; time < 2; time++) await dispatch(shop, 'ord_1', 'shp_1', true, ['A', 5])
  const goods = { ...returnReceived.example!, orderId: 'ord_1', returnId: 'ret_1' }
  const lines = [{ lineNo: 1, sku: 'A', quantity: 2, unitPence: 100, restock: true }]
  for (let time = 0; time < 2; time++) await shop.say(returnReceived, { ...goods, lines })
  assert.equal(await shop.figures('A'), '47=47+0+0')
  await shop.close()
})

test('what comes back is on hand, and only there if it can be sold; the ledger shows both', async () => {
  const shop = await openShop({ A: 50 })
  await place(shop, 'ord_1', ['A', 5])
  await pay(shop, 'ord_1')
  await dispatch(shop, 'ord_1', 'shp_1', true, ['A', 5])
  const line = { lineNo: 1, sku: 'A', unitPence: 100 }
  const lines = [
    { ...line, quantity: 3, restock: true },
    { ...line, quantity: 1, restock: false },
  ]
  await shop.say(returnReceived, { ...returnReceived.example!, orderId: 'ord_1', returnId: 'ret_1', lines })
  assert.equal(await shop.figures('A'), '48=48+0+0')
  const entries: string[] = []
  for (let cursor = ''; ; ) {
    const { body } = await shop.ask(`GET /api/inventory/A/ledger?limit=3${cursor}`, { as: merchant })
    entries.push(...body.items.map((entry: { kind: string; change: number }) => `${entry.kind} ${entry.change}`))
    if (body.nextCursor === null) break
    cursor = `&cursor=${body.nextCursor}`
  }
  assert.deepEqual(entries.sort(), ['dispatch -5', 'receipt 50', 'return 4', 'write_off -1'])
  await shop.close()
})

test('the last parcel leaves nothing promised behind', async () => {
  const shop = await openShop({ A: 50 })
  await place(shop, 'ord_1', ['A', 5])
  await pay(shop, 'ord_1')
  await dispatch(shop, 'ord_1', 'shp_1', true, ['A', 3])
  assert.equal(await shop.figures('A'), '47=47+0+0')
  await shop.close()
})

test('a parcel of an order without an allocation is a dead letter, not a silent difference', async () => {
  const shop = await openShop({ A: 50 })
  await place(shop, 'ord_1', ['A', 5])
  await dispatch(shop, 'ord_1', 'shp_1', true, ['A', 5])
  assert.equal(await shop.deadLetters(), 1)
  assert.deepEqual(await shop.violations(), [])
  await shop[Symbol.asyncDispose]()
})

test('only a change of the class of availability is told', async () => {
  const shop = await openShop({ A: 0 })
  const receive = (quantity: number) => shop.ask('POST /api/inventory/A/receipts', { as: merchant, body: { quantity } })
  await receive(5)
  await receive(20)
  await place(shop, 'ord_1', ['A', 10])
  await place(shop, 'ord_2', ['A', 6])
  await place(shop, 'ord_3', ['A', 9])
  await cancel(shop, 'ord_1')
  await cancel(shop, 'ord_2')
  const levels = (await shop.told(inventoryLevelChanged)).map(({ availability, available }) => [
    availability,
    available,
  ])
  assert.deepEqual(levels, [
    ['low', 5],
    ['in_stock', 25],
    ['low', 9],
    ['out', 0],
    ['in_stock', 10],
  ])
  await shop.close()
})

test('a write-off takes what is free first, then a hold, whose payment is then refused, then an allocation', async () => {
  const shop = await openShop({ A: 10, B: 10 })
  await place(shop, 'ord_paid', ['A', 4])
  await pay(shop, 'ord_paid')
  await place(shop, 'ord_held', ['A', 3], ['B', 2])
  const writeOff = async (quantity: number) => {
    const { body } = await shop.ask('POST /api/inventory/A/write-offs', { as: merchant, body: { quantity } })
    return { held: body.heldOrders, allocated: body.allocatedOrders }
  }
  assert.deepEqual(await writeOff(3), { held: [], allocated: [] })
  assert.equal(await shop.figures('A'), '7=0+3+4')
  assert.deepEqual(await writeOff(1), { held: ['ord_held'], allocated: [] })
  assert.equal(await shop.figures('A'), '6=2+0+4')
  assert.equal(await shop.figures('B'), '10=10+0+0')
  const short = [{ sku: 'A', wanted: 3, available: 2 }]
  await pay(shop, 'ord_held')
  assert.deepEqual(await shop.told(inventoryUpdateFailed), [{ orderId: 'ord_held', reason: 'stock_lost', short }])
  assert.deepEqual(await writeOff(5), { held: [], allocated: ['ord_paid'] })
  assert.equal(await shop.figures('A'), '1=1+0+0')
  assert.equal((await shop.told(inventoryUpdateFailed))[1]!.orderId, 'ord_paid')
  const tooMany = await shop.ask('POST /api/inventory/A/write-offs', { as: merchant, body: { quantity: 2 } })
  assert.deepEqual([tooMany.status, tooMany.body.code], [409, 'conflict'])
  await shop.close()
})

test('an order that lost its hold and is never paid ends with T1', async () => {
  const shop = await openShop({ A: 5 })
  await place(shop, 'ord_1', ['A', 5])
  await shop.ask('POST /api/inventory/A/write-offs', { as: merchant, body: { quantity: 1 } })
  await shop.pass(15 * MINUTE_MS)
  assert.equal((await shop.told(inventoryReservationExpired)).length, 1)
  assert.equal(await shop.figures('A'), '4=4+0+0')
  await shop.close()
})

test('a parcel that left although its stock had been written off takes what is available', async () => {
  const shop = await openShop({ A: 8 })
  await place(shop, 'ord_1', ['A', 5])
  await pay(shop, 'ord_1')
  await shop.ask('POST /api/inventory/A/write-offs', { as: merchant, body: { quantity: 4 } })
  assert.equal(await shop.figures('A'), '4=4+0+0')
  await shop.ask('POST /api/inventory/A/receipts', { as: merchant, body: { quantity: 1 } })
  await dispatch(shop, 'ord_1', 'shp_1', true, ['A', 5])
  assert.equal(await shop.figures('A'), '0=0+0+0')
  await shop.close()
})

test('stock of a product that is not known yet is refused with the advice to ask again', async () => {
  const shop = await openShop({ A: 0 })
  const one = await shop.ask('POST /api/inventory/B/receipts', { as: merchant, body: { quantity: 1 } })
  assert.deepEqual([one.status, one.body.code, one.headers.get('retry-after')], [422, 'unknown_product', '1'])
  const lines = [
    { sku: 'A', quantity: 1 },
    { sku: 'B', quantity: 1 },
  ]
  const many = await shop.ask('POST /api/inventory/receipts', { as: merchant, body: { lines } })
  assert.deepEqual([many.status, many.body.skus], [422, ['B']])
  assert.equal(await shop.figures('A'), '0=0+0+0')
  assert.equal((await shop.ask('GET /api/inventory/B')).status, 404)
  await shop.close()
})

test('a receipt with the same key counts once; quantities are whole, positive and bounded', async () => {
  const shop = await openShop({ A: 0 })
  const headers = { 'idempotency-key': 'receipt-1' }
  const receive = (body: unknown) => shop.ask('POST /api/inventory/A/receipts', { as: merchant, body, headers })
  assert.equal((await receive({ quantity: 7, reason: 'delivery 4711' })).status, 201)
  assert.equal((await receive({ quantity: 7, reason: 'delivery 4711' })).headers.get('idempotency-replayed'), 'true')
  assert.equal(await shop.figures('A'), '7=7+0+0')
  for (const quantity of [0, -1, 1.5, 1e12, '3']) {
    const { status } = await shop.ask('POST /api/inventory/A/receipts', { as: merchant, body: { quantity } })
    assert.equal(status, 400, String(quantity))
  }
  const lines = Array.from({ length: 1_001 }, () => ({ sku: 'A', quantity: 1 }))
  assert.equal((await shop.ask('POST /api/inventory/receipts', { as: merchant, body: { lines } })).status, 400)
  for (let time = 0; time < 1_000; time++) {
    const full = await shop.ask('POST /api/inventory/receipts', {
      as: merchant,
      body: { lines: lines.slice(0, 200).map((line) => ({ ...line, quantity: 1_000_000 })) },
    })
    if (full.status === 201) continue
    assert.deepEqual([full.status, full.body.code], [409, 'conflict'])
    break
  }
  assert.equal(await shop.figures('A'), '800000007=800000007+0+0')
  await shop.close()
})

test('everybody may ask whether a product is to be had; the rest is for staff', async () => {
  const shop = await openShop({ A: 3, B: 0 })
  for (const as of [null, customer]) {
    const { body } = await shop.ask('GET /api/inventory/A', { as })
    assert.deepEqual(body, { sku: 'A', availability: 'low', available: 3 })
  }
  assert.equal((await shop.ask('GET /api/inventory')).status, 401)
  assert.equal((await shop.ask('GET /api/inventory', { as: customer })).status, 403)
  const first = await shop.ask('GET /api/inventory?limit=1', { as: merchant })
  assert.deepEqual(
    first.body.items.map(({ sku }: { sku: string }) => sku),
    ['A'],
  )
  const second = await shop.ask(`GET /api/inventory?limit=1&cursor=${first.body.nextCursor}`, { as: merchant })
  assert.deepEqual([second.body.items.map(({ sku }: { sku: string }) => sku), second.body.nextCursor], [['B'], null])
  for (const path of ['A/receipts', 'A/write-offs']) {
    const { status } = await shop.ask(`POST /api/inventory/${path}`, { as: customer, body: { quantity: 1 } })
    assert.equal(status, 403)
  }
  await shop.close()
})

test('a sku may need encoding in an address', async () => {
  const shop = await openShop({ 'Ä B/1': 2 })
  const { body } = await shop.ask(`GET /api/inventory/${encodeURIComponent('Ä B/1')}`)
  assert.equal(body.available, 2)
  await shop.close()
})

test('I3 is held by the database itself: no place falls below nothing, and the sum is what is on hand', async () => {
  const store = sqliteStore(':memory:')
  await store.open()
  await store.migrate('stock', await readFile(inventory.schema!, 'utf8'))
  const row = { sku: 'A', on_hand: 5, available: 3, held: 2, allocated: 0 }
  const insert = (change: object) => store.transaction((tx) => tx.insert('stock', [{ ...row, ...change }]))
  await insert({})
  await assert.rejects(insert({ sku: 'B', on_hand: 6 }))
  await assert.rejects(insert({ sku: 'B', available: -1, held: 6 }))
  await store.close()
})
