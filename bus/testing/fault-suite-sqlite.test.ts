import { test } from 'node:test'
import { faultSuite } from './fault-suite.ts'
import { needs } from './servers/needs.ts'

const module = new URL('./sqlite-fault-world.ts', import.meta.url)
const { url, skip } = await needs('postgres')

faultSuite('sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' } })
if (skip) test('sqlite × postgres: fault suite', { skip })
else faultSuite('sqlite × postgres', { module, broker: null, settings: { store: 'postgres', postgresUrl: url } })

// F3 with a million takes some minutes, so it runs when it is asked for:
//   F3_WORDS=1300000 node --test --test-timeout=3600000 --test-name-pattern=^long bus/testing/fault-suite-sqlite.test.ts
const outboxWords = Number(process.env.F3_WORDS ?? 0)
if (outboxWords > 0) {
  const only = /^F3/
  faultSuite('long, sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' }, outboxWords }, { only })
  // Two transactions stand open all the while.
  const settings = { store: 'postgres', postgresUrl: url, idleInTransactionTimeoutMs: '3600000' }
  if (!skip) faultSuite('long, sqlite × postgres', { module, broker: null, settings, outboxWords }, { only })
}
