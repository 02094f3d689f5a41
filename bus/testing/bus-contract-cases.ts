/** B13, B14: where a message comes from, and how its schema may grow. */
import assert from 'node:assert/strict'
import { PermanentError } from '../errors.ts'
import { event } from '../event.ts'
import type { Message } from '../message.ts'
import {
  answered,
  type Check,
  exactBackoff,
  me,
  type Saying,
  said,
  saying,
  schemaOf,
  TRACEPARENT,
} from './bus-stage.ts'

const ids = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

export function contractCases(check: Check): void {
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
}
