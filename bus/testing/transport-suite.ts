/**
 * What a transport is: whatever passes these cases. They know nothing but the interface, so they hold for an embedded
 * log as for a broker across the network. Run them beside your own transport:
 *
 *   transportSuite('my broker', { open: (world, { clock }) => myTransport({ prefix: world.name, clock }) })
 *
 * Several transports opened in one world stand for several processes on one broker.
 */
import assert from 'node:assert/strict'
import { type Clock, systemClock } from '../clock.ts'
import { idMaker, type WireMessage } from '../message.ts'
import type { Binding, Delivery, Lease, SubscriptionSpec, Transport, TransportCapabilities } from '../transport.ts'
import { eventually } from './eventually.ts'
import { consume, FACT_TIMEOUT_MS } from './inbox.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import { type VirtualClock, virtualClock } from './virtual-clock.ts'
import type { World } from './world.ts'

export type TransportSuiteOptions = {
  /**
   * Another transport on the world's broker, as another process would make it; it need not be open yet. The world closes
   * nothing of yours but what you `defer`; transports are closed by the suite.
   */
  open: (world: World, options: { clock: Clock }) => Transport | Promise<Transport>
  /** True where leases run out by the clock given to `open`, not by a server's; else what shows that is skipped. */
  leasesFollowClock?: boolean
  /** Real milliseconds in which an idle consumer must hear of a message (B15); 500 by default. */
  wakeWithinMs?: number
}

/** Virtual time that passes while a wake-up is measured: enough for a delay that gathers a batch, too little for a poll. */
const GATHERING_MAX_MS = 10
/** Longer than any transport's lease. */
const LEASE_SURELY_OVER_MS = 300_000

const newId = idMaker(systemClock, Math.random)

