import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Hono } from 'hono'
import { serve } from './server.ts'
import { StartError } from './start-error.ts'

const host = '127.0.0.1'

test('it answers at its address until it is closed; closing twice is fine', async () => {
  const server = await serve(
    new Hono().get('/', (c) => c.text('here')),
    { port: 0, host },
  )
  assert.equal(server.url, `http://127.0.0.1:${server.port}`)
  assert.equal(await (await fetch(server.url)).text(), 'here')
  await Promise.all([server.close(), server.close()])
  await assert.rejects(fetch(server.url))
})

test('a port in use is one clear sentence', async () => {
  const app = new Hono()
  const server = await serve(app, { port: 0, host })
  await assert.rejects(serve(app, { port: server.port, host }), (error: unknown) => {
    assert(error instanceof StartError)
    assert.match(error.message, new RegExp(`^port ${server.port} is in use: set PORT=`))
    return true
  })
  await server.close()
})

test('a request that runs is answered before the server is closed', async () => {
  const reached = Promise.withResolvers<void>()
  const goOn = Promise.withResolvers<void>()
  const app = new Hono().get('/', async (c) => {
    reached.resolve()
    await goOn.promise
    return c.text('done')
  })
  const server = await serve(app, { port: 0, host })
  const answer = fetch(server.url)
  await reached.promise
  const closed = server.close()
  goOn.resolve()
  assert.equal(await (await answer).text(), 'done')
  await closed
})

test('a request that does not end is cut after the limit', async () => {
  const reached = Promise.withResolvers<void>()
  const app = new Hono().get('/', () => {
    reached.resolve()
    return new Promise<Response>(() => {})
  })
  const server = await serve(app, { port: 0, host })
  const answer = fetch(server.url)
  await reached.promise
  await Promise.all([server.close(20), assert.rejects(answer)])
})
