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
    const from = await openForeignPlaces('ORDER_CREATED_FROM', 'order_created', orderCreatedFrom)
    for (const place of from) hearForeignOrders(bus, place)
    const asText = await openForeignPlaces('ORDER_CREATED_TO', 'order_created_to', orderCreatedTo)
    for (const place of asText) tellOrdersAsText(bus, place)
    const asJson = await openForeignPlaces('ORDER_EVENTS_TO', 'order_events_to', orderEventsTo)
    for (const place of asJson) tellOrdersAsJson(bus, place)
    return { routes: createRoutes({ store, clock, newId, idempotency, book, log }) }
  },
})
