/** Notification: tells people how their orders go, once each step, and keeps what was told. */
import { openForeignPlaces } from '@shopsphere/runtime/foreign-places'
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { confirmForeignOrders } from './foreign-orders.ts'
import { hear } from './handlers.ts'
import { createMailerSimulator } from './mailer-simulator.ts'
import { addRoutes } from './routes.ts'

export const notification = defineService({
  name: 'notification',
  schema: new URL('./schema.sql', import.meta.url),
  async wire({ bus, store, clock, random, config, log }) {
    const mailer = createMailerSimulator({ store, clock, random, ...config.mailer })
    hear({ bus, clock, log, mailer })
    const places = await openForeignPlaces('ORDER_EVENTS_FROM', 'order_events', config.foreign.orderEventsFrom)
    for (const place of places) confirmForeignOrders({ bus, clock, log, mailer }, place)
    const routes = createApi(log)
    addRoutes(routes, { store, mailer })
    return { routes }
  },
})
