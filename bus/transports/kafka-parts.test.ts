/** The parts of the Kafka transport that need no server: who gets which shard, and how messages lie in records. */
import assert from 'node:assert/strict'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { createRecordsBatch } from '@platformatic/kafka'
import { seededRandom } from '../clock.ts'
import type { WireMessage } from '../message.ts'
import { kafkaTransport, topicName } from './kafka.ts'
import { shareOut } from './kafka-group.ts'
import { decodeRecord, encodeBatch, measure, readBatches } from './kafka-records.ts'

test('G1 shards are shared out: none twice, none that another claims, and in two steps everybody has a fair part', () => {
  const random = seededRandom(7)
  const shards = 16
  for (let round = 0; round < 200; round++) {
    const holders = Array.from({ length: 1 + Math.floor(random() * 6) }, (_, index) => ({
      memberId: `m${index}-${Math.floor(random() * 1_000)}`,
      claims: new Map<number, number>(),
    }))
    for (let shard = 0; shard < shards; shard++) {
      const holder = holders[Math.floor(random() * (holders.length + 1))] // sometimes nobody
      holder?.claims.set(shard, 1)
    }
    const first = shareOut(shards, holders)
    assertOnce(first)
    for (const { memberId, shards: given } of first) {
      for (const shard of given) {
        const claimants = holders.filter(({ claims }) => claims.has(shard)).map((holder) => holder.memberId)
        assert.ok(claimants.length === 0 || claimants.includes(memberId), `shard ${shard} was another's`)
      }
    }
    // The second step: everybody has let go of what was taken away.
    const kept = first.map(({ memberId, shards: mine }) => ({ memberId, claims: new Map(mine.map((one) => [one, 2])) }))
    const second = shareOut(shards, kept)
    assertOnce(second)
    const counts = second.map(({ shards: mine }) => mine.length)
    assert.equal(
      counts.reduce((sum, count) => sum + count, 0),
      shards,
    )
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `parts of ${counts}`)
  }
})

test('G1 where two claim a shard, the later lease counts', () => {
  const old = { memberId: 'a', claims: new Map([[0, 5]]) }
  const later = { memberId: 'b', claims: new Map([[0, 6]]) }
  const given = shareOut(2, [old, later])
  assert.deepEqual(given.find(({ memberId }) => memberId === 'b')!.shards, [0])
  assert.deepEqual(given.find(({ memberId }) => memberId === 'a')!.shards, [1])
})

function assertOnce(shares: { shards: number[] }[]): void {
  const all = shares.flatMap(({ shards }) => shards)
  assert.equal(new Set(all).size, all.length, 'a shard was given twice')
}

const place = { owner: 'order', topic: 't.order', partition: 3 }

function decodeAll(bytes: Buffer, from = 0): { offset: number; at: number; message: WireMessage }[] {
  const found: { offset: number; at: number; message: WireMessage }[] = []
  readBatches(bytes, from, null, (record, offset, at) => {
    found.push({ offset, at, message: decodeRecord(record, place, offset) })
  })
  return found
}

test('what is written as a batch is read as it was, headers named like ours and like nothing else included', () => {
  const headers = JSON.parse('{"bus-id":"mine","bus-type":"","bus-body":"x","__proto__":"odd","größe":"£5 ✓"}')
  const messages: WireMessage[] = [
    { id: 'one', type: 'order.placed', key: 'Zoë', headers, body: 'x'.repeat(100_000) },
    { id: 'ö'.repeat(70), type: 'order.ärger', key: null, headers: {}, body: '' },
    { id: 'three', type: 'order.placed', key: '', headers: {}, body: Uint8Array.of(0, 255, 128) },
  ]
  const at = 1_790_000_000_000
  const records = messages.map((message, index) => measure(message, at + index * 70_000))
  const bytes = encodeBatch(records, { producerId: 1n, producerEpoch: 0, sequence: 0 })
  const found = decodeAll(bytes)
  for (const [index, { offset, at: readAt, message }] of found.entries()) {
    const { body, ...rest } = message
    const { body: sent, ...expected } = messages[index]!
    assert.deepEqual(Object.entries(rest.headers), Object.entries(expected.headers))
    assert.deepEqual({ ...rest, headers: {} }, { ...expected, headers: {} })
    assert.deepEqual(
      typeof sent === 'string' ? body : [...(body as Uint8Array)],
      typeof sent === 'string' ? sent : [...sent],
    )
    assert.deepEqual([offset, readAt], [index, at + index * 70_000])
  }
  assert.equal(found.length, 3)
  assert.deepEqual(
    decodeAll(bytes, 2).map(({ offset }) => offset),
    [2],
    'what lies before is left out',
  )
  assert.equal(
    decodeAll(bytes.subarray(0, bytes.length - 1)).length,
    0,
    'a batch that is cut off is left for next time',
  )
})

test("a stranger's compressed batch is read", () => {
  const records = ['a', 'b'].map((text) => ({
    topic: 't',
    partition: 3,
    key: Buffer.from(text),
    value: Buffer.from(text.repeat(1_000)),
  }))
  const batch = createRecordsBatch(records, { compression: 'gzip' })
  const bytes = Buffer.from(batch.buffer)
  const found = decodeAll(bytes)
  assert.deepEqual(
    found.map(({ message }) => [message.id, message.type, message.key, message.body.length]),
    [
      ['t.order/3/0', 'order', 'a', 1_000],
      ['t.order/3/1', 'order', 'b', 1_000],
    ],
  )
})

test('every owner has a topic of its own, whatever its letters', () => {
  assert.equal(topicName('p.', 'order'), 'p.order')
  const names = ['größe', 'gr.f6', 'a b', 'a_b', 'a/b', 'Ä', 'bus'].map((owner) => topicName('', owner))
  assert.equal(new Set(names).size, names.length)
  for (const name of names) assert.match(name, /^[A-Za-z0-9._-]+$/)
})

test('a broker that is too old is refused, whether it knows the question which versions it has or not', async () => {
  // Before 2.4 the answer to a question of a version it does not know is one of version 0, with a code.
  const unsupported = Buffer.from([0, 35, 0, 0, 0, 0])
  // Metadata (3) up to version 9, and nothing else.
  const old = Buffer.from([0, 0, 2, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0])
  for (const body of [unsupported, old]) {
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('data', (request: Buffer) => {
        const head = Buffer.alloc(4)
        head.writeInt32BE(4 + body.length)
        socket.write(Buffer.concat([head, request.subarray(8, 12), body]))
      })
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const transport = kafkaTransport(`kafka://127.0.0.1:${(server.address() as AddressInfo).port}`)
    try {
      await assert.rejects(transport.open(), { code: 'transport_refused', message: /too old.*Use Kafka 3\.1 or later/ })
    } finally {
      await transport.close()
      for (const socket of sockets) socket.destroy()
      server.close()
    }
  }
})
