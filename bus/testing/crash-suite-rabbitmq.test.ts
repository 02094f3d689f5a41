import { after, test } from 'node:test'
import { crashSuite } from './crash-suite.ts'
import { prefixes } from './rabbitmq-crash-world.ts'
import { eraseRabbitmq } from './rabbitmq-place.ts'
import { needs } from './servers/needs.ts'

const { url, skip } = await needs('rabbitmq')

if (skip) test('rabbitmq + sqlite store: crash suite', { skip })
else {
  process.env.RABBITMQ_URL = url // its children read it
  crashSuite('rabbitmq + sqlite store', { module: new URL('./rabbitmq-crash-world.ts', import.meta.url) })
  after(async () => {
    for (const prefix of prefixes) await eraseRabbitmq(url, prefix)
  })
}
