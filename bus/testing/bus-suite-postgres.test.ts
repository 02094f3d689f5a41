import { join } from 'node:path'
import { test } from 'node:test'
import { sqliteTransport } from '../transports/sqlite.ts'
import { busSuite } from './bus-suite.ts'
import { postgresIn } from './postgres-world.ts'
import { needs } from './servers/needs.ts'

const { url, skip } = await needs('postgres')

if (skip) test('embedded broker, postgres: bus suite', { skip })
else
  busSuite('embedded broker, postgres', {
    openTransport: (world, { clock }) => sqliteTransport(join(world.directory, 'broker.db'), { clock }),
    openStore: (world, service) => postgresIn(world, url, service),
  })
