/** Payment: the money of every order, and the one that talks to the provider. */
import { createRandom } from '@shopsphere/runtime/random'
import { defineService } from '@shopsphere/runtime/service'
import { createBooks } from './books.ts'
import { hear } from './handlers.ts'
import { createProviderSimulator } from './provider-simulator.ts'
import { createRoutes, WEBHOOK_PATH } from './routes.ts'

export const payment = defineService({
  name: 'payment',
  schema: new URL('./schema.sql', import.meta.url),
  async wire({ bus, store, clock, newId, idempotency, config, log }) {
    const provider = createProviderSimulator({
      store,
      clock,
      newId,
      // Of its own: what the provider draws does not shift the shop's ids.
      random: createRandom(config.seed, 'payment-provider'),
      ...config.provider,
      async deliver(body, headers) {
        const response = await routes.request(WEBHOOK_PATH, { method: 'POST', body, headers: { ...headers } })
        return response.ok
      },
    })
    const books = createBooks({ clock, timers: config.timers })
    const routes = createRoutes({ bus, store, idempotency, books, provider, clock, newId, log })
    hear({ bus, books, provider, clock, newId, log })
    await provider.open()
    return { routes, close: () => provider.close() }
  },
})
