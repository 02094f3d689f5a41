/**
 * The bus's promises (B1 to B15), as a service sees them, over any transport and any store:
 *
 *   busSuite('my broker, my database', { openTransport: …, openStore: … })
 *
 * Time is virtual; a case owns its world. What a transport and a store owe by themselves is in their own suites.
 */
import assert from 'node:assert/strict'
import type { Bus } from '../bus.ts'
import { PermanentError, UnavailableError } from '../errors.ts'
import { event } from '../event.ts'
import type { Message } from '../message.ts'
import { sql } from '../sql.ts'
import type { Tx } from '../store.ts'
import type { Binding, Delivery, Transport } from '../transport.ts'
import {
  altered,
  answered,
  assertInOrder,
  type BusSuiteOptions,
  keysOf,
  type Process,
  randomTurns,
  type Saying,
  Stage,
  said,
  saying,
  schemaOf,
  shouted,
} from './bus-stage.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'

export type { BusSuiteOptions } from './bus-stage.ts'

const ids = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
const me = { by: 'Ada', why: 'a test' }
/** Every second try of a failing handler is 1 s, then 2 s, 4 s … later; no chance in it. */
const exactBackoff = { firstMs: 1_000, factor: 2, maxMs: 60_000, jitter: false }
/** How late a thing planned for a time may come, in virtual milliseconds. */
const LATE_MAX_MS = 100
/** Timers that an idle bus may set in a virtual minute. */
const IDLE_TIMERS_PER_MINUTE_MAX = 200

