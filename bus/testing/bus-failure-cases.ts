/** B4, B5, B6: what becomes of a message that cannot be handled. */
import assert from 'node:assert/strict'
import { jsonCodec } from '../codecs/json.ts'
import { PermanentError } from '../errors.ts'
import type { Message } from '../message.ts'
import type { Transport } from '../transport.ts'
import {
  answered,
  assertInOrder,
  byNumber,
  type Check,
  exactBackoff,
  LATE_MAX_MS,
  me,
  refusing,
  type Saying,
  type SetUp,
  said,
  saying,
  shouted,
  withDeadLetter,
} from './bus-stage.ts'

export function failureCases(check: Check): void {
  check('a transaction inside a handler is refused at once instead of waiting for itself', async (stage) => {
    const codes: unknown[] = []
    const clerk = await stage.run('clerk', (bus, { hears }) => {
      const hear = hears(() => {})
      bus.subscribe(said, async (data, context) => {
        await hear(data, context)
        await bus.transaction(() => {}).catch((error) => codes.push(error.code))
      })
    })
    const shop = await stage.run('shop', () => {})
    await shop.bus.publish(said, { about: 'a', number: 1 })
    await stage.until(async () => (await stage.heard(clerk)).length > 0)
    assert.deepEqual([...new Set(codes)], ['invalid_argument'])
    await Promise.all([clerk.bus.transaction(() => {}), clerk.bus.transaction(() => {})]) // beside each other they are fine
  })

  check(
    'a publication of the bus inside a handler is refused at once instead of waiting for its time',
    async (stage) => {
      const codes: unknown[] = []
      const clerk = await stage.run('clerk', (bus, { hears }) => {
        const hear = hears(() => {})
        bus.subscribe(said, async (data, context) => {
          await hear(data, context)
          await bus.publish(answered, { about: 'a', number: 1 }).catch((error) => codes.push(error.code))
        })
      })
      const shop = await stage.run('shop', () => {})
      await shop.bus.publish(said, { about: 'a', number: 1 })
      await stage.until(async () => (await stage.heard(clerk)).length > 0)
      assert.deepEqual([...new Set(codes)], ['invalid_argument'])
    },
  )

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
    await stage.until(async () => (await stage.heard(clerk)).length > 0)
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
    const setUp: SetUp = (bus, { hears }) => {
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
      await stage.until(async () => (await stage.numbers(clerk, 'free')).length === 1, 500)
      await stage.until(async () => (await clerk.bus.deadLetters.list()).length === 1, 500)
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
    // A store may keep a text as its bytes.
    const kept = letters.map(({ body }) => Buffer.from(body as string).toString('hex'))
    const given = [bytes, ...texts].map((body) => Buffer.from(body as string).toString('hex'))
    assert.deepEqual(kept.sort(), given.sort())
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

  check(
    'B6 an id, a key or headers that no broker takes are refused, and stop nothing in the outbox',
    async (stage) => {
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
      const { bus } = await stage.run('shop', () => {})
      const word = { about: 'a', number: 1 }
      const tooLarge = { code: 'message_too_large' }
      await assert.rejects(bus.publish(said, word, { id: 'i'.repeat(256) }), tooLarge)
      await assert.rejects(bus.publish(said, { ...word, about: 'k'.repeat(4_097) }), tooLarge)
      await assert.rejects(bus.publish(said, word, { headers: { note: 'n'.repeat(32_768) } }), tooLarge)
      const largest = { id: 'i'.repeat(255), headers: { note: 'n'.repeat(32_700) } }
      await bus.publish(said, { ...word, about: 'k'.repeat(4_096) }, largest)
      await stage.quiet()
      assert.equal((await stage.heard(clerk)).length, 1)
    },
  )

  check('B6 R5 what the broker will never take stops nothing behind it, and can be redriven', async (stage) => {
    const broker = { takesLong: false }
    const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe(said, hears()))
    const setUp: SetUp = () => {}
    const through = (inner: Transport) =>
      refusing(inner, ({ body }) => !broker.takesLong && Buffer.from(body as string).includes('long'))
    let shop = await stage.run('shop', setUp, { through })
    await shop.bus.transaction(({ publish }) => {
      for (let number = 1; number <= 20; number++) {
        for (const about of ['a', 'b', null])
          publish(said, { about, number, ...(number % 9 === 0 && about !== 'b' ? { note: 'long' } : {}) })
      }
    })
    await shop.bus.publish(said, { about: 'b', number: 21 })
    await stage.quiet()
    const all = Array.from({ length: 21 }, (_, index) => index + 1)
    const short = all.filter((number) => number % 9 !== 0 && number < 21)
    assert.deepEqual(await stage.numbers(clerk, 'a'), short)
    assert.deepEqual(await stage.numbers(clerk, 'b'), all)
    assert.equal((await stage.heard(clerk)).length, 2 * short.length + 21, 'nothing was lost or doubled')
    assert.ok(shop.bus.ready())

    const { outbox } = await shop.bus.status()
    assert.deepEqual({ waiting: outbox.waiting, refused: outbox.refused }, { waiting: 0, refused: 4 })
    await shop.stop() // they are durable
    shop = await stage.run('shop', setUp, { through })
    const letters = await shop.bus.deadLetters.list({ subscription: '(outbox)' })
    assert.deepEqual(
      letters.map(({ type, key, messageId, code, body }) => ({
        type,
        key: key === messageId ? null : key,
        code,
        data: jsonCodec.decode(body).data,
      })),
      [9, 18].flatMap((number) =>
        ['a', null].map((key) => ({
          type: said.type,
          key,
          code: 'message_too_large',
          data: { about: key, number, note: 'long' },
        })),
      ),
    )
    assert.match(letters[0]!.cause, /too long for this broker/)
    assert.equal((await shop.bus.deadLetters.groups())[0]!.count, 4)
    await assert.rejects(shop.bus.deadLetters.rehearse(letters[0]!.id), { code: 'invalid_argument' })

    // Redriven too early, it comes back; edited, it goes; discarded, it never does; mended, the rest goes.
    await stage.advance(1_000) // the second process's ids begin after those of the first
    await shop.bus.deadLetters.redrive(letters[0]!.id, me)
    await stage.quiet()
    assert.equal((await shop.bus.deadLetters.list()).length, 4)
    await shop.bus.deadLetters.edit(letters[1]!.id, { about: null, number: 9, note: 'brief' }, me)
    await shop.bus.deadLetters.discard(letters[2]!.id, me)
    await stage.quiet()
    assert.deepEqual((await stage.heard(clerk)).at(-1)!.note, 'brief')
    broker.takesLong = true
    await shop.bus.deadLetters.redrive('all', { ...me, perSecondMax: 1 })
    await stage.advance(3_000)
    const late = (await stage.heard(clerk)).slice(-2)
    assert.deepEqual(
      late.map(({ about, number }) => [about, number]),
      [
        [null, 18],
        ['a', 9],
      ],
    )
    assert.ok(late[1]!.at >= late[0]!.at + 1_000, 'they are spread')
    assert.equal(late[0]!.message_id, letters[3]!.messageId)
    assert.equal((await shop.bus.status()).outbox.refused, 0)
  })

  check(
    'B11 R5 what the broker refuses for its set-up is no message’s fault: it waits, and nothing is set aside',
    async (stage) => {
      const broker: { refuses: 'all' | 'loud' | 'nothing' } = { refuses: 'all' }
      const clerk = await stage.run('clerk', (bus, { hears }) => bus.subscribe([said, shouted], hears()))
      const through = (inner: Transport) =>
        refusing(
          inner,
          ({ type }) => broker.refuses === 'all' || (broker.refuses === 'loud' && type === shouted.type),
          'transport_refused',
        )
      const shop = await stage.run('shop', () => {}, { through })
      for (let number = 1; number <= 30; number++) await shop.bus.publish(said, { about: 'a', number })
      await shop.bus.publish(shouted, { about: 'b', number: 1 })
      await stage.until(() => !shop.bus.ready())
      await stage.clock.advance(60_000)
      const { outbox } = await shop.bus.status()
      assert.deepEqual({ waiting: outbox.waiting, refused: outbox.refused }, { waiting: 31, refused: 0 })
      broker.refuses = 'loud'
      await stage.until(async () => (await stage.heard(clerk)).length === 30)
      await stage.clock.advance(60_000)
      assert.equal(shop.bus.ready(), false)
      assert.equal((await shop.bus.status()).outbox.refused, 0)
      broker.refuses = 'nothing'
      await stage.until(() => shop.bus.ready())
      await stage.quiet()
      const all = Array.from({ length: 30 }, (_, index) => index + 1)
      assert.deepEqual(await stage.numbers(clerk, 'a'), all)
      assert.deepEqual(await stage.numbers(clerk, 'b'), [1])
      assert.deepEqual(await shop.bus.deadLetters.list(), [])
    },
  )
}
