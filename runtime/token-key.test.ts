import assert from 'node:assert/strict'
import { mkdtempDisposableSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { tokenSecret } from './token-key.ts'

test('the key is made once, and only its owner may read it', () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'token-key-'))
  const config = { tokenSecret: null, dataDir: folder.path }
  const key = tokenSecret(config)
  assert.equal(key.length, 32)
  assert.deepEqual(tokenSecret(config), key)
  assert.equal(statSync(join(folder.path, 'token.key')).mode & 0o777, 0o600)
})

test('TOKEN_SECRET comes before the file', () => {
  const secret = 'x'.repeat(40)
  assert.equal(new TextDecoder().decode(tokenSecret({ tokenSecret: secret, dataDir: '/nowhere' })), secret)
})

test('a damaged key is refused, saying what to do', () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'token-key-'))
  writeFileSync(join(folder.path, 'token.key'), 'abc')
  assert.throws(() => tokenSecret({ tokenSecret: null, dataDir: folder.path }), /token\.key is damaged: delete it/)
})

test('a folder that is not there is refused, saying what to do', () => {
  assert.throws(
    () => tokenSecret({ tokenSecret: null, dataDir: '/nowhere/at/all' }),
    /make DATA_DIR writable, or set TOKEN_SECRET/,
  )
})
