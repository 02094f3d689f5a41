/** Payment: the money of every order, and the one that talks to the provider. */
import { createApi } from '@shopsphere/runtime/http'
import { defineService } from '@shopsphere/runtime/service'
import { createBooks } from './books.ts'
import { hear } from './handlers.ts'
import { createProviderSimulator } from './provider-simulator.ts'

export const payment = defineService({
  name: 'payment',
  schema: new URL('./schema.sql', import.meta.url),
  async wire(context) {
    const { bus, clock, random, newId, config, log, store } = context
    const provider = createProviderSimulator({ clock, random, store, newId, ...config.provider })
    await provider.open()
    hear({ bus, books: createBooks({ clock, timers: config.timers }), provider, clock, newId, log })
    return { routes: createApi(log) }
  },
})
