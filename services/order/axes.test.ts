import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Axes,
  customerStatus,
  customerStatuses,
  fulfilmentStates,
  orderStates,
  paymentStates,
  returnStates,
  stageOf,
  stages,
} from './axes.ts'

const fresh: Axes = { order: 'placed', payment: 'pending', fulfilment: 'unfulfilled', returns: [] }

const read: [Partial<Axes>, string][] = [
  [{}, 'processing'],
  [{ fulfilment: 'reserved' }, 'processing'],
  [{ fulfilment: 'reserved', payment: 'authorized' }, 'processing'],
  [{ payment: 'action_required' }, 'payment_action_required'],
  [{ payment: 'failed' }, 'payment_failed'],
  [{ order: 'confirmed', payment: 'authorized', fulfilment: 'allocated' }, 'confirmed'],
  [{ order: 'confirmed', payment: 'captured', fulfilment: 'partially_shipped' }, 'partially_shipped'],
  [{ order: 'confirmed', payment: 'captured', fulfilment: 'shipped' }, 'shipped'],
  [{ order: 'confirmed', payment: 'captured', fulfilment: 'returned_to_sender' }, 'returned_to_sender'],
  [{ order: 'confirmed', payment: 'captured', fulfilment: 'delivered' }, 'delivered'],
  [{ order: 'confirmed', payment: 'partially_refunded', fulfilment: 'shipped' }, 'shipped'],
  [{ order: 'confirmed', payment: 'partially_refunded', fulfilment: 'delivered' }, 'partially_refunded'],
  [{ order: 'completed', payment: 'refunded', fulfilment: 'delivered' }, 'refunded'],
  [{ order: 'completed', payment: 'captured', fulfilment: 'delivered' }, 'completed'],
  [{ order: 'completed', payment: 'partially_refunded', fulfilment: 'delivered' }, 'partially_refunded'],
  [{ order: 'completed', fulfilment: 'delivered', returns: [{ state: 'received' }] }, 'return_in_progress'],
  [{ order: 'completed', payment: 'captured', fulfilment: 'delivered', returns: [{ state: 'rejected' }] }, 'completed'],
  [{ order: 'cancelling', payment: 'authorized' }, 'cancelling'],
  [{ order: 'cancelled' }, 'cancelled'],
  [{ order: 'cancelled', payment: 'voided' }, 'cancelled'],
  [{ order: 'cancelled', payment: 'authorized' }, 'cancelled_refund_pending'],
  [{ order: 'cancelled', payment: 'partially_refunded' }, 'cancelled_refund_pending'],
  [{ order: 'cancelled', payment: 'refunded' }, 'cancelled_refunded'],
]
for (const [axes, status] of read) {
  test(`${JSON.stringify(axes)} reads ${status}`, () => assert.equal(customerStatus({ ...fresh, ...axes }), status))
}

test('every combination of the axes has a status and a stage, and every status and stage occurs', () => {
  const statuses = new Set<string>()
  const reached = new Set<string>()
  for (const order of orderStates)
    for (const payment of paymentStates)
      for (const fulfilment of fulfilmentStates)
        for (const returns of [[], ...returnStates.map((state) => [{ state }])]) {
          statuses.add(customerStatus({ order, payment, fulfilment, returns }))
          reached.add(stageOf({ order, payment, fulfilment, returns }))
        }
  assert.deepEqual([...statuses].sort(), [...customerStatuses].sort())
  assert.deepEqual([...reached].sort(), [...stages].sort())
})
