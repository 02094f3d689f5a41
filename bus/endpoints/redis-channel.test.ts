import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Arrival } from '../endpoint.ts'
import { silentLog } from '../log.ts'
import { bridgeSuite } from '../testing/bridge-suite.ts'
import { eventually } from '../testing/eventually.ts'
import { needs } from '../testing/servers/needs.ts'
import { startProxy } from '../testing/servers/proxy.ts'
import { startRedis } from '../testing/servers/redis.ts'
import { strangers } from '../testing/strangers.ts'
import { inWorld } from '../testing/world.ts'
import { redisChannel } from './redis-channel.ts'

const { url, skip } = await needs('redis')

bridgeSuite('redis channel', {
  url,
  skip,
  startServer: () => startRedis(),
  endpoint: (at, channel) => redisChannel(at, { channel }),
  stranger: strangers.redis.open,
  keeps: false,
})

test(
  'redis channel: the window holds, what comes beyond it waits in a bounded buffer, and what is lost is counted',
  { skip },
  () =>
    inWorld(async (world) => {
      const lost: unknown[] = []
      const log = { ...silentLog, error: (about: unknown) => void lost.push((about as { count: number }).count) }
      const endpoint = redisChannel(url, { channel: world.name })
      world.defer(() => endpoint.close())
      const inHand: Arrival[] = []
      await endpoint.open({ log })
      await endpoint.receive({
        name: 'x',
        windowMax: 2,
        receive: (arrivals) => void inHand.push(...arrivals),
        lost: () => {},
      })
      const they = await strangers.redis.open(url, world.name)
      world.defer(() => they[Symbol.asyncDispose]())
      const notes = 10_050
      for (let start = 0; start < notes; start += 50)
        await Promise.all(Array.from({ length: 50 }, (_, index) => they.say(`${start + index}`)))
      await eventually(() => (lost as number[]).reduce((sum, count) => sum + count, 0) === notes - 10_000 - 2, {
        message: '48 are counted as lost',
      })
      assert.equal(inHand.length, 2)
      assert.equal(await endpoint.waiting(), 10_000)
      endpoint.settle(inHand[0]!, 'taken')
      assert.deepEqual(
        inHand.map(({ body }) => String(body)),
        ['0', '1', '2'],
      )
    }),
)

test('redis channel: a wrong password is refused and is not in the message', { skip }, () =>
  inWorld(async (world) => {
    const wrong = new URL(url)
    wrong.username = 'nobody'
    wrong.password = 'not-the-password'
    const endpoint = redisChannel(String(wrong), { channel: world.name })
    world.defer(() => endpoint.close())
    const error = await endpoint
      .open({ log: silentLog })
      .catch((refused: unknown) => refused as Error & { code: string })
    assert.equal(error!.code, 'transport_refused')
    assert.doesNotMatch(error!.message, /not-the-password/)
  }),
)

test('redis channel: Q2 a connection that falls silent is noticed, and made again', { skip, timeout: 60_000 }, () =>
  inWorld(async (world) => {
    const proxy = await startProxy({ target: Number(new URL(url).port) })
    world.defer(() => proxy[Symbol.asyncDispose]())
    const endpoint = redisChannel(proxy.through(url), { channel: world.name })
    world.defer(() => endpoint.close())
    const heard: string[] = []
    const receive = (arrivals: Arrival[]) => void heard.push(...arrivals.map(({ body }) => body.toString()))
    await endpoint.open({ log: silentLog })
    await endpoint.receive({ name: 'x', windowMax: 10, receive, lost: () => {} })
    proxy.silence()
    await eventually(() => !endpoint.state().ready, { timeoutMs: 30_000, message: 'the silence is noticed' })
    proxy.restore()
    await eventually(() => endpoint.state().ready, { timeoutMs: 20_000, message: 'it is there again' })
    const they = await strangers.redis.open(url, world.name)
    world.defer(() => they[Symbol.asyncDispose]())
    await they.say('after')
    await eventually(() => heard.includes('after'), { message: 'it is heard' })
  }),
)
