import { after, test } from 'node:test'
import { processesSuite } from './processes-suite.ts'
import { removeAll } from './redis-place.ts'
import { needs } from './servers/needs.ts'

const { url, skip } = await needs('redis')

if (skip) test('redis × sqlite: processes suite', { skip })
else {
  process.env.REDIS_URL = url // its children read it
  processesSuite('redis × sqlite', { module: new URL('./redis-crash-world.ts', import.meta.url) })
  after(() => removeAll(url, `{bus-w${process.pid.toString(36)}*`)) // the worlds of this process
}
