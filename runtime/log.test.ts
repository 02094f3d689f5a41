import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { createLog } from './log.ts'

function capture(isTTY: boolean) {
  const lines: string[] = []
  return { lines, stream: { isTTY, write: (text: string) => lines.push(text) } }
}

test('a line is JSON with an ISO time and the level in words', () => {
  const { lines, stream } = capture(false)
  const log = createLog('info', stream)
  log.debug('not shown')
  log.child({ service: 'payment' }).warn({ attempt: 2, err: new Error('slow') }, 'retrying')
  assert.equal(lines.length, 1)
  const line = JSON.parse(lines[0]!)
  assert.equal(line.level, 'warn')
  assert.equal(line.service, 'payment')
  assert.equal(line.attempt, 2)
  assert.equal(line.err.message, 'slow')
  assert(Number.isFinite(Date.parse(line.time)))
})

test('a terminal gets a line for people, with the stack', () => {
  const { lines, stream } = capture(true)
  createLog('info', stream)
    .child({ service: 'payment' })
    .error({ attempt: 2, err: new Error('slow') }, 'retrying')
  assert.match(lines[0]!, /^\d\d:\d\d:\d\d\.\d{3} ERROR payment: retrying {2}attempt=2\nError: slow\n {4}at /)
})

test('secrets are not written', () => {
  const { lines, stream } = capture(false)
  createLog('info', stream).info({ password: 'hunter2', body: { token: 'hunter2' } }, 'signed in')
  assert.equal(lines[0]!.includes('hunter2'), false)
})

test('what is said last, where the reader has gone, holds the end of the process up no longer', async () => {
  const script = `
import { createLog } from ${JSON.stringify(new URL('log.ts', import.meta.url).href)}
const log = createLog('info')
process.stdout.on('error', () => {})
process.stdin.once('data', () => {
  log.info('closing')
  log.info('closed')
  process.exit(0)
})
log.info('ready')`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { timeout: 10_000 })
  const ended = once(child, 'exit')
  const [line] = await once(child.stdout, 'data')
  assert.match(String(line), /"msg":"ready"/)
  const gone = once(child.stdout, 'close')
  child.stdout.destroy()
  await gone
  child.stdin.write('go')
  assert.deepEqual(await ended, [0, null])
})