export function transportSuite(name: string, options: TransportSuiteOptions, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)
  const wakeWithinMs = options.wakeWithinMs ?? 500

  /** Registers a case; `needs` names the capability without which it says nothing. */
  function check(
    title: string,
    run: (place: Place) => Promise<void>,
    needs?: keyof TransportCapabilities | 'leasesFollowClock',
  ): void {
    register(title, async (world, context) => {
      const place = new Place(world, options)
      if (needs && !(await place.has(needs))) context.skip(`this transport's capability '${needs}' is false`)
      else await run(place)
    })
  }

  // B7: who gets what ------------------------------------------------------------------------------------------------

  const types = ['order', 'order.placed', 'order.shipped', 'order.line.added', 'return.placed', 'cart.line.added']
  const patterns: Record<string, string[]> = {
    'order.placed': ['order.placed'],
    'order.*': ['order.placed', 'order.shipped'],
    '*.placed': ['order.placed', 'return.placed'],
    '*': ['order'],
    '*.*': ['order.placed', 'order.shipped', 'return.placed'],
    '#': types,
    'order.#': ['order', 'order.placed', 'order.shipped', 'order.line.added'],
    '#.placed': ['order.placed', 'return.placed'],
    '#.added': ['order.line.added', 'cart.line.added'],
    '*.line.*': ['order.line.added', 'cart.line.added'],
    '#.line.#': ['order.line.added', 'cart.line.added'],
    'order.*.added': ['order.line.added'],
    '*.*.#': ['order.placed', 'order.shipped', 'order.line.added', 'return.placed', 'cart.line.added'],
  }

  check('B7 topic patterns: * is one word, # any number of words', async ({ open }) => {
    const transport = await open()
    const entries = Object.entries(patterns)
    for (const [index, [pattern]] of entries.entries()) {
      await transport.declare(subscription(`pattern-${index}`, { kind: 'topic', pattern }))
    }
    await transport.publish(types.map((type) => message(type)))
    for (const [index, [pattern, expected]] of entries.entries()) {
      await waits(transport, `pattern-${index}`, expected.length)
      const inbox = await consume(transport, `pattern-${index}`)
      await inbox.until(expected.length)
      const got = inbox.deliveries.map((delivery) => delivery.message.type)
      assert.deepEqual(got.sort(), [...expected].sort(), `pattern ${pattern}`)
      await inbox.close()
    }
  })

  check('B7 direct takes exactly its type', async ({ open }) => {
    const got = await routed(await open(), { kind: 'direct', type: 'order.placed' }, [
      message('order.placed'),
      message('order'),
      message('order.placed.late'),
      message('order.placed'),
    ])
    assert.deepEqual(got, [0, 3])
  })

  check('B7 fanout takes everything', async ({ open }) => {
    const got = await routed(
      await open(),
      { kind: 'fanout' },
      types.map((type) => message(type)),
    )
    assert.deepEqual(got, [0, 1, 2, 3, 4, 5])
  })

  const headerSets: Record<string, string>[] = [
    { country: 'GB', channel: 'web', campaign: 'spring' },
    { country: 'GB', channel: 'web' },
    { country: 'GB', channel: 'shop' },
    { country: 'FR' },
    {},
  ]
  const headed = headerSets.map((headers) => message('order.placed', { headers }))

  check('B7 headers, match all: every header must be there with its value', async ({ open }) => {
    const binding: Binding = { kind: 'headers', match: 'all', headers: { country: 'GB', channel: 'web' } }
    assert.deepEqual(await routed(await open(), binding, headed), [0, 1])
  })

  check('B7 headers, match any: one of them is enough', async ({ open }) => {
    const binding: Binding = { kind: 'headers', match: 'any', headers: { country: 'GB', channel: 'web' } }
    assert.deepEqual(await routed(await open(), binding, headed), [0, 1, 2])
  })

  check('B7 a message that several bindings take arrives once', async ({ open }) => {
    const transport = await open()
    const overlapping: Binding[] = [
      { kind: 'topic', pattern: 'order.*' },
      { kind: 'topic', pattern: '#' },
      { kind: 'direct', type: 'order.placed' },
      { kind: 'headers', match: 'any', headers: { country: 'GB' } },
    ]
    await transport.declare(subscription('overlap', ...overlapping))
    const messages = [
      message('order.placed', { key: 'k', headers: { country: 'GB' } }),
      message('user.left', { key: 'k' }),
    ]
    await transport.publish(messages)
    const inbox = await consume(transport, 'overlap')
    await inbox.until(2)
    assert.deepEqual(inbox.ids(), ids(messages))
  })

  check('B7 a malformed binding is refused when it is declared', async ({ open }) => {
    const transport = await open()
    for (const pattern of ['', 'order*', 'order..placed', '.order']) {
      const declared = transport.declare(subscription('malformed', { kind: 'topic', pattern }))
      await assert.rejects(declared, { code: 'invalid_argument' }, `pattern '${pattern}'`)
    }
    await assert.rejects(
      transport.declare(subscription('malformed')),
      { code: 'invalid_argument' },
      'no binding at all',
    )
    assert.deepEqual(await transport.subscriptions(), [])
  })

  // B2: everyone hears -----------------------------------------------------------------------------------------------

  check('B2 a subscription gets every matching message also while nobody consumes', async ({ open }) => {
    const first = await open()
    await first.declare(everything('kept'))
    const messages = series(50, { keys: 10 })
    await first.publish(messages.slice(0, 25))
    await first.close()
    const second = await open()
    await second.publish(messages.slice(25))
    const inbox = await consume(second, 'kept')
    await inbox.until(50)
    assert.deepEqual(inbox.ids().sort(), ids(messages).sort())
  })

  check('B2 two subscriptions each get all', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('one'))
    await transport.declare(everything('two'))
    const messages = series(100, { keys: 10 })
    const one = await consume(transport, 'one')
    await transport.publish(messages)
    const two = await consume(transport, 'two')
    for (const inbox of [one, two]) {
      await inbox.until(100)
      assert.deepEqual(inbox.ids().sort(), ids(messages).sort())
    }
  })

  check('B2 a new subscription begins now: earlier messages are not for it', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('early'))
    await transport.publish([message('a.b', { key: 'k' })])
    await transport.declare(everything('late'))
    const after = message('a.b', { key: 'k' })
    await transport.publish([after])
    const inbox = await consume(transport, 'late')
    await inbox.until(1)
    assert.deepEqual(inbox.ids(), [after.id])
    assert.equal((await transport.backlog('early')).waiting, 2)
  })

  check(
    'B2 a new subscription from the beginning gets what the broker still keeps, in order',
    async ({ open }) => {
      const transport = await open()
      const messages = series(60, { keys: 3 })
      await transport.publish(messages.slice(0, 40))
      await transport.declare({ ...everything('replay'), from: 'beginning' })
      await transport.publish(messages.slice(40))
      const inbox = await consume(transport, 'replay')
      await inbox.until(60)
      assertOrderPerKey(inbox.deliveries, messages)
    },
    'keepsHistory',
  )

  check('B2 declaring again is fine: what waits stays, from is not looked at again', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('again'))
    const messages = series(6, { keys: 1 })
    await transport.publish(messages.slice(0, 4))
    const before = await consume(transport, 'again', { windowMax: 2, ack: false })
    await before.until(2)
    before.consumer.ack(before.deliveries)
    await before.until(4)
    await before.close()
    await transport.declare(everything('again'))
    await (await open()).declare({ ...everything('again'), from: 'beginning' })
    await transport.publish(messages.slice(4))
    const inbox = await consume(transport, 'again')
    await inbox.until(4)
    assert.deepEqual(inbox.ids(), ids(messages.slice(2)))
  })

  check('B7 declaring again replaces the bindings, also while it is consumed', async ({ open }) => {
    const transport = await open()
    await transport.declare(subscription('moving', { kind: 'direct', type: 'old.type' }))
    const inbox = await consume(transport, 'moving')
    const [before, refused, wanted] = ['old.type', 'old.type', 'new.type'].map((type) => message(type, { key: 'k' }))
    await transport.publish([before!, message('new.type', { key: 'k' })])
    await inbox.until(1)
    await transport.declare(subscription('moving', { kind: 'direct', type: 'new.type' }))
    await transport.publish([refused!, wanted!])
    await inbox.until(2)
    assert.deepEqual(inbox.ids(), ids([before!, wanted!]))
  })

  check('B7 a publisher in another process learns of new bindings at once', async ({ open }) => {
    const [publisher, consumer] = [await open(), await open()]
    await consumer.declare(subscription('moving', { kind: 'direct', type: 'old.type' }))
    const inbox = await consume(consumer, 'moving')
    await publisher.publish([message('old.type', { key: 'k' })])
    await inbox.until(1)
    await consumer.declare(subscription('moving', { kind: 'direct', type: 'new.type' }))
    await publisher.publish([message('old.type', { key: 'k' }), message('new.type', { key: 'k' })])
    await inbox.until(2)
    assert.deepEqual(
      inbox.deliveries.map((delivery) => delivery.message.type),
      ['old.type', 'new.type'],
    )
  })

  check('B2 remove forgets what waits; the same name then begins anew', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('gone'))
    await transport.publish(series(10, { keys: 3 }))
    await transport.remove('gone')
    assert.deepEqual(await transport.subscriptions(), [])
    await transport.declare(everything('gone'))
    const after = message('a.b')
    await transport.publish([after])
    await waits(transport, 'gone', 1)
    const inbox = await consume(transport, 'gone')
    await inbox.until(1)
    assert.deepEqual(inbox.ids(), [after.id])
  })

  check('B2 subscriptions() names the durable ones, also to other processes', async ({ open }) => {
    const transport = await open()
    assert.deepEqual(await transport.subscriptions(), [])
    await transport.declare(everything('lasting-b'))
    await transport.declare(everything('lasting-a'))
    await transport.declare({ ...everything('passing'), ephemeral: true })
    assert.deepEqual((await transport.subscriptions()).sort(), ['lasting-a', 'lasting-b'])
    assert.deepEqual((await (await open()).subscriptions()).sort(), ['lasting-a', 'lasting-b'])
  })

  check('B2 an ephemeral subscription works, and ends with the process that made it', async ({ open }) => {
    const [maker, other] = [await open(), await open()]
    await maker.declare({ ...everything('passing'), ephemeral: true })
    const inbox = await consume(maker, 'passing')
    await other.publish([message('a.b')])
    await inbox.until(1)
    await maker.close()
    await other.publish([message('a.b')])
    await other.declare({ ...everything('passing'), ephemeral: true })
    const after = message('a.b')
    await other.publish([after])
    const next = await consume(other, 'passing')
    await next.until(1)
    assert.deepEqual(next.ids(), [after.id])
  })

  check('B2 consuming what nobody declared is refused', async ({ open }) => {
    const transport = await open()
    await assert.rejects(transport.consume('nowhere', { windowMax: 1, receive() {} }), { code: 'not_found' })
    await assert.rejects(transport.backlog('nowhere'), { code: 'not_found' })
  })

  // B3: order by key -------------------------------------------------------------------------------------------------

  check('B3 messages of one key arrive in the order of publication, among many keys', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('ordered'))
    const inbox = await consume(transport, 'ordered', { windowMax: 50 })
    const messages = series(1_000, { keys: 40 })
    for (let start = 0; start < messages.length; start += 70) await transport.publish(messages.slice(start, start + 70))
    await inbox.until(1_000)
    assertOrderPerKey(inbox.deliveries, messages)
  })

  check('B3 one batch keeps its order, also of one key alone', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('ordered'))
    const messages = series(500, { keys: 1 })
    await transport.publish(messages)
    const inbox = await consume(transport, 'ordered', { windowMax: 7 })
    await inbox.until(500)
    assert.deepEqual(inbox.ids(), ids(messages))
  })

  check('B1 order per key: publishers of different keys at the same time, over two processes', async ({ open }) => {
    const transports = [await open(), await open()]
    await transports[0]!.declare(everything('ordered'))
    const inbox = await consume(transports[0]!, 'ordered')
    const messages = series(320, { keys: 16 })
    const publishKey = async (key: string, transport: Transport) => {
      for (const one of messages.filter((candidate) => candidate.key === key)) await transport.publish([one])
    }
    const keys = [...new Set(messages.map(({ key }) => key!))]
    await Promise.all(keys.map((key, index) => publishKey(key, transports[index % 2]!)))
    await inbox.until(320)
    assertOrderPerKey(inbox.deliveries, messages)
  })

  check('B3 one key arrives in order of publication across two consumers that come and go', async ({ open }) => {
    const [first, second, publisher] = [await open(), await open(), await open()]
    await first.declare(everything('ordered'))
    const messages = series(600, { keys: 30 })
    const seen: Delivery[] = []
    const one = await consume(first, 'ordered', { windowMax: 20, into: seen })
    await publisher.publish(messages.slice(0, 150))
    await consume(second, 'ordered', { windowMax: 20, into: seen })
    await publisher.publish(messages.slice(150, 300))
    await untilDistinct(300, seen)
    await publisher.publish(messages.slice(300, 450))
    await one.close()
    await publisher.publish(messages.slice(450))
    await untilDistinct(600, seen)
    assertOrderPerKey(firstTimes(seen), messages)
  })

  // What is carried --------------------------------------------------------------------------------------------------

  check('a message arrives as it left: id, type, key, headers, body', async ({ open }) => {
    const headers = { plain: 'x', 'x-empty': '', 'with space': 'größe £5 ✓ 日本', quote: `"'\\` }
    await arrivesIntact(await open(), [
      message('order.placed', { key: 'Zoë/85123A £', headers, body: '{"text":"line\\nbreak"}' }),
      message('order.placed', { key: null, headers: {}, body: '{}' }),
      message('order.placed', { key: '', body: 'an empty key is a key' }),
    ])
  })

  check('text bodies arrive intact: unicode, empty, control characters', async ({ open }) => {
    const bodies = ['', ' ', '\u0000\u0001\n', 'naïve – 日本語 – 🛒👩‍👩‍👧 – \u2028', '{"a":1}', 'é'.repeat(10_000)]
    await arrivesIntact(
      await open(),
      bodies.map((body) => message('order.placed', { key: 'k', body })),
    )
  })

  check('binary bodies arrive intact: every byte, none, what is no UTF-8', async ({ open }) => {
    const bodies = [
      Uint8Array.from({ length: 256 }, (_, byte) => byte),
      new Uint8Array(0),
      Uint8Array.of(0xff, 0xfe, 0xc0, 0x80),
    ]
    await arrivesIntact(
      await open(),
      bodies.map((body) => message('order.placed', { key: 'k', body })),
    )
  })

  check('a body of 1 MB arrives intact, text and bytes', async ({ open }) => {
    const bytes = Uint8Array.from({ length: 1_000_000 }, (_, index) => (index * 31) & 0xff)
    await arrivesIntact(await open(), [
      message('order.placed', { key: 'k', body: 'x'.repeat(1_000_000) }),
      message('order.placed', { key: 'k', body: bytes }),
    ])
  })

  check('an empty batch is fine and delivers nothing', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('empty'))
    await transport.publish([])
    assert.deepEqual(await transport.backlog('empty'), { waiting: 0, oldestAt: null })
  })

  check('a batch of 5,000 arrives whole and in order', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('big'))
    const messages = series(5_000, { keys: 100 })
    await transport.publish(messages)
    const inbox = await consume(transport, 'big', { windowMax: 500 })
    await inbox.until(5_000)
    assertOrderPerKey(inbox.deliveries, messages)
  })

  check('B11 a batch may be published again: nothing is refused, nothing else lost', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('twice'))
    const messages = series(20, { keys: 1 })
    await transport.publish(messages.slice(0, 10))
    await transport.publish(messages) // as after a confirm that got lost
    const inbox = await consume(transport, 'twice')
    await inbox.untilIds((seen) => seen.size === 20)
    assertOrderPerKey(firstTimes(inbox.deliveries), messages)
  })

  // B10: bounded -----------------------------------------------------------------------------------------------------

  for (const windowMax of [1, 10]) {
    check(`B10 never more than windowMax = ${windowMax} unacknowledged`, async ({ open }) => {
      const transport = await open()
      await transport.declare(everything('bounded'))
      await transport.publish(series(100, { keys: 20 }))
      const held: Delivery[] = []
      let most = 0
      const inbox = await consume(transport, 'bounded', {
        windowMax,
        ack: false,
        onReceive(deliveries) {
          held.push(...deliveries)
          most = Math.max(most, held.length)
        },
      })
      for (let acked = 0; acked < 100; acked++) {
        await inbox.until(() => held.length > 0)
        // A random one, so that what is oldest stays unacknowledged for a while.
        inbox.consumer.ack(held.splice(Math.floor(Math.random() * held.length), 1))
      }
      assert.ok(most <= windowMax, `${most} were unacknowledged at once`)
      await waits(transport, 'bounded', 0)
    })
  }

  check('B10 never more than windowBytesMax unacknowledged, and one that is larger comes alone', async ({ open }) => {
    const windowBytesMax = 1_000_000
    const transport = await open()
    await transport.declare(everything('heavy'))
    // 1 MiB is larger than the whole window.
    const bytes = (index: number) => (index % 8 === 5 ? 1_048_576 : 400_000)
    const messages = series(24, { keys: 3 }).map((message, index) => ({ ...message, body: 'x'.repeat(bytes(index)) }))
    for (const message of messages) await transport.publish([message])
    const held: Delivery[] = []
    const bytesHeld = () => held.reduce((sum, { message }) => sum + message.body.length, 0)
    let most = 0
    const inbox = await consume(transport, 'heavy', {
      windowBytesMax,
      ack: false,
      onReceive(deliveries) {
        held.push(...deliveries)
        most = Math.max(most, held.length)
        assert.ok(
          held.length === 1 || bytesHeld() <= windowBytesMax,
          `${bytesHeld()} bytes were unacknowledged at once`,
        )
      },
    })
    for (let acked = 0; acked < messages.length; acked++) {
      await inbox.until(() => held.length > 0)
      inbox.consumer.ack(held.splice(Math.floor(Math.random() * held.length), 1))
    }
    assert.equal(most, 2, 'the window is used')
    assertOrderPerKey(firstTimes(inbox.deliveries), messages)
    await waits(transport, 'heavy', 0)
  })

  check('B10 a consumer that acknowledges nothing slows nobody else', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('slow'))
    await transport.declare(everything('quick'))
    const slow = await consume(transport, 'slow', { windowMax: 1, ack: false })
    const quick = await consume(transport, 'quick', { windowMax: 10 })
    await transport.publish(series(300, { keys: 10 }))
    await quick.until(300)
    await slow.until(1)
    assert.equal(slow.deliveries.length, 1)
    assert.equal((await transport.backlog('slow')).waiting, 300)
  })

  check('B10 backlog says how many wait and since when', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('counted'))
    await transport.declare(subscription('other', { kind: 'direct', type: 'never.said' }))
    const beforeMs = Date.now()
    await transport.publish(series(30, { keys: 5 }))
    const afterMs = Date.now()
    await waits(transport, 'counted', 30)
    const { oldestAt } = await transport.backlog('counted')
    // A server's clock may stand a little apart from ours.
    assert.ok(oldestAt! >= beforeMs - 1_000 && oldestAt! <= afterMs + 1_000, `oldestAt ${oldestAt}`)
    assert.deepEqual(await transport.backlog('other'), { waiting: 0, oldestAt: null })

    const inbox = await consume(transport, 'counted', { ack: false })
    await inbox.until(30)
    assert.equal((await transport.backlog('counted')).waiting, 30, 'handed over is not acknowledged')
    inbox.consumer.ack(inbox.deliveries.filter((_, index) => index % 2 === 0))
    await waits(transport, 'counted', 15)
    inbox.consumer.ack(inbox.deliveries.filter((_, index) => index % 2 === 1))
    await waits(transport, 'counted', 0)
    assert.equal((await transport.backlog('counted')).oldestAt, null)
  })

  // B8: competing consumers ------------------------------------------------------------------------------------------

  check('B8 two processes share a subscription: every message goes to one of them', async ({ open }) => {
    const [first, second] = [await open(), await open()]
    await first.declare(everything('shared'))
    const seen: Delivery[] = []
    const one = await consume(first, 'shared', { into: seen })
    const two = await consume(second, 'shared', { into: seen })
    const published = await publishUntil(first, () => one.deliveries.length > 0 && two.deliveries.length > 0)
    await untilDistinct(published.length, seen)
    await waits(first, 'shared', 0)
    for (const [index, again] of seen.entries()) {
      const first = seen[indexOfId(seen, again)]!
      assert.ok(
        seen[index] === first || again.lease.epoch > first.lease.epoch,
        'only a change of hands gives a message twice',
      )
    }
    assertOrderPerKey(firstTimes(seen), published)
  })

  check(
    'B8 when one closes, the other takes over its share, what it left unacknowledged included',
    async ({ open }) => {
      const [first, second] = [await open(), await open()]
      await first.declare(everything('shared'))
      const stuck = await consume(first, 'shared', { ack: false })
      const messages = series(64, { keys: 64 })
      await first.publish(messages)
      await stuck.until(64)
      const other = await consume(second, 'shared')
      await stuck.close()
      await other.untilIds((seen) => seen.size === 64)
      const after = series(64, { keys: 64 })
      await second.publish(after)
      await other.untilIds((seen) => seen.size === 128)
      await waits(second, 'shared', 0)
    },
  )

  check('B8 when a whole transport closes, its consumers hand over', async ({ open }) => {
    const [first, second] = [await open(), await open()]
    await first.declare(everything('shared'))
    const stuck = await consume(first, 'shared', { ack: false })
    const other = await consume(second, 'shared')
    const published = await publishUntil(second, () => stuck.deliveries.length > 0)
    await first.close()
    await other.untilIds((seen) => seen.size === published.length)
  })

  check('B8 a key keeps its shard, and the epoch grows whenever a shard changes hands', async ({ open }) => {
    const [first, second] = [await open(), await open()]
    await first.declare(everything('shared'))
    const epochs: Map<number, number>[] = []
    const one = await consume(first, 'shared')
    await publishUntil(first, () => one.deliveries.length >= 64)
    epochs.push(latestEpochs(one.deliveries))
    const two = await consume(second, 'shared')
    await publishUntil(first, () => two.deliveries.length > 0)
    await two.close()
    epochs.push(latestEpochs(two.deliveries))
    const back = one.deliveries.length
    const moved = [...epochs[1]!.keys()]
    await publishUntil(first, () => moved.every((shard) => latestEpochs(one.deliveries.slice(back)).has(shard)))
    epochs.push(latestEpochs(one.deliveries))
    for (const shard of moved) {
      const [before, meanwhile, after] = epochs.map((held) => held.get(shard))
      if (before !== undefined) assert.ok(before < meanwhile!, `shard ${shard}: epoch ${before}, then ${meanwhile}`)
      assert.ok(meanwhile! < after!, `shard ${shard}: epoch ${meanwhile}, then ${after}`)
    }
    const shards = new Map<string, number>()
    for (const { message, lease } of [...one.deliveries, ...two.deliveries]) {
      assert.equal(shards.get(message.key!) ?? lease.shard, lease.shard, `key ${message.key} moved to another shard`)
      shards.set(message.key!, lease.shard)
    }
  })

  check('B8 the epoch grows also when the subscription is removed and made again', async ({ open }) => {
    const transport = await open()
    const highest: number[] = []
    for (let round = 0; round < 3; round++) {
      await transport.declare(everything('shared'))
      const inbox = await consume(transport, 'shared')
      await transport.publish([message('a.b', { key: 'k' })])
      await inbox.until(1)
      highest.push(inbox.deliveries[0]!.lease.epoch)
      await inbox.close()
      await transport.remove('shared')
    }
    assert.ok(highest[0]! < highest[1]! && highest[1]! < highest[2]!, `epochs ${highest.join(', ')}`)
  })

  check(
    'B8 whoever loses a shard to a newcomer is told before another is handed what it holds, and may acknowledge late',
    async ({ open }) => {
      const [first, second] = [await open(), await open()]
      await first.declare(everything('shared'))
      const revoked: Lease[] = []
      const loser = await consume(first, 'shared', { ack: false, revoked: (lease) => revoked.push(lease) })
      const published = await publishUntil(first, () => loser.deliveries.length >= 64)
      const newcomer = await consume(second, 'shared')
      // A transport may wait until what is in flight is done, so the loser finishes its work, but is always a little behind.
      let finished = 0
      const shared = () => {
        loser.consumer.ack(loser.deliveries.slice(0, finished))
        finished = loser.deliveries.length
        return newcomer.deliveries.length > 0
      }
      published.push(...(await publishUntil(first, shared)))
      // Whatever both were handed, the loser was told to leave.
      const told = new Set(revoked.map(({ shard, epoch }) => `${shard}/${epoch}`))
      const taken = new Set(newcomer.ids())
      for (const { message, lease } of loser.deliveries.filter(({ message }) => taken.has(message.id))) {
        assert.ok(told.has(`${lease.shard}/${lease.epoch}`), `${message.key} went to another while its lease was held`)
      }
      loser.acksItself()
      loser.consumer.ack(loser.deliveries) // some of it under leases that are gone
      await untilDistinct(published.length, loser.deliveries, newcomer.deliveries)
      await waits(first, 'shared', 0)
    },
  )

  check(
    'B8 a frozen process loses its share when its lease is over, and learns of it when it wakes',
    async ({ openOn }) => {
      const [frozenClock, liveClock] = [virtualClock(), virtualClock()]
      const [frozen, live] = [await openOn(frozenClock), await openOn(liveClock)]
      await frozen.declare(everything('shared'))
      const revoked: Lease[] = []
      const lost = await consume(frozen, 'shared', { ack: false, revoked: (lease) => revoked.push(lease) })
      await frozen.publish(series(64, { keys: 64 }))
      await drive([frozenClock, liveClock], () => lost.deliveries.length === 64)
      const taker = await consume(live, 'shared')
      await drive([liveClock], () => distinct(taker.deliveries) === 64)
      const epochs = latestEpochs(lost.deliveries)
      for (const { lease, redelivered } of taker.deliveries) {
        assert.ok(lease.epoch > epochs.get(lease.shard)!, 'the epoch must grow')
        assert.ok(redelivered, 'the process that was lost may have begun on it')
      }
      await frozenClock.advance(LEASE_SURELY_OVER_MS)
      await drive([frozenClock], () => revoked.length >= epochs.size)
    },
    'leasesFollowClock',
  )

  // B12: stopping ----------------------------------------------------------------------------------------------------

  check('B12 after close and reopen, what was not acknowledged comes again, the rest does not', async ({ open }) => {
    const first = await open()
    await first.declare(everything('kept'))
    const messages = series(20, { keys: 1 })
    await first.publish(messages)
    const before = await consume(first, 'kept', { ack: false })
    await before.until(20)
    before.consumer.ack(before.deliveries.slice(0, 12))
    await first.close()

    const second = await open()
    await waits(second, 'kept', 8)
    const after = await consume(second, 'kept')
    await after.until(8)
    assert.deepEqual(after.ids(), ids(messages.slice(12)))
    await waits(second, 'kept', 0)
  })

  check('B12 acknowledged out of order, then reopened: every hole comes again, in order', async ({ open }) => {
    const first = await open()
    await first.declare(everything('holes'))
    const messages = series(60, { keys: 3 })
    await first.publish(messages)
    const before = await consume(first, 'holes', { ack: false })
    await before.until(60)
    const holes = messages.filter((_, index) => index % 7 === 0)
    const holeIds = new Set(ids(holes))
    const acked = before.deliveries.filter(({ message }) => !holeIds.has(message.id)).reverse()
    for (const delivery of acked) before.consumer.ack([delivery])
    await before.close()
    await first.close()

    const second = await open()
    const after = await consume(second, 'holes')
    await after.untilIds((seen) => holes.every(({ id }) => seen.has(id)))
    // A broker that keeps a cursor may bring again what was acknowledged behind a hole; a queue will not.
    assertOrderPerKey(
      after.deliveries.filter(({ message }) => holeIds.has(message.id)),
      holes,
    )
    await waits(second, 'holes', 0)
  })

  check('B12 a closed consumer receives nothing more; another takes up where it stopped', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('paused'))
    const before = await consume(transport, 'paused')
    const messages = series(40, { keys: 1 })
    await transport.publish(messages.slice(0, 20))
    await before.until(20)
    await before.close()
    await transport.publish(messages.slice(20))
    const after = await consume(transport, 'paused')
    await after.until(20)
    assert.deepEqual(before.ids(), ids(messages.slice(0, 20)))
    assert.deepEqual(after.ids(), ids(messages.slice(20)))
  })

  check('B12 acknowledging twice, or after the consumer closed, does no harm', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('repeated'))
    const messages = series(10, { keys: 1 })
    await transport.publish(messages)
    const before = await consume(transport, 'repeated', { ack: false })
    await before.until(10)
    before.consumer.ack(before.deliveries.slice(0, 5))
    before.consumer.ack(before.deliveries.slice(0, 5))
    before.consumer.ack([])
    await before.close()
    before.consumer.ack(before.deliveries.slice(0, 5))
    await waits(transport, 'repeated', 5)
  })

  check(
    'B12 the whole broker is left and opened again: subscriptions and messages are still there',
    async ({ open }) => {
      const first = await open()
      await first.declare(everything('kept'))
      const messages = series(200, { keys: 20 })
      await first.publish(messages)
      await first.close()
      const second = await open()
      assert.deepEqual(await second.subscriptions(), ['kept'])
      const inbox = await consume(second, 'kept')
      await inbox.until(200)
      assertOrderPerKey(inbox.deliveries, messages)
    },
  )

  check('opening twice and closing twice are fine, the consumer too', async ({ open }) => {
    const transport = await open()
    await Promise.all([transport.open(), transport.open()])
    await transport.declare(everything('twice'))
    const { consumer } = await consume(transport, 'twice')
    await Promise.all([consumer.close(), consumer.close()])
    await consumer.close()
    await Promise.all([transport.close(), transport.close()])
    await transport.close()
    await consumer.close()
  })

  check('closing while opening is fine, and closed it stays', async ({ make, open }) => {
    const transport = await make()
    const opening = transport.open().catch(() => {})
    await transport.close()
    await opening
    await assert.rejects(transport.publish([message('a.b')]), { code: 'bus_closed' })
    await (await open()).declare(everything('unharmed'))
  })

  check('closing while a consumer is busy lets nothing through afterwards', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('busy'))
    const inbox = await consume(transport, 'busy', { windowMax: 5 })
    await transport.publish(series(500, { keys: 20 }))
    await inbox.until(20)
    await transport.close()
    const received = inbox.deliveries.length
    const other = await open()
    const rest = await consume(other, 'busy')
    await untilDistinct(500, inbox.deliveries, rest.deliveries)
    assert.equal(inbox.deliveries.length, received)
  })

  check('after close everything is refused with bus_closed', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('refused'))
    await transport.close()
    const refused = { code: 'bus_closed' }
    await assert.rejects(transport.publish([message('a.b')]), refused)
    await assert.rejects(transport.declare(everything('refused')), refused)
    await assert.rejects(transport.consume('refused', { windowMax: 1, receive() {} }), refused)
    await assert.rejects(transport.backlog('refused'), refused)
  })

  check('one consumer per subscription and transport object; after it closed, another', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('single'))
    const first = await consume(transport, 'single')
    await assert.rejects(transport.consume('single', { windowMax: 1, receive() {} }), { code: 'invalid_argument' })
    await first.close()
    const second = await consume(transport, 'single')
    await transport.publish([message('a.b')])
    await second.until(1)
  })

  check('the consumer is there before the first delivery', async ({ open }) => {
    const transport = await open()
    await transport.declare(everything('ready'))
    await transport.publish(series(10, { keys: 2 }))
    let answered = false
    let tooEarly = false
    const inbox = await consume(transport, 'ready', {
      ack: false,
      ready() {
        answered = true
      },
      onReceive() {
        tooEarly ||= !answered
      },
    })
    await inbox.until(10)
    assert.equal(tooEarly, false)
  })

  // B15: waking ------------------------------------------------------------------------------------------------------

  check(
    'B15 an idle consumer hears of what another process publishes without waiting for a poll',
    async ({ openOn }) => {
      const clock = virtualClock()
      const [consumer, publisher] = [await openOn(clock), await openOn(clock)]
      await consumer.declare(everything('idle'))
      const inbox = await consume(consumer, 'idle')
      let expected = 1
      const warm = publisher.publish([message('a.b', { key: 'k' })])
      await drive([clock], () => inbox.deliveries.length === expected)
      await warm
      for (let round = 0; round < 5; round++) {
        await drive([clock], async () => (await consumer.backlog('idle')).waiting === 0)
        const startedMs = performance.now()
        const published = publisher.publish([message('a.b', { key: `k${round}` })])
        const gathering = clock.advance(GATHERING_MAX_MS)
        await inbox.until(++expected)
        const tookMs = performance.now() - startedMs
        assert.ok(tookMs <= wakeWithinMs, `took ${tookMs.toFixed(0)} ms while the transport's own timers stood still`)
        await Promise.all([published, gathering])
      }
    },
  )
}

