/** Cart: what customers and guests mean to buy, at the prices of its own copy of the catalogue. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { addCartRoutes } from './routes.ts'

export const cart = defineService({
  name: 'cart',
  schema: new URL('./schema.sql', import.meta.url),
  wire(context) {
    const { bus, clock, config, log } = context
    hear({ bus, clock, abandonedMs: config.timers.cartAbandonedMs })
    const routes = createApi(log)
    addCartRoutes(routes, context)
    return { routes }
  },
})
