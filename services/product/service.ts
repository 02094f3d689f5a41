/** Product: the catalogue and its prices, and a copy of who may edit them. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { hear } from './handlers.ts'
import { addProductRoutes } from './routes.ts'

export const product = defineService({
  name: 'product',
  schema: new URL('./schema.sql', import.meta.url),
  wire(context) {
    hear(context.bus)
    const routes = createApi(context.log)
    addProductRoutes(routes, context)
    return { routes }
  },
})
