/** One trace through the whole shop: from a request over every service that its order touches. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { skippableClock, systemClock } from '@shopsphere/bus'
import { createLog } from '@shopsphere/runtime/log'
import type { SpanExporter } from '@shopsphere/runtime/tracing'
import { startShop } from '../shop.ts'

type Span = Parameters<SpanExporter['export']>[0][number]

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const operator = { email: 'operator@shop.example', password: 'a long enough password' }

/** Keeps what it is given. */
function keeper(): SpanExporter & { readonly spans: Span[] } {
  const spans: Span[] = []
  return {
    spans,
    export(batch, done) {
      spans.push(...batch)
      done({ code: 0 })
    },
    shutdown: async () => {},
    forceFlush: async () => {},
  }
}

test('one order is one trace: request, outbox, broker and every handler, each under what caused it', async () => {
  const kept = keeper()
  const shop = await startShop({
    environment: { SEED: '1', ADMIN_EMAIL: operator.email, ADMIN_PASSWORD: operator.password, PICKING_GRACE_MS: '0' },
    headless: true,
    inMemory: true,
    clock: skippableClock(systemClock),
    log: createLog('silent'),
    spans: kept,
  })
  const ask = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
    const response = await shop.app.request(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    })
    assert(response.ok, `${path}: ${response.status}`)
    return (await response.json()) as { token: string; orderId: string }
  }
  await shop.idle()
  const { token } = await ask('/api/sessions', operator)
  const authorization = `Bearer ${token}`
  await ask('/api/products', { sku: 'A1', name: 'Article', pricePence: 250 }, { authorization, 'idempotency-key': '1' })
  await shop.idle()
  await ask('/api/inventory/A1/receipts', { quantity: 10 }, { authorization, 'idempotency-key': '2' })
  await shop.idle()
  const order = { lines: [{ sku: 'A1', quantity: 1 }], paymentMethod: 'pm_card_visa', email: 'ada@example.org' }
  const traceparent = `00-${TRACE}-00f067aa0ba902b7-01`
  await ask('/api/orders', order, { authorization, 'idempotency-key': '3', traceparent })
  await shop.idle()
  await shop.close()

  const spans = kept.spans.filter((span) => span.spanContext().traceId === TRACE)
  const named = (name: string, service?: string) =>
    spans.filter((span) => span.name === name && (!service || span.resource.attributes['service.name'] === service))
  const [request] = named('POST /api/orders', 'gateway')
  assert(request, 'the request is a span under the caller’s')
  assert.equal(request.parentSpanContext?.spanId, '00f067aa0ba902b7')
  assert.equal(request.attributes['http.response.status_code'], 202)
  const [sent] = named('send order.placed', 'order')
  assert.equal(sent?.parentSpanContext?.spanId, request.spanContext().spanId)
  for (const service of ['inventory', 'payment', 'notification', 'analytics', 'audit', 'user']) {
    const [handled] = named('process order.placed', service)
    assert.equal(handled?.parentSpanContext?.spanId, request.spanContext().spanId, service)
  }
  const [held] = named('process order.placed', 'inventory')
  const [reserved] = named('process inventory.reserved', 'payment')
  assert.equal(reserved?.parentSpanContext?.spanId, held!.spanContext().spanId, 'what a handler says is under it')
  for (const type of ['payment.processed', 'inventory.updated', 'order.confirmed', 'notification.sent']) {
    assert(named(`send ${type}`).length > 0, `${type} was sent in this trace`)
    assert(named(`process ${type}`).length > 0, `${type} was handled in this trace`)
  }
})
