/** Analytics: what was sold, to whom and how far orders come. Keeps its own facts, makes figures of them, says nothing. */
import type { Clock, Store, Timer } from '@shopsphere/bus'
import { defineService } from '@shopsphere/runtime/service'
import { figures } from './figures.ts'
import { subscribe } from './handlers.ts'
import { createRebuild } from './rebuild.ts'
import { createRoutes } from './routes.ts'

/** Long enough for the fact's commit and for others to come along in the same batch, too short to be noticed. */
const FOLLOW_DELAY_MS = 50

export const analytics = defineService({
  name: 'analytics',
  schema: null, // the facts are in the event store, the figures' tables are made by their projection
  async wire({ bus, store, clock, log }) {
    await createTables(store)
    const follower = figures.follow(store, {
      clock,
      onError: (error) => log.error({ err: error }, 'the figures could not be brought up to date; tried again'),
    })
    const soon = wakeSoon(follower, clock)
    subscribe(bus, soon.wake)
    const rebuild = createRebuild({ store, clock, log })
    await rebuild.resume()
    return {
      routes: createRoutes({ store, log, rebuild }),
      async close() {
        soon.cancel()
        await rebuild.close()
        await follower.close()
      },
    }
  },
})

/** So that the routes have something to read from the first moment on: one batch is enough, the follower does the rest. */
async function createTables(store: Store): Promise<void> {
  const first = new AbortController()
  await figures.catchUp(store, { signal: first.signal, progress: () => first.abort() })
}

function wakeSoon(follower: { wake(): void }, clock: Clock): { wake(): void; cancel(): void } {
  let timer: Timer | undefined
  return {
    wake() {
      timer ??= clock.after(FOLLOW_DELAY_MS, () => {
        timer = undefined
        follower.wake()
      })
    },
    cancel: () => timer?.cancel(),
  }
}
