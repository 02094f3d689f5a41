/** Order: what was bought, the process that joins the others' answers, and the history that customers read. */
import { openForeignPlaces } from '@shopsphere/runtime/foreign-places'
import { defineService } from '@shopsphere/runtime/service'
import { hearForeignOrders, tellOrdersAsJson, tellOrdersAsText } from './foreign-orders.ts'
import { hear } from './handlers.ts'
import { createOrderBook } from './order-book.ts'
import { createRoutes } from './routes.ts'

export const order = defineService({
  name: 'order',
  schema: new URL('./schema.sql', import.meta.url),
  async wire({ bus, store, clock, config, newId, idempotency, log }) {
    const book = createOrderBook({ clock, timers: config.timers })
    hear(bus, book, log)
    const { orderCreatedFrom, orderCreatedTo, orderEventsTo } = config.foreign
    for (const place of await openForeignPlaces('order_created', orderCreatedFrom)) hearForeignOrders(bus, place)
    for (const place of await openForeignPlaces('order_created_to', orderCreatedTo)) tellOrdersAsText(bus, place)
    for (const place of await openForeignPlaces('order_events_to', orderEventsTo)) tellOrdersAsJson(bus, place)
    return { routes: createRoutes({ store, clock, newId, idempotency, book, log }) }
  },
})
