import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Clock } from '@shopsphere/bus'
import { UnsecuredJWT } from 'jose'
import { createTokens } from './auth.ts'

let nowMs = Date.UTC(2025, 0, 1)
const clock: Clock = { now: () => nowMs, after: () => ({ cancel() {} }) }
const secret = new Uint8Array(32).fill(1)
const tokens = createTokens({ secret, clock })
const caller = { userId: 'usr_1', roles: ['customer', 'merchant'] }

test('a token says who asks, until it expires after 12 hours', async () => {
  const { token, expiresAt } = await tokens.issue(caller)
  assert.equal(expiresAt - nowMs, 12 * 3_600_000)
  nowMs = expiresAt - 1000
  assert.deepEqual(await tokens.verify(token), caller)
  nowMs = expiresAt
  await assert.rejects(tokens.verify(token), { code: 'invalid_token', message: /expired/ })
})

test('a token of another key, a changed one and an unsigned one are refused', async () => {
  const other = await createTokens({ secret: new Uint8Array(32).fill(2), clock }).issue(caller)
  const [head, body, signature] = (await tokens.issue(caller)).token.split('.') as [string, string, string]
  const claims = { ...JSON.parse(Buffer.from(body, 'base64url').toString()), roles: ['operator'] }
  const changed = `${head}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.${signature}`
  const unsigned = new UnsecuredJWT({ roles: ['operator'] })
    .setSubject('usr_1')
    .setIssuer('shopsphere')
    .setExpirationTime(nowMs / 1000 + 60)
    .encode()
  for (const token of [other.token, changed, unsigned, '']) {
    await assert.rejects(tokens.verify(token), { code: 'invalid_token' })
  }
})
