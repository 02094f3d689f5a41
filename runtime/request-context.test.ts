import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Hono } from 'hono'
import { type ApiEnv, continueTrace, requestContext } from './request-context.ts'

const app = new Hono<ApiEnv>().use(requestContext()).get('/', (c) => c.text(c.var.requestId))

test('a request id is taken where it is harmless, and made where not', async () => {
  const idFor = async (given?: string) => {
    const answer = await app.request('/', { headers: given === undefined ? {} : { 'x-request-id': given } })
    assert.equal(answer.headers.get('x-request-id'), await answer.clone().text())
    return answer.text()
  }
  assert.equal(await idFor('from-the-caller.1'), 'from-the-caller.1')
  for (const bad of [undefined, 'a b', '<script>', 'x'.repeat(129)]) assert.match(await idFor(bad), /^[\da-f-]{36}$/)
})

test('a trace goes on; one that is malformed begins anew', () => {
  const trace = '4bf92f3577b34da6a3ce929d0e0e4736'
  const span = '00f067aa0ba902b7'
  assert.match(continueTrace(`00-${trace}-${span}-01`), new RegExp(`^00-${trace}-[0-9a-f]{16}-01$`))
  assert.match(
    continueTrace(`01-${trace}-${span}-01-more`),
    new RegExp(`^00-${trace}-`),
    'a later version is read as far as known',
  )
  for (const bad of [
    undefined,
    'x',
    `ff-${trace}-${span}-01`,
    `00-${'0'.repeat(32)}-${span}-01`,
    `00-${trace}-${'0'.repeat(16)}-01`,
    `00-${trace}-${span}-01-x`,
  ]) {
    assert.match(continueTrace(bad), new RegExp(`^00-(?!${trace})[0-9a-f]{32}-[0-9a-f]{16}-01$`))
  }
})
