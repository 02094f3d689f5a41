import { test } from 'node:test'
import { eventStoreSuite } from '../testing/event-store-suite.ts'
import { postgresIn } from '../testing/postgres-world.ts'
import { needs } from '../testing/servers/needs.ts'
import { storeSuite } from '../testing/store-suite.ts'

const { url, skip } = await needs('postgres')

if (skip) test('postgres: store suites', { skip })
else {
  storeSuite('postgres', { open: (world) => postgresIn(world, url) })
  eventStoreSuite('postgres', { open: (world) => postgresIn(world, url) })
}
