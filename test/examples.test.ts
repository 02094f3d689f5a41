/** The examples of the documents run as they stand. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { inWorld } from '@shopsphere/bus/testing'

const run = promisify(execFile)

test('two services on the library: what one says the other does, once, and says so', () =>
  inWorld(async (world) => {
    const example = fileURLToPath(new URL('../docs/examples/two-services.ts', import.meta.url))
    const { stdout } = await run(process.execPath, [example, join(world.directory, 'data')], { timeout: 30_000 })
    assert.match(stdout, /^ord_\d+ is paid: 1530 pence\n$/)
  }))
