/** Owned by inventory: what is there, held for an order, or promised to it. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import { availability, id, shortages, sku, timeMs, units } from './values.ts'

const orderId = 'ord_01939c1e-7000-7000-8000-000000000003'

export const inventoryReserved = event('inventory.reserved', {
  version: 1,
  owner: 'inventory',
  summary: 'Every line of an order is held for it until T1 runs out.',
  schema: z.object({ orderId: id, holdExpiresAt: timeMs }),
  key: (stock) => stock.orderId,
  example: { orderId, holdExpiresAt: 1_291_193_700_000 },
})

export const inventoryReservationFailed = event('inventory.reservation_failed', {
  version: 1,
  owner: 'inventory',
  summary: 'An order cannot be filled whole, so nothing is held for it.',
  schema: z.object({ orderId: id, short: shortages.min(1) }),
  key: (stock) => stock.orderId,
  example: { orderId, short: [{ sku: '71053', wanted: 6, available: 2 }] },
})

export const inventoryReservationExpired = event('inventory.reservation_expired', {
  version: 1,
  owner: 'inventory',
  summary: 'A hold ran out (T1) before the payment was there; its units are available again.',
  schema: z.object({ orderId: id, expiredAt: timeMs }),
  key: (stock) => stock.orderId,
  example: { orderId, expiredAt: 1_291_193_700_000 },
})

export const inventoryUpdated = event('inventory.updated', {
  version: 1,
  owner: 'inventory',
  summary: 'The hold of a paid order became an allocation: these units are promised to it.',
  schema: z.object({ orderId: id, allocatedUnits: units }),
  key: (stock) => stock.orderId,
  example: { orderId, allocatedUnits: 12 },
})

export const inventoryUpdateFailed = event('inventory.update_failed', {
  version: 1,
  owner: 'inventory',
  summary:
    'A paid order cannot be given its stock, which was lost meanwhile; the order must be cancelled and refunded.',
  schema: z.object({
    orderId: id,
    reason: z.enum(['hold_gone', 'stock_lost']),
    /** Empty where the hold is gone and nobody looked further. */
    short: shortages,
  }),
  key: (stock) => stock.orderId,
  example: { orderId, reason: 'stock_lost', short: [{ sku: '71053', wanted: 6, available: 0 }] },
})

export const inventoryReleased = event('inventory.released', {
  version: 1,
  owner: 'inventory',
  summary: 'What an order that is off had held or allocated is available again.',
  schema: z.object({ orderId: id, was: z.enum(['held', 'allocated']), releasedUnits: units }),
  key: (stock) => stock.orderId,
  example: { orderId, was: 'allocated', releasedUnits: 12 },
})

export const inventoryLevelChanged = event('inventory.level_changed', {
  version: 1,
  owner: 'inventory',
  summary: 'A product’s availability moved to another class; not said for every unit.',
  schema: z.object({ sku, availability, available: units }),
  key: (stock) => stock.sku,
  example: { sku: '85123A', availability: 'low', available: 4 },
})

export const inventoryHoldExpiryDue = event('inventory.hold_expiry_due', {
  version: 1,
  owner: 'inventory',
  summary: 'Timer T1, inventory to itself: the hold of this order runs out now.',
  schema: z.object({ orderId: id }),
  key: (stock) => stock.orderId,
  example: { orderId },
})

export const inventoryEvents = [
  inventoryReserved,
  inventoryReservationFailed,
  inventoryReservationExpired,
  inventoryUpdated,
  inventoryUpdateFailed,
  inventoryReleased,
  inventoryLevelChanged,
  inventoryHoldExpiryDue,
]
