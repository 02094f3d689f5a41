import assert from 'node:assert/strict'
import { mkdtempDisposableSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { memoryTransport, sqliteStore, systemClock } from '@shopsphere/bus'
import { allEvents } from '@shopsphere/contracts'
import { readConfig } from '@shopsphere/runtime/config'
import { createLog } from '@shopsphere/runtime/log'
import { prepareService } from '@shopsphere/runtime/service'
import { PASSWORD_FILE } from './operator.ts'
import { user } from './service.ts'

const EMAIL = 'operator@shop.example'

/** Starts the service on `folder` as a process would, signs in and stops; answers what the log said and the roles. */
async function start(folder: string, environment: Record<string, string>, email: string, password: () => string) {
  const lines: string[] = []
  const service = await prepareService(user, {
    transport: memoryTransport(),
    openStore: (name) => sqliteStore(join(folder, `${name}.db`)),
    events: allEvents,
    clock: systemClock,
    config: readConfig({ DATA_DIR: folder, ...environment }, ['user']),
    log: createLog('info', { write: (line) => lines.push(line) }),
  })
  try {
    const body = JSON.stringify({ email, password: password() })
    const headers = { 'content-type': 'application/json' }
    const response = await service.routes!.request('/api/sessions', { method: 'POST', body, headers })
    const { roles } = (await response.json()) as { roles?: string[] }
    return { status: response.status, roles, log: lines.join('') }
  } finally {
    await service.close()
  }
}

const fromFile = (folder: string) => () => readFileSync(join(folder, PASSWORD_FILE), 'utf8').trim()

test('a fresh shop has an operator whose password is in a file for its owner; the log says where, not what', async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'operator-'))
  const password = fromFile(folder.path)
  const first = await start(folder.path, {}, EMAIL, password)
  assert.deepEqual([first.status, first.roles], [201, ['customer', 'merchant', 'operator']])
  assert.equal(statSync(join(folder.path, PASSWORD_FILE)).mode & 0o777, 0o600)
  assert(first.log.includes(join(folder.path, PASSWORD_FILE)))
  assert.equal(first.log.includes(password()), false)
  const kept = password()
  const second = await start(folder.path, {}, EMAIL, password)
  assert.deepEqual([second.status, password(), second.log], [201, kept, ''])
})

test('a password that a start left before it could make the account is taken by the next one', async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'operator-'))
  writeFileSync(join(folder.path, PASSWORD_FILE), 'left behind by a crash\n')
  assert.equal((await start(folder.path, {}, EMAIL, () => 'left behind by a crash')).status, 201)
  writeFileSync(join(folder.path, PASSWORD_FILE), '')
  using other = mkdtempDisposableSync(join(tmpdir(), 'operator-'))
  writeFileSync(join(other.path, PASSWORD_FILE), '')
  await assert.rejects(
    start(other.path, {}, EMAIL, () => ''),
    /holds no password: delete it/,
  )
})

test('ADMIN_PASSWORD makes the operator, is the way back in later, and leaves no file', async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'operator-'))
  const boss = 'boss@example.org'
  const given = (ADMIN_PASSWORD: string) => ({ ADMIN_EMAIL: boss, ADMIN_PASSWORD })
  const first = await start(folder.path, given('first password'), boss, () => 'first password')
  assert.deepEqual([first.status, first.roles], [201, ['customer', 'merchant', 'operator']])
  assert.throws(fromFile(folder.path), { code: 'ENOENT' })
  assert.equal((await start(folder.path, given('other password'), boss, () => 'other password')).status, 201)
  assert.equal((await start(folder.path, given('other password'), boss, () => 'first password')).status, 401)
  assert.equal((await start(folder.path, {}, boss, () => 'other password')).status, 201)
  assert.throws(fromFile(folder.path), { code: 'ENOENT' })
})

test('a folder that cannot be written is said with what to do', async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'operator-'))
  const environment = { DATA_DIR: join(folder.path, 'missing') }
  await assert.rejects(
    start(folder.path, environment, EMAIL, () => ''),
    /make DATA_DIR writable, or set ADMIN_PASSWORD/,
  )
})
