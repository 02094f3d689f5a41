/** What a process answers before its services are there: a broker or a database may be waited for, for minutes. */
import { createApi } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { problem } from '@shopsphere/runtime/problem'

const RETRY_AFTER_SECONDS = 2

/**
 * Alive and not ready, so that a probe neither restarts the process nor sends anybody there.
 * @param broker as BROKER_URL names its kind
 * @param reason what is waited for
 */
export function createStartingApp(options: {
  broker: string
  services: readonly string[]
  reason: () => string
  log: Log
}) {
  const { broker, services, reason, log } = options
  const api = createApi(log)
  api.get('/health/live', (c) => c.json({ live: true }))
  api.get('/health/ready', (c) => {
    const states = services.map((name) => ({ name, ready: false }))
    const state = { name: broker, ready: false, reason: reason() }
    return c.json({ ready: false, broker: state, services: states, bridges: [], elsewhere: [] }, 503)
  })
  api.notFound(() => {
    const later = { 'retry-after': String(RETRY_AFTER_SECONDS) }
    throw problem(503, 'unavailable', 'The shop is starting: come back in a moment.', {}, later)
  })
  return api
}
