/** A server that does not encrypt, or whose certificate nobody vouches for: which of the two stands here is the machine's business. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { needs } from '../testing/servers/needs.ts'
import { postgresStore } from './postgres.ts'

const { url, skip } = await needs('postgres')

test('postgres: an encryption that cannot be agreed on is refused, and told to look at sslmode', { skip }, async () => {
  const encrypted = new URL(url)
  encrypted.searchParams.set('sslmode', 'verify-full')
  const store = postgresStore(encrypted.href, { schema: 'never_made' })
  await assert.rejects(store.open(), { code: 'store_refused', message: /PostgreSQL .*: look at sslmode in the URL$/ })
  await store.close()
})
