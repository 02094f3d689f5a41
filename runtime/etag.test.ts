import assert from 'node:assert/strict'
import { test } from 'node:test'
import { etagOf, matchIfGiven, requireMatch } from './etag.ts'
import { createApi } from './http.ts'
import { createLog } from './log.ts'

const api = createApi(createLog('silent'))
api.patch('/strict', (c) => {
  requireMatch(c, 7)
  return c.text('done')
})
api.patch('/free', (c) => {
  matchIfGiven(c, 7)
  return c.text('done')
})

async function patch(path: string, ifMatch?: string) {
  const response = await api.request(path, { method: 'PATCH', headers: ifMatch ? { 'if-match': ifMatch } : {} })
  return { status: response.status, etag: response.headers.get('etag') }
}

test('an edit of the present version passes, also as one of several or as any', async () => {
  for (const tag of [etagOf(7), '"6", "7"', '*']) assert.equal((await patch('/strict', tag)).status, 200)
})

test('an edit of another version is refused and told the present one; a weak tag never matches', async () => {
  for (const tag of ['"6"', '7', 'W/"7"']) {
    assert.deepEqual(await patch('/strict', tag), { status: 412, etag: '"7"' })
    assert.equal((await patch('/free', tag)).status, 412)
  }
})

test('without If-Match a strict edit is refused and a free one passes', async () => {
  assert.equal((await patch('/strict')).status, 428)
  assert.equal((await patch('/free')).status, 200)
})
