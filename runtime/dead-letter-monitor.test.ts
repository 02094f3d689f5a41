import assert from 'node:assert/strict'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { createWorld, eventually, virtualClock, type World } from '@shopsphere/bus/testing'
import {
  createDeadLetterMonitor,
  type DeadLetterCount,
  type DeadLetterMonitor,
  type DeadLetterMonitorOptions,
} from './dead-letter-monitor.ts'
import { createLog } from './log.ts'
import { verifyWebhook } from './webhook-signature.ts'

type Posted = { headers: IncomingHttpHeaders; body: Uint8Array; content: any }

/** Somebody who takes webhooks, in the way that `answer` says: a status, or no answer at all. */
async function receiver(world: World) {
  const posted: Posted[] = []
  const how: { answer: number | null } = { answer: 204 }
  const server = createServer(async (request, response) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    posted.push({ headers: request.headers, body, content: JSON.parse(body.toString()) })
    if (how.answer !== null) response.writeHead(how.answer, { location: '/elsewhere' }).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  world.defer(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/alerts`, posted, how }
}

const letters = (count: number, subscription = 'order'): DeadLetterCount => ({
  ...{ kind: 'service', service: 'order', subscription, count },
  look: 'GET /api/operations/dead-letters?service=order',
})

/** A monitor of one source, which answers `counts.now`, or fails where that is null. */
function watched(world: World, options: Partial<DeadLetterMonitorOptions> = {}) {
  const clock = virtualClock()
  const counts: { now: readonly DeadLetterCount[] | null; looks: number } = { now: [], looks: 0 }
  const lines: { msg: string; subscription?: string; count?: number; more?: number; kind?: string }[] = []
  const log = createLog('warn', { write: (text) => lines.push(JSON.parse(text)) })
  const source = async () => {
    counts.looks++
    if (counts.now === null) throw new Error('the database is away')
    return counts.now
  }
  const monitor = createDeadLetterMonitor({ sources: [source], clock, log, ...options })
  world.defer(() => monitor.close())
  const warned = () => lines.map(({ subscription, count, more }) => [subscription, count, more])
  return { clock, counts, lines, monitor, warned }
}

async function seen(monitor: DeadLetterMonitor, counts: { now: unknown }, ...all: (DeadLetterCount[] | null)[]) {
  for (const now of all) {
    counts.now = now
    await monitor.look()
  }
}

test('M1 it warns when a count rises, with how many more, and never again of the same ones', async () => {
  await using world = await createWorld()
  const { monitor, counts, warned, lines } = watched(world)
  await seen(monitor, counts, [], [letters(2)], [letters(2)], [letters(2), letters(1, 'audit')], [letters(5)])
  assert.deepEqual(warned(), [
    ['order', 2, 2],
    ['audit', 1, 1],
    ['order', 5, 3],
  ])
  assert.match(lines[0]!.msg, /more dead letters/)
})

test('M1 fewer than alertMin are not told of; then all of them are', async () => {
  await using world = await createWorld()
  const { monitor, counts, warned } = watched(world, { alertMin: 3 })
  await seen(monitor, counts, [letters(1)], [letters(2)], [letters(3)], [letters(3)], [letters(4)])
  assert.deepEqual(warned(), [
    ['order', 3, 3],
    ['order', 4, 1],
  ])
})

test('M2 messages that somebody holds for one look are not new when they are back; after two looks they are', async () => {
  await using world = await createWorld()
  const { monitor, counts, warned } = watched(world)
  await seen(monitor, counts, [letters(3)], [], [letters(3)], [letters(1)], [letters(3)])
  assert.deepEqual(warned(), [['order', 3, 3]])
  await seen(monitor, counts, [letters(1)], [letters(1)], [letters(2)], [], [], [letters(1)])
  assert.deepEqual(warned().slice(1), [
    ['order', 2, 1],
    ['order', 1, 1],
  ])
})

test('M4 a source that cannot be asked changes nothing and hides no other', async () => {
  await using world = await createWorld()
  const broker = { ...letters(7), kind: 'broker' } as const
  const counts: { now: DeadLetterCount[] | null } = { now: [letters(3)] }
  const ours = async () => counts.now ?? Promise.reject(new Error('the database is away'))
  const { monitor, warned } = watched(world, { sources: [ours, async () => [broker]] })
  await seen(monitor, counts, null)
  assert.deepEqual(warned(), [['order', 7, 7]])
  await seen(monitor, counts, [letters(3)], null, null, null, [letters(3)])
  assert.deepEqual(warned().slice(1), [['order', 3, 3]])
})

test('watching, it looks at once and every ten seconds, until it is closed', async () => {
  await using world = await createWorld()
  const { monitor, counts, clock, warned } = watched(world)
  counts.now = [letters(1)]
  monitor.watch()
  await clock.settle()
  assert.deepEqual(warned(), [['order', 1, 1]])
  counts.now = [letters(2)]
  await clock.advance(10_000)
  assert.deepEqual(warned()[1], ['order', 2, 1])
  await clock.advance(30_000)
  assert.equal(counts.looks, 5)
  await monitor.close()
  await monitor.close()
  await clock.advance(30_000)
  assert.equal(counts.looks, 5)
})

test('M3 the webhook says whose, how many, how many more and where to look, signed after Standard Webhooks', async () => {
  await using world = await createWorld()
  const { url, posted } = await receiver(world)
  const secret = Buffer.from('a secret of 24 bytes, so.')
  const { monitor, counts, clock } = watched(world, { webhook: { url, secret } })
  await seen(monitor, counts, [letters(2)], [letters(5)])
  await eventually(() => posted.length === 2)
  const [first, second] = posted as [Posted, Posted]
  assert.deepEqual(first.content, {
    type: 'dead_letters.risen',
    timestamp: new Date(clock.now()).toISOString(),
    data: { ...letters(2), more: 2 },
  })
  assert.deepEqual([second.content.data.count, second.content.data.more], [5, 3])
  for (const { headers, body } of posted) {
    assert.equal(headers['content-type'], 'application/json')
    const checked = { headers: new Headers(headers as Record<string, string>), body, nowMs: clock.now() }
    assert.equal(verifyWebhook(secret, checked), headers['webhook-id'])
  }
  assert.notEqual(first.headers['webhook-id'], second.headers['webhook-id'])
})

test('M3 without a secret it is not signed; it has an id all the same', async () => {
  await using world = await createWorld()
  const { url, posted } = await receiver(world)
  const { monitor, counts } = watched(world, { webhook: { url, secret: null } })
  await seen(monitor, counts, [letters(1)])
  await eventually(() => posted.length === 1)
  assert.match(posted[0]!.headers['webhook-id'] as string, /^msg_/)
  assert.equal(posted[0]!.headers['webhook-signature'], undefined)
})

test('M3 a webhook that is refused comes again under its id; what rises meanwhile is one with what waits', async () => {
  await using world = await createWorld()
  const { url, posted, how } = await receiver(world)
  const { monitor, counts, clock, lines } = watched(world, {
    webhook: { url, secret: null },
    retryDelaysMs: [1_000, 5_000],
  })
  how.answer = 503
  await seen(monitor, counts, [letters(1)])
  await eventually(() => clock.pending() === 1)
  await seen(monitor, counts, [letters(2)], [letters(4)])
  how.answer = 302 // a redirection is no receipt
  await clock.advance(1_000)
  await eventually(() => posted.length === 2 && clock.pending() === 1)
  how.answer = 200
  await clock.advance(5_000)
  await eventually(() => posted.length === 4)
  assert.deepEqual(
    posted.map(({ content: { data } }) => [data.count, data.more]),
    [
      [1, 1],
      [1, 1],
      [1, 1],
      [4, 3],
    ],
  )
  const ids = posted.map(({ headers }) => headers['webhook-id'])
  assert.equal(new Set(ids.slice(0, 3)).size, 1)
  assert.notEqual(ids[3], ids[0])
  const said = (words: string) => lines.filter(({ msg }) => msg.includes(words)).length
  assert.deepEqual([said('more dead letters'), said('not taken and is tried again')], [3, 1], 'the log has each, once')
})

test('M3 one that nobody answers holds up no look, is given up and said so; the next is sent', async () => {
  await using world = await createWorld()
  const { url, posted, how } = await receiver(world)
  const { monitor, counts, clock, lines } = watched(world, {
    ...{ webhook: { url, secret: null }, retryDelaysMs: [1_000], answerMaxMs: 100 },
  })
  how.answer = null
  await seen(monitor, counts, [letters(1)])
  assert.equal(lines.length, 1, 'the look is over, and the log told, before anybody answered')
  await eventually(() => clock.pending() === 1)
  assert.match(lines[1]!.msg, /not taken and is tried again/)
  await clock.advance(1_000)
  await eventually(() => lines.length === 3)
  assert.match(lines[2]!.msg, /given up: see to DEAD_LETTER_WEBHOOK/)
  how.answer = 204
  await seen(monitor, counts, [letters(3)])
  await eventually(() => posted.length === 3)
  assert.deepEqual([posted[2]!.content.data.count, posted[2]!.content.data.more], [3, 2])
})

test('M3 one subscription whose webhook is tried again holds up no other', async () => {
  await using world = await createWorld()
  const { url, posted, how } = await receiver(world)
  const { monitor, counts, clock } = watched(world, { webhook: { url, secret: null } })
  how.answer = 500
  await seen(monitor, counts, [letters(1)])
  await eventually(() => clock.pending() === 1)
  how.answer = 200
  await seen(monitor, counts, [letters(1), letters(2, 'audit')])
  await eventually(() => posted.length === 2)
  assert.equal(posted[1]!.content.data.subscription, 'audit')
})

test('M3 closing waits neither for an answer nor for the next try', async () => {
  await using world = await createWorld()
  const { url, posted, how } = await receiver(world)
  const unanswered = watched(world, { webhook: { url, secret: null } })
  how.answer = null
  await seen(unanswered.monitor, unanswered.counts, [letters(1)])
  await eventually(() => posted.length === 1)
  await unanswered.monitor.close()
  const retried = watched(world, { webhook: { url, secret: null } })
  how.answer = 500
  await seen(retried.monitor, retried.counts, [letters(1)])
  await eventually(() => retried.clock.pending() === 1)
  await retried.monitor.close()
  assert.deepEqual([posted.length, retried.clock.pending()], [2, 0])
})
