/**
 * A whole shop, or the part of it that SERVICES names, in this process: for main.ts, the replay, the benchmarks and the
 * tests. What differs between them is said here as an option and nowhere else.
 */
import { randomBytes } from 'node:crypto'
import { dirname, join } from 'node:path'
import {
  type Bus,
  BusError,
  type BusStatus,
  type Clock,
  memoryBroker,
  memoryTransport,
  type Store,
  type SubscriptionSpec,
  sql,
  sqliteStore,
  sqliteTransport,
  systemClock,
  type Transport,
} from '@shopsphere/bus'
import { allEvents } from '@shopsphere/contracts'
import { createTokens, type Tokens } from '@shopsphere/runtime/auth'
import { type Config, readConfig } from '@shopsphere/runtime/config'
import { markSetUp, prepareDataFolder, refuseLostDatabase } from '@shopsphere/runtime/data-folder'
import {
  brokerDeadLetters,
  createDeadLetterMonitor,
  type DeadLetterMonitor,
  serviceDeadLetters,
} from '@shopsphere/runtime/dead-letter-monitor'
import type { Api } from '@shopsphere/runtime/http'
import { createLog, type Log } from '@shopsphere/runtime/log'
import { patiently } from '@shopsphere/runtime/patience'
import { type RunningServer, serve } from '@shopsphere/runtime/server'
import { prepareService, type Service, type ServiceDefinition } from '@shopsphere/runtime/service'
import { StartError } from '@shopsphere/runtime/start-error'
import { tokenSecret } from '@shopsphere/runtime/token-key'
import { openTraces, type SpanExporter, type Traces } from '@shopsphere/runtime/tracing'
import { type Auditor, createAuditor } from './auditor/auditor.ts'
import { figures } from './services/analytics/figures.ts'
import { analytics } from './services/analytics/service.ts'
import { audit } from './services/audit/service.ts'
import { cart } from './services/cart/service.ts'
import { createGateway, type Gateway, type Hears } from './services/gateway/gateway.ts'
import { createStartingApp } from './services/gateway/starting.ts'
import { inventory } from './services/inventory/service.ts'
import { notification } from './services/notification/service.ts'
import { order } from './services/order/service.ts'
import { payment } from './services/payment/service.ts'
import { product } from './services/product/service.ts'
import { shipping } from './services/shipping/service.ts'
import { user } from './services/user/service.ts'

/** All there are. They find each other by events alone, so the order says nothing. */
export const allServices: readonly ServiceDefinition[] = [
  user,
  product,
  cart,
  order,
  payment,
  inventory,
  shipping,
  notification,
  analytics,
  audit,
]

export type ShopOptions = {
  /** As `process.env`, which it is by default. */
  environment?: Readonly<Record<string, string | undefined>>
  clock?: Clock
  log?: Log
  /** True: no server and no rate limits; `app.request` is the door. */
  headless?: boolean
  /** True: broker and databases end with the shop, and nothing is written to disk. */
  inMemory?: boolean
  /** A broker in place of BROKER_URL; the shop closes it. */
  transport?: Transport
  /** Databases in place of DATABASE_URL; the shop closes them. */
  openStore?: (service: string) => Store
  /** Where spans go, in place of OTEL_EXPORTER_OTLP_ENDPOINT. */
  spans?: SpanExporter
  /** Hears, at each try, which server is waited for and why. */
  onWait?: (reason: string) => void
}

export type Shop = AsyncDisposable & {
  /** `http://localhost:3000`; null: headless. */
  readonly url: string | null
  /** The front door: `app.request('/api/orders', …)` works without a socket. */
  readonly app: Api
  readonly config: Config
  readonly clock: Clock
  readonly log: Log
  readonly tokens: Tokens
  readonly transport: Transport
  /** Those that run here, by name. */
  readonly services: ReadonlyMap<string, Service>
  status(): Promise<BusStatus[]>
  /** Resolves once nothing is under way in these services; timers that are not due are no work. */
  idle(): Promise<void>
  /** Looks at the books of these services: while the shop runs (unless it is headless), and `finish` when asked. */
  readonly auditor: Auditor
  /** Takes no more, ends live updates, finishes what runs, closes the databases and the broker. Closing twice is fine. */
  close(): Promise<void>
}

