import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { createWorld } from '@shopsphere/bus/testing'
import { refuseUnsafeInProduction, type SecretsGiven, withMountedSecrets } from './secrets.ts'
import { StartError } from './start-error.ts'

function refused(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    assert(error instanceof StartError)
    assert.equal(error.exitCode, 2)
    return error.message
  }
  assert.fail('it was accepted')
}

const safe: SecretsGiven = {
  brokerUrl: 'amqp://shop:b7Jk2@rabbitmq:5672',
  databaseUrl: 'postgres://shop:x81hd@postgres:5432/shop',
  foreignUrls: [{ setting: 'ORDER_EVENTS_FROM', url: 'amqp://orders:q61Zs@rabbitmq:5672' }],
  tokenSecret: '0123456789abcdef0123456789abcdef',
  adminPassword: 'a long enough password',
  makesOperator: true,
}
const unsafe = (changed: Partial<SecretsGiven>) => refused(() => refuseUnsafeInProduction({ ...safe, ...changed }))

test('X1 a secret that is mounted as a file is as one in the environment', async () => {
  await using world = await createWorld()
  const file = join(world.directory, 'secret')
  writeFileSync(file, 'mounted\n')
  assert.equal(withMountedSecrets({ BROKER_URL_FILE: file }).BROKER_URL, 'mounted')
  assert.equal(withMountedSecrets({ TOKEN_SECRET: 'given', TOKEN_SECRET_FILE: ' ' }).TOKEN_SECRET, 'given')
})

test('X1 both, a missing file and an empty one are refused, a line each', async () => {
  await using world = await createWorld()
  const empty = join(world.directory, 'empty')
  writeFileSync(empty, '\n')
  const missing = join(world.directory, 'missing')
  const message = refused(() =>
    withMountedSecrets({
      TOKEN_SECRET: 'given',
      TOKEN_SECRET_FILE: empty,
      ADMIN_PASSWORD_FILE: empty,
      DATABASE_URL_FILE: missing,
    }),
  )
  const [both, none, absent] = message.split('\n')
  assert.match(both!, /^TOKEN_SECRET and TOKEN_SECRET_FILE are both set: leave one/)
  assert.match(none!, /^ADMIN_PASSWORD_FILE is .*empty; write the secret/)
  assert.match(absent!, /^DATABASE_URL_FILE is .*\(ENOENT\); mount it/)
})

test('X2 credentials of its own pass', () => {
  refuseUnsafeInProduction(safe)
  refuseUnsafeInProduction({ ...safe, brokerUrl: 'kafka://kafka:9092', databaseUrl: 'sqlite:' })
  refuseUnsafeInProduction({ ...safe, makesOperator: false, adminPassword: undefined })
})

test('X2 guest, also where the client would take it by itself, and a password like its user are refused without being shown', () => {
  for (const brokerUrl of ['amqp://guest:guest@h:5672', 'amqps://h', 'amqp://guest:other@h'])
    assert.match(unsafe({ brokerUrl }), /^BROKER_URL signs in as guest .*make an account/m, brokerUrl)
  assert.match(unsafe({ databaseUrl: 'postgres://postgres:postgres@h/d' }), /^DATABASE_URL signs in as postgres/m)
  assert.doesNotMatch(unsafe({ brokerUrl: 'amqp://guest:hunter2@h' }), /hunter2/)
  const foreignUrls = [{ setting: 'ORDER_CREATED_TO', url: 'amqp://guest:guest@h' }]
  assert.match(unsafe({ foreignUrls }), /^ORDER_CREATED_TO signs in as guest .* and set ORDER_CREATED_TO to it/m)
})

test('X2 a secret that one process would make up, or that is no chance, says what to set', () => {
  assert.match(unsafe({ tokenSecret: undefined }), /^TOKEN_SECRET has to be set .*openssl rand/m)
  assert.match(unsafe({ tokenSecret: 'x'.repeat(40) }), /^TOKEN_SECRET has to be set/m)
  const message = unsafe({ adminPassword: undefined, tokenSecret: undefined })
  assert.match(message, /^ADMIN_PASSWORD has to be set/m)
  assert.match(message, /TOKEN_SECRET_FILE, ADMIN_PASSWORD_FILE/)
})
