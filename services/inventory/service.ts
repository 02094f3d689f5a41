/** Inventory: what is there, held for an order, or promised to it. */
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { createRoutes } from './routes.ts'

export const inventory = defineService({
  name: 'inventory',
  schema: new URL('./schema.sql', import.meta.url),
  wire({ bus, store, clock, newId, idempotency, config, log }) {
    hear(bus, { clock, holdMs: config.timers.holdMs })
    return { routes: createRoutes({ store, idempotency, clock, newId, log }) }
  },
})