export function busSuite(name: string, options: BusSuiteOptions, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)

  function check(title: string, run: (stage: Stage) => Promise<void>, needs?: 'acrossProcesses'): void {
    register(title, async (world, context) => {
      const stage = new Stage(world, options)
      if (needs && !stage.storesAreShared) context.skip(`the store's capability '${needs}' is false`)
      else await run(stage)
    })
  }

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
    const subscribe = (bus: Bus, { hears }: Parameters<Parameters<Stage['run']>[1]>[1]) => bus.subscribe(said, hears())
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

  // B4: retry without blocking others --------------------------------------------------------------------------------

  check('B4 tries follow the back-off: 1 s, 2 s, 4 s later, each counted', async (stage) => {
    const tries: { attempt: number; at: number }[] = []
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears((_, { attempt }) => {
        tries.push({ attempt, at: stage.clock.now() })
        if (attempt < 4) throw new Error('not yet')
      })
      bus.subscribe(said, handler, { backoff: exactBackoff })
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(async () => (await stage.heard(clerk)).length > 0, 10)
    // One attempt may call the handler twice: among others, and then alone.
    const firstOfEach = [1, 2, 3, 4].map((attempt) => tries.findLast((one) => one.attempt === attempt)!.at)
    const waits = firstOfEach.slice(1).map((at, index) => at - firstOfEach[index]!)
    for (const [index, expected] of [1_000, 2_000, 4_000].entries()) {
      assert.ok(waits[index]! >= expected && waits[index]! <= expected + LATE_MAX_MS, `waited ${waits.join(', ')} ms`)
    }
    await stage.advance(120_000)
    assert.equal(new Set(tries.map(({ attempt }) => attempt)).size, 4)
    assert.equal((await stage.heard(clerk)).length, 1)
  })

  check('B4 jitter spreads the waiting time, down to a half and never beyond the whole', async (stage) => {
    const failedAt = new Map<number, number>()
    const waits: number[] = []
    await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ number }, { attempt }) => {
        if (attempt === 1) failedAt.set(number, stage.clock.now())
        else waits.push(stage.clock.now() - failedAt.get(number)!)
        if (attempt === 1) throw new Error('first try')
      })
      bus.subscribe(said, handler, { backoff: { ...exactBackoff, firstMs: 10_000, jitter: true } })
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 0; number < 20; number++) await shop.bus.publish(said, { about: `key-${number}`, number })
    await stage.until(() => waits.length === 20)
    assert.ok(Math.min(...waits) >= 5_000 && Math.max(...waits) <= 10_000 + LATE_MAX_MS, waits.join(' '))
    assert.ok(new Set(waits).size > 5, `chance has no part in ${waits.join(' ')}`)
  })

  check('B4 only its own key waits behind a failing message, and goes on in order afterwards', async (stage) => {
    let broken = true
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ about, number }) => {
        if (broken && about === 'stuck' && number === 1) throw new Error('not yet')
      })
      bus.subscribe(said, handler, { backoff: exactBackoff, attemptsMax: 20 })
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 5; number++) {
      for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number })
    }
    await stage.advance(5_000)
    assert.deepEqual(await stage.numbers(clerk, 'free'), [1, 2, 3, 4, 5])
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [])
    assert.equal((await clerk.transport.backlog('clerk')).waiting, 0, 'a retry does not hold up the broker')
    broken = false
    await stage.until(async () => (await stage.numbers(clerk, 'stuck')).length === 5)
    for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number: 6 })
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), ['stuck', 'free'], 6)
  })

  check('B4 a message that arrives just as the retry before it is due is handled after it', async (stage) => {
    const gate = Promise.withResolvers<void>()
    const begun = Promise.withResolvers<void>()
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears((_, { attempt, message }) => {
        if (message.data.number === 1 && attempt === 1) throw new Error('not yet')
      })
      const outside = async () => {
        begun.resolve()
        await gate.promise
      }
      bus.subscribe(said, handler, { backoff: exactBackoff, concurrency: 1 })
      bus.subscribe(shouted, { outside, handle: hears() })
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    await shop.bus.publish(shouted, { about: 'b', number: 1 })
    await stage.whileTimePasses(begun.promise)
    // Everything is held up now, so the retry and the new message wait together.
    await stage.clock.advance(2_000)
    await shop.bus.publish(said, { about: 'a', number: 2 })
    await stage.clock.advance(1_000)
    gate.resolve()
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'a'), [1, 2])
    assert.equal((await clerk.bus.status()).subscriptions[0]!.deferred, 0)
  })

  check('B4 attempts are counted durably: a restart neither forgets nor adds one', async (stage) => {
    const attempts: number[] = []
    const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => {
      const handler = hears((_, { attempt }) => {
        attempts.push(attempt)
        throw new Error('never')
      })
      bus.subscribe(said, handler, { backoff: exactBackoff, attemptsMax: 5 })
    }
    const shop = await stage.run('shop', () => {})
    let clerk = await stage.run('clerk', setUp)
    await shop.bus.publish(said, { about: 'a', number: 1 })
    for (const reached of [2, 4]) {
      await stage.until(() => attempts.at(-1) === reached)
      await clerk.stop()
      clerk = await stage.run('clerk', setUp)
    }
    await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1)
    assert.deepEqual([...new Set(attempts)], [1, 2, 3, 4, 5])
    const [letter] = await clerk.bus.deadLetters.list()
    assert.equal(letter!.attempts, 5)
  })

  check('B4 after attemptsMax tries the message is a dead letter that says why', async (stage) => {
    const attempts = new Set<number>()
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears((_, { attempt }) => {
        attempts.add(attempt)
        throw new Error('the card machine is broken')
      })
      bus.subscribe(said, handler, { backoff: exactBackoff, attemptsMax: 3 })
    })
    const shop = await stage.run('shop', () => {})
    const id = await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1)
    const [letter] = await clerk.bus.deadLetters.list()
    assert.deepEqual([...attempts], [1, 2, 3])
    const { subscription, messageId, type, key, code, attempts: made, status } = letter!
    assert.deepEqual(
      { subscription, messageId, type, key, code, attempts: made, status },
      {
        subscription: 'clerk',
        messageId: id,
        type: 'shop.said',
        key: 'a',
        code: 'attempts_exhausted',
        attempts: 3,
        status: 'open',
      },
    )
    assert.match(letter!.cause, /the card machine is broken/)
    assert.match(letter!.detail, /Error: the card machine is broken\n\s+at /)
    assert.equal((await clerk.bus.status()).subscriptions[0]!.deadLetters, 1)
  })

  check('B4 a PermanentError makes a dead letter at the first try', async (stage) => {
    let tries = 0
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears((_, { attempt }) => {
        tries = Math.max(tries, attempt)
        throw new PermanentError('there is no such order')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    const [letter] = await clerk.bus.deadLetters.list()
    assert.equal(letter!.code, 'permanent')
    assert.equal(letter!.attempts, 1)
    await stage.advance(60_000)
    assert.equal(tries, 1)
  })

  check('B4 work outside that fails is tried again by the same rules, with the same message id', async (stage) => {
    const requests: string[] = []
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const writes = hears()
      const outside = (_: Saying, { message, attempt }: { message: Message; attempt: number }) => {
        requests.push(message.id)
        if (attempt < 3) throw new Error('no answer')
        return attempt
      }
      bus.subscribe(said, { outside, handle: writes }, { backoff: exactBackoff })
    })
    const shop = await stage.run('shop', () => {})
    const id = await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(async () => (await stage.heard(clerk)).length > 0)
    await stage.advance(10_000)
    assert.deepEqual(requests, [id, id, id])
    assert.equal((await stage.heard(clerk)).length, 1)
  })

  check(
    'B4 work outside that never ends is aborted after handlerTimeoutMs, and counts as a failed try',
    async (stage) => {
      const aborted: number[] = []
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const writes = hears()
        const outside = async ({ about }: Saying, { signal, attempt }: { signal: AbortSignal; attempt: number }) => {
          if (about === 'stuck') {
            await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
            aborted.push(attempt)
          }
        }
        const settings = { handlerTimeoutMs: 2_000, attemptsMax: 2, backoff: exactBackoff, concurrency: 4 }
        bus.subscribe(said, { outside, handle: writes }, settings)
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.publish(said, { about: 'stuck', number: 1 })
      await shop.bus.publish(said, { about: 'free', number: 1 })
      await stage.until(async () => (await stage.numbers(clerk, 'free')).length === 1, 10)
      assert.deepEqual(aborted, [])
      await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1)
      assert.deepEqual(aborted, [1, 2])
      const [letter] = await clerk.bus.deadLetters.list()
      assert.equal(letter!.code, 'handler_timeout')
    },
  )

  check(
    'B4 a handler that never ends fails after handlerTimeoutMs; the database and other keys go on',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const handler = hears(async ({ about }) => {
          if (about === 'stuck') await new Promise(() => {})
        })
        bus.subscribe(said, handler, { handlerTimeoutMs: 2_000, attemptsMax: 2, backoff: exactBackoff })
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.publish(said, { about: 'stuck', number: 1 })
      await shop.bus.publish(said, { about: 'free', number: 1 })
      await stage.until(async () => (await stage.numbers(clerk, 'free')).length === 1)
      await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1)
      const [letter] = await clerk.bus.deadLetters.list()
      assert.equal(letter!.code, 'handler_timeout')
      assert.deepEqual(await stage.numbers(clerk), [1])
    },
  )

  // B5: dead letters keep the order ----------------------------------------------------------------------------------

  check('B5 park: a key waits behind its dead letter, others go on; redriven, it resumes in order', async (stage) => {
    const { clerk, shop, mend } = await withDeadLetter(stage, 'park')
    for (let number = 3; number <= 5; number++) {
      for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number })
    }
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1])
    assert.deepEqual(await stage.numbers(clerk, 'free'), [1, 2, 3, 4, 5])
    mend()
    const [letter] = await clerk.bus.deadLetters.list()
    assert.equal(await clerk.bus.deadLetters.redrive(letter!.id, me), 1)
    await stage.quiet()
    for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number: 6 })
    await stage.quiet()
    assertInOrder(await stage.heard(clerk), ['stuck', 'free'], 6)
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
    assert.equal((await clerk.bus.deadLetters.get(letter!.id)).status, 'redriven')
  })

  check('B5 park: once the dead letter is discarded, what waited behind it goes on in order', async (stage) => {
    const { clerk, shop } = await withDeadLetter(stage, 'park')
    for (let number = 3; number <= 5; number++) await shop.bus.publish(said, { about: 'stuck', number })
    await stage.quiet()
    const [letter] = await clerk.bus.deadLetters.list()
    await clerk.bus.deadLetters.discard(letter!.id, me)
    await stage.quiet()
    await shop.bus.publish(said, { about: 'stuck', number: 6 })
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 3, 4, 5, 6])
    assert.equal((await clerk.bus.deadLetters.get(letter!.id)).status, 'discarded')
  })

  check('B5 park outlives a restart: the key still waits, and is redriven in order', async (stage) => {
    const { clerk: before, shop, mend, setUp } = await withDeadLetter(stage, 'park')
    await shop.bus.publish(said, { about: 'stuck', number: 3 })
    await stage.quiet()
    await before.stop()
    const clerk = await stage.run('clerk', setUp)
    await shop.bus.publish(said, { about: 'stuck', number: 4 })
    await stage.advance(10_000)
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1])
    mend()
    await clerk.bus.deadLetters.redrive('all', me)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 2, 3, 4])
  })

  check('B5 skip: later messages of the key go on, and the dead letter can still be redriven', async (stage) => {
    const { clerk, shop, mend } = await withDeadLetter(stage, 'skip')
    for (let number = 3; number <= 5; number++) await shop.bus.publish(said, { about: 'stuck', number })
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 3, 4, 5])
    mend()
    await clerk.bus.deadLetters.redrive('all', me)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 3, 4, 5, 2])
    assert.deepEqual(await clerk.bus.deadLetters.list(), [])
  })

  check('B5 skip after retries: what waited behind the failing message goes on once it is given up', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ number }) => {
        if (number === 1) throw new Error('never')
      })
      bus.subscribe(said, handler, { attemptsMax: 3, backoff: exactBackoff, afterDeadLetter: 'skip' })
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 4; number++) await shop.bus.publish(said, { about: 'a', number })
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk), [])
    await stage.until(async () => (await stage.numbers(clerk)).length === 3)
    assert.deepEqual(await stage.numbers(clerk), [2, 3, 4])
  })

  check('B5 a rehearsal says what would happen, and leaves nothing behind', async (stage) => {
    const listener = await stage.run('listener', (bus, { hears }) => bus.subscribe(answered, hears()))
    let broken = true
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ about, number }, { publish }) => {
        publish(answered, { about, number: number * 10 })
        publish(answered, { about, number: number * 100 }, { delayMs: 1_000 })
        if (broken) throw new PermanentError('broken')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    const [letter] = await clerk.bus.deadLetters.list()
    assert.deepEqual(await clerk.bus.deadLetters.rehearse(letter!.id), {
      outcome: 'would_fail',
      code: 'permanent',
      cause: 'broken',
    })
    broken = false
    assert.deepEqual(await clerk.bus.deadLetters.rehearse(letter!.id), {
      outcome: 'would_succeed',
      publications: [
        { type: 'clerk.answered', data: { about: 'a', number: 10 } },
        { type: 'clerk.answered', data: { about: 'a', number: 100 } },
      ],
    })
    await stage.advance(5_000)
    assert.deepEqual(await stage.heard(clerk), [])
    assert.deepEqual(await stage.heard(listener), [])
    assert.equal((await clerk.bus.deadLetters.get(letter!.id)).status, 'open')
    await assert.rejects(clerk.bus.deadLetters.rehearse('nothing'), { code: 'not_found' })
  })

  check('B5 edited and redriven: the handler sees the new payload, as the same message, in order', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ note }) => {
        if (note === 'nonsense') throw new PermanentError('cannot read this')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1, note: 'nonsense' })
    await shop.bus.publish(said, { about: 'a', number: 2 })
    await stage.quiet()
    const [letter] = await clerk.bus.deadLetters.list()
    const edit = (data: unknown) => clerk.bus.deadLetters.edit(letter!.id, data, me)
    await assert.rejects(edit({ about: 'a', number: 'one' }), { code: 'invalid_payload' })
    assert.equal((await clerk.bus.deadLetters.get(letter!.id)).status, 'open')
    await edit({ about: 'a', number: 1, note: 'sense' })
    await stage.quiet()
    const heard = await stage.heard(clerk)
    assert.deepEqual(
      heard.map(({ number, note }) => ({ number, note })),
      [
        { number: 1, note: 'sense' },
        { number: 2, note: null },
      ],
    )
    assert.equal(heard[0]!.message_id, letter!.messageId)
    const acts = await clerk.bus.deadLetters.acts(letter!.id)
    assert.deepEqual(
      acts.map(({ act }) => act),
      ['edit', 'redrive'],
    )
  })

  check('B5 dead letters are grouped by cause, and one group is redriven alone', async (stage) => {
    let broken = true
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(({ number }) => {
        if (broken) throw new PermanentError(number % 3 === 0 ? 'divisible by three' : 'some other number')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 9; number++) await shop.bus.publish(said, { about: `key-${number}`, number })
    await stage.quiet()
    const groups = await clerk.bus.deadLetters.groups()
    assert.deepEqual(
      groups.map(({ subscription, type, code, cause, count }) => ({ subscription, type, code, cause, count })),
      [
        { subscription: 'clerk', type: 'shop.said', code: 'permanent', cause: 'some other number', count: 6 },
        { subscription: 'clerk', type: 'shop.said', code: 'permanent', cause: 'divisible by three', count: 3 },
      ],
    )
    broken = false
    assert.equal(await clerk.bus.deadLetters.redrive({ group: groups[1]!.group }, me), 3)
    await stage.quiet()
    assert.deepEqual((await stage.numbers(clerk)).sort(byNumber), [3, 6, 9])
    assert.equal((await clerk.bus.deadLetters.list()).length, 6)
    assert.equal((await clerk.bus.deadLetters.list({ subscription: 'nobody' })).length, 0)
    assert.equal((await clerk.bus.deadLetters.list({ limit: 2 })).length, 2)
  })

  check('B5 redriven at a rate, they are spread over time', async (stage) => {
    let broken = true
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears(() => {
        if (broken) throw new PermanentError('broken')
      })
      bus.subscribe(said, handler)
    })
    const shop = await stage.run('shop', () => {})
    for (let number = 1; number <= 10; number++) await shop.bus.publish(said, { about: `key-${number}`, number })
    await stage.quiet()
    broken = false
    const startedAt = stage.clock.now()
    assert.equal(await clerk.bus.deadLetters.redrive('all', { ...me, perSecondMax: 2 }), 10)
    await stage.until(async () => (await stage.heard(clerk)).length === 10, 50)
    const tookMs = (await stage.heard(clerk)).at(-1)!.at - startedAt
    assert.ok(tookMs >= 4_500 && tookMs <= 4_500 + LATE_MAX_MS, `ten at two a second took ${tookMs} ms`)
  })

  check('B5 redriving twice, or what is settled, changes nothing', async (stage) => {
    const { clerk, mend } = await withDeadLetter(stage, 'park')
    mend()
    const [letter] = await clerk.bus.deadLetters.list()
    await Promise.all([clerk.bus.deadLetters.redrive(letter!.id, me), clerk.bus.deadLetters.redrive('all', me)])
    await stage.quiet()
    assert.equal(await clerk.bus.deadLetters.redrive(letter!.id, me), 0)
    await clerk.bus.deadLetters.discard(letter!.id, me)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 2])
    assert.equal((await clerk.bus.deadLetters.acts(letter!.id)).filter(({ act }) => act === 'redrive').length, 1)
    assert.equal((await clerk.bus.deadLetters.get(letter!.id)).status, 'redriven')
  })

  check('B5 redriven and failing again, it is a dead letter again, and its key waits on', async (stage) => {
    const { clerk, shop, mend } = await withDeadLetter(stage, 'park')
    await shop.bus.publish(said, { about: 'stuck', number: 3 })
    await stage.quiet()
    await clerk.bus.deadLetters.redrive('all', me)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1])
    assert.equal((await clerk.bus.deadLetters.list()).length, 1)
    mend()
    await clerk.bus.deadLetters.redrive('all', me)
    await stage.quiet()
    assert.deepEqual(await stage.numbers(clerk, 'stuck'), [1, 2, 3])
  })

  check('B5 every act is recorded: who, when, why; without these it is refused', async (stage) => {
    const { clerk } = await withDeadLetter(stage, 'park')
    const [letter] = await clerk.bus.deadLetters.list()
    const nobody = { by: '', why: '' }
    await assert.rejects(clerk.bus.deadLetters.redrive(letter!.id, nobody), { code: 'invalid_argument' })
    await assert.rejects(clerk.bus.deadLetters.discard(letter!.id, nobody), { code: 'invalid_argument' })
    assert.deepEqual(await clerk.bus.deadLetters.acts(letter!.id), [])
    await stage.advance(60_000)
    await clerk.bus.deadLetters.redrive(letter!.id, { by: 'Ada', why: 'the bug is mended' })
    await stage.quiet()
    const [again] = await clerk.bus.deadLetters.list()
    await clerk.bus.deadLetters.discard(again!.id, { by: 'Grace', why: 'it was not' })
    const acts = [...(await clerk.bus.deadLetters.acts(letter!.id)), ...(await clerk.bus.deadLetters.acts(again!.id))]
    const discarded = acts.find(({ act }) => act === 'discard')!
    const redriven = acts.find(({ act }) => act === 'redrive')!
    assert.deepEqual([redriven.by, redriven.why], ['Ada', 'the bug is mended'])
    assert.deepEqual([discarded.by, discarded.why], ['Grace', 'it was not'])
    assert.ok(Math.abs(redriven.at - stage.clock.now()) <= LATE_MAX_MS, `recorded at ${redriven.at}`)
    for (const act of ['redrive', 'discard'] as const) {
      await assert.rejects(clerk.bus.deadLetters[act]('nothing', me), { code: 'not_found' })
    }
  })

  // B6: nothing is dropped in silence --------------------------------------------------------------------------------

  check('B6 what cannot be decoded becomes a dead letter with its bytes; its neighbours are handled', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const bytes = Uint8Array.of(0xff, 0x00, 0xfe, 0x7b)
    const texts = ['no JSON', '{}', 'null', JSON.stringify({ specversion: '1.0', id: 'x', type: 'shop.said' })]
    await stage.publishRaw(clerk, { type: 'shop.said', body: bytes })
    for (const body of texts) await stage.publishRaw(clerk, { type: 'shop.said', body })
    await clerk.transport.publish([stage.encoded(said, { about: 'a', number: 1 })])
    await stage.quiet()
    const letters = await clerk.bus.deadLetters.list()
    assert.equal(letters.length, 5)
    assert.ok(letters.every(({ code }) => code === 'undecodable'))
    const kept = letters.map(({ body }) => body)
    assert.ok(kept.some((body) => typeof body !== 'string' && Buffer.compare(body, bytes) === 0))
    for (const text of texts) assert.ok(kept.includes(text), text)
    assert.deepEqual(await stage.numbers(clerk), [1])
  })

  check('B6 a type that nobody defined becomes a dead letter', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe('shop.*', hears()))
    const unknown = saying('shop.whispered')
    await clerk.transport.publish([stage.encoded(unknown, { about: 'a', number: 1 })])
    await stage.quiet()
    const [letter] = await clerk.bus.deadLetters.list()
    assert.equal(letter!.code, 'unknown_event')
    assert.match(letter!.cause, /shop\.whispered/)
  })

  check('B6 a version from the future waits as a dead letter until the service knows it', async (stage) => {
    const later = saying('shop.said', 2, { 1: (old) => ({ ...old, note: 'was version 1' }) })
    const before = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    await before.transport.publish([stage.encoded(later, { about: 'a', number: 1, note: 'version 2' })])
    await stage.quiet()
    const [letter] = await before.bus.deadLetters.list()
    assert.equal(letter!.code, 'version_too_new')
    await before.stop()
    const after = await stage.run('clerk', (bus, { hears }) => bus.subscribe(later, hears()), { events: [later] })
    await after.bus.deadLetters.redrive('all', me)
    await stage.quiet()
    const heard = await stage.heard(after)
    assert.deepEqual(
      heard.map(({ note }) => note),
      ['version 2'],
    )
  })

  check('B6 a payload that does not match its schema becomes a dead letter', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    await clerk.transport.publish([stage.encoded(said, { about: 'a', number: 'one' })])
    await clerk.transport.publish([stage.encoded(said, null)])
    await stage.quiet()
    const letters = await clerk.bus.deadLetters.list()
    assert.deepEqual(
      letters.map(({ code }) => code),
      ['invalid_payload', 'invalid_payload'],
    )
    assert.match(letters.map(({ cause }) => cause).join(), /number must be a whole number/)
    assert.deepEqual(await stage.heard(clerk), [])
  })

  check(
    'B6 a message that is too large is refused when it is published, and the transaction with it',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const shop = await stage.run('shop', () => {}, { limits: { messageBytesMax: 2_000 } })
      const publishing = (noted: string) =>
        shop.bus.transaction(async ({ tx, publish }) => {
          await stage.note(tx, 1)
          publish(said, { about: 'a', number: 1, note: noted })
        })
      await assert.rejects(publishing('x'.repeat(2_000)), { code: 'message_too_large' })
      await assert.rejects(publishing('£'.repeat(1_000)), { code: 'message_too_large' }, 'bytes count, not characters')
      assert.deepEqual(await stage.numbers(shop), [])
      await publishing('£'.repeat(700))
      await stage.quiet()
      assert.deepEqual(await stage.numbers(clerk), [1])
    },
  )

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
      const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => bus.subscribe(said, hears())
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
      const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => {
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
    const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => bus.subscribe(said, hears())
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
    const setUp: Parameters<Stage['run']>[1] = (bus) => {
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
      const setUp: Parameters<Stage['run']>[1] = (bus) =>
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
    const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) =>
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

  // B12: stopping is safe --------------------------------------------------------------------------------------------

  check('B12 close waits for the handler that runs, and what it did stands', async (stage) => {
    const gate = Promise.withResolvers<void>()
    const begun = Promise.withResolvers<void>()
    let calls = 0
    const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => {
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
      const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => {
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

  // B13: every message says where it comes from ----------------------------------------------------------------------

  check('B13 a message carries its attributes: id, type, version, source, time, key, headers', async (stage) => {
    const seen: Message[] = []
    await stage.run('clerk', (bus) => bus.subscribe(said, (_, { message }) => void seen.push(message)))
    const shop = await stage.run('shop', () => {})
    const at = stage.clock.now()
    const id = await shop.bus.publish(
      said,
      { about: 'a', number: 1, note: '£ ✓' },
      { headers: { urgent: 'ja – sofort' } },
    )
    await stage.quiet()
    assert.match(id, ids)
    const { headers, data, ...attributes } = seen[0]!
    assert.deepEqual(attributes, {
      id,
      type: 'shop.said',
      version: 1,
      source: 'shop',
      time: at,
      key: 'a',
      correlationId: id,
      causationId: null,
      traceparent: null,
    })
    assert.deepEqual(headers, { urgent: 'ja – sofort' })
    assert.deepEqual(data, { about: 'a', number: 1, note: '£ ✓' })
  })

  check(
    'B13 an effect names its cause, and shares correlation and trace: at once, later, after a retry',
    async (stage) => {
      const seen: Message<Saying>[] = []
      await stage.run('listener', (bus) => bus.subscribe(answered, (_, { message }) => void seen.push(message)))
      await stage.run('clerk', (bus) => {
        bus.subscribe(
          said,
          (data, { publish, attempt }) => {
            publish(answered, { ...data, note: 'at once' })
            publish(answered, { ...data, note: 'later' }, { delayMs: 5_000 })
            if (attempt === 1) throw new Error('only the second try counts')
          },
          { backoff: exactBackoff },
        )
      })
      const shop = await stage.run('shop', () => {})
      const origin = { correlationId: 'request-1', traceparent: TRACEPARENT }
      const id = await shop.bus.transaction(({ publish }) => publish(said, { about: 'a', number: 1 }), origin)
      await stage.advance(20_000)
      assert.deepEqual(
        seen.map(({ data }) => data.note),
        ['at once', 'later'],
      )
      for (const { causationId, correlationId, traceparent, source } of seen) {
        assert.equal(causationId, id)
        assert.equal(correlationId, 'request-1')
        assert.equal(traceparent?.split('-')[1], TRACEPARENT.split('-')[1], 'the trace goes on')
        assert.equal(source, 'clerk')
      }
    },
  )

  check('B13 where nobody named a correlation, the first message’s id is everybody’s', async (stage) => {
    const seen: Message[] = []
    await stage.run('listener', (bus) => bus.subscribe(answered, (_, { message }) => void seen.push(message)))
    await stage.run('clerk', (bus) => bus.subscribe(said, (data, { publish }) => void publish(answered, data)))
    const shop = await stage.run('shop', () => {})
    const id = await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.quiet()
    assert.equal(seen[0]!.correlationId, id)
    assert.equal(seen[0]!.causationId, id)
    assert.notEqual(seen[0]!.id, id)
  })

  check(
    'B13 redriven, a message is the same as it was: id, time, correlation, cause, trace, headers',
    async (stage) => {
      const seen: Message[] = []
      let broken = true
      const clerk = await stage.run('clerk', (bus) => {
        bus.subscribe(said, (_, { message }) => {
          if (broken) throw new PermanentError('broken')
          seen.push(message)
        })
      })
      const shop = await stage.run('shop', () => {})
      const at = stage.clock.now()
      const id = await shop.bus.transaction(
        ({ publish }) => publish(said, { about: 'a', number: 1 }, { headers: { urgent: 'yes' } }),
        { correlationId: 'request-1', causationId: 'click-1', traceparent: TRACEPARENT },
      )
      await stage.advance(60_000)
      broken = false
      await clerk.bus.deadLetters.redrive('all', me)
      await stage.quiet()
      const { data: _, headers, ...attributes } = seen[0]!
      assert.deepEqual(attributes, {
        id,
        type: 'shop.said',
        version: 1,
        source: 'shop',
        time: at,
        key: 'a',
        correlationId: 'request-1',
        causationId: 'click-1',
        traceparent: TRACEPARENT,
      })
      assert.deepEqual(headers, { urgent: 'yes' })
    },
  )

  // B14: schemas may grow --------------------------------------------------------------------------------------------

  check(
    'B14 a payload that does not match is refused when it is published, and the transaction with it',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const shop = await stage.run('shop', () => {})
      const publishing = (data: unknown) =>
        shop.bus.transaction(async ({ tx, publish }) => {
          await stage.note(tx, 1)
          publish(said, data as Saying)
        })
      for (const wrong of [{ about: 'a', number: 'one' }, { number: 1 }, null, undefined, 'text']) {
        await assert.rejects(publishing(wrong), { code: 'invalid_payload' }, JSON.stringify(wrong))
      }
      await stage.quiet()
      assert.deepEqual(await stage.numbers(shop), [])
      assert.deepEqual(await stage.numbers(clerk), [])
    },
  )

  check('B14 a handler that publishes what does not match fails like any other', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const handler = hears((_, { publish }) => void publish(answered, { about: 'a', number: 0.5 }))
      bus.subscribe(said, handler, { backoff: exactBackoff, attemptsMax: 2 })
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1)
    const [letter] = await clerk.bus.deadLetters.list()
    assert.match(letter!.cause, /clerk\.answered/)
    assert.deepEqual(await stage.heard(clerk), [])
  })

  check('B14 an event is published by its owner alone', async (stage) => {
    const shop = await stage.run('shop', () => {})
    await assert.rejects(shop.bus.publish(answered, { about: 'a', number: 1 }), { code: 'not_owner' })
  })

  check('B14 what the schema makes of a payload is what is published, and what is handled', async (stage) => {
    type Priced = { about: string; pence: number; currency: string }
    const priced = event<Priced>('shop.priced', {
      version: 1,
      key: ({ about }) => about,
      schema: schemaOf<Priced>(
        ({ about }) => (typeof about === 'string' ? null : 'about is missing'),
        ({ about, pence, currency = 'GBP' }) => ({ about, pence: Math.round(Number(pence)), currency }),
      ),
    })
    const seen: Priced[] = []
    await stage.run('clerk', (bus) => bus.subscribe(priced, (data) => void seen.push(data)))
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(priced, { about: 'a', pence: '12.3', surplus: true } as unknown as Priced)
    await stage.quiet()
    assert.deepEqual(seen, [{ about: 'a', pence: 12, currency: 'GBP' }])
  })

  const grown = saying('shop.said', 3, {
    1: ({ subject, n }) => ({ about: subject, n }),
    2: ({ about, n }) => ({ about, number: n, note: 'grown' }),
  })

  check('B14 upcasters bring old messages on the log to today’s shape, step by step', async (stage) => {
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(grown, hears()), { events: [grown] })
    await clerk.transport.publish([
      stage.encoded(grown, { subject: 'a', n: 1 }, { version: 1, key: 'a' }),
      stage.encoded(grown, { about: 'a', n: 2 }, { version: 2 }),
      stage.encoded(grown, { about: 'a', number: 3 }, { version: 3 }),
    ])
    await stage.quiet()
    assert.deepEqual(
      (await stage.heard(clerk)).map(({ number, note }) => ({ number, note })),
      [
        { number: 1, note: 'grown' },
        { number: 2, note: 'grown' },
        { number: 3, note: null },
      ],
    )
  })

  check(
    'B14 upcasters bring dead letters, retries and timers from before a release to today’s shape',
    async (stage) => {
      type Old = { subject: string; n: number }
      const old = event<Old>('shop.said', {
        version: 1,
        key: ({ subject }) => subject,
        schema: schemaOf<Old>(({ subject }) => (typeof subject === 'string' ? null : 'subject is missing')),
      })
      const olderEvents = { events: [old] }
      const before = await stage.run(
        'clerk',
        (bus) =>
          bus.subscribe(old, ({ n }) => {
            throw n === 1 ? new PermanentError('broken') : new Error('not yet')
          }),
        olderEvents,
      )
      const shop = await stage.run('shop', () => {}, olderEvents)
      await shop.bus.publish(old, { subject: 'dead', n: 1 })
      await shop.bus.publish(old, { subject: 'retried', n: 2 })
      await shop.bus.publish(old, { subject: 'later', n: 3 }, { delayMs: 30_000 })
      await stage.quiet()
      await before.stop()
      await shop.stop()

      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(grown, hears()), { events: [grown] })
      await stage.run('shop', () => {}, { events: [grown] })
      await clerk.bus.deadLetters.redrive('all', me)
      await stage.until(async () => (await stage.heard(clerk)).length === 3, 1_000)
      const heard = await stage.heard(clerk)
      assert.deepEqual(heard.map(({ about, number, note }) => `${about} ${number} ${note}`).sort(), [
        'dead 1 grown',
        'later 3 grown',
        'retried 2 grown',
      ])
    },
  )

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
    assert.deepEqual(status.outbox, { waiting: 0, oldestAgeMs: 0 })
    assert.equal(subscription!.name, 'clerk')
    assert.equal(subscription!.waiting, 0)
    assert.equal(subscription!.deadLetters, 1)
    assert.equal(subscription!.deferred, 3)
    assert.equal((await shop.bus.status()).timers, 1)
  })
}

