import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBus } from './bus.ts'
import { event, type Schema } from './event.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { virtualClock } from './testing/virtual-clock.ts'
import type { SpanStart, Tracing } from './tracing.ts'
import { memoryBroker, memoryTransport } from './transports/memory.ts'

type Order = { readonly orderId: string }
const anything: Schema<Order> = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value: value as Order }) },
}
const placed = event('order.placed', { version: 1, schema: anything, key: ({ orderId }) => orderId })
const paid = event('order.paid', { version: 1, schema: anything, key: ({ orderId }) => orderId })

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const ORIGIN = `00-${TRACE}-00f067aa0ba902b7-01`

type Recorded = SpanStart & { readonly traceparent: string; readonly failures: unknown[]; ended: boolean }

function recorder(): Tracing & { readonly spans: Recorded[] } {
  const spans: Recorded[] = []
  return {
    spans,
    start(span) {
      const number = String(spans.length + 1).padStart(16, '0')
      const recorded: Recorded = { ...span, traceparent: `00-${TRACE}-${number}-01`, failures: [], ended: false }
      spans.push(recorded)
      return {
        traceparent: recorded.traceparent,
        describe() {},
        fail: (error) => void recorded.failures.push(error),
        end() {
          recorded.ended = true
        },
      }
    },
  }
}

test('B13 a trace goes through outbox, broker, retry, dead letter and redrive; each attempt links to the one before', async () => {
  const clock = virtualClock()
  const tracing = recorder()
  await using store = { value: sqliteStore(':memory:'), [Symbol.asyncDispose]: () => store.value.close() }
  const transport = memoryTransport(memoryBroker({ clock }))
  await using bus = createBus({ service: 'order', transport, store: store.value, clock, random: () => 0.5, tracing })
  let failing = true
  const seen: (string | null)[] = []
  bus.subscribe(
    placed,
    (order, { publish, message }) => {
      seen.push(message.traceparent)
      if (failing) throw new Error('not today')
      publish(paid, order)
    },
    { attemptsMax: 2, backoff: { firstMs: 1_000, jitter: false } },
  )
  bus.subscribe(paid, () => {})
  await bus.start()

  await bus.publish(placed, { orderId: 'o1' }, { traceparent: ORIGIN, correlationId: 'request-1' })
  await bus.idle()
  await clock.advance(1_000)
  await bus.idle()
  const [letter] = await bus.deadLetters.list()
  assert(letter, 'two attempts, then a dead letter')
  failing = false
  await bus.deadLetters.redrive(letter.id, { by: 'Ada', why: 'a test' })
  await bus.idle()

  const attempts = tracing.spans.filter(({ name }) => name === 'process order.placed')
  const sent = tracing.spans.filter(({ kind }) => kind === 'producer')
  assert(attempts.every(({ parent }) => parent === ORIGIN))
  assert.deepEqual(
    attempts.map(({ link, failures }) => ({ link, failed: failures.length > 0 })),
    [
      { link: null, failed: true },
      { link: attempts[0]!.traceparent, failed: true },
      { link: attempts[1]!.traceparent, failed: false },
    ],
  )
  assert(
    seen.every((traceparent) => traceparent === ORIGIN),
    'a handler sees the message as it was said',
  )
  assert.deepEqual(
    sent.map(({ name, parent }) => ({ name, parent })),
    [
      { name: 'send order.placed', parent: ORIGIN },
      { name: 'send order.paid', parent: attempts[2]!.traceparent },
    ],
  )
  assert.equal(tracing.spans.at(-1)!.name, 'process order.paid')
  assert.equal(tracing.spans.at(-1)!.parent, attempts[2]!.traceparent, 'what a handler says is a child of its attempt')
  assert(tracing.spans.every(({ ended }) => ended))
})

test('B13 a batch that is undone because of one neighbour says so, and every message ends with one good attempt', async () => {
  const clock = virtualClock()
  const tracing = recorder()
  await using store = { value: sqliteStore(':memory:'), [Symbol.asyncDispose]: () => store.value.close() }
  const transport = memoryTransport(memoryBroker({ clock }))
  await using bus = createBus({ service: 'order', transport, store: store.value, clock, random: () => 0.5, tracing })
  bus.subscribe(placed, ({ orderId }) => {
    if (orderId === 'o3') throw new Error('not this one')
  })
  await bus.start()
  await bus.transaction(({ publish }) => {
    for (let n = 1; n <= 5; n++) publish(placed, { orderId: `o${n}` })
  })
  await bus.idle()
  const good = tracing.spans.filter(({ name, failures }) => name === 'process order.placed' && failures.length === 0)
  assert.equal(good.length, 4)
  assert(tracing.spans.every(({ ended }) => ended))
})
