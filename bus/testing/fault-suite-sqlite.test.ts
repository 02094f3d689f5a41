import { test } from 'node:test'
import { faultSuite } from './fault-suite.ts'
import { needs } from './servers/needs.ts'

const module = new URL('./sqlite-fault-world.ts', import.meta.url)
const { url, skip } = await needs('postgres')

faultSuite('sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' } })
if (skip) test('sqlite × postgres: fault suite', { skip })
else faultSuite('sqlite × postgres', { module, broker: null, settings: { store: 'postgres', postgresUrl: url } })

// F3 with a million takes some minutes, so it runs when it is asked for:
//   F3_WORDS=1300000 npm test -- bus/testing/fault-suite-sqlite.test.ts --name '^long'
const { F3_WORDS } = process.env
if (F3_WORDS !== undefined) {
  const outboxWords = Number(F3_WORDS)
  if (!Number.isSafeInteger(outboxWords) || outboxWords < 1)
    throw new Error(`F3_WORDS is '${F3_WORDS}': write a whole number, as 1300000`)
  const only = /^F3/
  faultSuite('long, sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' }, outboxWords }, { only })
  // Two transactions stand open all the while.
  const settings = { store: 'postgres', postgresUrl: url, idleInTransactionTimeoutMs: '3600000' }
  if (skip) test('long, sqlite × postgres: F3', { skip })
  else faultSuite('long, sqlite × postgres', { module, broker: null, settings, outboxWords }, { only })
}
