import assert from 'node:assert/strict'
import { test } from 'node:test'
import { signWebhook, verifyWebhook } from './webhook-signature.ts'

const encode = (text: string) => new TextEncoder().encode(text)
const secret = encode('a shared secret')
const atMs = Date.UTC(2025, 0, 1)
const body = encode('{"type":"charge.updated"}')
const signed = signWebhook(secret, { id: 'evt_1', atMs, body })
const verify = (change: object = {}, { bytes = body, nowMs = atMs, key = secret } = {}) =>
  verifyWebhook(key, { headers: new Headers({ ...signed, ...change }), body: bytes, nowMs })

test('a webhook that was signed with the secret, over these bytes and about now, is taken', () => {
  assert.equal(verify(), 'evt_1')
  assert.equal(verify({}, { nowMs: atMs + 299_000 }), 'evt_1')
})

test('one signature of several is enough while the secret is changed', () => {
  assert.equal(verify({ 'webhook-signature': `v1,AAAA ${signed['webhook-signature']}` }), 'evt_1')
})

test('anything else is not: other bytes, id, time, secret, version, or no signature', () => {
  assert.equal(verify({}, { bytes: encode('{"type":"charge.updated" }') }), null)
  assert.equal(verify({ 'webhook-id': 'evt_2' }), null)
  assert.equal(verify({ 'webhook-timestamp': String(atMs / 1000 + 1) }), null)
  assert.equal(verify({ 'webhook-timestamp': 'now' }), null)
  assert.equal(verify({}, { nowMs: atMs + 301_000 }), null)
  assert.equal(verify({}, { nowMs: atMs - 301_000 }), null)
  assert.equal(verify({}, { key: encode('another secret') }), null)
  assert.equal(verify({ 'webhook-signature': signed['webhook-signature'].replace('v1', 'v0') }), null)
  assert.equal(verify({ 'webhook-signature': '' }), null)
})

// Source: https://github.com/standard-webhooks/standard-webhooks, the test vector of its libraries
test('the signature is that of other libraries', () => {
  const published = 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  const key = Buffer.from(published, 'base64')
  const vector = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', atMs: 1_614_265_330_000, body: encode('{"test": 2432232314}') }
  assert.equal(signWebhook(key, vector)['webhook-signature'], 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})
