/**
 * The gateway: the one door. Its routes are those of the services that run in this process, those of services elsewhere
 * (passed on), and its own: descriptions, health, metrics, live updates, operations.
 */
import { randomUUID } from 'node:crypto'
import { createRoute, z } from '@hono/zod-openapi'
import { asyncapi, type Clock, type EventType, type Transport } from '@shopsphere/bus'
import type { Tokens } from '@shopsphere/runtime/auth'
import type { Config } from '@shopsphere/runtime/config'
import { type Api, createApi, createFrontDoor } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { createMetrics } from '@shopsphere/runtime/metrics'
import { problem } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Service } from '@shopsphere/runtime/service'
import type { Traces } from '@shopsphere/runtime/tracing'
import type { Context } from 'hono'
import { cors } from 'hono/cors'
import { json } from '../route-parts.ts'
import { createBrokerBacklog, inTime } from './broker-backlog.ts'
import { API_VERSION, createRemoteDocuments, documentOf, mergeOpenapi, type NamedDocument } from './documents.ts'
import { readinessOf } from './health.ts'
import { createLiveFeed } from './live-feed.ts'
import { createLiveRoutes } from './live-routes.ts'
import { createOperationsRoutes, type Findings } from './operations.ts'
import { addresses, ownerOf } from './owners.ts'
import { createForward, type Forward } from './proxy.ts'
import { rateLimits } from './rate-limit.ts'
import { type Hears, START_PAGE_POLICY, startPage } from './start-page.ts'

export type { Hears }

export type GatewayOptions = {
  /** Those that run in this process. */
  services: readonly Service[]
  transport: Transport
  /** Every event that the shop knows. */
  events: readonly EventType[]
  /** Who hears what, for /asyncapi.json and the start page. */
  hears: readonly Hears[]
  config: Config
  clock: Clock
  log: Log
  tokens: Tokens
  /** False: nobody is told to slow down, as in a replay. */
  limited: boolean
  /** What the auditor of this process has found. */
  findings: () => Findings
  /** Null: nobody traces. */
  traces?: Traces | null
}

export type Gateway = {
  /** `app.request('/api/orders')` works without a socket. */
  readonly app: Api
  /** Answers /metrics alone, for METRICS_PORT; null: `app` does. */
  readonly metricsApp: Api | null
  /** Ends the live updates, so that the server can close. Closing twice is fine. */
  close(): Promise<void>
}

export function createGateway(options: GatewayOptions): Gateway {
  const { services, transport, config, clock, tokens, limited } = options
  const log = options.log.child({ service: 'gateway' })
  const here = new Set(services.map(({ name }) => name))
  const elsewhere = new Map([...config.serviceUrls].filter(([name]) => !here.has(name)))
  const subscriptionsHere = new Set(services.flatMap(({ bus }) => bus.subscriptions()))
  const brokerBacklog = createBrokerBacklog({ transport, here: subscriptionsHere, clock })
  const metrics = createMetrics(
    () => services.map((service) => () => service.status()),
    async () => (await brokerBacklog()).subscriptions,
    async () => (await inTime(transport.brokerDeadLetters?.() ?? Promise.resolve([]))) ?? [],
  )
  const forward = createForward({ log })

  const door = createFrontDoor({ log, tokens, around: metrics.middleware, tracing: options.traces?.of('gateway') })
  if (config.corsOrigins.length > 0) door.use(cors({ origin: [...config.corsOrigins], exposeHeaders: EXPOSED_HEADERS }))
  if (limited) door.use(rateLimits(config, clock))

  const feed = createLiveFeed({ transport, events: options.events, newName: () => `live-${randomUUID()}`, clock, log })
  const askOrder = async (c: Context<ApiEnv>, orderId: string) => {
    const authorization = c.req.header('authorization')
    const headers = { 'x-request-id': c.var.requestId, ...(authorization === undefined ? {} : { authorization }) }
    return door.request(`/api/orders/${encodeURIComponent(orderId)}`, { headers }, c.env)
  }
  const live = createLiveRoutes({ feed, clock, log, trustProxy: config.trustProxy, askOrder })
  const own = [
    live.routes,
    createOperationsRoutes({ services, elsewhere, forward, findings: options.findings, brokerBacklog, transport, log }),
    aboutRoutes({ ...options, elsewhere, log }),
  ]
  const metricsApp = metricsRoutes({ metrics, log })
  if (config.metricsPort === null) own.push(metricsApp)
  for (const routes of own) door.route('/', routes)
  for (const { routes } of services) if (routes) door.route('/', routes)
  addDocuments(door, { ...options, own, elsewhere, log })

  passOn(door, { here, elsewhere, forward })

  return {
    app: door,
    metricsApp: config.metricsPort === null ? null : metricsApp,
    async close() {
      live.endAll()
      await feed.close()
    },
  }
}

