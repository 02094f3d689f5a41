/** A process that only hears lives from start to close, whichever broker it hears from, and ends by itself then. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { eraseBroker } from './testing/erase.ts'
import { needs } from './testing/servers/needs.ts'
import { inWorld } from './testing/world.ts'

const run = promisify(execFile)
const child = fileURLToPath(new URL('./testing/alive-child.ts', import.meta.url))

for (const name of ['sqlite', 'rabbitmq', 'kafka', 'redis'] as const) {
  const { url, skip } = name === 'sqlite' ? { url: 'sqlite:', skip: false } : await needs(name)
  test(`${name}: a worker lives from start to close, and no longer`, { skip, timeout: 60_000 }, () =>
    inWorld(async (world) => {
      const prefix = `${world.name}.`
      world.defer(() => eraseBroker(url, prefix))
      const { stdout } = await run(process.execPath, [child, url, prefix, world.directory], { timeout: 30_000 })
      assert.equal(stdout, 'heard\nnothing keeps it alive\n')
    }),
  )
}
