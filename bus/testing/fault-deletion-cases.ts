/** F2: confirmed, but nowhere. */
import assert from 'node:assert/strict'
import { eventually } from './eventually.ts'
import type { FaultCheck, FaultSuiteOptions } from './fault-suite.ts'

const WORDS_BEFORE = 300
const WORDS_AFTER = 600
const REFUSED_WITHIN_MS = 15_000
/** A warning or an error that tells what happened, and what was done about it. */
const LOUD = /^(?!.*connection).*(deleted|gone|missing|lost).*made (again|anew)/

export function registerDeletionCases(check: FaultCheck, { deletions = {}, refusals = {} }: FaultSuiteOptions): void {
  for (const [what, remove] of Object.entries(deletions)) {
    check(
      `F2 B6 ${what} deleted under load: it is said loudly, nothing published afterwards vanishes`,
      async (stage, { bounds, diagnostic }) => {
        await stage.startScribe()
        await stage.startTeller()
        let gone = 0
        const quiet = stage.lines.length
        await stage.whileSaying(async () => {
          await stage.untilHeardCount(WORDS_BEFORE)
          await remove(stage.place)
          // Whatever waited in it is lost with it, and what was on its way there.
          gone = stage.said
          const begun = performance.now()
          await eventually(async () => (await stage.heard()).some(({ n }) => n > gone), {
            timeoutMs: bounds.resumesWithinMs,
            message: 'nothing was heard any more',
          })
          diagnostic?.(`the next effect came ${(performance.now() - begun).toFixed(0)} ms after the deletion`)
          await eventually(() => stage.said >= gone + WORDS_AFTER, { timeoutMs: bounds.resumesWithinMs })
        })
        const heard = await stage.assertOracle({ mayLackTo: gone })
        diagnostic?.(`${gone - heard.filter(({ n }) => n <= gone).length} words were lost with what was deleted`)
        const loud = () => stage.lines.slice(quiet).find(({ level, text }) => level !== 'info' && LOUD.test(text))
        await eventually(loud, { message: 'nobody was told what is gone' })
        diagnostic?.(`it said: ${loud()!.text}`)
      },
    )
  }

  for (const [what, refuse] of Object.entries(refusals)) {
    check(
      `F2 B11 ${what}: the outbox keeps what the broker refuses, and nothing is lost`,
      async (stage, { bounds, diagnostic }) => {
        const scribe = await stage.openScribe()
        await scribe.bus.declare()
        const teller = await stage.startTeller()
        const accept = await refuse(stage.place)
        try {
          await stage.say(WORDS_BEFORE)
          const refused = () => stage.lines.some(({ text }) => /outbox could not be relayed/.test(text))
          await eventually(refused, { timeoutMs: REFUSED_WITHIN_MS, message: 'the broker took everything' })
          const { outbox } = await teller.bus.status()
          assert.ok(outbox.waiting > 0, 'the outbox must keep what was refused')
          assert.equal(teller.bus.ready(), false, 'readiness must say so')
        } finally {
          await accept()
        }
        await scribe.bus.start()
        const ms = await stage.untilHeardCount(stage.said, bounds.resumesWithinMs)
        diagnostic?.(`all was heard ${ms.toFixed(0)} ms after it took messages again`)
        await stage.assertOracle()
      },
    )
  }
}
