/** Notification: tells people what happens to their orders, once for each order, step and channel. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { createMailerSimulator } from './mailer-simulator.ts'
import { addNotificationRoutes } from './routes.ts'

export const notification = defineService({
  name: 'notification',
  schema: new URL('./schema.sql', import.meta.url),
  wire(context) {
    const { bus, clock, random, newId, config, log } = context
    const mailer = createMailerSimulator({ clock, random, ...config.mailer })
    hear({ bus, clock, mailer, newId })
    const routes = createApi(log)
    addNotificationRoutes(routes, context)
    return { routes }
  },
})
