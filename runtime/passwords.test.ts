import assert from 'node:assert/strict'
import { test } from 'node:test'
import { hashPassword, needsRehash, verifyPassword } from './passwords.ts'

test('a password matches its own hash and no other', async () => {
  const stored = await hashPassword('correct horse')
  assert.match(stored, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
  assert.equal(await verifyPassword('correct horse', stored), true)
  assert.equal(await verifyPassword('correct hors', stored), false)
  assert.notEqual(await hashPassword('correct horse'), stored, 'each hash has its own salt')
  assert.equal(needsRehash(stored), false)
})

test('the same letters typed as other code points match', async () => {
  assert.equal(await verifyPassword('cafe\u0301', await hashPassword('caf\u00e9')), true)
})

test('nobody signs in to an account that does not exist', async () => {
  assert.equal(await verifyPassword('', null), false)
})

test('a hash of older parameters is still read, and wants a new one', async () => {
  const older = (await hashPassword('x')).replace('t=2', 't=1')
  assert.equal(needsRehash(older), true)
  assert.equal(await verifyPassword('x', older), false, 'the parameters that stand in the hash are the ones used')
})

test('a damaged hash is an error and never a match', async () => {
  await assert.rejects(verifyPassword('x', '$argon2id$'), /damaged/)
})
