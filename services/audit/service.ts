/** Audit: hears everything that is said and keeps it searchable, with its causes and its effects. Says nothing. */
import { allEvents } from '@shopsphere/contracts'
import { defineService } from '@shopsphere/runtime/service'
import { keep } from './queries.ts'
import { createRoutes } from './routes.ts'

/** A message is upcast before it is handled, so what is kept has today's shape. */
const versions = new Map(allEvents.map(({ type, version }) => [type, version]))

export const audit = defineService({
  name: 'audit',
  schema: new URL('./schema.sql', import.meta.url),
  wire({ bus, store, log }) {
    bus.subscribe(
      '#',
      async (_data, { tx, message }) => {
        await keep(tx, message, versions.get(message.type) ?? message.version)
      },
      // Rows stand alone: one message that cannot be kept is no reason to keep the next of its key waiting.
      { afterDeadLetter: 'skip' },
    )
    return { routes: createRoutes({ store, log }) }
  },
})
