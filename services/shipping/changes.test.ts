import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { createBus, memoryTransport, sqliteStore, systemClock } from '@shopsphere/bus'
import { createWorld } from '@shopsphere/bus/testing'
import { allEvents, orderConfirmed } from '@shopsphere/contracts'
import { createLog } from '@shopsphere/runtime/log'
import { createChanges } from './changes.ts'
import { type Command, type Fulfilment, parcelsToBook, unknownOrder } from './fulfilment.ts'
import { addFulfilment, findFulfilment, forgetCustomer, type Stored } from './queries.ts'

const waiting: Fulfilment = {
  ...unknownOrder('ord_1'),
  customerId: 'usr_1',
  email: 'ada@example.org',
  address: orderConfirmed.example!.address,
  status: 'waiting',
  lines: [{ lineNo: 1, sku: 'A', quantity: 1, unitPence: 100 }],
}

const send: Command = {
  type: 'send',
  parcels: parcelsToBook(waiting, { linesPerParcelMax: 9, unitsPerParcelMax: 9 }).map((parcel) => ({
    ...parcel,
    shipmentId: 'shp_1',
    outcome: { kind: 'booked', trackingNumber: 'SIM1', nextNewsAtMs: null },
  })),
  carrier: 'simulated',
  shippingDeadlineMs: 1_000,
  at: 1_000,
}

async function begin() {
  const world = await createWorld()
  const store = sqliteStore(':memory:')
  await store.open()
  await store.migrate('shipping', await readFile(new URL('./schema.sql', import.meta.url), 'utf8'))
  const bus = createBus({ service: 'shipping', transport: memoryTransport(), store, events: allEvents })
  const changes = createChanges({ clock: systemClock, log: createLog('silent'), carrierSilenceMs: 1_000 })
  await store.transaction((tx) => addFulfilment(tx, waiting))
  world.defer(() => store.close())
  world.defer(() => bus.close())
  return {
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
    change: (stored: Stored, command: Command) =>
      bus.transaction((transaction) => changes.change(transaction, stored, command)),
    find: async () => (await store.read((reader) => findFulfilment(reader, 'ord_1')))!,
    forget: () => store.transaction((tx) => forgetCustomer(tx, 'usr_1')),
  }
}

test('cancelling and sending, both decided on the same row, exclude each other: the second one decides anew', async () => {
  for (const [first, second, end] of [
    [send, { type: 'cancel' }, 'sent'],
    [{ type: 'cancel' }, send, 'cancelled'],
  ] as const) {
    await using shipping = await begin()
    const seen = await shipping.find()
    await shipping.change(seen, first)
    const { state } = await shipping.change(seen, second)
    assert.equal(state.status, end)
    assert.deepEqual((await shipping.find()).state, state)
  }
})

test('a row is read as it was written, with all its parcels', async () => {
  await using shipping = await begin()
  assert.deepEqual(await shipping.find(), { state: waiting, version: 1 })
  const sent = await shipping.change(await shipping.find(), send)
  assert.deepEqual(await shipping.find(), sent)
})

test('what is kept of a deleted account goes at once, its address when no parcel needs it any more', async () => {
  await using shipping = await begin()
  await shipping.change(await shipping.find(), send)
  await shipping.forget()
  const open = await shipping.find()
  assert.equal(open.state.email, null)
  assert.notEqual(open.state.address, null)
  const history = [{ status: 'delivered', place: null, occurredAt: 1_000 }] as const
  await shipping.change(open, { type: 'hear', shipmentId: 'shp_1', history, at: 1_000 })
  const { state } = await shipping.find()
  assert.deepEqual([state.status, state.address], ['delivered', null])
})
