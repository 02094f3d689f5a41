/** The parts of the RabbitMQ transport that need no server. */
import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import { gatherWrites } from './rabbitmq-link.ts'

/** A socket's side that counts: what one call of the system would take is one entry. */
function socket() {
  const calls: string[] = []
  const stream = new Writable({
    write(chunk, _, done) {
      calls.push(String(chunk))
      done()
    },
    writev(chunks, done) {
      calls.push(chunks.map(({ chunk }) => String(chunk)).join(''))
      done()
    },
  })
  gatherWrites(stream)
  return { stream, calls }
}

test('L4 what is written in one turn leaves at once, in its order; what follows in the next', async () => {
  const { stream, calls } = socket()
  for (const text of ['a', 'b', 'c']) stream.write(Buffer.from(text))
  assert.deepEqual(calls, [])
  await new Promise(setImmediate)
  assert.deepEqual(calls, ['abc'])
  stream.write(Buffer.from('d'))
  await new Promise(setImmediate)
  assert.deepEqual(calls, ['abc', 'd'])
})

test('L4 a stream that ends in the same turn has sent all that was written before', async () => {
  const { stream, calls } = socket()
  stream.write(Buffer.from('a'))
  stream.write(Buffer.from('b'))
  const finished = new Promise((resolve) => stream.once('finish', resolve))
  stream.end()
  await finished
  assert.deepEqual(calls, ['ab'])
})

test('L4 a stream that is full says so, and goes on once it is empty', async () => {
  const { stream, calls } = socket()
  const large = Buffer.alloc(stream.writableHighWaterMark, 'x')
  assert.equal(stream.write(large), false)
  await new Promise((resolve) => stream.once('drain', resolve))
  assert.equal(calls.length, 1)
})
