/** Order: what was bought, the process that joins the others' answers, and the history that customers read. */
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { createOrderBook } from './order-book.ts'
import { createRoutes } from './routes.ts'

export const order = defineService({
  name: 'order',
  schema: new URL('./schema.sql', import.meta.url),
  wire({ bus, store, clock, config, newId, idempotency, log }) {
    const book = createOrderBook({ clock, timers: config.timers })
    hear(bus, book, log)
    return { routes: createRoutes({ store, clock, newId, idempotency, book, log }) }
  },
})
