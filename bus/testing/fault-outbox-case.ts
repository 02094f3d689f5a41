/** F3: numbers of the outbox's rows are taken in one order and become visible in another. */
import assert from 'node:assert/strict'
import { eventually } from './eventually.ts'
import { type FaultStage, together } from './fault-stage.ts'
import type { FaultCheck } from './fault-suite.ts'

const WRITERS = 64
/** Of one writer, for each word in a transaction. */
const TRANSACTIONS_PER_WORD = 4
/** Every so many transactions is rolled back. */
const ROLLED_BACK_EVERY = 5
const RELAYS = 4
/** Milliseconds between a transaction's publication and its end, by chance. */
const COMMIT_DELAY_MAX_MS = 12
/** Numbers of one writer: its own million. */
const RANGE = 1_000_000
const LONG = WRITERS + 1
const IDLE = WRITERS + 2

/** @param words How many are said, about; a fifth of them is rolled back. */
export function registerOutboxCase(check: FaultCheck, words: number): void {
  const wordsInTransaction = Math.max(1, Math.round(Math.sqrt(words / WRITERS / TRANSACTIONS_PER_WORD)))
  const transactions = Math.max(1, Math.round(words / WRITERS / wordsInTransaction))
  check(
    'F3 B1 64 writers commit in any order, some roll back, one stays open long, one for ever; the relay is restarted: none is skipped',
    async (stage, { bounds, diagnostic }) => {
      await stage.startScribe()
      const { bus, sayIn } = await stage.openTeller()
      const committed: number[] = []
      // An embedded database lets one write at a time, so there they would hold up the others.
      const sideBySide = bus.store.dialect !== 'sqlite'
      const written = Promise.withResolvers<void>()
      const given = Promise.withResolvers<void>()
      given.promise.catch(() => {})
      const holders = sideBySide
        ? [
            holdOpen(LONG, written.promise).then(() => void committed.push(LONG * RANGE)),
            holdOpen(IDLE, given.promise).catch(() => {}),
          ]
        : []

      async function holdOpen(writer: number, until: Promise<void>): Promise<void> {
        await bus.transaction(async (context) => {
          await sayIn(context, [{ key: `w${writer}`, n: writer * RANGE, act: 'write' }])
          await until
        })
      }

      async function relayInTurns(): Promise<void> {
        for (let relay = 1; relay <= RELAYS; relay++) {
          // Two connections of one process to an embedded database would wait for each other.
          const carrier = await stage.openTeller(sideBySide ? {} : { store: bus.store })
          await carrier.bus.start()
          const share = (WRITERS * transactions * wordsInTransaction * relay) / RELAYS / 2
          await eventually(async () => (await stage.heardCount()) >= share, {
            timeoutMs: bounds.arrivesWithinMs,
            message: `relay ${relay} carried too little`,
          })
          if (relay < RELAYS) await carrier.bus.close()
        }
      }

      async function write(writer: number): Promise<void> {
        for (let index = 0; index < transactions; index++) {
          const said = Array.from({ length: wordsInTransaction }, (_, place) => ({
            key: `w${writer}`,
            n: writer * RANGE + index * wordsInTransaction + place,
            act: 'write' as const,
          }))
          const rollsBack = (writer + index) % ROLLED_BACK_EVERY === 0
          const work = bus.transaction(async (context) => {
            await sayIn(context, said)
            await new Promise((resolve) => setTimeout(resolve, sideBySide ? Math.random() * COMMIT_DELAY_MAX_MS : 0))
            if (rollsBack) throw new Error('rolled back')
          })
          if (rollsBack) await assert.rejects(work, { message: 'rolled back' })
          else committed.push(...(await work.then(() => said.map(({ n }) => n))))
        }
      }

      try {
        const writing = Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer)))
        await together([writing, relayInTurns()])
        diagnostic?.(`${await stage.heardCount()} of ${committed.length} were heard when the last writer ended`)
        await eventually(async () => (await stage.heardCount()) === committed.length, {
          timeoutMs: bounds.arrivesWithinMs,
          message: 'what commits later was waited for',
        })
        written.resolve()
        if (sideBySide) await holders[0]
        await eventually(async () => (await stage.heardCount()) >= committed.length, {
          timeoutMs: bounds.arrivesWithinMs,
          message: 'the one that was open long was skipped',
        })
        await assertEachOnceInOrder(stage, committed)
      } finally {
        // Also where it failed: what stands open would hold the end of the stage up.
        written.resolve()
        given.reject(new Error('given up'))
      }
      await Promise.all(holders)
    },
  )
}

async function assertEachOnceInOrder(stage: FaultStage, committed: readonly number[]): Promise<void> {
  const heard = await stage.heard()
  const ascending = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)
  assert.deepEqual(ascending(heard.map(({ n }) => n)), ascending(committed), 'each once, and nothing rolled back')
  for (const [key, rows] of Map.groupBy(heard, ({ message_key }) => message_key)) {
    const numbers = rows.map(({ n }) => n)
    assert.deepEqual(numbers, ascending(numbers), `order of key ${key}`)
  }
}
