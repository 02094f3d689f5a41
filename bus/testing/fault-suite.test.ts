/** The fault suite catches the bugs that it is for. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { startFaultBroker } from './fault-broker.ts'
import type { Bug } from './fault-bugs.ts'
import { type FaultSuiteOptions, faultSuite } from './fault-suite.ts'
import { needs } from './servers/needs.ts'
import { startRedis } from './servers/redis.ts'
import type { SuiteTest } from './suite-test.ts'

const CASE_TIMEOUT_MS = 120_000
/** Nothing has to be waited for that a bug has lost. */
const bounds = { arrivesWithinMs: 4_000, takesOverWithinMs: 3_000 }
const { skip } = await needs('redis')

function caught(
  bug: Bug,
  only: RegExp,
  message: RegExp,
  options: Omit<FaultSuiteOptions, 'settings' | 'bounds'>,
): void {
  const cases: { name: string; run: Parameters<SuiteTest>[2] }[] = []
  const record: SuiteTest = (name, _, run) => void cases.push({ name, run })
  faultSuite('planted', { ...options, bounds, settings: { store: 'sqlite', bug } }, { test: record, only })
  assert.equal(cases.length, 1, `one case is for '${bug}'`)
  test(`'${bug}' is caught by ${cases[0]!.name}`, { timeout: CASE_TIMEOUT_MS }, () =>
    assert.rejects(cases[0]!.run({ skip() {} }), (error: Error) => {
      const causes = `${error.message} ${(error.cause as Error | undefined)?.message ?? ''}`
      assert.match(causes, message)
      return true
    }),
  )
}

const embedded = { module: new URL('./sqlite-fault-world.ts', import.meta.url), broker: null }
caught('no fencing', /^F5/, /more than one effect/, embedded)
caught('ack before commit', /^F8 .*kills/, /never became a dead letter|was not heard/, embedded)
caught('no suspicion', /^F8 .*kills/, /never became a dead letter/, embedded)

if (skip) test("'no confirmation' is caught", { skip })
else {
  const broker = await startFaultBroker(startRedis)
  after(() => broker[Symbol.asyncDispose]())
  const redis = { module: new URL('./redis-fault-world.ts', import.meta.url), broker }
  caught('no confirmation', /^F12/, /was not heard|were not heard/, redis)
}