/** One case's world, and the transports that it opens there. */
class Place {
  readonly #world: World
  readonly #options: TransportSuiteOptions

  constructor(world: World, options: TransportSuiteOptions) {
    this.#world = world
    this.#options = options
  }

  /** A transport as it is made, perhaps not open yet. */
  make = async (clock: Clock = systemClock): Promise<Transport> => {
    const transport = await this.#options.open(this.#world, { clock })
    this.#world.defer(() => transport.close())
    return transport
  }

  async has(capability: keyof TransportCapabilities | 'leasesFollowClock'): Promise<boolean> {
    if (capability === 'leasesFollowClock') return this.#options.leasesFollowClock ?? false
    return (await this.make()).capabilities[capability]
  }

  open = (): Promise<Transport> => this.openOn(systemClock)

  openOn = async (clock: Clock): Promise<Transport> => {
    const transport = await this.make(clock)
    await transport.open()
    return transport
  }
}

function subscription(name: string, ...bindings: Binding[]): SubscriptionSpec {
  return { name, bindings, from: 'now' }
}

function everything(name: string): SubscriptionSpec {
  return subscription(name, { kind: 'fanout' })
}

function message(type: string, parts: Partial<Omit<WireMessage, 'id' | 'type'>> = {}): WireMessage {
  const { key = null, headers = {}, body = '{}' } = parts
  return { id: newId(), type, key, headers, body }
}

