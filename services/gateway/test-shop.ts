/** A small shop behind a real gateway, for the gateway's tests: an order service that shows and says what a test wants. */
import { createRoute, z } from '@hono/zod-openapi'
import { memoryBroker, memoryTransport, PermanentError, sqliteStore, type Transport } from '@shopsphere/bus'
import { type VirtualClock, virtualClock } from '@shopsphere/bus/testing'
import { allEvents, orderPlaced, paymentProcessed } from '@shopsphere/contracts'
import { createTokens } from '@shopsphere/runtime/auth'
import { readConfig } from '@shopsphere/runtime/config'
import { type Api, createApi } from '@shopsphere/runtime/http'
import { createLog } from '@shopsphere/runtime/log'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import { defineService, prepareService, type Service } from '@shopsphere/runtime/service'
import { json } from '../route-parts.ts'
import { createGateway } from './gateway.ts'
import { addresses } from './owners.ts'

export const operator = { userId: 'usr_operator', roles: ['operator'] }
export const ada = { userId: 'usr_ada', roles: ['customer'] }
export const eve = { userId: 'usr_eve', roles: ['customer'] }

const TOKEN_SECRET = 'a secret for tests, long enough for HS256'

type Caller = { userId: string; roles: readonly string[] }

const getOrder = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}',
  request: { params: z.object({ orderId: z.string() }) },
  responses: {
    200: json('The order', z.object({ orderId: z.string(), order: z.string() }).openapi('Order')),
    ...problemAnswers(404),
  },
})

/** Ada's orders; Eve sees none. `payment.processed` of an order is refused until `repaired`. */
function orderService(orders: Map<string, string>, repair: { done: boolean }) {
  return defineService({
    name: 'order',
    schema: null,
    wire({ bus, log }) {
      bus.subscribe(paymentProcessed, ({ authorizedPence }, { publish }) => {
        if (!repair.done && authorizedPence !== 1) throw new PermanentError('the ledger is closed')
        publish(orderPlaced, { ...orderPlaced.example!, orderId: 'ord_after_payment' })
      })
      const routes = createApi(log)
      routes.openapi(getOrder, (c) => {
        const { orderId } = c.req.valid('param')
        const state = orders.get(orderId)
        if (state === undefined || c.var.caller?.userId !== ada.userId)
          throw problem(404, 'not_found', `There is no order ${orderId}.`)
        return c.json({ orderId, order: state }, 200)
      })
      routes.post('/api/orders', async (c) =>
        c.json({ got: await c.req.json(), as: c.var.caller?.userId ?? null }, 202),
      )
      return { routes }
    },
  })
}

const paymentService = defineService({ name: 'payment', schema: null, wire: () => {} })

export type TestShop = AsyncDisposable & {
  readonly app: Api
  readonly clock: VirtualClock
  readonly transport: Transport
  readonly order: Service
  readonly payment: Service
  /** Order ids and their states. */
  readonly orders: Map<string, string>
  readonly repair: { done: boolean }
  as(caller: Caller): Promise<{ authorization: string }>
  close(): Promise<void>
}

export async function openTestShop(
  options: {
    environment?: Readonly<Record<string, string>>
    services?: ('order' | 'payment')[]
    limited?: boolean
    transport?: Transport
  } = {},
): Promise<TestShop> {
  const clock = virtualClock()
  const transport = options.transport ?? memoryTransport(memoryBroker({ clock }))
  const log = createLog('silent')
  const config = readConfig({ TOKEN_SECRET, SEED: '1', ...options.environment }, Object.keys(addresses))
  const orders = new Map([['ord_1', 'placed']])
  const repair = { done: false }
  const host = { transport, openStore: () => sqliteStore(':memory:'), events: allEvents, clock, config, log }
  const order = await prepareService(orderService(orders, repair), host)
  const payment = await prepareService(paymentService, host)
  const here = [order, payment].filter(({ name }) => (options.services ?? ['order', 'payment']).includes(name as never))
  for (const service of [order, payment]) await service.start()
  const tokens = createTokens({ secret: new TextEncoder().encode(TOKEN_SECRET), clock })
  const hears = [{ service: 'order', types: ['payment.processed'] }]
  const gateway = createGateway({
    services: here,
    transport,
    events: allEvents,
    hears,
    config,
    clock,
    log,
    tokens,
    limited: options.limited ?? false,
    findings: () => ({
      looks: 7,
      waiting: 0,
      passedOver: 0,
      violations: [{ invariant: 'I3', text: 'one unit is missing' }],
    }),
  })
  return {
    app: gateway.app,
    clock,
    transport,
    order,
    payment,
    orders,
    repair,
    close: gateway.close,
    as: async (caller) => ({ authorization: `Bearer ${(await tokens.issue(caller)).token}` }),
    async [Symbol.asyncDispose]() {
      await gateway.close()
      for (const service of [order, payment]) await service.close()
      await transport.close()
    },
  }
}