/** Throws StartError, with what to do, for a wrong environment and for a machine that refuses; nothing stays open then. */
export async function startShop(options: ShopOptions = {}): Promise<Shop> {
  const { environment = process.env, clock = systemClock, headless = false } = options
  const config = readWholeConfig(environment, options)
  const log = options.log ?? createLog(config.logLevel)
  const opened: (() => Promise<void>)[] = []
  let waitsFor = 'this process is starting'
  const onWait = (reason: string) => {
    waitsFor = reason
    options.onWait?.(reason)
  }
  try {
    // Before anything else is begun: a port may be taken, and what is waited for below may take minutes.
    const { door, metricsDoor } = headless ? NO_DOORS : await openDoors(config, () => waitsFor, log)
    const servers = [door, metricsDoor].filter((server) => server !== null)
    opened.push(() => Promise.all(servers.map((server) => server.close(0))).then(() => {}))
    const tokens = createTokens({ secret: prepareFolders(config, options), clock })
    const transport = options.transport ?? (await openTransport(config, clock, log, options))
    opened.push(() => transport.close())
    // A file answers at once or says what is wrong; a server may start after us.
    const isServer = options.transport !== undefined || config.broker.scheme !== 'sqlite'
    const withBroker = (work: () => Promise<void>) =>
      isServer ? patiently('the broker (BROKER_URL)', work, { clock, log, onWait }) : work()
    await withBroker(() => transport.open()).catch(options.transport ? undefined : refusedBroker)
    const traces = await openTraces(environment, log, options.spans)
    if (traces) opened.push(() => traces.close())
    const { services, hears } = await prepareServices({
      config,
      clock,
      log,
      onWait,
      transport,
      traces,
      options,
      opened,
    })
    // Every subscription exists before anybody says anything, so nobody misses what another says first.
    for (const service of services) await withBroker(() => service.bus.declare())
    for (const file of databaseFiles(config, options)) markSetUp(file)

    const limited = !headless
    const auditor = createShopAuditor(services, { clock, log })
    opened.push(() => auditor.close())
    const monitor = createDeadLetterMonitor({
      sources: [...serviceDeadLetters(services), brokerDeadLetters(transport, services)],
      ...config.deadLetterAlerts,
      ...{ clock, log },
    })
    opened.push(() => monitor.close())
    const findings = () => auditor.found
    const described = { events: allEvents, hears: [...hears.values()] }
    const shown = { ...described, config, clock, log, tokens, limited, findings, traces }
    const gateway = createGateway({ services, transport, ...shown })
    opened.push(() => gateway.close())
    door?.answerWith(gateway.app)
    if (gateway.metricsApp) metricsDoor?.answerWith(gateway.metricsApp)
    for (const service of services) await withBroker(() => service.start())
    if (!headless) auditor.watch()
    if (!headless) monitor.watch()
    return running({ config, clock, log, tokens, transport, traces, services, gateway, servers, auditor, monitor })
  } catch (error) {
    for (const close of opened.toReversed()) await close().catch(() => {})
    throw error instanceof BusError ? new StartError(error.message, { cause: error }) : error
  }
}

/** What the broker refuses is mostly the address's fault, and it knows nothing of where that stands. */
function refusedBroker(error: unknown): never {
  throw error instanceof BusError && error.code === 'transport_refused'
    ? new BusError(error.code, `BROKER_URL: ${error.message}`, { cause: error })
    : error
}

function readWholeConfig(environment: Readonly<Record<string, string | undefined>>, { inMemory }: ShopOptions): Config {
  const config = readConfig(
    environment,
    allServices.map(({ name }) => name),
  )
  // In memory there is no folder to keep a random key in.
  return inMemory && config.tokenSecret === null ? { ...config, tokenSecret: randomBytes(32).toString('hex') } : config
}

