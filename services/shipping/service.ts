/** Shipping: parcels and their carrier, who wins between cancelling and sending, and what customers give back. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { createCarrierSimulator } from './carrier-simulator.ts'
import { createChanges } from './changes.ts'
import { hear } from './handlers.ts'
import { addReturnRoutes } from './return-routes.ts'
import { addShipmentRoutes } from './shipment-routes.ts'

export const shipping = defineService({
  name: 'shipping',
  schema: new URL('./schema.sql', import.meta.url),
  wire(context) {
    const { clock, random, config, log } = context
    const carrier = createCarrierSimulator({ clock, random, ...config.carrier, seed: config.seed ?? 0 })
    const changes = createChanges({ clock, log, carrierSilenceMs: config.timers.carrierSilenceMs })
    hear({ ...context, carrier, changes })
    const routes = createApi(log)
    addShipmentRoutes(routes, { ...context, changes })
    addReturnRoutes(routes, context)
    return { routes }
  },
})
