import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { test } from 'node:test'
import { createLog } from './log.ts'
import { onShutdown, type Process } from './shutdown.ts'

/** A process whose exits are only noted. */
function createProcess() {
  const emitter = new EventEmitter()
  const exits: number[] = []
  const exited = Promise.withResolvers<number>()
  const exit = (code: number) => {
    exits.push(code)
    exited.resolve(code)
  }
  return { process: Object.assign(emitter, { exit }) as unknown as Process, emitter, exits, exited: exited.promise }
}
const log = createLog('silent')

test('a signal closes once and exits with 0', async () => {
  const { process, emitter, exited } = createProcess()
  let closed = 0
  onShutdown(async () => void closed++, { log, process })
  emitter.emit('SIGTERM')
  assert.equal(await exited, 0)
  assert.equal(closed, 1)
})

test('a second signal exits at once; one that is the same press, passed on by npm, changes nothing', async () => {
  const { process, emitter, exits } = createProcess()
  const { promise: never, resolve } = Promise.withResolvers<void>()
  let nowMs = 1_000
  onShutdown(() => never, { log, process, now: () => nowMs })
  emitter.emit('SIGTERM')
  nowMs += 20
  emitter.emit('SIGTERM')
  assert.deepEqual(exits, [])
  nowMs += 500
  emitter.emit('SIGINT')
  assert.deepEqual(exits, [130])
  resolve()
})

test('closing that fails, or hangs, exits with 1', async () => {
  const failing = createProcess()
  onShutdown(() => Promise.reject(new Error('broken')), { log, process: failing.process })
  failing.emitter.emit('SIGTERM')
  assert.equal(await failing.exited, 1)

  const hanging = createProcess()
  const { promise: never, resolve } = Promise.withResolvers<void>()
  onShutdown(() => never, { log, process: hanging.process, limitMs: 1 })
  hanging.emitter.emit('SIGTERM')
  assert.equal(await hanging.exited, 1)
  resolve()
})

test('an error that nobody caught exits with 1 without closing', () => {
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    const { process, emitter, exits } = createProcess()
    onShutdown(() => assert.fail('closed'), { log, process })
    emitter.emit(event, new Error('broken'))
    assert.deepEqual(exits, [1])
  }
})
