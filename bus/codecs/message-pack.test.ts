import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decode, encode } from '@msgpack/msgpack'
import { readingAll } from '../codec.ts'
import type { Message } from '../message.ts'
import { jsonCodec } from './json.ts'
import { messagePackCodec } from './message-pack.ts'

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
  data: { text: 'ünïcode', n: 1, big: 2 ** 40, none: null, list: [1, -1, 0.5] },
}
const bare: Message = { ...message, key: null, causationId: null, traceparent: null, headers: {} }

test('B13 in MessagePack, what is encoded comes back the same, bytes in payloads included', () => {
  for (const one of [message, bare, { ...message, key: '' }])
    assert.deepEqual(messagePackCodec.decode(messagePackCodec.encode(one)), one)
  const bytes = Uint8Array.of(0, 255, 128)
  const { data } = messagePackCodec.decode(messagePackCodec.encode({ ...message, data: { bytes } }))
  assert.deepEqual([...(data as { bytes: Uint8Array }).bytes], [...bytes])
})

test('B13 it is one map with the attributes of a CloudEvent, and smaller than JSON', () => {
  const body = messagePackCodec.encode(message) as Uint8Array
  assert.deepEqual(decode(body), {
    specversion: '1.0',
    id: message.id,
    type: 'order.placed',
    source: 'order',
    time: '2010-12-01T08:40:00.123Z',
    dataversion: 2,
    partitionkey: 'ord_1',
    correlationid: 'c-1',
    causationid: message.causationId,
    traceparent: message.traceparent,
    headers: { country: 'UK' },
    data: message.data,
  })
  assert.ok(body.length < Buffer.byteLength(jsonCodec.encode(message) as string))
})

test('K1 whoever reads knows the format by its first byte, also of a map with many entries', () => {
  const many = Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`extension${index}`, index]))
  const large = encode({ ...(decode(messagePackCodec.encode(bare) as Uint8Array) as object), ...many })
  assert.equal(large[0], 0xde, 'sixteen entries and more have another first byte')
  for (const codec of [jsonCodec, messagePackCodec])
    for (const body of [
      jsonCodec.encode(bare),
      messagePackCodec.encode(bare),
      Buffer.from(jsonCodec.encode(bare)),
      large,
    ])
      assert.deepEqual(readingAll(codec).decode(body), bare)
})

test('B6 what is no MessagePack, or no message, is refused as undecodable, saying why', () => {
  const cut = (messagePackCodec.encode(message) as Uint8Array).slice(0, 50)
  const refused: [string | Uint8Array, RegExp][] = [
    [cut, /not MessagePack/],
    [Buffer.concat([messagePackCodec.encode(message) as Uint8Array, Buffer.from([1])]), /not MessagePack/],
    [encode({ id: 'x' }), /'time' is missing/],
    [encode({ id: 'x', time: 5 }), /'time' is missing/],
    [Uint8Array.of(0x81, 0xa9, ...Buffer.from('__proto__'), 1), /not MessagePack/],
    [Uint8Array.of(0x81, 0xa1, 0x61, ...new Uint8Array(50_000).fill(0x91), 1), /'time' is missing|not MessagePack/],
    [new Uint8Array(0), /there are no bytes/],
    ['', /there are no bytes/],
    ['Order #123 created', /not MessagePack/],
  ]
  for (const [body, why] of refused)
    assert.throws(() => readingAll(messagePackCodec).decode(body), { code: 'undecodable', message: why })
})
