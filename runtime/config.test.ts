import assert from 'node:assert/strict'
import { resolve } from 'node:path'
import { test } from 'node:test'
import { readConfig, withoutCredentials } from './config.ts'
import { StartError } from './start-error.ts'

const services = ['order', 'payment']
const read = (environment: Record<string, string>) => readConfig(environment, services)
const refused = (environment: Record<string, string>) => {
  try {
    read(environment)
  } catch (error) {
    assert(error instanceof StartError)
    assert.equal(error.exitCode, 2)
    return error.message
  }
  assert.fail('the environment was accepted')
}

test('an empty environment gives the defaults', () => {
  const config = read({})
  assert.equal(config.port, 3000)
  assert.equal(config.dataDir, resolve('data'))
  assert.deepEqual(config.broker, { scheme: 'sqlite', url: 'sqlite:', path: resolve('data/broker.db') })
  assert.equal(config.database.path, resolve('data'))
  assert.deepEqual(config.services, services)
  assert.equal(config.serviceUrls.size, 0)
  assert.equal(config.seed, null)
  assert.deepEqual(config.operator, { email: 'operator@shop.example', password: null })
  assert.equal(config.timers.holdMs, 900_000)
  assert.equal(config.timers.returnWindowMs, 30 * 86_400_000)
})

test('what is given is used; an empty value counts as not given', () => {
  const config = read({
    PORT: '0',
    DATA_DIR: '/tmp/shop',
    BROKER_URL: 'sqlite:///tmp/other.db',
    SERVICES: ' payment, payment ',
    SERVICE_URLS: 'order=http://order:3001/',
    SEED: '0',
    PROVIDER_FAILURE_RATE: '0.25',
    HOLD_MS: '',
    LOG_LEVEL: 'debug',
  })
  assert.equal(config.port, 0)
  assert.equal(config.broker.path, '/tmp/other.db')
  assert.equal(config.database.path, '/tmp/shop')
  assert.deepEqual(config.services, ['payment'])
  assert.deepEqual([...config.serviceUrls], [['order', 'http://order:3001']])
  assert.equal(config.seed, 0)
  assert.equal(config.provider.failureRate, 0.25)
  assert.equal(config.timers.holdMs, 900_000)
})

test('a bad value is named, with what was given and what is expected', () => {
  assert.equal(
    refused({ PORT: '70000' }),
    "PORT is '70000': expected a whole number from 0 to 65535 (0: any free port)",
  )
  assert.match(refused({ PORT: 'http' }), /^PORT is 'http'/)
  assert.match(refused({ PORT: '9464', METRICS_PORT: '9464' }), /^METRICS_PORT is '9464': expected another port than/)
  assert.match(refused({ HOLD_MS: '-1' }), /^HOLD_MS is '-1': .*milliseconds/)
  assert.match(refused({ PROVIDER_FAILURE_RATE: '1.5' }), /from 0 to 1$/)
  assert.match(refused({ LOG_LEVEL: 'loud' }), /one of fatal, error/)
  assert.match(refused({ SERVICES: 'order,orders' }), /^SERVICES is 'order,orders': .*order, payment$/)
  assert.match(refused({ SERVICES: ',' }), /^SERVICES/)
  for (const wrong of ['order', 'order=', 'order=ftp://x', 'nobody=http://x', 'order=http://x/path']) {
    assert.match(refused({ SERVICE_URLS: wrong }), /^SERVICE_URLS is/)
  }
})

test('every bad value is reported at once, one line each', () => {
  assert.equal(refused({ PORT: 'x', SEED: 'y' }).split('\n').length, 2)
})

test('a URL of another kind is refused with those that are known', () => {
  assert.match(
    refused({ BROKER_URL: 'ftp://x' }),
    /^BROKER_URL is 'ftp:\/\/x': expected a URL that begins with sqlite:, amqp:/,
  )
  assert.match(refused({ DATABASE_URL: 'mysql://x' }), /begins with sqlite:, postgres:, postgresql:$/)
  assert.match(refused({ BROKER_PREFIX: 'A-1' }), /^BROKER_PREFIX is 'A-1': expected lower-case letters/)
})

test('secrets are not shown', () => {
  assert.equal(refused({ TOKEN_SECRET: 'hunter2' }).includes('hunter2'), false)
  assert.equal(
    refused({ ADMIN_PASSWORD: 'hunter2' }),
    'ADMIN_PASSWORD is 7 characters long: expected 10 to 256 characters',
  )
  assert.equal(refused({ BROKER_URL: 'ftp://me:hunter2@x' }).includes('hunter2'), false)
  assert.equal(withoutCredentials('amqp://me:hun/ter@2@host:5672/shop'), 'amqp://…@host:5672/shop')
})

test('whom to tell of dead letters: an address, a secret as Standard Webhooks writes it, a number; none is shown', () => {
  const none = read({}).deadLetterAlerts
  assert.deepEqual(none, { webhook: null, alertMin: 1 })
  const secret = Buffer.from('a secret of 24 bytes, so.')
  const given = {
    DEAD_LETTER_WEBHOOK: 'https://alerts.example/T0/B0',
    DEAD_LETTER_WEBHOOK_SECRET: `whsec_${secret.toString('base64')}`,
    DEAD_LETTER_ALERT_MIN: '10',
  }
  const { webhook, alertMin } = read(given).deadLetterAlerts
  assert.deepEqual([webhook!.url, Buffer.from(webhook!.secret!), alertMin], [given.DEAD_LETTER_WEBHOOK, secret, 10])
  assert.equal(read({ DEAD_LETTER_WEBHOOK: 'http://localhost:1/' }).deadLetterAlerts.webhook!.secret, null)
  for (const wrong of ['alerts.example/hunter2', 'ftp://x/hunter2', 'https://me:hunter2@alerts.example/']) {
    const said = refused({ DEAD_LETTER_WEBHOOK: wrong })
    assert.match(said, /^DEAD_LETTER_WEBHOOK is \d+ characters long: expected a URL as https:/)
    assert.equal(said.includes('hunter2'), false)
  }
  for (const wrong of [
    'hunter2',
    'whsec_hunter2',
    `whsec_${'a'.repeat(100)}`,
    given.DEAD_LETTER_WEBHOOK_SECRET.slice(6),
  ])
    assert.match(refused({ DEAD_LETTER_WEBHOOK_SECRET: wrong }), /characters long: expected whsec_ and 24 to 64 bytes/)
  assert.match(refused({ DEAD_LETTER_ALERT_MIN: '0' }), /a whole number from 1/)
})

test('a password with @, / or # in it is not shown either, nor one in an address that cannot be read', () => {
  for (const password of ['hun@ter2', 'hun/ter2', 'a/b@ter2'])
    assert.equal(refused({ BROKER_URL: `ftp://me:${password}@x` }).includes('ter2'), false, password)
  for (const address of ['redis://:hunter2@host:99999', 'amqp://me:hun#ter2@host:5672']) {
    const said = refused({ ORDER_CREATED_FROM: `${address}#order_created` })
    assert.match(said, /^ORDER_CREATED_FROM is .*: expected addresses separated by commas/)
    assert.equal(said.includes('ter2'), false, address)
  }
})

test('production refuses what everybody knows, with exit code 2; development does not mind', () => {
  assert.match(refused({ NODE_ENV: 'production' }), /^TOKEN_SECRET has to be set/m)
  assert.equal(read({ NODE_ENV: 'development' }).tokenSecret, null)
  const production = read({ NODE_ENV: 'production', TOKEN_SECRET: '0123456789abcdef0123456789abcdef' })
  assert.equal(production.mode, 'production')
})
