import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { eventually } from '@shopsphere/bus/testing'
import { createLog } from './log.ts'
import { openTraces } from './tracing.ts'

const log = createLog('silent')

test('without an endpoint nobody traces', async () => {
  assert.equal(await openTraces({}, log), null)
  assert.equal(await openTraces({ OTEL_EXPORTER_OTLP_ENDPOINT: '' }, log), null)
})

test('an endpoint that is no URL and a share that is none are refused, by name', async () => {
  const opened = (environment: Record<string, string>) => openTraces(environment, log)
  await assert.rejects(
    opened({ OTEL_EXPORTER_OTLP_ENDPOINT: 'localhost' }),
    /OTEL_EXPORTER_OTLP_ENDPOINT is 'localhost'/,
  )
  const share = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://localhost:1', OTEL_TRACES_SAMPLER_ARG: '2' }
  await assert.rejects(opened(share), /OTEL_TRACES_SAMPLER_ARG is '2'/)
})

test('a collector gets spans over HTTP, with their parents, links and failures', async () => {
  const bodies: Buffer[] = []
  const collector = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk) => chunks.push(chunk))
    request.on('end', () => {
      assert.equal(request.url, '/v1/traces')
      bodies.push(Buffer.concat(chunks))
      response.end('{}')
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => collector.once('listening', resolve))
  try {
    const { port } = collector.address() as AddressInfo
    const traces = (await openTraces({ OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}/` }, log))!
    const tracing = traces.of('order')
    const first = tracing.start({ name: 'one', kind: 'server', parent: null, attributes: { 'a.b': 1 } })
    const second = tracing.start({
      name: 'process order.placed',
      kind: 'consumer',
      parent: first.traceparent,
      link: first.traceparent,
      attributes: {},
    })
    assert.equal(second.traceparent.split('-')[1], first.traceparent.split('-')[1], 'the trace goes on')
    second.fail(new Error('no such luck'))
    second.end()
    first.end()
    await traces.close()
    const sent = Buffer.concat(bodies).toString()
    for (const text of ['process order.placed', 'no such luck', 'service.name', 'order', 'a.b'])
      assert(sent.includes(text), text)
  } finally {
    collector.close()
  }
})

test('an unsampled parent keeps its trace unsampled, and a collector that is away holds up nobody', async () => {
  const traces = (await openTraces({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9' }, log))!
  const parent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00'
  const span = traces.of('order').start({ name: 'one', kind: 'server', parent, attributes: {} })
  assert.match(span.traceparent, /^00-4bf92f3577b34da6a3ce929d0e0e4736-[\da-f]{16}-00$/)
  span.end()
  const kept = traces.of('order').start({ name: 'two', kind: 'server', parent: null, attributes: {} })
  kept.end()
  const begin = performance.now()
  await traces.close()
  assert(performance.now() - begin < 10_000)
})

test('a collector that is away, and one that is back, are said once each', async () => {
  const written: string[] = []
  const listening = createLog('info', {
    write: (line) => {
      const { level, msg } = JSON.parse(line)
      written.push(`${level} ${msg}`)
    },
  })
  let isAway = true
  let tried = 0
  const collector = createServer((request, response) => {
    request.resume()
    tried += 1
    response.writeHead(isAway ? 400 : 200).end('{}')
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => collector.once('listening', resolve))
  const { port } = collector.address() as AddressInfo
  const traces = (await openTraces({ OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}` }, listening))!
  try {
    const send = async () => {
      const before = tried
      traces.of('order').start({ name: 'one', kind: 'server', parent: null, attributes: {} }).end()
      await eventually(() => tried > before)
    }
    await send()
    await eventually(() => written.some((line) => /^warn traces are not taken, and lost until/.test(line)))
    await send()
    isAway = false
    await send()
    await eventually(() => written.includes('info traces are taken again'))
    await send()
  } finally {
    await traces.close()
    collector.close()
  }
  assert.equal(written.length, 3, written.join('\n')) // the first says where they are sent
})
