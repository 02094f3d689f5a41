/** B9, B10, B11, B12, B15: later, bounded, without a broker, across a stop, and awake. */
import assert from 'node:assert/strict'
import { UnavailableError } from '../errors.ts'
import type { Delivery, Transport } from '../transport.ts'
import {
  altered,
  answered,
  assertInOrder,
  type Check,
  exactBackoff,
  interrupted,
  keysOf,
  LATE_MAX_MS,
  randomTurns,
  type Saying,
  type SetUp,
  said,
  shouted,
  withDeadLetter,
} from './bus-stage.ts'

/** Timers that an idle bus may set in a virtual minute. */
const IDLE_TIMERS_PER_MINUTE_MAX = 200

export function timeCases(check: Check): void {
  // B9: later --------------------------------------------------------------------------------------------------------

  check('B9 published after a delay, or at a time: then, and not before', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    const startedAt = stage.clock.now()
    await shop.bus.publish(said, { about: 'a', number: 3 }, { at: startedAt + 20_000 })
    await shop.bus.publish(said, { about: 'a', number: 2 }, { delayMs: 10_000 })
    await shop.bus.publish(said, { about: 'a', number: 1 }, { at: startedAt - 5_000 })
    await stage.advance(9_900)
    assert.deepEqual(await stage.numbers(clerk), [1])
    assert.equal((await shop.bus.status()).timers, 2)
    await stage.advance(15_000)
    const heard = await stage.heard(clerk)
    assert.deepEqual(
      heard.map(({ number }) => number),
      [1, 2, 3],
    )
    for (const [index, dueMs] of [10_000, 20_000].entries()) {
      const lateMs = heard[index + 1]!.at - startedAt - dueMs
      assert.ok(lateMs >= 0 && lateMs <= LATE_MAX_MS, `came ${lateMs} ms after its time`)
    }
    for (const wrong of [{ delayMs: Number.NaN }, { at: Number.POSITIVE_INFINITY }]) {
      await assert.rejects(shop.bus.publish(said, { about: 'a', number: 4 }, wrong), { code: 'invalid_argument' })
    }
  })

  check('B9 cancelled by its id it never comes; cancelling what is not there is fine', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(async ({ number }, { cancel }) => {
        if (number === 1) await cancel('second')
      })
      bus.subscribe(said, handler)
      bus.subscribe(answered, hears())
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 5 }, { delayMs: 5_000, id: 'first' })
    await clerk.bus.publish(answered, { about: 'a', number: 6 }, { delayMs: 5_000, id: 'second' })
    await shop.bus.transaction(async ({ publish, cancel }) => {
      publish(said, { about: 'a', number: 7 }, { delayMs: 5_000, id: 'third' })
      await cancel('third')
    })
    await shop.bus.cancel('first')
    await shop.bus.cancel('nothing')
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk), [1])
    assert.equal((await shop.bus.status()).timers, 0)
  })

  check('B9 a cancellation in a transaction that is rolled back has not happened', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 }, { delayMs: 5_000, id: 'kept' })
    const failing = shop.bus.transaction(async ({ cancel }) => {
      await cancel('kept')
      throw new Error('rolled back')
    })
    await assert.rejects(failing, /rolled back/)
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk), [1])
  })

  check(
    'B9 a cancellation undone with its handler leaves what was planned before it in the same batch',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const handler = hears(async ({ about, number }, { publish, cancel, attempt }) => {
          if (number === 1) publish(answered, { about, number: 10 }, { id: 'timer', delayMs: 30_000 })
          if (number !== 2 || attempt > 1) return
          await cancel('timer')
          throw new Error('first try')
        })
        bus.subscribe(said, handler, { backoff: exactBackoff })
        bus.subscribe(answered, hears())
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.transaction(({ publish }) => {
        for (const number of [1, 2]) publish(said, { about: 'a', number })
        publish(said, { about: 'b', number: 3 })
      })
      await stage.until(async () => (await stage.heard(clerk)).length === 3)
      assert.deepEqual(await stage.numbers(clerk, 'a'), [1, 2])
      await stage.advance(40_000)
      assert.deepEqual(await stage.numbers(clerk, 'a'), [1, 2, 10])
    },
  )

  check('B9 planned twice and then cancelled in one transaction, it never comes', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    await shop.bus.transaction(async ({ publish, cancel }) => {
      for (const number of [1, 2]) publish(said, { about: 'a', number }, { id: 'timer', delayMs: 5_000 })
      await cancel('timer')
    })
    assert.equal((await shop.bus.status()).timers, 0)
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk), [])
  })

  check('B9 planned again under the same id, it is replaced: time and payload', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    const plan = (number: number, delayMs: number) =>
      shop.bus.publish(said, { about: 'a', number }, { delayMs, id: 'timer' })
    await plan(1, 5_000)
    await plan(2, 60_000)
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk), [])
    await plan(3, 1_000)
    await stage.advance(2_000)
    assert.deepEqual(await stage.numbers(clerk), [3])
    await plan(4, 1_000)
    await stage.advance(120_000)
    assert.deepEqual(await stage.numbers(clerk), [3, 4], 'an id that is free again plans anew')
  })

  check('B9 timers outlive a restart; what fell due meanwhile comes at once', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const before = await stage.run('shop', () => {})
    await before.bus.publish(said, { about: 'a', number: 1 }, { delayMs: 10_000 })
    await before.bus.publish(said, { about: 'a', number: 2 }, { delayMs: 100_000 })
    await before.stop()
    await stage.advance(50_000)
    assert.deepEqual(await stage.numbers(clerk), [])
    const after = await stage.run('shop', () => {})
    await stage.until(async () => (await stage.heard(clerk)).length === 1)
    assert.ok((await stage.heard(clerk))[0]!.at - stage.clock.now() <= LATE_MAX_MS)
    assert.equal((await after.bus.status()).timers, 1)
    await stage.until(async () => (await stage.heard(clerk)).length === 2, 1_000)
    assert.deepEqual(await stage.numbers(clerk), [1, 2])
  })

  check('B9 a cron publishes at each turn; turns missed while nothing ran are made up for once', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const turns: number[] = []
    const setUp: SetUp = (bus) => {
      const data = (turnAt: number): Saying => {
        turns.push(turnAt)
        return { about: 'cron', number: 1 }
      }
      bus.schedule({ name: 'every minute', cron: '* * * * *', event: said, data })
    }
    const startedAt = stage.clock.now()
    const before = await stage.run('shop', setUp)
    await stage.advance(3 * 60_000 + 1_000)
    const heard = await stage.heard(clerk)
    assert.equal(heard.length, 3)
    for (const [index, { at }] of heard.entries()) {
      const lateMs = at - startedAt - (index + 1) * 60_000
      assert.ok(lateMs >= 0 && lateMs <= LATE_MAX_MS, `turn ${index + 1} came ${lateMs} ms late`)
    }
    assert.equal(turns[0], startedAt + 60_000)
    await before.stop()
    await stage.advance(3 * 60_000)
    const after = await stage.run('shop', setUp)
    await stage.untilAwake(async () => (await stage.heard(clerk)).length === 4)
    await stage.advance(60_000)
    assert.equal((await stage.heard(clerk)).length, 5)
    await after.stop()
  })

  check(
    'B9 two processes of a service publish one turn of a cron once, and one timer once',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const setUp: SetUp = (bus) =>
        bus.schedule({ name: 'minute', cron: '* * * * *', event: said, data: { about: 'cron', number: 1 } })
      const shops = [await stage.run('shop', setUp), await stage.run('shop', setUp)]
      for (const [index, shop] of shops.entries()) {
        await shop.bus.publish(said, { about: `timer-${index}`, number: 1 }, { delayMs: 30_000 })
      }
      await stage.advance(3 * 60_000 + 10_000)
      assert.deepEqual(await stage.numbers(clerk, 'cron'), [1, 1, 1])
      assert.deepEqual(await stage.numbers(clerk, 'timer-0'), [1])
      assert.deepEqual(await stage.numbers(clerk, 'timer-1'), [1])
    },
    'acrossProcesses',
  )

  check('B9 a cron expression that makes no sense is refused at once', async (stage) => {
    await stage.run('shop', (bus) => {
      const schedule = (cron: string) =>
        bus.schedule({ name: cron, cron, event: said, data: { about: null, number: 1 } })
      for (const wrong of ['now and then', '61 * * * *', '0 0 30 2 *']) {
        assert.throws(() => schedule(wrong), { code: 'invalid_argument' }, wrong)
      }
    })
  })

  // B10, B11: bounded, and without a broker --------------------------------------------------------------------------

  check('B10 the bus never holds more than windowMax deliveries that it has not acknowledged', async (stage) => {
    const windowMax = 10
    let held = 0
    let most = 0
    const measuring = (inner: Transport) =>
      altered(inner, {
        async consume(name, consuming) {
          assert.ok(consuming.windowMax <= windowMax)
          const receive = (deliveries: Delivery[]) => {
            held += deliveries.length
            most = Math.max(most, held)
            consuming.receive(deliveries)
          }
          const consumer = await inner.consume(name, { ...consuming, receive })
          return {
            ack(deliveries) {
              held -= deliveries.length
              consumer.ack(deliveries)
            },
            close: () => consumer.close(),
          }
        },
      })
    const keys = keysOf(20)
    const shop = await stage.run('shop', () => {})
    const limits = { windowMax, batchMax: 4, concurrency: 4 }
    const setUp: SetUp = (bus, { hears }) =>
      bus.subscribe(said, { outside: () => randomTurns(stage.random, 3), handle: hears() })
    const clerk = await stage.run('clerk', setUp, { through: measuring, limits })
    await shop.bus.transaction(({ publish }) => {
      for (let number = 1; number <= 10; number++) for (const about of keys) publish(said, { about, number })
    })
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), keys, 10)
    assert.ok(most <= windowMax && most > 1, `${most} were held`)
    assert.equal(held, 0)
  })

  check(
    'B10 a batch to the broker has at most relayBatchBytesMax, and one that is larger goes alone',
    async (stage) => {
      const limits = { relayBatchBytesMax: 10_000, windowBytesMax: 8_000 }
      const batches: number[][] = []
      const windows: unknown[] = []
      const measuring = (inner: Transport) =>
        altered(inner, {
          publish(messages) {
            batches.push(messages.map(({ body }) => Buffer.byteLength(body)))
            return inner.publish(messages)
          },
          consume(name, consuming) {
            windows.push(consuming.windowBytesMax)
            return inner.consume(name, consuming)
          },
        })
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()), {
        through: measuring,
        limits,
      })
      const shop = await stage.run('shop', () => {}, { through: measuring, limits })
      await shop.bus.transaction(({ publish }) => {
        for (let number = 1; number <= 30; number++)
          publish(said, { about: 'a', number, note: '£'.repeat(number % 10 === 0 ? 12_000 : 1_000) })
      })
      await stage.quiet()
      assertInOrder(await stage.heard(clerk), ['a'], 30)
      const sum = (batch: readonly number[]) => batch.reduce((bytes, one) => bytes + one, 0)
      const sizes = batches.map((batch) => [batch.length, sum(batch)] as const)
      assert.ok(
        sizes.every(([count, bytes]) => count === 1 || bytes <= limits.relayBatchBytesMax),
        sizes.join(' '),
      )
      assert.ok(
        sizes.some(([count]) => count > 1),
        'they are batches',
      )
      assert.deepEqual(windows, [limits.windowBytesMax])
    },
  )

  check('B10 a slow subscription slows nobody but itself', async (stage) => {
    const gate = Promise.withResolvers<void>()
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      bus.subscribe(
        said,
        { outside: () => gate.promise, handle: hears(undefined, 'slow') },
        { name: 'slow', concurrency: 1 },
      )
      bus.subscribe(said, hears(undefined, 'quick'), { name: 'quick' })
    })
    const other = await stage.run('other', (bus, { hears }) => bus.subscribe(said, hears()))
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 50; number++) await shop.bus.publish(said, { about: 'a', number })
    await stage.until(async () => (await stage.numbers(clerk, 'a', 'quick')).length === 50, 1)
    await stage.until(async () => (await stage.numbers(other)).length === 50, 1)
    assert.deepEqual(await stage.numbers(clerk, 'a', 'slow'), [])
    gate.resolve()
    await stage.quiet()
    assert.equal((await stage.numbers(clerk, 'a', 'slow')).length, 50)
  })

  check(
    'B11 without its broker transactions commit and readiness says no; afterwards all arrives, once and in order',
    async (stage) => {
      const broker = { away: false, refused: 0 }
      const keys = keysOf(3)
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const shop = await stage.run('shop', () => {}, { through: (inner) => interrupted(inner, broker) })
      assert.equal(shop.bus.ready(), true)
      broker.away = true
      for (let number = 1; number <= 10; number++)
        for (const about of keys) await shop.bus.publish(said, { about, number })
      await stage.until(() => broker.refused > 2)
      assert.equal(shop.bus.ready(), false)
      assert.equal((await shop.bus.status()).outbox.waiting, 30)
      assert.deepEqual(await stage.numbers(clerk), [])
      broker.away = false
      await stage.until(() => shop.bus.ready())
      await stage.quiet()
      assertInOrder(await stage.heard(clerk), keys, 10)
      assert.equal((await shop.bus.status()).outbox.waiting, 0)
    },
  )

  check('B10 an outbox that is full refuses what would be published, until the broker is back', async (stage) => {
    const broker = { away: true, refused: 0 }
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const limits = { outboxMessagesMax: 10 }
    const shop = await stage.run('shop', () => {}, { through: (inner) => interrupted(inner, broker), limits })
    let taken = 0
    const publishUntilRefused = async () => {
      try {
        await shop.bus.publish(said, { about: 'a', number: taken + 1 })
        taken++
        return false
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'outbox_full')
        return true
      }
    }
    await stage.until(publishUntilRefused, 1_000)
    assert.ok(taken >= 10, `only ${taken} were taken`)
    broker.away = false
    await stage.until(() => shop.bus.ready(), 1_000)
    await stage.until(async () => !(await publishUntilRefused()), 1_000)
    await stage.quiet()
    const expected = Array.from({ length: taken }, (_, index) => index + 1)
    assert.deepEqual(await stage.numbers(clerk), expected)
  })

  check(
    'B10 an outbox takes outboxMessagesMax messages, not one more, and again once they have left',
    async (stage) => {
      const broker = { away: true, refused: 0 }
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const limits = { outboxMessagesMax: 10 }
      const shop = await stage.run('shop', () => {}, { through: (inner) => interrupted(inner, broker), limits })
      const publish = (number: number) => shop.bus.publish(said, { about: 'a', number })
      for (let number = 1; number <= 10; number++) await publish(number)
      await assert.rejects(publish(11), { code: 'outbox_full', name: 'UnavailableError' })
      const noting = shop.bus.transaction(async (context) => {
        await stage.note(context.tx, 11)
        context.publish(said, { about: 'a', number: 11 })
      })
      await assert.rejects(noting, { code: 'outbox_full' })
      assert.deepEqual(await stage.numbers(shop), [], 'the transaction was refused in part')
      assert.equal((await shop.bus.status()).outbox.waiting, 10)
      broker.away = false
      await stage.until(async () => (await stage.heard(clerk)).length === 10)
      for (let number = 11; number <= 20; number++) await publish(number)
      await stage.quiet()
      assertInOrder(await stage.heard(clerk), ['a'], 20)
    },
  )

  check(
    'B10 a bus that only publishes takes more again once another process has sent what filled the outbox',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const shop = await stage.run('shop', () => {}, { start: false, limits: { outboxMessagesMax: 10 } })
      const publish = (number: number) => shop.bus.publish(said, { about: 'a', number })
      for (let number = 1; number <= 10; number++) await publish(number)
      await assert.rejects(publish(11), { code: 'outbox_full' })
      await stage.run('shop', () => {})
      await stage.until(async () => (await stage.heard(clerk)).length === 10)
      await stage.until(() =>
        publish(11).then(
          () => true,
          () => false,
        ),
      )
      await stage.until(async () => (await stage.heard(clerk)).length === 11)
      assert.deepEqual(
        await stage.numbers(clerk),
        Array.from({ length: 11 }, (_, index) => index + 1),
      )
    },
    'acrossProcesses',
  )

  check(
    'B10 of many due retries with slow work outside so many are claimed as can begin: each is done, and once',
    async (stage) => {
      const keys = keysOf(200)
      const windowMax = 20
      let down = true
      let calls = 0
      const outside = async () => {
        calls++
        if (down) throw new Error('down')
        await new Promise<void>((resolve) => void stage.clock.after(100, resolve))
      }
      const setUp: SetUp = (bus, { hears }) => {
        const backoff = { firstMs: 2_000, maxMs: 2_000, jitter: false }
        bus.subscribe(said, { outside, handle: hears() }, { concurrency: 1, handlerTimeoutMs: 300, backoff })
      }
      const clerk = await stage.run('clerk', setUp, { limits: { windowMax, batchMax: 10 } })
      const shop = await stage.run('shop', () => {})
      await shop.bus.transaction(({ publish }) => {
        for (const about of keys) publish(said, { about, number: 1 })
      })
      const ofClerk = async () => (await clerk.bus.status()).subscriptions[0]!
      await stage.untilAwake(async () => (await ofClerk()).deferred === keys.length)
      down = false
      calls = 0
      let most = 0
      const allAreDone = async () => {
        const { inFlight, deferred } = await ofClerk()
        most = Math.max(most, inFlight)
        return deferred === 0
      }
      await stage.until(allAreDone, 500)
      assertInOrder(await stage.heard(clerk), keys, 1)
      assert.ok(most > 0 && most <= windowMax, `${most} were in flight`)
      assert.ok(calls >= keys.length && calls <= keys.length + 5, `${calls} calls for ${keys.length} messages`)
      assert.ok((await stage.heard(clerk)).every(({ attempt }) => attempt === 2))
      assert.deepEqual(await clerk.bus.deadLetters.list(), [])
    },
  )

  check('B10 deferredMessagesMax reached, retries still run, make room, and all is handled in order', async (stage) => {
    const limits = { deferredMessagesMax: 2 }
    const setUp: SetUp = (bus, { hears }) => {
      const handler = hears(({ number }, { attempt }) => {
        if (number === 1 && attempt === 1) throw new Error('first try')
      })
      bus.subscribe(said, handler, { backoff: exactBackoff })
    }
    const clerk = await stage.run('clerk', setUp, { limits })
    const shop = await stage.run('shop', () => {})
    const ofClerk = async () => (await clerk.bus.status()).subscriptions[0]!
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    assert.equal((await ofClerk()).deferred, 1)
    await shop.bus.transaction(({ publish }) => {
      for (const number of [2, 3, 4]) publish(said, { about: 'a', number })
    })
    await stage.untilAwake(() => !clerk.bus.ready())
    await shop.bus.publish(said, { about: 'z', number: 9 })
    let most = 0
    const allAreHandled = async () => {
      most = Math.max(most, (await ofClerk()).deferred)
      return (await stage.heard(clerk)).length === 5
    }
    await stage.until(allAreHandled)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'a'), [1, 2, 3, 4])
    assert.deepEqual(await stage.numbers(clerk, 'z'), [9])
    assert.ok(most <= 2, `${most} were deferred`)
    assert.equal((await ofClerk()).deferred, 0)
    assert.equal(clerk.bus.ready(), true)
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('C8 a database that is away is no attempt: the message waits for it', async (stage) => {
    let away = true
    let refused = 0
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(() => {
        if (!away) return
        refused++
        throw new UnavailableError('store_unavailable', 'the disk is full')
      })
      bus.subscribe(said, handler, { attemptsMax: 2 })
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(() => refused > 5)
    away = false
    await stage.until(async () => (await stage.heard(clerk)).length === 1)
    assert.equal((await stage.heard(clerk))[0]!.attempt, 1)
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('B4 work outside that finds something away is no attempt, and only its own key waits', async (stage) => {
    let away = true
    const calls: (string | null)[] = []
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const outside = ({ about }: Saying) => {
        calls.push(about)
        if (away && about === 'a') throw new UnavailableError('store_unavailable', 'it is away')
      }
      bus.subscribe(said, { outside, handle: hears() }, { attemptsMax: 2 })
    })
    const shop = await stage.run('shop', () => {})
    const callsOfA = () => calls.filter((about) => about === 'a').length
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.untilAwake(() => callsOfA() === 1)
    for (const about of ['b', 'c']) await shop.bus.publish(said, { about, number: 1 })
    await stage.untilAwake(async () => (await stage.heard(clerk)).length === 2)
    await stage.until(() => callsOfA() > 3)
    away = false
    await stage.until(async () => (await stage.numbers(clerk, 'a')).length === 1)
    assertInOrder(await stage.heard(clerk), ['a', 'b', 'c'], 1)
    assert.ok((await stage.heard(clerk)).every(({ attempt }) => attempt === 1))
    assert.deepEqual(calls.filter((about) => about !== 'a').sort(), ['b', 'c'])
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('B4 after a crash, too, work outside that finds something away lets other keys go on', async (stage) => {
    let away = true
    let calls = 0
    const setUp: SetUp = (bus, { hears }) => {
      const outside = ({ about }: Saying) => {
        if (about !== 'a') return
        calls++
        if (away) throw new UnavailableError('store_unavailable', 'it is away')
      }
      bus.subscribe(said, { outside, handle: hears() }, { attemptsMax: 2 })
    }
    const clerk = await stage.run('clerk', setUp, { through: redelivering })
    const shop = await stage.run('shop', () => {})
    for (const about of ['a', 'b', 'c']) await shop.bus.publish(said, { about, number: 1 })
    await stage.until(async () => calls > 3 && (await stage.heard(clerk)).length === 2)
    away = false
    await stage.until(async () => (await stage.numbers(clerk, 'a')).length === 1)
    assertInOrder(await stage.heard(clerk), ['a', 'b', 'c'], 1)
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('B3 messages that need nothing from outside do not wait until none comes back from there', async (stage) => {
    const setUp: SetUp = (bus, { hears }) => {
      bus.subscribe(said, { outside: () => randomTurns(stage.random, 3), handle: hears() }, { concurrency: 8 })
      bus.subscribe(shouted, hears())
    }
    const clerk = await stage.run('clerk', setUp, { limits: { batchMax: 4 } })
    const shop = await stage.run('shop', () => {})
    const keys = keysOf(200)
    await shop.bus.transaction(({ publish }) => {
      for (const about of keys) publish(said, { about, number: 1 })
      for (const about of keys.slice(0, 20)) publish(shouted, { about: `plain ${about}`, number: 1 })
    })
    await stage.quiet()
    const types = (await stage.heard(clerk)).map(({ type }) => type)
    assert.equal(types.length, 220)
    const behind = types.length - 1 - types.lastIndexOf(shouted.type)
    assert.ok(behind > 50, `only ${behind} of 200 were handled after them`)
  })

  check('B4 a message delivered again while the database is away costs no attempt', async (stage) => {
    let away = true
    let refused = 0
    const setUp: SetUp = (bus, { hears }) => {
      const handler = hears(() => {
        if (!away) return
        refused++
        throw new UnavailableError('store_unavailable', 'the disk is full')
      })
      bus.subscribe(said, handler, { attemptsMax: 3 })
    }
    const clerk = await stage.run('clerk', setUp, { through: redelivering })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(() => refused > 5)
    away = false
    await stage.until(async () => (await stage.heard(clerk)).length === 1)
    // An earlier process may have died of it, so this is the second.
    assert.equal((await stage.heard(clerk))[0]!.attempt, 2)
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('B4 a message delivered again gets its one try also where attemptsMax is 1', async (stage) => {
    const setUp: SetUp = (bus, { hears }) => bus.subscribe(said, hears(), { attemptsMax: 1 })
    const clerk = await stage.run('clerk', setUp, { through: redelivering })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
    assert.deepEqual(await stage.numbers(clerk), [1])
  })

  check('B4 after a crash, what was on its way does not wait until all that came since is done', async (stage) => {
    const [keys, old] = [keysOf(205), new Set<string>()]
    const isOld = ({ message }: Delivery) => {
      if (old.size < 5) old.add(message.key!) // whichever come first
      return old.has(message.key!)
    }
    const setUp: SetUp = (bus, { hears }) =>
      bus.subscribe(said, { outside: () => randomTurns(stage.random, 3), handle: hears() }, { concurrency: 8 })
    const through = (inner: Transport) => redelivering(inner, isOld)
    const clerk = await stage.run('clerk', setUp, { through, limits: { batchMax: 8 } })
    const shop = await stage.run('shop', () => {})
    await shop.bus.transaction(({ publish }) => {
      for (const about of keys) publish(said, { about, number: 1 })
    })
    await stage.quiet()
    const order = (await stage.heard(clerk)).map(({ about }) => about!)
    assert.equal(order.length, keys.length)
    const behind = order.length - 1 - order.findLastIndex((about) => old.has(about))
    assert.ok(behind > keys.length / 2, `only ${behind} of ${keys.length} were handled after them`)
  })

  // B12: stopping is safe --------------------------------------------------------------------------------------------

  check('B12 close waits for the handler that runs, and what it did stands', async (stage) => {
    const gate = Promise.withResolvers<void>()
    const begun = Promise.withResolvers<void>()
    let calls = 0
    const setUp: SetUp = (bus, { hears }) => {
      const outside = async () => {
        calls++
        begun.resolve()
        await gate.promise
      }
      bus.subscribe(said, { outside, handle: hears() })
    }
    const before = await stage.run('clerk', setUp)
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.whileTimePasses(begun.promise)
    let stopped = false
    const stopping = before.bus.close().then(() => {
      stopped = true
    })
    await stage.clock.settle()
    assert.equal(stopped, false, 'closed while a handler runs')
    gate.resolve()
    await stopping
    assert.deepEqual(await stage.numbers(before), [1])
    await before.stop()
    const after = await stage.run('clerk', setUp)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(after), [1])
    assert.equal(calls, 1)
  })

  check(
    'B12 stopped and started again in the middle of the work: nothing lost, nothing doubled, in order',
    async (stage) => {
      const keys = keysOf(10)
      const setUp: SetUp = (bus, { hears }) => {
        bus.subscribe(said, { outside: () => randomTurns(stage.random, 2), handle: hears() })
      }
      const limits = { windowMax: 20, batchMax: 5, concurrency: 3 }
      const shop = await stage.run('shop', () => {})
      let clerk = await stage.run('clerk', setUp, { limits })
      await shop.bus.transaction(({ publish }) => {
        for (let number = 1; number <= 20; number++) for (const about of keys) publish(said, { about, number })
      })
      for (const reached of [10, 60, 150]) {
        await stage.until(async () => (await stage.heard(clerk)).length >= reached, 1)
        await clerk.stop()
        clerk = await stage.run('clerk', setUp, { limits })
      }
      await stage.quiet()
      assertInOrder(await stage.heard(clerk), keys, 20)
    },
  )

  check('B12 a graceful stop makes no dead letters of what was received and not begun', async (stage) => {
    const keys = keysOf(100)
    const begun = Promise.withResolvers<void>()
    const gate = Promise.withResolvers<void>()
    let calls = 0
    const setUp: SetUp = (bus, { hears }) => {
      const handler = hears(async () => {
        if (++calls < 15) return
        begun.resolve()
        await gate.promise
      })
      bus.subscribe(said, handler, { attemptsMax: 1 })
    }
    const limits = { batchMax: 10, concurrency: 1 }
    const before = await stage.run('clerk', setUp, { limits })
    const shop = await stage.run('shop', () => {})
    await shop.bus.transaction(({ publish }) => {
      for (const about of keys) publish(said, { about, number: 1 })
    })
    await stage.whileTimePasses(begun.promise)
    const stopping = before.stop()
    await stage.clock.settle()
    gate.resolve()
    await stopping
    assert.ok(calls >= 15 && calls < keys.length, `${calls} of ${keys.length} were begun before the stop`)
    const after = await stage.run('clerk', setUp, { limits })
    await stage.quiet()
    assert.deepEqual(await after.bus.deadLetters.list(), [])
    assertInOrder(await stage.heard(after), keys, 1)
  })

  check('B12 what stood in the outbox when the process ended leaves with the next one', async (stage) => {
    const broker = { away: true, refused: 0 }
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const before = await stage.run('shop', () => {}, { through: (inner) => interrupted(inner, broker) })
    for (let number = 1; number <= 5; number++) await before.bus.publish(said, { about: 'a', number })
    await before.stop()
    const after = await stage.run('shop', () => {})
    await after.bus.publish(said, { about: 'a', number: 6 })
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk), [1, 2, 3, 4, 5, 6])
  })

  check('B12 closing twice and closing while starting are fine; afterwards publishing is refused', async (stage) => {
    const shop = await stage.run('shop', (bus, { hears }) => bus.subscribe(said, hears()), { start: false })
    const starting = shop.bus.start().catch(() => {})
    await Promise.all([shop.bus.close(), shop.bus.close()])
    await starting
    await shop.bus.close()
    await assert.rejects(shop.bus.publish(said, { about: 'a', number: 1 }), { code: 'bus_closed' })
    await assert.rejects(shop.bus.start(), { code: 'bus_closed' })
    assert.equal(shop.bus.ready(), false)
  })

  check('B12 subscribing after the start is refused, and says why', async (stage) => {
    await stage
      .run('clerk', () => {})
      .then(({ bus }) => {
        assert.throws(() => bus.subscribe(said, () => {}), { code: 'invalid_argument', message: /before start/ })
      })
  })

  // B15: waking, not polling -----------------------------------------------------------------------------------------

  check('B15 from publication through an idle handler to its answer, no time has to pass', async (stage) => {
    const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ about, number }, { publish }) => publish(answered, { about, number }))
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 0 })
    await stage.advance(30_000) // everybody is idle now
    assert.equal((await stage.heard(listener)).length, 1)
    for (let number = 1; number <= 5; number++) {
      const startedAt = stage.clock.now()
      await shop.bus.publish(said, { about: 'a', number })
      await stage.untilAwake(async () => (await stage.heard(listener)).length === number + 1)
      const tookMs = stage.clock.now() - startedAt
      assert.ok(tookMs <= LATE_MAX_MS, `${tookMs} ms of virtual time had to pass`)
    }
    assert.equal((await stage.heard(clerk)).length, 6)
  })

  check('B15 an idle bus sets few timers: it does not poll', async (stage) => {
    let timers = 0
    const counting = {
      now: stage.clock.now,
      after(delayMs: number, run: () => void) {
        timers++
        return stage.clock.after(delayMs, run)
      },
    }
    const shop = await stage.run('shop', (bus, { hears }) => bus.subscribe('#', hears()), { clock: counting })
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.advance(10_000)
    timers = 0
    await stage.advance(60_000)
    assert.ok(timers <= IDLE_TIMERS_PER_MINUTE_MAX, `${timers} timers in a minute`)
  })

  check('status and readiness say what waits where', async (stage) => {
    const { clerk, shop } = await withDeadLetter(stage, 'park')
    for (const number of [3, 4]) await shop.bus.publish(said, { about: 'stuck', number })
    await shop.bus.publish(said, { about: 'later', number: 1 }, { delayMs: 60_000 })
    await stage.quiet()
    const status = await clerk.bus.status()
    const [subscription] = status.subscriptions
    assert.equal(status.service, 'clerk')
    assert.equal(status.ready, true)
    assert.deepEqual(status.outbox, { waiting: 0, oldestAgeMs: 0, refused: 0 })
    assert.equal(subscription!.name, 'clerk')
    assert.equal(subscription!.waiting, 0)
    assert.equal(subscription!.deadLetters, 1)
    assert.equal(subscription!.deferred, 3)
    assert.equal((await shop.bus.status()).timers, 1)
  })
}

/** The transport as it is after a crash: an earlier process may have died of whatever it delivers, or of some of it. */
function redelivering(inner: Transport, isOne = (_: Delivery) => true): Transport {
  return altered(inner, {
    consume: (name, consuming) =>
      inner.consume(name, {
        ...consuming,
        receive: (deliveries) =>
          consuming.receive(deliveries.map((delivery) => ({ ...delivery, redelivered: isOne(delivery) }))),
      }),
  })
}
