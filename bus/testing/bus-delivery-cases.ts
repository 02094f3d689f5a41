/** B1, B2, B3, B7, B8: who hears what, how often, in which order. */
import assert from 'node:assert/strict'
import type { Bus } from '../bus.ts'
import { PermanentError } from '../errors.ts'
import { sql } from '../sql.ts'
import type { Tx } from '../store.ts'
import type { Binding, Delivery, Transport } from '../transport.ts'
import {
  altered,
  answered,
  assertInOrder,
  byNumber,
  type Check,
  exactBackoff,
  keysOf,
  randomTurns,
  type Saying,
  type SetUp,
  said,
  shouted,
} from './bus-stage.ts'

export function deliveryCases(check: Check): void {
  // B1: all or nothing -----------------------------------------------------------------------------------------------

  check('B1 a transaction that is rolled back publishes nothing, and its error comes out', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    const error = new Error('changed my mind')
    const failing = shop.bus.transaction(async ({ tx, publish }) => {
      publish(said, { about: 'a', number: 1 })
      publish(said, { about: 'a', number: 2 }, { delayMs: 1_000 })
      await stage.note(tx, 1)
      throw error
    })
    await assert.rejects(failing, (caught) => caught === error)
    await shop.bus.publish(said, { about: 'a', number: 3 })
    await stage.advance(2_000)
    assert.deepEqual(await stage.numbers(clerk), [3])
    assert.deepEqual(await stage.numbers(shop), [])
  })

  check('B1 state and publications commit together, and the answer of the work comes back', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    const answer = await shop.bus.transaction(async ({ tx, publish }) => {
      for (const number of [1, 2, 3]) publish(said, { about: 'a', number })
      await stage.note(tx, 7)
      return 'done'
    })
    assert.equal(answer, 'done')
    assert.deepEqual(await stage.numbers(shop), [7])
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk), [1, 2, 3])
  })

  check('B1 what is published arrives in order by key, over many transactions and keys', async (stage) => {
    const keys = keysOf(10)
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 20; number++) {
      await shop.bus.transaction(({ publish }) => {
        for (const about of keys) publish(said, { about, number })
      })
    }
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), keys, 20)
  })

  check(
    'B1 64 transactions at the same time, a third of them rolled back: what committed arrives, in order',
    async (stage) => {
      const keys = keysOf(8)
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const shop = await stage.run('shop', () => {})
      await shop.store.migrate('counter', 'create table counter (about text primary key, number bigint)')
      const one = (index: number) =>
        shop.bus.transaction(async ({ tx, publish }) => {
          const about = keys[index % keys.length]!
          const row = await tx.get<{ number: number }>(sql`
          insert into counter (about, number) values (${about}, ${1})
          on conflict (about) do update set number = counter.number + 1 returning number`)
          publish(said, { about, number: row!.number })
          await randomTurns(stage.random, 3)
          if (index % 3 === 2) throw new Error('rolled back')
        })
      const outcomes = await Promise.allSettled(Array.from({ length: 64 }, (_, index) => one(index)))
      await stage.quiet()
      const committed = outcomes.filter(({ status }) => status === 'fulfilled').length
      assert.equal(committed, 43)
      const heard = await stage.heard(clerk)
      assert.equal(heard.length, committed)
      for (const [about, rows] of Map.groupBy(heard, (row) => row.about)) {
        const expected = rows.map((_, index) => index + 1)
        assert.deepEqual(
          rows.map(({ number }) => number),
          expected,
          `${about}`,
        )
      }
    },
  )

  check(
    'B1 a handler that fails publishes nothing and writes nothing; the try that succeeds does, once',
    async (stage) => {
      const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const failing = hears((data, { publish, attempt }) => {
          publish(answered, { about: data.about, number: attempt })
        })
        const handler: typeof failing = async (data, context) => {
          await failing(data, context)
          if (context.attempt < 3) throw new Error('not yet')
        }
        bus.subscribe(said, handler, { backoff: exactBackoff })
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.publish(said, { about: 'a', number: 1 })
      await stage.quiet()
      assert.deepEqual(await stage.numbers(clerk), [])
      await stage.until(async () => (await stage.heard(clerk)).length > 0)
      await stage.advance(10_000)
      assert.deepEqual(
        (await stage.heard(clerk)).map(({ attempt }) => attempt),
        [3],
      )
      assert.deepEqual(await stage.numbers(listener), [3])
    },
  )

  check('B1 one message that fails among many that are handled together undoes nothing of theirs', async (stage) => {
    const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ about, number }, { publish }) => {
        publish(answered, { about, number })
        if (number === 13) throw new PermanentError('unlucky')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.transaction(({ publish }) => {
      for (let number = 1; number <= 40; number++) publish(said, { about: `key-${number}`, number })
    })
    await stage.quiet()
    const others = Array.from({ length: 40 }, (_, index) => index + 1).filter((number) => number !== 13)
    assert.deepEqual((await stage.numbers(clerk)).sort(byNumber), others)
    assert.deepEqual((await stage.numbers(listener)).sort(byNumber), others)
    assert.equal((await clerk.bus.deadLetters.list()).length, 1)
  })

  // B2: everyone hears, once in effect -------------------------------------------------------------------------------

  check('B2 every subscription of every service hears each message once', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      bus.subscribe(said, hears())
      bus.subscribe(said, hears(undefined, 'clerk-audit'), { name: 'clerk-audit' })
    })
    const other = await stage.run('other', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', (bus, { hears }) => bus.subscribe(said, hears()))
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await shop.bus.publish(said, { about: 'a', number: 2 })
    await stage.quiet()
    for (const process of [other, shop]) assert.deepEqual(await stage.numbers(process), [1, 2])
    assert.deepEqual(await stage.numbers(clerk, 'a', 'clerk'), [1, 2])
    assert.deepEqual(await stage.numbers(clerk, 'a', 'clerk-audit'), [1, 2])
  })

  check('B2 what was said while a service was away reaches it when it is back', async (stage) => {
    const subscribe = (bus: Bus, { hears }: Parameters<SetUp>[1]) => bus.subscribe(said, hears())
    const before = await stage.run('clerk', subscribe)
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    await before.stop()
    for (const number of [2, 3, 4]) await shop.bus.publish(said, { about: 'a', number })
    await stage.quiet()
    const after = await stage.run('clerk', subscribe)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(after), [1, 2, 3, 4])
  })

  check('B2 the broker is handed everything twice: effects and publications happen once, in order', async (stage) => {
    const twice = (inner: Transport) =>
      altered(inner, {
        async publish(messages) {
          await inner.publish(messages)
          await inner.publish(messages) // as after a confirm that got lost
        },
      })
    const keys = keysOf(5)
    const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
    const clerk = await stage.run(
      'clerk',
      (bus, { hears }) =>
        bus.subscribe(
          said,
          hears(({ about, number }, { publish }) => publish(answered, { about, number })),
        ),
      { through: twice },
    )
    const shop = await stage.run('shop', () => {}, { through: twice })
    for (let number = 1; number <= 20; number++) {
      for (const about of keys) await shop.bus.publish(said, { about, number })
    }
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), keys, 20)
    assertInOrder(await stage.heard(listener), keys, 20)
  })

  check(
    'B2 every acknowledgement is lost: after a restart all come again, and none has a second effect',
    async (stage) => {
      const deaf = (inner: Transport) =>
        altered(inner, {
          async consume(name, consuming) {
            const consumer = await inner.consume(name, consuming)
            return { ack() {}, close: () => consumer.close() }
          },
        })
      let received = 0
      const counting = (inner: Transport) =>
        altered(inner, {
          consume: (name, consuming) =>
            inner.consume(name, {
              ...consuming,
              receive(deliveries) {
                received += deliveries.length
                consuming.receive(deliveries)
              },
            }),
        })
      const keys = keysOf(4)
      const before = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()), { through: deaf })
      const shop = await stage.run('shop', () => {})
      for (let number = 1; number <= 10; number++)
        for (const about of keys) await shop.bus.publish(said, { about, number })
      await stage.until(async () => (await stage.heard(before)).length === 40)
      await before.stop()
      const after = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()), { through: counting })
      await stage.quiet()
      assert.equal(received, 40)
      assertInOrder(await stage.heard(after), keys, 10)
    },
  )

  check('B2 a message published again under its id has no second effect', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    const id = shop.bus.newId()
    for (let round = 0; round < 3; round++) await shop.bus.publish(said, { about: 'a', number: 1 }, { id })
    await stage.quiet()
    const heard = await stage.heard(clerk)
    assert.deepEqual(
      heard.map(({ message_id }) => message_id),
      [id],
    )
  })

  check(
    'B2 all handlers of a subscription run in one transaction, in order: if one fails, none happened',
    async (stage) => {
      let failures = 0
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const mark =
          (number: number) =>
          async (_: Saying, { tx }: { tx: Tx }) =>
            stage.note(tx, number)
        bus.subscribe(said, mark(100))
        bus.subscribe('shop.*', hears(), {})
        const last = async (_: Saying, { tx }: { tx: Tx }) => {
          await stage.note(tx, 200)
          if (failures++ < 2) throw new Error('the last one fails')
        }
        bus.subscribe(said, last, {})
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.publish(said, { about: 'a', number: 1 })
      await stage.until(async () => (await stage.heard(clerk)).length > 0)
      assert.equal(failures, 3)
      assert.deepEqual(await stage.numbers(clerk), [100, 1, 200])
    },
  )

  // B3: order by key -------------------------------------------------------------------------------------------------

  check('B3 events of different types with one key are handled in the order in which they were said', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe([said, shouted], hears()))
    const shop = await stage.run('shop', () => {})
    const keys = keysOf(6)
    for (let number = 1; number <= 30; number++) {
      for (const about of keys) await shop.bus.publish(number % 2 ? said : shouted, { about, number })
    }
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), keys, 30)
  })

  check('B3 work outside runs for `concurrency` keys at the same time, and never twice for one key', async (stage) => {
    const concurrency = 4
    const running = new Set<string>()
    let most = 0
    const all = Promise.withResolvers<void>()
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const outside = async ({ about }: Saying) => {
        assert.ok(!running.has(about!), `two of ${about} at the same time`)
        running.add(about!)
        most = Math.max(most, running.size)
        if (running.size === concurrency) all.resolve()
        await all.promise // nobody goes on before so many have come
        await randomTurns(stage.random, 5)
        running.delete(about!)
        return `about ${about}`
      }
      const writes = hears()
      bus.subscribe(
        said,
        {
          outside,
          async handle(data: Saying, context, answer: string) {
            assert.equal(answer, `about ${data.about}`)
            await writes(data, context)
          },
        },
        { concurrency },
      )
    })
    const shop = await stage.run('shop', () => {})
    const keys = keysOf(8)
    await shop.bus.transaction(({ publish }) => {
      for (let number = 1; number <= 5; number++) for (const about of keys) publish(said, { about, number })
    })
    await stage.quiet()
    assert.equal(most, concurrency)
    assertInOrder(await stage.heard(clerk), keys, 5)
  })

  check('B3 messages without a key are each handled once, whatever became of the others', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ number }) => {
        if (number === 5) throw new PermanentError('not this one')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 20; number++) await shop.bus.publish(said, { about: null, number })
    await stage.quiet()
    const expected = Array.from({ length: 20 }, (_, index) => index + 1).filter((number) => number !== 5)
    assert.deepEqual((await stage.numbers(clerk)).sort(byNumber), expected)
  })

  // B7: routing ------------------------------------------------------------------------------------------------------

  const interests: [title: string, topic: Parameters<Bus['subscribe']>[0], expected: number[]][] = [
    ['an event', said, [1, 3]],
    ['several events', [said, answered], [1, 3, 4]],
    ['a pattern of one word', 'shop.*', [1, 2, 3]],
    ['a pattern of any words', '#', [1, 2, 3, 4]],
    ['an end', '#.answered', [4]],
    ['direct', { kind: 'direct', type: 'shop.shouted' } satisfies Binding, [2]],
    ['fanout', { kind: 'fanout' } satisfies Binding, [1, 2, 3, 4]],
    ['headers', { kind: 'headers', match: 'all', headers: { urgent: 'yes' } } satisfies Binding, [3]],
    [
      'a mixture',
      [shouted, { kind: 'headers', match: 'any', headers: { urgent: 'yes', loud: 'no' } }, 'clerk.#'],
      [2, 3, 4],
    ],
  ]

  for (const [title, topic, expected] of interests) {
    check(`B7 a subscription to ${title} hears exactly what it asked for`, async (stage) => {
      const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(topic, hears()))
      const shop = await stage.run('shop', () => {})
      const clerk = await stage.run('clerk', () => {})
      await shop.bus.publish(said, { about: 'a', number: 1 })
      await shop.bus.publish(shouted, { about: 'a', number: 2 })
      await shop.bus.publish(said, { about: 'a', number: 3 }, { headers: { urgent: 'yes' } })
      await stage.quiet()
      await clerk.bus.publish(answered, { about: 'a', number: 4 })
      await stage.quiet()
      assert.deepEqual(await stage.numbers(listener), expected)
      assert.deepEqual(await listener.bus.deadLetters.list(), [])
    })
  }

  check('B7 a malformed pattern is refused when it is subscribed to', async (stage) => {
    await stage.run('clerk', (bus, { hears }) => {
      for (const pattern of ['shop*', '', 'shop..said']) {
        assert.throws(() => bus.subscribe(pattern, hears()), { code: 'invalid_argument' })
      }
    })
  })

  // B8: competing consumers ------------------------------------------------------------------------------------------

  check(
    'B8 two processes of one service share the work: once each, in order by key, both take part',
    async (stage) => {
      const setUp: SetUp = (bus, { hears }) => bus.subscribe(said, hears())
      const processes = [await stage.run('clerk', setUp), await stage.run('clerk', setUp)]
      const shop = await stage.run('shop', () => {})
      const keys = keysOf(40)
      let number = 0
      await stage.until(async () => {
        number++
        await shop.bus.transaction(({ publish }) => {
          for (const about of keys) publish(said, { about, number })
        })
        const heard = await stage.heard(processes[0]!)
        return new Set(heard.map(({ process }) => process)).size === 2
      }, 500)
      await stage.until(async () => (await stage.heard(processes[0]!)).length >= number * keys.length, 500)
      await stage.quiet()
      assertInOrder(await stage.heard(processes[0]!), keys, number)
    },
    'acrossProcesses',
  )

  check(
    'B8 when one of two processes leaves, the other takes over its messages, retries and timers',
    async (stage) => {
      let broken = true
      const setUp: SetUp = (bus, { hears }) => {
        const handler = hears(({ number }) => {
          if (broken && number === 2) throw new Error('not yet')
        })
        bus.subscribe(said, handler, { backoff: exactBackoff, attemptsMax: 20 })
      }
      const leaving = await stage.run('clerk', setUp)
      const shop = await stage.run('shop', () => {})
      const keys = keysOf(10)
      for (const number of [1, 2]) for (const about of keys) await shop.bus.publish(said, { about, number })
      await leaving.bus.publish(answered, { about: 'later', number: 1 }, { delayMs: 30_000 })
      await stage.quiet()
      const staying = await stage.run('clerk', setUp)
      const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
      await leaving.stop()
      broken = false
      for (const about of keys) await shop.bus.publish(said, { about, number: 3 })
      await stage.until(async () => (await stage.heard(staying)).length === 30, 500)
      assertInOrder(await stage.heard(staying), keys, 3)
      await stage.until(async () => (await stage.heard(listener)).length === 1, 1_000)
    },
    'acrossProcesses',
  )

  check('B8 what is done under a lease that another has taken since is not committed', async (stage) => {
    let stale = 0
    const frozen = (inner: Transport) =>
      altered(inner, {
        consume: (name, consuming) =>
          inner.consume(name, {
            ...consuming,
            receive(deliveries) {
              stale += deliveries.length
              const outdated = ({ message, lease, redelivered }: Delivery) => ({
                message,
                redelivered,
                lease: { shard: lease.shard, epoch: lease.epoch - 1_000_000 },
              })
              consuming.receive(deliveries.map(outdated))
            },
          }),
      })
    const setUp: SetUp = (bus, { hears }) => bus.subscribe(said, hears())
    const shop = await stage.run('shop', () => {})
    const first = await stage.run('clerk', setUp)
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    await first.stop()

    const thawed = await stage.run('clerk', setUp, { through: frozen })
    await shop.bus.publish(said, { about: 'a', number: 2 })
    await stage.until(() => stale > 0)
    await stage.clock.advance(1_000)
    assert.deepEqual(await stage.numbers(thawed), [1])
    await thawed.stop()

    const last = await stage.run('clerk', setUp)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(last), [1, 2])
  })

  check('B8 where one shard was taken, what came with it of the other shards is still handled', async (stage) => {
    const keys = keysOf(32)
    const shardOfKey = new Map<string, number>()
    const noting = (inner: Transport) =>
      altered(inner, {
        consume: (name, consuming) =>
          inner.consume(name, {
            ...consuming,
            receive(deliveries) {
              for (const { message, lease } of deliveries) shardOfKey.set(message.key!, lease.shard)
              consuming.receive(deliveries)
            },
          }),
      })
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()), { through: noting })
    const shop = await stage.run('shop', () => {})
    const sayToAll = (number: number) =>
      shop.bus.transaction(({ publish }) => {
        for (const about of keys) publish(said, { about, number })
      })
    await sayToAll(1)
    await stage.quiet()
    const taken = shardOfKey.get(keys[0]!)!
    const kept = keys.filter((key) => shardOfKey.get(key) !== taken)
    assert.ok(kept.length > 0 && kept.length < keys.length)
    await clerk.store.transaction(async (tx) => {
      const raised = await tx.run(sql`
        update bus_fence set epoch = epoch + 1 where subscription = ${'clerk'} and shard = ${taken}`)
      assert.equal(raised, 1)
    })
    await sayToAll(2)
    await stage.until(async () => (await stage.heard(clerk)).length === keys.length + kept.length)
    const ofKept = (await stage.heard(clerk)).filter(({ about }) => kept.includes(about!))
    assertInOrder(ofKept, kept, 2)
  })
}
