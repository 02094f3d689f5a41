/**
 * What a transport and a store must survive. Whole buses play it: a teller says numbered words by key, a scribe writes each
 * down in a table that no unique key guards. Every case ends with the same oracle: nothing lost, no effect doubled, the
 * order of each key kept, every message done or a dead letter with its cause, and progress within a bound.
 *
 *   F1  a confirmation is lost: the connection is cut, or silently half open, from the publication to its confirmation
 *   F2  what was declared is deleted under load, or refuses
 *   F3  the outbox: writers that commit in any order, roll back, stay open; the relay is restarted
 *   F5  a process is frozen past its lease, woken, and tries to commit
 *   F6  members join and leave, some by `kill -9`, while work is done out of order
 *   F8  a message throws, or kills its process, among a hundred innocent neighbours
 *   F12 the broker restarts twice under 10,000 messages, once in order and once by `kill -9`
 *
 * F4 is `crashSuite`. For a transport of your own, write a module that exports `open(place, log)` (see FaultModule), a way
 * to start a private server, and what an operator could do to it by mistake:
 *
 *   const broker = await startFaultBroker(({ port }) => startMyServer({ port }))
 *   after(() => broker[Symbol.asyncDispose]())
 *   faultSuite('my broker', { module: new URL('./my-fault-world.ts', import.meta.url), broker, deletions: { … } })
 */

import type { FaultBroker } from './fault-broker.ts'
import { registerConnectionCases } from './fault-connection-cases.ts'
import { registerDeletionCases } from './fault-deletion-cases.ts'
import { registerOutboxCase } from './fault-outbox-case.ts'
import { registerProcessCases } from './fault-process-cases.ts'
import type { FaultPlace } from './fault-services.ts'
import { FaultStage } from './fault-stage.ts'
import { caseRegistrar, type SuiteContext, type SuiteRunner } from './suite-test.ts'

export type FaultSuiteOptions = {
  /** Exports what `FaultModule` says; loaded here and in every child process. */
  module: URL
  /** Handed to the module. */
  settings?: Readonly<Record<string, string>>
  /** A private server; null: the transport has none, and F1, F2, F12 say nothing about it. */
  broker: FaultBroker | null
  /** F2: what somebody deletes by mistake, by its name. Resolves when it is gone. */
  deletions?: Readonly<Record<string, (place: FaultPlace) => Promise<void>>>
  /** F2: what makes the broker refuse, by its name; the function that it answers undoes it. */
  refusals?: Readonly<Record<string, (place: FaultPlace) => Promise<() => Promise<void>>>>
  /** F3: how many words are written, about; 2,304 by default. Its bounds grow with it. */
  outboxWords?: number
  bounds?: Partial<FaultBounds>
}

/** Real milliseconds. */
export type FaultBounds = {
  /** Until a publication has settled, whatever happened to it. */
  settlesWithinMs: number
  /** From the loss of a process until another has taken over what it held. */
  takesOverWithinMs: number
  /** Until everything that was said is done, once nothing stands in its way. */
  arrivesWithinMs: number
  /** From the broker's return until the next effect. */
  resumesWithinMs: number
}

export const defaultBounds: FaultBounds = {
  settlesWithinMs: 8_000,
  takesOverWithinMs: 15_000,
  resumesWithinMs: 15_000,
  arrivesWithinMs: 30_000,
}

export type FaultContext = SuiteContext & { readonly bounds: FaultBounds }
export type FaultCheck = (title: string, run: (stage: FaultStage, context: FaultContext) => Promise<void>) => void

/** The cases in which the store has a part of its own: for the second store of a transport that runs them all with the first. */
export const STORE_MATTERS = /^F(3|5|8)/

const OUTBOX_WORDS = 2_304
/** A broker that starts twice on a busy machine needs more than a case of other suites. */
const CASE_TIMEOUT_MS = 180_000
/** A word of F3 beyond OUTBOX_WORDS may take so long more. */
const WORD_MS = 1.5

export function faultSuite(name: string, options: FaultSuiteOptions, runner: SuiteRunner = {}): void {
  const outboxWords = options.outboxWords ?? OUTBOX_WORDS
  const moreMs = Math.max(0, outboxWords - OUTBOX_WORDS) * WORD_MS
  const bounds = { ...defaultBounds, ...options.bounds }
  bounds.arrivesWithinMs += moreMs
  const register = caseRegistrar(name, runner, CASE_TIMEOUT_MS + moreMs)
  const check: FaultCheck = (title, run) =>
    register(title, async (world, context) => {
      const stage = new FaultStage(world, options, bounds)
      const diagnostic = (text: string) => context.diagnostic?.(text)
      try {
        await run(stage, { bounds, skip: (why) => context.skip(why), diagnostic })
      } catch (error) {
        for (const line of stage.lastLines()) diagnostic(line)
        throw error
      }
    })
  if (options.broker) {
    registerConnectionCases(check, options.broker)
    registerDeletionCases(check, options)
  }
  registerOutboxCase(check, outboxWords)
  registerProcessCases(check)
}