/** `count` messages that go round `keys` keys. */
function series(count: number, { keys }: { keys: number }): WireMessage[] {
  return Array.from({ length: count }, (_, index) =>
    message('order.placed', { key: `key-${index % keys}`, body: `${index}` }),
  )
}

function ids(messages: readonly WireMessage[]): string[] {
  return messages.map(({ id }) => id)
}

function distinct(deliveries: readonly Delivery[]): number {
  return new Set(deliveries.map(({ message }) => message.id)).size
}

function indexOfId(deliveries: readonly Delivery[], { message }: Delivery): number {
  return deliveries.findIndex((other) => other.message.id === message.id)
}

function firstTimes(deliveries: readonly Delivery[]): Delivery[] {
  const seen = new Set<string>()
  return deliveries.filter(({ message }) => !seen.has(message.id) && seen.add(message.id))
}

function assertOrderPerKey(deliveries: readonly Delivery[], published: readonly WireMessage[]): void {
  assert.equal(deliveries.length, published.length)
  const arrived = Map.groupBy(deliveries, ({ message }) => message.key)
  for (const [key, expected] of Map.groupBy(published, (one) => one.key)) {
    const got = arrived.get(key)?.map(({ message }) => message.id)
    assert.deepEqual(got, ids(expected), `key ${key} is out of order`)
  }
}

