import { join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { busSuite } from './bus-suite.ts'
import { kafkaIn, kafkaServer } from './kafka-world.ts'

const { url, runner } = await kafkaServer()

busSuite(
  'kafka',
  {
    openTransport: (world) => kafkaIn(world, url),
    openStore: (world, service) => sqliteStore(join(world.directory, `${service}.db`)),
  },
  runner,
)
