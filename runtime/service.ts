import { readFile } from 'node:fs/promises'
import {
  type Bus,
  type Clock,
  createBus,
  type EventType,
  idMaker,
  type MaybePromise,
  type Random,
  type Store,
  type Transport,
} from '@shopsphere/bus'
import type { Config } from './config.ts'
import type { Api } from './http.ts'
import { createIdempotency, type Idempotency, idempotencyDdl } from './idempotency.ts'
import type { Log } from './log.ts'
import { patiently } from './patience.ts'
import { createRandom } from './random.ts'
import type { Traces } from './tracing.ts'

/** What a service is made of; simulators of the outside world it makes itself, from `config`. */
export type ServiceContext = {
  readonly name: string
  readonly bus: Bus
  readonly store: Store
  readonly clock: Clock
  readonly random: Random
  /** A new id with its prefix: `newId('ord')` → `ord_0198…` (UUIDv7). */
  newId(prefix: string): string
  readonly idempotency: Idempotency
  readonly config: Config
  readonly log: Log
}

export type ServiceDefinition = {
  readonly name: string
  /** The service's own tables; null: it has none. */
  readonly schema: URL | null
  /** Subscribes to what the service hears and makes its routes. Nothing is delivered before start(). */
  wire(context: ServiceContext): MaybePromise<{ routes?: Api; close?: () => Promise<void> } | void>
}

/** What a process gives to each of its services. */
export type Host = {
  readonly transport: Transport
  /** A store of the service's own, which the service closes. */
  openStore(name: string): MaybePromise<Store>
  /** Every event that the shop knows. */
  readonly events: readonly EventType[]
  readonly clock: Clock
  readonly config: Config
  readonly log: Log
  /** Hears what the start is waiting for. */
  readonly onWait?: (reason: string) => void
  /** Null: nobody traces. */
  readonly traces?: Traces | null
}

export type Service = {
  readonly name: string
  readonly bus: Bus
  readonly routes: Api | undefined
  /** Begins to hear and to relay. Call it when every service of the process is prepared, so that none misses an event. */
  start(): Promise<void>
  status(): ReturnType<Bus['status']>
  /** Stops hearing, finishes what runs, closes the store. Closing twice is fine, and so is closing without a start. */
  close(): Promise<void>
}

const PURGE_EVERY_MS = 3_600_000

export function defineService(definition: ServiceDefinition): ServiceDefinition {
  return definition
}

/** Opens the store, brings its tables up to date and wires the service. What it opened is closed again where that fails. */
export async function prepareService({ name, schema, wire }: ServiceDefinition, host: Host): Promise<Service> {
  const { transport, events, clock, config } = host
  const log = host.log.child({ service: name })
  const random = createRandom(config.seed, name)
  const store = await host.openStore(name)
  try {
    if (store.dialect === 'sqlite') await store.open()
    else await patiently('the database', () => store.open(), { clock, log, onWait: host.onWait })
    await store.migrate('idempotency', idempotencyDdl)
    if (schema) await store.migrate(name, await readFile(schema, 'utf8'))
    const tracing = host.traces?.of(name)
    const bus = createBus({
      service: name,
      transport,
      store,
      events,
      clock,
      random,
      log,
      codec: config.codec,
      ...(tracing && { tracing }),
    })
    const idempotency = createIdempotency({ bus, store, clock })
    const makeId = idMaker(clock, random)
    const newId = (prefix: string) => `${prefix}_${makeId()}`
    const wired = (await wire({ name, bus, store, clock, random, newId, idempotency, config, log })) ?? {}
    return runnable(name, {
      bus,
      store,
      routes: wired.routes,
      closeWired: wired.close,
      purge: purging(idempotency, clock, log),
    })
  } catch (error) {
    await store.close()
    throw error
  }
}

type Parts = {
  bus: Bus
  store: Store
  routes: Api | undefined
  closeWired: (() => Promise<void>) | undefined
  purge: Purging
}

function runnable(name: string, { bus, store, routes, closeWired, purge }: Parts): Service {
  let closed: Promise<void> | undefined
  const close = async () => {
    purge.stop()
    try {
      await bus.close()
      await closeWired?.()
    } finally {
      await store.close()
    }
  }
  return {
    name,
    bus,
    routes,
    async start() {
      await bus.start()
      purge.begin()
    },
    status: () => bus.status(),
    close: () => (closed ??= close()),
  }
}

type Purging = { begin(): void; stop(): void }

/** Once an hour. A failure is only logged: the next hour tries again, and a key too many does no harm. */
function purging(idempotency: Idempotency, clock: Clock, log: Log): Purging {
  let timer: ReturnType<Clock['after']> | undefined
  let stopped = false
  const purge = async () => {
    await idempotency
      .purge()
      .catch((error: unknown) => log.warn({ err: error }, 'old idempotency keys were not purged'))
    begin()
  }
  const begin = () => {
    if (!stopped) timer = clock.after(PURGE_EVERY_MS, () => void purge())
  }
  return {
    begin,
    stop() {
      stopped = true
      timer?.cancel()
    },
  }
}