/** A clerk who has handled 1 and 2 of key 'free' and 1 of 'stuck', and whose 2 of 'stuck' is a dead letter until `mend`. */
async function withDeadLetter(stage: Stage, afterDeadLetter: 'park' | 'skip') {
  let broken = true
  const setUp: Parameters<Stage['run']>[1] = (bus, { hears }) => {
    const handler = hears(({ about, number }) => {
      if (broken && about === 'stuck' && number === 2) throw new PermanentError('broken')
    })
    bus.subscribe(said, handler, { afterDeadLetter })
  }
  const clerk: Process = await stage.run('clerk', setUp)
  const shop: Process = await stage.run('shop', () => {})
  for (const number of [1, 2]) for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number })
  await stage.quiet()
  assert.equal((await clerk.bus.deadLetters.list()).length, 1)
  const mend = () => {
    broken = false
  }
  return { clerk, shop, setUp, mend }
}

/** A broker that can be away for publishers. */
function interrupted(inner: Transport, broker: { away: boolean; refused: number }): Transport {
  return altered(inner, {
    async publish(messages) {
      if (broker.away) {
        broker.refused++
        throw new UnavailableError('transport_unavailable', 'the broker is away')
      }
      await inner.publish(messages)
    },
  })
}

function byNumber(one: number, other: number): number {
  return one - other
}
