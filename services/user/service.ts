/** User: who there is and what they may do, and each customer's copy of their orders and of what was sent to them. */
import { createTokens } from '@shopsphere/runtime/auth'
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { tokenSecret } from '@shopsphere/runtime/token-key'
import { addCustomerRoutes } from './customers.ts'
import { hear } from './handlers.ts'
import { ensureOperator } from './operator.ts'
import { addAccountRoutes } from './routes.ts'

export const user = defineService({
  name: 'user',
  schema: new URL('./schema.sql', import.meta.url),
  async wire(context) {
    const { bus, clock, config, log } = context
    hear(bus)
    await ensureOperator(context)
    const tokens = createTokens({ secret: tokenSecret(config), clock })
    const routes = createApi(log)
    addAccountRoutes(routes, { ...context, tokens })
    addCustomerRoutes(routes, context)
    return { routes }
  },
})