function latestEpochs(deliveries: readonly Delivery[]): Map<number, number> {
  return new Map(deliveries.map(({ lease }) => [lease.shard, lease.epoch]))
}

async function waits(transport: Transport, name: string, count: number): Promise<void> {
  const counted = async () => {
    const { waiting } = await transport.backlog(name)
    return waiting === count || assert.fail(`${waiting} wait`)
  }
  await eventually(counted, { timeoutMs: FACT_TIMEOUT_MS, message: `${count} messages should wait for '${name}'` })
}

/** So many different messages have arrived at these inboxes together. */
async function untilDistinct(count: number, ...inboxes: (readonly Delivery[])[]): Promise<void> {
  const arrived = () => {
    const got = distinct(inboxes.flat())
    return got === count || assert.fail(`${got} arrived`)
  }
  await eventually(arrived, { timeoutMs: FACT_TIMEOUT_MS, message: `${count} messages should have arrived` })
}

/** The positions, in `messages`, of those that a subscription with this one binding got. */
async function routed(transport: Transport, binding: Binding, messages: readonly WireMessage[]): Promise<number[]> {
  await transport.declare(subscription('routed', binding))
  await transport.declare(everything('witness'))
  const inbox = await consume(transport, 'routed')
  const witness = await consume(transport, 'witness')
  const last = { ...message('order.placed', { headers: { country: 'GB', channel: 'web' } }) }
  await transport.publish(messages)
  await witness.until(messages.length)
  await transport.publish([last])
  await inbox.untilIds((seen) => seen.has(last.id))
  await waits(transport, 'routed', 0)
  return messages.flatMap(({ id }, index) => (inbox.ids().includes(id) ? [index] : []))
}

