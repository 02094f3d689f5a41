/** F1 and F12: the way to the broker, and the broker itself, are gone for a while. */
import assert from 'node:assert/strict'
import type { Bus } from '../bus.ts'
import type { Transport } from '../transport.ts'
import { eventually } from './eventually.ts'
import type { FaultBroker } from './fault-broker.ts'
import { type FaultStage, through } from './fault-stage.ts'
import type { FaultCheck } from './fault-suite.ts'

/** Stands in the bytes of every word. */
const PUBLICATION = 'teller.said'
const WORDS_BEFORE = 40
const WORDS_UNDER_LOAD = 10_000
const RESTARTS_AT = [2_000, 6_000]
/** Words that are said and not heard, while the broker lives. */
const AHEAD_MAX = 2_500
/** Milliseconds for the rest of the load, once the broker is back for the last time: a limit for what hangs. */
const LOAD_WITHIN_MS = 60_000
const STRIKES_WITHIN_MS = 15_000
const STATUS_WITHIN_MS = 10_000

/** Where on the way of a publication the connection breaks. `answers`: so many chunks of the server came after it; the last is lost. */
const points = [
  { where: 'as the publication leaves', answers: 0 },
  { where: 'after it left, before the first answer', answers: 1 },
  { where: 'between its answers', answers: 2 },
] as const

export function registerConnectionCases(check: FaultCheck, broker: FaultBroker): void {
  for (const mode of ['cut', 'silence'] as const) {
    const what = mode === 'cut' ? 'cut' : 'silently half open'
    check(
      `F1 B1 B11 the connection is ${what} at each point from publication to confirmation: publishing settles, nothing is lost or doubled`,
      async (stage, { bounds, diagnostic }) => {
        const publications = new Publications()
        const url = broker.proxy.through(stage.place.url)
        await stage.startScribe()
        await stage.startTeller({ url, over: (transport) => publications.of(transport) })
        await stage.say(WORDS_BEFORE)
        await stage.untilHeardCount(stage.said)
        try {
          for (const { where, answers } of points) {
            await strike(stage, broker, mode, answers)
            // What was on its way is not confirmed, and what comes next is told so.
            await stage.say(WORDS_BEFORE)
            const failed = publications.failed
            await eventually(() => publications.failed > failed || publications.failedRecently, {
              timeoutMs: 2 * bounds.settlesWithinMs,
              message: `${where}: no publication was told of it`,
            })
            publications.failedRecently = false
            broker.proxy.restore()
            const ms = await stage.untilHeardCount(stage.said, bounds.resumesWithinMs)
            diagnostic?.(`${what} ${where}: all heard ${ms.toFixed(0)} ms after the connection could be made again`)
          }
        } finally {
          broker.watch(null)
          broker.proxy.restore()
        }
        await eventually(() => publications.running === 0, {
          timeoutMs: bounds.settlesWithinMs,
          message: 'a publication never settled',
        })
        const slowest = publications.slowestMs.toFixed(0)
        diagnostic?.(`the slowest publication settled after ${slowest} ms`)
        assert.ok(publications.slowestMs <= bounds.settlesWithinMs, `a publication took ${slowest} ms to settle`)
        await stage.assertOracle()
      },
    )
  }

  check(
    'F12 B11 the broker restarts twice under 10,000 messages, in order and by kill -9: nothing is lost or doubled',
    async (stage, { bounds, diagnostic }) => {
      const scribe = await stage.startScribe()
      const teller = await stage.startTeller()
      await stage.whileSaying(async () => {
        for (const [index, count] of RESTARTS_AT.entries()) {
          await stage.untilHeardCount(count)
          if (index === 0) await broker.server.stop()
          else await broker.server.kill()
          await stage.say(10) // transactions commit while the broker is away
          await eventually(() => saysThatTheBrokerIsAway(teller.bus, scribe.bus), {
            timeoutMs: STATUS_WITHIN_MS,
            message: 'the status says nothing, or not that the broker is away',
          })
          await broker.server.start()
          const heard = await stage.heardCount()
          const ms = await stage.untilHeardCount(heard + 1, bounds.resumesWithinMs)
          const what = index === 0 ? 'restart' : 'kill -9'
          diagnostic?.(`${what}: the next effect came ${ms.toFixed(0)} ms after its return`)
        }
        await eventually(() => stage.said >= WORDS_UNDER_LOAD, {
          timeoutMs: LOAD_WITHIN_MS,
          message: 'the load did not pass',
        })
      }, AHEAD_MAX)
      await stage.assertOracle()
    },
  )
}

/** What a process knows by itself is told all the same, and what the broker would have to say is not made up. */
async function saysThatTheBrokerIsAway(teller: Bus, scribe: Bus): Promise<boolean> {
  const [telling, hearing] = await Promise.all([teller.status(), scribe.status()])
  const [words] = hearing.subscriptions
  const isKept = telling.ready || telling.outbox.waiting >= 10
  return isKept && !hearing.ready && words!.waiting === null
}

/** Lets the connection break at that point of some publication from now on. */
async function strike(stage: FaultStage, broker: FaultBroker, mode: 'cut' | 'silence', answers: number): Promise<void> {
  let left = false
  let answered = 0
  let struck = false
  broker.watch((chunk, direction) => {
    if (struck) return
    if (direction === 'to server') left ||= chunk.includes(PUBLICATION)
    else if (left) answered += 1
    if (!left || answered < answers) return
    struck = true
    broker.proxy[mode]()
  })
  await eventually(
    async () => {
      if (!struck) await stage.say(10)
      return struck
    },
    { timeoutMs: STRIKES_WITHIN_MS, message: 'no publication passed the proxy' },
  )
}

/** Knows what became of every publication of a transport. */
class Publications {
  running = 0
  failed = 0
  /** Since somebody said that it is not so. */
  failedRecently = false
  slowestMs = 0

  of(transport: Transport): Transport {
    return through(transport, {
      publish: async (messages) => {
        const begun = performance.now()
        this.running += 1
        try {
          await transport.publish(messages)
        } catch (error) {
          this.failed += 1
          this.failedRecently = true
          throw error
        } finally {
          this.running -= 1
          this.slowestMs = Math.max(this.slowestMs, performance.now() - begun)
        }
      },
    })
  }
}
