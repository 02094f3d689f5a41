import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type BusStatus, systemClock } from '@shopsphere/bus'
import { createTokens } from './auth.ts'
import { createApi, createFrontDoor } from './http.ts'
import { createLog } from './log.ts'
import { createMetrics } from './metrics.ts'

const payment: BusStatus = {
  service: 'payment',
  ready: true,
  timers: 9,
  subscriptions: [
    {
      name: 'payment',
      ...{ waiting: 7, oldestAt: 1, oldestAgeMs: 1500, inFlight: 2, deferred: 3, deadLetters: 1 },
      ...{ handledTotal: 80, failedTotal: 5 },
    },
  ],
  outbox: { waiting: 4, oldestAgeMs: 0, refused: 2 },
  bridges: [{ name: 'order_events', endpoint: 'rabbitmq queue order_events', ready: false, reason: 'it is away' }],
}

test('requests are counted by route, whatever the path', async () => {
  const metrics = createMetrics(() => [])
  const log = createLog('silent')
  const api = createApi(log)
  api.get('/api/orders/:id', (c) => c.text('order'))
  api.get('/api/broken', () => {
    throw new Error('broken')
  })
  const door = createFrontDoor({
    log,
    tokens: createTokens({ secret: new Uint8Array(32), clock: systemClock }),
    around: metrics.middleware,
  })
  door.route('/', api)
  for (const path of ['/api/orders/1', '/api/orders/2', '/api/broken', '/nowhere/1', '/nowhere/2'])
    await door.request(path)

  const { body, contentType } = await metrics.render()
  assert.match(contentType, /^text\/plain/)
  const count = (route: string, status: number) =>
    body.includes(`http_request_duration_seconds_count{method="GET",route="${route}",status="${status}"}`) &&
    Number(
      body
        .split(`http_request_duration_seconds_count{method="GET",route="${route}",status="${status}"} `)[1]
        ?.split('\n')[0],
    )
  assert.equal(count('/api/orders/:id', 200), 2)
  assert.equal(count('/api/broken', 500), 1)
  assert.equal(count('none', 404), 2)
  assert.match(body, /^process_cpu_seconds_total /m)
})

test('the backlog of each subscription is shown, and goes when its service does', async () => {
  let sources: (() => BusStatus)[] = [() => payment]
  const metrics = createMetrics(() => sources)
  const { body } = await metrics.render()
  const label = '{service="payment",subscription="payment"}'
  assert(body.includes(`bus_backlog_messages${label} 7\n`))
  assert(body.includes(`bus_backlog_oldest_age_seconds${label} 1.5\n`))
  assert(body.includes(`bus_in_flight_messages${label} 2\n`))
  assert(body.includes(`bus_deferred_messages${label} 3\n`))
  assert(body.includes(`bus_dead_letters${label} 1\n`))
  assert(body.includes('bus_outbox_messages{service="payment"} 4\n'))
  assert(body.includes('bus_dead_letters{service="payment",subscription="(outbox)"} 2\n'))
  assert(body.includes('bus_timers{service="payment"} 9\n'))
  assert(body.includes('bus_bridge_ready{service="payment",bridge="order_events"} 0\n'))
  assert(body.includes('bus_ready{service="payment"} 1\n'))
  sources = []
  assert.equal((await metrics.render()).body.includes(label), false)
})

test('where the broker does not say what waits, the rest is shown', async () => {
  const [known] = payment.subscriptions
  const subscriptions = [{ ...known!, waiting: null, oldestAt: null, oldestAgeMs: null }]
  const { body } = await createMetrics(() => [() => ({ ...payment, ready: false, subscriptions })]).render()
  assert.doesNotMatch(body, /^bus_backlog_(messages|oldest_age_seconds)\{/m)
  assert.match(body, /^bus_deferred_messages\{.*\} 3$/m)
  assert.match(body, /^bus_outbox_messages\{.*\} 4$/m)
  assert.match(body, /^bus_ready\{.*\} 0$/m)
  assert.match(body, /^bus_status_failures_total 0$/m)
})

test('a bus that cannot say how it is does not hide the others', async () => {
  const away = () => Promise.reject(new Error('away'))
  const { body } = await createMetrics(() => [away, () => payment]).render()
  assert(body.includes('bus_status_failures_total 1\n'))
  assert(body.includes('bus_outbox_messages{service="payment"} 4\n'))
})

test('what waits for a service that does not run here is shown without a service', async () => {
  const notification = { name: 'notification', waiting: 40_000, oldestAgeMs: 2_500 }
  const { body } = await createMetrics(
    () => [() => payment],
    async () => [notification],
  ).render()
  const label = '{service="",subscription="notification"}'
  assert(body.includes(`bus_backlog_messages${label} 40000\n`))
  assert(body.includes(`bus_backlog_oldest_age_seconds${label} 2.5\n`))
  assert.equal(body.includes(`bus_in_flight_messages${label}`), false, 'only its own process knows')
  assert(body.includes('bus_backlog_messages{service="payment",subscription="payment"} 7\n'))
})
