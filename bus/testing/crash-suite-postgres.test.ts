import { test } from 'node:test'
import { crashSuite } from './crash-suite.ts'
import { dropCrashSchemas } from './postgres-crash-world.ts'
import { needs } from './servers/needs.ts'
import type { SuiteTest } from './suite-test.ts'

const { url, skip } = await needs('postgres')

/** What the processes of a case made is dropped after it, whatever became of it. */
const cleaning: SuiteTest = (name, options, run) =>
  test(name, options, async (context) => {
    try {
      await run(context)
    } finally {
      await dropCrashSchemas()
    }
  })

if (skip) test('sqlite × postgres: crash suite', { skip })
else {
  process.env.POSTGRES_URL = url // its children read it
  crashSuite('sqlite × postgres', { module: new URL('./postgres-crash-world.ts', import.meta.url) }, { test: cleaning })
}