async function arrivesIntact(transport: Transport, messages: readonly WireMessage[]): Promise<void> {
  await transport.declare(everything('intact'))
  const inbox = await consume(transport, 'intact', { windowMax: 1 })
  await transport.publish(messages)
  await inbox.until(messages.length)
  for (const sent of messages) {
    const got = inbox.deliveries.find((delivery) => delivery.message.id === sent.id)!.message
    const { body, headers, ...attributes } = got
    assert.deepEqual({ ...headers }, sent.headers)
    assert.deepEqual({ ...attributes }, { id: sent.id, type: sent.type, key: sent.key })
    if (typeof sent.body === 'string') {
      assert.equal(typeof body, 'string', 'text must arrive as text')
      assert.ok(body === sent.body, `text of ${sent.body.length} characters arrived changed`)
    } else {
      assert.ok(body instanceof Uint8Array, 'bytes must arrive as bytes')
      assert.ok(Buffer.compare(body, sent.body) === 0, `${sent.body.length} bytes arrived changed`)
    }
  }
}

/** Publishes 64 keys again and again until the fact holds: who consumes which shard settles in its own time. */
async function publishUntil(transport: Transport, fact: () => boolean): Promise<WireMessage[]> {
  const published: WireMessage[] = []
  const publishRound = async () => {
    const round = series(64, { keys: 64 })
    published.push(...round)
    await transport.publish(round)
    return fact()
  }
  await eventually(publishRound, { timeoutMs: FACT_TIMEOUT_MS, intervalMs: 20, message: 'the shares did not settle' })
  return published
}

/** Moves virtual time on, in small steps beside real ones, until the fact holds. */
async function drive(clocks: readonly VirtualClock[], fact: () => boolean | Promise<boolean>): Promise<void> {
  const step = async () => {
    if (await fact()) return true
    for (const clock of clocks) await clock.advance(250)
    return false
  }
  await eventually(step, {
    timeoutMs: FACT_TIMEOUT_MS,
    intervalMs: 2,
    message: 'the fact did not come true as time moved on',
  })
}
