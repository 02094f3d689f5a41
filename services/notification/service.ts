/** Notification: tells people how their orders go, once each step, and keeps what was told. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { createMailerSimulator } from './mailer-simulator.ts'
import { addRoutes } from './routes.ts'

export const notification = defineService({
  name: 'notification',
  schema: new URL('./schema.sql', import.meta.url),
  wire({ bus, store, clock, random, config, log }) {
    const mailer = createMailerSimulator({ store, clock, random, ...config.mailer })
    hear({ bus, clock, log, mailer })
    const routes = createApi(log)
    addRoutes(routes, { store, mailer })
    return { routes }
  },
})
