import { type BusStatus, OUTBOX } from '@shopsphere/bus'
import type { MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { ApiEnv } from './request-context.ts'

const EVENT_LOOP_SAMPLING_MS = 100
const HTTP_BUCKETS_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

export type Metrics = {
  /** Measures every request, by the route's pattern and never by its path, which has no end of values. */
  readonly middleware: MiddlewareHandler<ApiEnv>
  /** For metrics of one's own. */
  readonly registry: Registry
  /** The body of GET /metrics and its content type. */
  render(): Promise<{ contentType: string; body: string }>
}

/** What waits on the broker for a subscription of a service that does not run in this process. */
export type Unattended = { readonly name: string; readonly waiting: number; readonly oldestAgeMs: number }

/** What the broker itself rejected of a subscription. */
export type Rejected = { readonly subscription: string; readonly count: number }

/**
 * @param busStatuses asked each time the metrics are read; one that fails is counted, and the others are shown
 * @param unattended asked each time too; shown without the label `service`
 * @param rejected asked each time too
 */
export function createMetrics(
  busStatuses: () => readonly (() => BusStatus | Promise<BusStatus>)[],
  unattended: () => Promise<readonly Unattended[]> = async () => [],
  rejected: () => Promise<readonly Rejected[]> = async () => [],
): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: EVENT_LOOP_SAMPLING_MS })
  const duration = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from the request to the answer',
    labelNames: ['method', 'route', 'status'],
    buckets: HTTP_BUCKETS_SECONDS,
    registers: [registry],
  })
  const record = busMetrics(registry)
  const failures = new Counter({
    name: 'bus_status_failures_total',
    help: 'Services that could not say how their bus is',
    registers: [registry],
  })

  const brokerDeadLetters = new Gauge({
    name: 'broker_dead_letters',
    help: 'Messages that the broker itself rejected or had no queue for',
    labelNames: ['subscription'],
    registers: [registry],
  })

  return {
    registry,
    middleware: async (c, next) => {
      const startedAt = performance.now()
      await next()
      const route = c.res.status === 404 || c.res.status === 405 ? routeOrNone(routePath(c, -1)) : routePath(c, -1)
      duration.observe({ method: c.req.method, route, status: c.res.status }, (performance.now() - startedAt) / 1000)
    },
    async render() {
      const [statuses, others, letters] = await Promise.all([
        Promise.allSettled(busStatuses().map(async (status) => status())),
        unattended(),
        rejected(),
      ])
      brokerDeadLetters.reset()
      for (const { subscription, count } of letters) brokerDeadLetters.set({ subscription }, count)
      failures.inc(statuses.filter(({ status }) => status === 'rejected').length)
      const answered = statuses.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
      record(answered, others)
      return { contentType: registry.contentType, body: await registry.metrics() }
    },
  }
}

/** Where no route matched, the last that did is the middleware on every path. */
const routeOrNone = (route: string) => (route.includes('*') ? 'none' : route)

function busMetrics(registry: Registry): (statuses: readonly BusStatus[], others: readonly Unattended[]) => void {
  const gauge = (name: string, help: string, labelNames: string[]) =>
    new Gauge({ name, help, labelNames, registers: [registry] })
  const labels = ['service', 'subscription']
  const waiting = gauge('bus_backlog_messages', 'Messages that wait for a subscription', labels)
  const age = gauge('bus_backlog_oldest_age_seconds', 'Age of the oldest waiting message', labels)
  const inFlight = gauge('bus_in_flight_messages', 'Messages being handled', labels)
  const deferred = gauge('bus_deferred_messages', 'Messages waiting for a retry or behind one', labels)
  const deadLetters = gauge('bus_dead_letters', 'Messages that need a person', labels)
  const outbox = gauge('bus_outbox_messages', 'Messages that the broker has not taken yet', ['service'])
  const outboxAge = gauge('bus_outbox_oldest_age_seconds', 'Age of the oldest message that the broker has not taken', [
    'service',
  ])
  const timers = gauge('bus_timers', 'Messages to be published later', ['service'])
  const ready = gauge('bus_ready', '1 while the broker and the database answer', ['service'])
  const bridge = gauge('bus_bridge_ready', "1 while the foreign program's broker answers", ['service', 'bridge'])
  // Counted by the bus itself since its process started, so they are set and not added to: a scraper sees counters.
  const counted = (name: string, help: string) => new Counter({ name, help, labelNames: labels, registers: [registry] })
  const handled = counted('bus_handled_messages_total', 'Deliveries whose effects were committed')
  const failed = counted(
    'bus_failed_attempts_total',
    'Tries of a handler that failed: retries and dead letters come of them',
  )
  const all = [waiting, age, inFlight, deferred, deadLetters, outbox, outboxAge, timers, ready, handled, failed, bridge]

  return (statuses, others) => {
    for (const each of all) each.reset()
    for (const { name, ...other } of others) {
      // Prometheus takes an empty label for one that is not there.
      const label = { service: '', subscription: name }
      waiting.set(label, other.waiting)
      age.set(label, other.oldestAgeMs / 1000)
    }
    for (const { service, subscriptions, outbox: box, ...status } of statuses) {
      ready.set({ service }, status.ready ? 1 : 0)
      timers.set({ service }, status.timers)
      outbox.set({ service }, box.waiting)
      outboxAge.set({ service }, box.oldestAgeMs / 1000)
      if (box.refused > 0) deadLetters.set({ service, subscription: OUTBOX }, box.refused)
      for (const { name, ready } of status.bridges) bridge.set({ service, bridge: name }, ready ? 1 : 0)
      for (const subscription of subscriptions) {
        const label = { service, subscription: subscription.name }
        // A broker that is away says nothing; what this process knows by itself is shown all the same.
        if (subscription.waiting !== null) waiting.set(label, subscription.waiting)
        if (subscription.oldestAgeMs !== null) age.set(label, subscription.oldestAgeMs / 1000)
        inFlight.set(label, subscription.inFlight)
        deferred.set(label, subscription.deferred)
        deadLetters.set(label, subscription.deadLetters)
        handled.inc(label, subscription.handledTotal)
        failed.inc(label, subscription.failedTotal)
      }
    }
  }
}