/** Looks at the folders before anything is opened in them; answers the key that signs tokens. */
function prepareFolders(config: Config, options: ShopOptions): Uint8Array {
  const { inMemory, transport, openStore } = options
  if (!inMemory) {
    const folders = new Set([config.dataDir])
    if (!openStore && config.database.scheme === 'sqlite') folders.add(config.database.path)
    if (!transport && config.broker.scheme === 'sqlite') folders.add(dirname(config.broker.path))
    for (const folder of folders) prepareDataFolder(folder)
    for (const file of databaseFiles(config, options)) refuseLostDatabase(file)
  }
  return tokenSecret(config)
}

/** The files that this process opens: of the embedded broker, and of each service's embedded database. */
function databaseFiles(
  { broker, database, services }: Config,
  { inMemory, transport, openStore }: ShopOptions,
): string[] {
  if (inMemory) return []
  return [
    ...(transport || broker.scheme !== 'sqlite' ? [] : [broker.path]),
    ...(openStore || database.scheme !== 'sqlite' ? [] : services.map((name) => join(database.path, `${name}.db`))),
  ]
}

/** The one place that knows which broker is which transport; a client is loaded only where it is used. */
async function openTransport(
  { broker, brokerPrefix: prefix }: Config,
  clock: Clock,
  log: Log,
  { inMemory }: ShopOptions,
): Promise<Transport> {
  if (inMemory) return memoryTransport(memoryBroker({ clock }))
  // A server's leases run on real time, also where the shop's clock is wound up.
  const options = prefix === '' ? { log } : { log, prefix }
  switch (broker.scheme) {
    case 'amqp':
    case 'amqps':
      return (await import('@shopsphere/bus/rabbitmq')).rabbitmqTransport(broker.url, options)
    case 'kafka':
      return (await import('@shopsphere/bus/kafka')).kafkaTransport(broker.url, options)
    case 'redis':
    case 'rediss':
      return (await import('@shopsphere/bus/redis')).redisTransport(broker.url, options)
    default:
      return sqliteTransport(broker.path, { clock })
  }
}

/** And which database is which store: a file or a schema for each service. */
async function storeOpener(config: Config, { inMemory, openStore }: ShopOptions): Promise<(service: string) => Store> {
  const { database, databasePrefix } = config
  if (openStore) return openStore
  if (inMemory) return () => sqliteStore(':memory:')
  if (database.scheme === 'sqlite') return (service) => sqliteStore(join(database.path, `${service}.db`))
  const { postgresStore } = await import('@shopsphere/bus/postgres')
  return (service) => postgresStore(database.url, { schema: `${databasePrefix}${service}` })
}

async function prepareServices(given: {
  config: Config
  clock: Clock
  log: Log
  onWait: (reason: string) => void
  transport: Transport
  traces: Traces | null
  options: ShopOptions
  opened: (() => Promise<void>)[]
}): Promise<{ services: Service[]; hears: ReadonlyMap<string, Hears> }> {
  const { config, clock, log, onWait, transport, traces, options, opened } = given
  const openStore = await storeOpener(config, options)
  const services: Service[] = []
  const hears = new Map<string, Hears>()
  for (const definition of allServices.filter(({ name }) => config.services.includes(name))) {
    const { name: service } = definition
    const noted = noting(transport, (spec) => hears.set(spec.name, { service, types: typesOf(spec) }))
    const host = { transport: noted, openStore, events: allEvents, clock, config, log, onWait, traces }
    const prepared = await prepareService(definition, host)
    opened.push(() => prepared.close())
    services.push(prepared)
  }
  return { services, hears }
}

/** The same broker, which tells what a service subscribes to: what is described is then what is so. */
function noting(transport: Transport, note: (spec: SubscriptionSpec) => void): Transport {
  return {
    name: transport.name,
    capabilities: transport.capabilities,
    open: () => transport.open(),
    state: () => transport.state(),
    declare: (spec) => {
      note(spec)
      return transport.declare(spec)
    },
    publish: (messages) => transport.publish(messages),
    consume: (name, options) => transport.consume(name, options),
    backlog: (name) => transport.backlog(name),
    subscriptions: () => transport.subscriptions(),
    remove: (name) => transport.remove(name),
    ...(transport.brokerDeadLetters && { brokerDeadLetters: (options) => transport.brokerDeadLetters!(options) }),
    close: () => transport.close(),
  }
}

