/**
 * The stores of the fault suites' modules: `settings.store` says which, `settings.postgresUrl` where, and
 * `settings.idleInTransactionTimeoutMs` how long a transaction may stand still there.
 */
import { join } from 'node:path'
import type { Store } from '../store.ts'
import { postgresStore } from '../stores/postgres.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import type { FaultPlace } from './fault-services.ts'
import { dropSchemas } from './postgres-world.ts'

export function openStoreOf({ directory, name, settings }: FaultPlace): (service: string) => Store {
  return (service) =>
    settings.store === 'postgres'
      ? postgresStore(settings.postgresUrl!, { schema: schemaOf(name, service), ...idleLimit(settings) })
      : sqliteStore(join(directory, `${service}.db`))
}

const idleLimit = ({ idleInTransactionTimeoutMs }: FaultPlace['settings']) =>
  idleInTransactionTimeoutMs ? { idleInTransactionTimeoutMs: Number(idleInTransactionTimeoutMs) } : {}

export async function eraseStores({ name, settings }: FaultPlace): Promise<void> {
  if (settings.store !== 'postgres') return
  await dropSchemas(
    services.map((service) => schemaOf(name, service)),
    settings.postgresUrl!,
  )
}

/** Of the fault suite and of the crash suite. */
const services = ['teller', 'scribe', 'counter', 'echo']
const schemaOf = (name: string, service: string) => `${name}_${service}`
