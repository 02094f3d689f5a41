import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encode } from '@msgpack/msgpack'
import { readingAll } from '../codec.ts'
import type { Message } from '../message.ts'
import { foreignEnvelopeCodec, jsonCodec } from './json.ts'
import { messagePackCodec } from './message-pack.ts'

/** As another program would write it. */
const foreign = {
  type: 'user.registered',
  data: { userId: 42, email: 'ada@example.org' },
  metadata: {
    eventId: '7f0c0f7e-0a59-4bb2-9b1f-6a1f6a1d1c11',
    timestamp: '2010-12-01T08:26:00.000Z',
    source: 'user-service',
    version: '1.0',
  },
}
const understood: Message = {
  id: foreign.metadata.eventId,
  type: 'user.registered',
  version: 1,
  source: 'user-service',
  time: 1_291_191_960_000,
  key: null,
  correlationId: foreign.metadata.eventId,
  causationId: null,
  traceparent: null,
  headers: {},
  data: foreign.data,
}
const withMetadata = (changes: object) => ({ ...foreign, metadata: { ...foreign.metadata, ...changes } })

test('B13 a foreign envelope is known by its shape, whatever the bus itself writes', () => {
  for (const codec of [jsonCodec, messagePackCodec, foreignEnvelopeCodec]) {
    assert.deepEqual(readingAll(codec).decode(JSON.stringify(foreign)), understood)
    assert.deepEqual(readingAll(codec).decode(Buffer.from(` \n${JSON.stringify(foreign, null, 2)}`)), understood)
    assert.deepEqual(readingAll(codec).decode(encode(foreign)), understood)
  }
})

test('B13 versions and times are understood in the ways people write them', () => {
  const read = (changes: object) => readingAll(jsonCodec).decode(JSON.stringify(withMetadata(changes)))
  for (const version of [2, '2', '2.0', '2.1.7', 'v2', 'v2.1']) assert.equal(read({ version }).version, 2, `${version}`)
  for (const version of [undefined, null]) assert.equal(read({ version }).version, 1)
  for (const timestamp of [1_291_191_960_000, '2010-12-01T09:26:00+01:00', 'Wed, 01 Dec 2010 08:26:00 GMT'])
    assert.equal(read({ timestamp }).time, understood.time, `${timestamp}`)
})

test('B6 an envelope without what makes it a message is undecodable, saying what is missing', () => {
  const refused: [object, RegExp][] = [
    [withMetadata({ eventId: undefined }), /'eventId' is missing/],
    [withMetadata({ source: '' }), /'source' is missing/],
    [withMetadata({ timestamp: 'yesterday' }), /timestamp 'yesterday' is no date/],
    [withMetadata({ timestamp: undefined }), /is no date/],
    [withMetadata({ version: 'latest' }), /version 'latest' has no whole number/],
    [{ ...foreign, type: 7 }, /'type' is missing/],
    [{ ...foreign, metadata: 'none' }, /not a CloudEvent/],
  ]
  for (const [body, why] of refused)
    assert.throws(() => readingAll(jsonCodec).decode(JSON.stringify(body)), { code: 'undecodable', message: why })
})

test('B13 what we write so has exactly their fields, and ours beside them in metadata; it comes back the same', () => {
  const message: Message = {
    ...understood,
    version: 3,
    key: 'usr_42',
    correlationId: 'c-1',
    causationId: 'm-0',
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    headers: { country: 'UK' },
  }
  const body = foreignEnvelopeCodec.encode(message) as string
  assert.deepEqual(JSON.parse(body), {
    type: 'user.registered',
    data: foreign.data,
    metadata: {
      eventId: message.id,
      timestamp: foreign.metadata.timestamp,
      source: 'user-service',
      version: '3.0',
      key: 'usr_42',
      correlationId: 'c-1',
      causationId: 'm-0',
      traceparent: message.traceparent,
      headers: { country: 'UK' },
    },
  })
  assert.deepEqual(readingAll(jsonCodec).decode(body), message)
})