function typesOf({ bindings }: SubscriptionSpec): string[] {
  return bindings.flatMap((binding) => {
    if (binding.kind === 'direct') return [binding.type]
    if (binding.kind === 'topic') return [binding.pattern]
    return binding.kind === 'fanout' ? ['#'] : []
  })
}

const NO_DOORS = { door: null, metricsDoor: null }

/** They say that the shop is starting until they are given something else to say. */
async function openDoors({ host, port, metricsPort, broker, services }: Config, reason: () => string, log: Log) {
  const starting = createStartingApp({ broker: broker.scheme, services, reason, log })
  const door = await serve(starting, { port, host })
  if (metricsPort === null) return { door, metricsDoor: null }
  try {
    const metricsDoor = await serve(starting, { port: metricsPort, host, setting: 'METRICS_PORT' })
    return { door, metricsDoor }
  } catch (error) {
    await door.close(0)
    throw error
  }
}

function running(parts: {
  config: Config
  clock: Clock
  log: Log
  tokens: Tokens
  transport: Transport
  traces: Traces | null
  services: readonly Service[]
  gateway: Gateway
  /** The front door first; none: headless. */
  servers: readonly RunningServer[]
  auditor: Auditor
  monitor: DeadLetterMonitor
}): Shop {
  const { services, transport, traces, gateway, servers, monitor, ...rest } = parts
  const byName = new Map(services.map((service) => [service.name, service]))
  let closed: Promise<void> | undefined

  async function closeAll(): Promise<void> {
    await gateway.close() // live updates have no end of their own, and the server waits for them
    await Promise.all(servers.map((server) => server.close()))
    await Promise.all([rest.auditor.close(), monitor.close()])
    try {
      await Promise.all(services.map((service) => service.close()))
    } finally {
      await transport.close()
      await traces?.close()
    }
  }
  const close = () => (closed ??= closeAll())

  return {
    ...rest,
    url: servers[0]?.url ?? null,
    app: gateway.app,
    transport,
    services: byName,
    status: () => Promise.all(services.map((service) => service.status())),
    async idle() {
      while (!(await allIdle(services)) || !(await allIdle(services.toReversed()))) {
        await new Promise((resolve) => setTimeout(resolve, IDLE_LOOK_MS))
      }
      const analyst = byName.get('analytics')
      if (analyst) await figures.catchUp(analyst.bus.store)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Behind by more than this, a service is not to be compared with the others. */
const LAG_MAX_MS = 10_000

function createShopAuditor(services: readonly Service[], { clock, log }: { clock: Clock; log: Log }): Auditor {
  const stores = new Map(services.map(({ name, bus }) => [name, bus.store]))
  const lagging = async () => {
    const statuses = await Promise.all(services.map((service) => service.status()))
    return statuses.some(
      ({ outbox, subscriptions }) =>
        outbox.oldestAgeMs > LAG_MAX_MS ||
        subscriptions.some(({ oldestAgeMs }) => oldestAgeMs === null || oldestAgeMs > LAG_MAX_MS),
    )
  }
  return createAuditor({ stores, clock, log: log.child({ service: 'auditor' }), lagging })
}

const IDLE_LOOK_MS = 2

/** What one says while another is looked at is found on the way back. */
async function allIdle(services: readonly Service[]): Promise<boolean> {
  for (const { bus } of services) if ((await hasDueTimer(bus)) || !(await bus.isIdle())) return false
  return true
}

/** One that fell due this moment, as when a clock was moved, begins to run a moment later. */
async function hasDueTimer({ store, clock }: Bus): Promise<boolean> {
  const due = await store.read((reader) =>
    reader.get(sql`select 1 as one from bus_timer where due_at <= ${clock.now()} limit 1`),
  )
  return due !== undefined
}
