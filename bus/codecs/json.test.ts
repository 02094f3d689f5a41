import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Message } from '../message.ts'
import { jsonCodec } from './json.ts'

const message: Message = {
  id: '01939c1e-7000-7000-8000-000000000001',
  type: 'order.placed',
  version: 2,
  source: 'order',
  time: 1_291_192_800_123,
  key: 'ord_1',
  correlationId: 'c-1',
  causationId: '01939c1e-7000-7000-8000-000000000000',
  traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
  headers: { country: 'UK' },
  data: { text: 'a "quoted" line\nand ünïcode  ', n: 1 },
}

test('B13 what is encoded comes back the same, whatever its strings hold', () => {
  const nasty = 'quote " backslash \\ newline \n \u2028 \ud800 ünï'
  const variants: Message[] = [
    message,
    { ...message, key: null, causationId: null, traceparent: null, headers: {} },
    {
      ...message,
      id: nasty.replace('\ud800', ''),
      key: nasty.replace('\ud800', ''),
      source: 'a"b',
      correlationId: 'x\\y',
    },
    { ...message, key: '' },
  ]
  for (const variant of variants) {
    const decoded = jsonCodec.decode(jsonCodec.encode(variant))
    assert.deepEqual(decoded, variant)
    assert.deepEqual(jsonCodec.decode(Buffer.from(jsonCodec.encode(variant) as string)), variant)
  }
})

test('B13 the text is a CloudEvent 1.0 in structured JSON', () => {
  assert.deepEqual(JSON.parse(jsonCodec.encode(message) as string), {
    specversion: '1.0',
    id: message.id,
    type: 'order.placed',
    source: 'order',
    time: '2010-12-01T08:40:00.123Z',
    datacontenttype: 'application/json',
    dataversion: 2,
    partitionkey: 'ord_1',
    correlationid: 'c-1',
    causationid: message.causationId,
    traceparent: message.traceparent,
    headers: { country: 'UK' },
    data: message.data,
  })
})

test('B6 what is no CloudEvent is refused as undecodable, saying why', () => {
  const refused: [string | Uint8Array, RegExp][] = [
    ['Order #123 created', /not JSON/],
    ['[]', /'time' is missing/],
    ['null', /no JSON object/],
    [JSON.stringify({ id: 'x', type: 'a.b', source: 's', time: 'yesterday' }), /is no date/],
    [JSON.stringify({ type: 'a.b', source: 's', time: '2010-12-01T00:00:00Z' }), /'id' is missing/],
    [Uint8Array.of(0xff, 0xfe), /not JSON/],
  ]
  for (const [body, why] of refused) assert.throws(() => jsonCodec.decode(body), { code: 'undecodable', message: why })
})
