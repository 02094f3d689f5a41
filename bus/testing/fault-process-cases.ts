/** F5, F6 and F8: processes that are frozen, that come and go, that die of a message. */
import assert from 'node:assert/strict'
import { sql } from '../sql.ts'
import { eventually } from './eventually.ts'
import { type Act, ATTEMPTS_MAX } from './fault-services.ts'
import type { FaultStage, ScribeProcess } from './fault-stage.ts'
import type { FaultCheck } from './fault-suite.ts'

const JOINS = 3
const NEIGHBOURS = 100
const GETS_WORK_WITHIN_MS = 15_000
/** Milliseconds in which what a fenced process tried must have come to its end. */
const GIVES_UP_WITHIN_MS = 10_000
/** Processes that may be started until a poisonous word is buried: one for each attempt, one that buries it, and as many again. */
const LIVES_MAX = 2 * (ATTEMPTS_MAX + 1)

export function registerProcessCases(check: FaultCheck): void {
  check(
    'F5 B8 a process frozen past its lease, and past what the inbox remembers, is fenced off when it wakes',
    async (stage, { bounds, diagnostic }) => {
      await stage.startTeller()
      const frozen = await stage.forkScribe('wait')
      await stage.say(1)
      await frozen.reported('held') // in the middle of its work, before its transaction
      frozen.process.kill('SIGSTOP')
      const begun = performance.now()
      await stage.startScribe()
      await stage.untilHeardCount(1, bounds.takesOverWithinMs)
      diagnostic?.(`another took over ${(performance.now() - begun).toFixed(0)} ms after it froze`)
      await stage.untilAcknowledged() // or it might be delivered again, which only the inbox would know
      await forgetInbox(stage)
      frozen.process.send('proceed')
      frozen.process.kill('SIGCONT')
      await stage.say(200)
      await stage.assertOracle()
      // It leaves in good order, so whatever it had begun has come to its end.
      await frozen.leave()
      await eventually(() => !frozen.isAlive, { timeoutMs: GIVES_UP_WITHIN_MS })
      const heard = await stage.assertOracle()
      assert.equal(heard.find(({ n }) => n === 1)!.pid, process.pid, 'who took over has done it')
    },
  )

  check(
    'F6 B3 B8 members join and leave, every other one by kill -9, and finish out of order: nothing lost or doubled, order per key kept',
    async (stage, { diagnostic }) => {
      await stage.startTeller()
      const stays = await stage.forkScribe('dawdle')
      await stage.whileSaying(async () => {
        for (let join = 1; join <= JOINS; join++) {
          const begun = performance.now()
          const comer = await stage.forkScribe('dawdle')
          await eventually(async () => (await stage.heard()).some(({ pid }) => pid === comer.pid), {
            timeoutMs: GETS_WORK_WITHIN_MS,
            message: 'who joined got no work',
          })
          diagnostic?.(`member ${join} had its share ${(performance.now() - begun).toFixed(0)} ms after it was started`)
          if (join % 2 === 0) await comer.kill()
          else await comer.leave()
        }
      })
      const heard = await stage.assertOracle()
      assert.ok(heard.some(({ pid }) => pid === stays.pid))
    },
  )

  check(
    `F8 B4 a message that throws among ${NEIGHBOURS} neighbours: a dead letter after exactly ${ATTEMPTS_MAX} attempts, and they are all done`,
    async (stage) => {
      await stage.startScribe()
      await stage.startTeller()
      await sayPoisoned(stage, 'throw')
      await assertPoisonDead(stage)
    },
  )

  check(
    `F8 B6 a message that kills its process among ${NEIGHBOURS} neighbours: a dead letter after exactly ${ATTEMPTS_MAX} deaths, and they are all done`,
    async (stage, { bounds, diagnostic }) => {
      const declared = await stage.openScribe()
      await declared.bus.declare()
      await declared.close()
      await stage.startTeller()
      await sayPoisoned(stage, 'kill')
      const begun = performance.now()
      let alive: ScribeProcess | undefined
      let lives = 0
      await eventually(
        async () => {
          if (!alive?.isAlive && lives < LIVES_MAX) {
            lives += 1
            alive = await stage.forkScribe('at once').catch(() => undefined) // it may die before it says that it lives
          }
          return (await stage.deadLetters()).size === 1
        },
        {
          timeoutMs: (ATTEMPTS_MAX + 1) * bounds.takesOverWithinMs,
          message: 'the poisonous message never became a dead letter',
        },
      )
      diagnostic?.(`a dead letter after ${lives} lives and ${(performance.now() - begun).toFixed(0)} ms`)
      await assertPoisonDead(stage)
      assert.equal(stage.attempts().length, ATTEMPTS_MAX, 'each attempt costs one life')
      assert.ok(alive?.isAlive, 'the last process lives')
    },
  )
}

/** As if the inbox's window were over. */
async function forgetInbox(stage: FaultStage): Promise<void> {
  const { store } = await stage.watcher()
  await store.transaction((tx) => tx.run(sql`delete from bus_inbox`))
}

async function sayPoisoned(stage: FaultStage, act: Act): Promise<void> {
  await stage.say(NEIGHBOURS / 2)
  await stage.say(1, act)
  await stage.say(NEIGHBOURS / 2)
}

async function assertPoisonDead(stage: FaultStage): Promise<void> {
  const poison = NEIGHBOURS / 2 + 1
  // Later words of its key wait behind it, which is what 'park' promises.
  await stage.assertOracle({ dead: new Map([[poison, 'attempts_exhausted']]) })
  // An attempt that was undone with its neighbours is made once more, alone, under the same number.
  const attempts = [...new Set(stage.attempts())]
  assert.deepEqual(
    attempts,
    Array.from({ length: ATTEMPTS_MAX }, (_, index) => index + 1),
  )
}
