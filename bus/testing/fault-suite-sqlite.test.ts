import { test } from 'node:test'
import { faultSuite } from './fault-suite.ts'
import { needs } from './servers/needs.ts'

const module = new URL('./sqlite-fault-world.ts', import.meta.url)
const { url, skip } = await needs('postgres')

faultSuite('sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' } })
if (skip) test('sqlite × postgres: fault suite', { skip })
else faultSuite('sqlite × postgres', { module, broker: null, settings: { store: 'postgres', postgresUrl: url } })