/** What belongs to services that do not run here, and to nothing else: the routes of those that do keep their own names. */
function passOn(
  door: Api,
  { here, elsewhere, forward }: { here: ReadonlySet<string>; elsewhere: ReadonlyMap<string, string>; forward: Forward },
): void {
  const absent = Object.entries(addresses).filter(([service]) => !here.has(service))
  const prefixes = absent.flatMap(([, all]) => all.map((prefix) => prefix.replaceAll('*', ':any')))
  for (const path of prefixes.flatMap((prefix) => [prefix, `${prefix}/*`])) {
    door.all(path, async (c, next) => {
      const owner = ownerOf(c.req.path)
      if (owner === undefined || here.has(owner)) return next() // 404 or 405
      const origin = elsewhere.get(owner)
      if (origin !== undefined) return forward(c, owner, origin)
      throw problem(
        502,
        'service_unreachable',
        `${owner} runs neither in this process (SERVICES) nor at an address that is known (SERVICE_URLS).`,
      )
    })
  }
}

const EXPOSED_HEADERS = ['x-request-id', 'location', 'etag', 'idempotency-replayed', 'retry-after']

const tags = ['about']
const readiness = z.object({
  ready: z.boolean(),
  broker: z.object({ name: z.string(), ready: z.boolean(), reason: z.string().nullable() }),
  services: z.array(z.object({ name: z.string(), ready: z.boolean() })),
  elsewhere: z.array(z.string()),
})
const liveRoute = createRoute({
  method: 'get',
  path: '/health/live',
  summary: 'The process answers',
  tags,
  responses: { 200: json('Alive', z.object({ live: z.literal(true) })) },
})
const readyRoute = createRoute({
  method: 'get',
  path: '/health/ready',
  summary: 'Broker and services are ready; 503 says which are not',
  tags,
  responses: { 200: json('Ready', readiness), 503: json('Not ready', readiness) },
})
const metricsRoute = createRoute({
  method: 'get',
  path: '/metrics',
  summary: 'Metrics in the text format of Prometheus',
  tags,
  responses: { 200: { description: 'Metrics', content: { 'text/plain': { schema: z.string() } } } },
})

type AboutOptions = Pick<GatewayOptions, 'services' | 'transport' | 'events' | 'hears' | 'config' | 'log'> & {
  elsewhere: ReadonlyMap<string, string>
}

function aboutRoutes({ services, transport, events, hears, config, elsewhere, log }: AboutOptions): Api {
  const api = createApi(log)
  api.openapi(liveRoute, (c) => c.json({ live: true as const }, 200))
  api.openapi(readyRoute, (c) => {
    const state = readinessOf(services, transport, [...elsewhere.keys()])
    const answer = { ...state, services: [...state.services], elsewhere: [...state.elsewhere] }
    return state.ready ? c.json(answer, 200) : c.json(answer, 503)
  })
  api.get('/', (c) => {
    const page = startPage({
      events,
      hears,
      hasMetrics: config.metricsPort === null,
      origin: new URL(c.req.url).origin,
    })
    return c.html(page, 200, { 'content-security-policy': START_PAGE_POLICY })
  })
  return api
}

function metricsRoutes({ metrics, log }: { metrics: ReturnType<typeof createMetrics>; log: Log }): Api {
  const api = createApi(log)
  api.openapi(metricsRoute, async (c) => {
    const { contentType, body } = await metrics.render()
    return c.body(body, 200, { 'content-type': contentType }) as never
  })
  return api
}

type DocumentOptions = Pick<GatewayOptions, 'services' | 'events' | 'hears' | 'clock' | 'log'> & {
  own: readonly Api[]
  elsewhere: ReadonlyMap<string, string>
}

function addDocuments(door: Api, { services, events, hears, own, elsewhere, clock, log }: DocumentOptions): void {
  let local: NamedDocument[] | undefined
  const localDocuments = () =>
    (local ??= [
      ...own.map((routes) => ({ name: 'gateway', document: documentOf(routes) })),
      ...services.flatMap(({ name, routes }) => (routes ? [{ name, document: documentOf(routes) }] : [])),
    ])
  const remoteDocuments = createRemoteDocuments({ origins: elsewhere, clock, log })
  door.get('/openapi.json', async (c) => {
    // `scope=local`: as another gateway asks, which merges for itself.
    const remote = c.req.query('scope') === 'local' ? [] : await remoteDocuments()
    return c.json(mergeOpenapi([...localDocuments(), ...remote]))
  })
  door.get('/asyncapi.json', (c) =>
    c.json(
      asyncapi({
        title: 'ShopSphere',
        version: API_VERSION,
        description: 'What the services of the shop say to each other.',
        events,
        subscriptions: hears,
      }),
    ),
  )
}
