import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encryptionRefusal, refusedEncryption } from './encryption.ts'

const coded = (code: string, more: object = {}) =>
  Object.assign(new Error(`what Node says of ${code}`), { code, ...more })

const refusals: readonly (readonly [code: string, says: RegExp])[] = [
  ['DEPTH_ZERO_SELF_SIGNED_CERT', /NODE_EXTRA_CA_CERTS/],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', /NODE_EXTRA_CA_CERTS/],
  ['CERT_HAS_EXPIRED', /expired/],
  ['CERT_NOT_YET_VALID', /clocks/],
  ['CERT_REVOKED', /CERT_REVOKED/],
  ['ERR_SSL_WRONG_VERSION_NUMBER', /does not encrypt on this port/],
  ['ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION', /PROTOCOL_VERSION/],
  ['INVALID_PURPOSE', /INVALID_PURPOSE/],
  ['INVALID_CA', /INVALID_CA/],
  ['PATH_LENGTH_EXCEEDED', /PATH_LENGTH_EXCEEDED/],
  ['HOSTNAME_MISMATCH', /HOSTNAME_MISMATCH/],
]

test('B11 what two sides could not agree on is said as a refusal, also where a client wraps it', () => {
  for (const [code, says] of refusals) {
    assert.match(encryptionRefusal(coded(code)) ?? '', says)
    const wrapped = new Error('no connection', { cause: new AggregateError([new Error('another'), coded(code)]) })
    const refused = refusedEncryption('here', wrapped)
    assert.equal(refused?.code, 'transport_refused')
    assert.match(refused.message, says)
    assert.equal(refused.cause, wrapped)
  }
})

test('B11 a broker that is away refuses nothing', () => {
  for (const code of ['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'ENOTFOUND', 'EPIPE', ''])
    assert.equal(refusedEncryption('here', coded(code)), undefined)
  assert.equal(refusedEncryption('here', 'no error at all'), undefined)
})
