/** The shop as a whole: what main.ts starts, and how it refuses to. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { createWorld, eventually, freePort, needs, startRedis, virtualClock } from '@shopsphere/bus/testing'
import { createLog } from '@shopsphere/runtime/log'
import { addresses, ownerOf } from '../services/gateway/owners.ts'
import { allServices, startShop } from '../shop.ts'
import { startMain } from './main-process.ts'

const log = createLog('silent')

const inMemory = (environment: Record<string, string> = {}) =>
  startShop({
    environment: { ADMIN_PASSWORD: 'a long enough password', SEED: '1', ...environment },
    headless: true,
    inMemory: true,
    clock: virtualClock(),
    log,
  })

test('every route is at an address that belongs to its service, so that another process finds it', async () => {
  await using shop = await inMemory()
  assert.deepEqual([...shop.services.keys()].sort(), Object.keys(addresses).sort())
  for (const { name, routes } of shop.services.values()) {
    const paths = new Set(routes?.routes.map(({ path }) => path).filter((path) => !path.includes('*')))
    for (const path of paths) assert.equal(ownerOf(path), name, path)
  }
})

test('the API description is whole: no reference leads nowhere, and no path is there twice', async () => {
  await using shop = await inMemory()
  const document = (await (await shop.app.request('/openapi.json')).json()) as {
    paths: Record<string, object>
    components: { schemas: object }
  }
  const references = [...JSON.stringify(document).matchAll(/"#\/components\/schemas\/([^"]+)"/g)]
  for (const [, name = ''] of references) assert.ok(name in document.components.schemas, name)
  for (const path of ['/api/orders', '/api/sessions', '/api/returns', '/api/audit/events', '/api/operations/status'])
    assert.ok(document.paths[path], path)
})

test('the description of the events says who hears what', async () => {
  await using shop = await inMemory()
  const { operations } = (await (await shop.app.request('/asyncapi.json')).json()) as { operations: object }
  for (const one of ['payment.receives.inventory.reserved', 'audit.receives.order.placed', 'order.sends.order.placed'])
    assert.ok(one in operations, one)
})

test('a process may run some of the services; it says where the others are, or that they are nowhere', async () => {
  await using shop = await inMemory({ SERVICES: 'order,audit' })
  assert.deepEqual([...shop.services.keys()].sort(), ['audit', 'order'])
  assert.equal((await shop.app.request('/health/ready')).status, 200)
  const answer = await shop.app.request('/api/products')
  assert.equal(answer.status, 502)
  assert.match(((await answer.json()) as { detail: string }).detail, /product/)
})

test('closing twice is fine, and closing leaves nothing open', async () => {
  const shop = await inMemory()
  await shop.idle()
  await Promise.all([shop.close(), shop.close()])
  await assert.rejects(shop.transport.subscriptions(), { code: 'bus_closed' })
})

// --- as a process ---

async function refused(environment: Record<string, string>, parameters: string[] = []) {
  const { out, exited } = startMain(environment, { parameters })
  return { code: await exited, ...out }
}

test('npm start: answers, says where, and closes when asked to', async () => {
  await using world = await createWorld()
  await using main = startMain({ DATA_DIR: join(world.directory, 'data') })
  const { child, out, exited } = main
  const url = await main.answers()
  assert.equal((await fetch(`${url}/health/ready`)).status, 200)
  assert.match(out.stdout, /operator@shop\.example \(the password is in .*operator-password\)/)
  child.kill('SIGTERM')
  assert.equal(await exited, 0, out.stderr)
})

test('METRICS_PORT answers /metrics and nothing else; the front door then does not', async () => {
  await using world = await createWorld()
  const [PORT, METRICS_PORT] = [String(await freePort()), String(await freePort())]
  const environment = { DATA_DIR: join(world.directory, 'data'), LOG_LEVEL: 'silent', HOST: '127.0.0.1' }
  await using shop = await startShop({ environment: { ...environment, PORT, METRICS_PORT } })
  const metrics = await fetch(`http://127.0.0.1:${METRICS_PORT}/metrics`)
  assert.match(await metrics.text(), /^bus_ready\{.*\} 1$/m)
  assert.equal((await fetch(`http://127.0.0.1:${METRICS_PORT}/api/products`)).status, 404)
  assert.equal((await fetch(`${shop.url}/metrics`)).status, 404)
  assert.ok(!(await (await fetch(`${shop.url}/`)).text()).includes('/metrics'))
  const twice = startShop({ environment: { DATA_DIR: join(world.directory, 'other'), PORT: '0', METRICS_PORT } })
  await assert.rejects(twice, /port \d+ is in use: set METRICS_PORT=…/)
})

test('--help explains itself; what is not understood is refused', async () => {
  const help = await refused({}, ['--help'])
  assert.equal(help.code, 0)
  for (const { name } of allServices) assert.ok(help.stdout.includes(name), name)
  const wrong = await refused({}, ['--port'])
  assert.equal(wrong.code, 2)
  assert.match(wrong.stderr, /--port is not understood/)
})

test('a wrong environment is refused with every variable that is wrong', async () => {
  const { code, stderr } = await refused({ PORT: 'abc', SERVICES: 'orders', BROKER_URL: 'ftp://x' })
  assert.equal(code, 2)
  for (const name of ['PORT', 'SERVICES', 'BROKER_URL']) assert.match(stderr, new RegExp(`${name} is '`))
})

test('a port in use, a data folder that is a file, a damaged and a locked database: one sentence, exit status 1', async () => {
  await using world = await createWorld()
  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  world.defer(() => new Promise((resolve) => taken.close(resolve)))
  const { port } = taken.address() as AddressInfo
  const folder = (name: string) => join(world.directory, name)
  const inUse = await refused({ DATA_DIR: folder('one'), PORT: String(port) })
  assert.deepEqual([inUse.code, /port \d+ is in use: set PORT/.test(inUse.stderr)], [1, true], inUse.stderr)

  writeFileSync(folder('file'), '')
  const isFile = await refused({ DATA_DIR: folder('file') })
  assert.deepEqual([isFile.code, /is a file: move it away/.test(isFile.stderr)], [1, true], isFile.stderr)

  assert.equal(existsSync(folder('one')), false, 'the port is looked at before the folder is made')

  mkdirSync(folder('one'))
  const database = join(folder('one'), 'order.db')
  using holder = new DatabaseSync(database)
  holder.exec('create table something (a); begin immediate')
  const locked = await refused({ DATA_DIR: folder('one') })
  assert.deepEqual([locked.code, /order\.db has been locked/.test(locked.stderr)], [1, true], locked.stderr)
  holder.exec('rollback')
  holder.close()

  writeFileSync(database, 'this is no database, whatever its name says')
  const damaged = await refused({ DATA_DIR: folder('one') })
  assert.deepEqual([damaged.code, /order\.db is damaged/.test(damaged.stderr)], [1, true], damaged.stderr)
  assert.doesNotMatch(damaged.stderr, /at .*\.ts:/)
})

test('a database that is missing or empty beside full ones is refused, and a service that is new is not', async () => {
  await using world = await createWorld()
  const environment = { DATA_DIR: world.directory, SERVICES: 'order,payment' }
  const startAndStop = async (some: Record<string, string>) => {
    await using main = startMain({ ...environment, ...some })
    const url = await main.answers()
    assert.equal((await fetch(`${url}/health/ready`)).status, 200)
    main.child.kill('SIGTERM')
    assert.equal(await main.exited, 0, main.out.stderr)
  }
  await startAndStop({})
  await startAndStop({ SERVICES: 'order,payment,audit' }) // audit is new in this folder

  const inFolder = (name: string) => join(world.directory, name)
  truncateSync(inFolder('payment.db'))
  const empty = await refused(environment)
  assert.deepEqual([empty.code, /payment\.db is empty, .*put back a copy/.test(empty.stderr)], [1, true], empty.stderr)
  rmSync(inFolder('payment.db'))
  const missing = await refused(environment)
  assert.deepEqual([missing.code, /payment\.db is missing/.test(missing.stderr)], [1, true], missing.stderr)
  assert.equal(existsSync(inFolder('payment.db')), false)
  await startAndStop({ SERVICES: 'order,audit' }) // nobody asks for what is lost

  rmSync(inFolder('broker.db'))
  const broker = await refused({ ...environment, SERVICES: 'order' })
  assert.deepEqual([broker.code, /broker\.db is missing/.test(broker.stderr)], [1, true], broker.stderr)
})

test('a broker that comes later is waited for, and the shop starts by itself when it is there', async (context) => {
  await using world = await createWorld()
  const { skip } = await needs('redis')
  if (skip) return context.skip(skip)
  const port = await freePort()
  const PORT = String(await freePort())
  await using main = startMain({
    DATA_DIR: join(world.directory, 'data'),
    BROKER_URL: `redis://127.0.0.1:${port}`,
    PORT,
  })
  const { child, out } = main
  const waited = () => out.stdout.match(/the broker \(BROKER_URL\) is not there yet and is waited for/g)?.length ?? 0
  await eventually(() => waited() >= 3 || child.exitCode !== null, { timeoutMs: 30_000 })
  assert.equal(child.exitCode, null, out.stderr)
  const at = (path: string) => fetch(`http://127.0.0.1:${PORT}${path}`)
  assert.equal((await at('/health/live')).status, 200)
  const ready = await at('/health/ready')
  assert.equal(ready.status, 503)
  assert.match(
    await ready.text(),
    /"redis","ready":false,"reason":"the broker \(BROKER_URL\) is not there yet and is waited for: .*ECONNREFUSED/,
  )
  const products = await at('/api/products')
  assert.deepEqual([products.status, products.headers.get('retry-after')], [503, '2'])
  await using _redis = await startRedis({ port })
  await eventually(() => /answers at/.test(out.stdout) || child.exitCode !== null, { timeoutMs: 30_000 })
  assert.equal(child.exitCode, null, out.stderr)
  assert.equal((await at('/health/ready')).status, 200)
})

test('what the broker refuses ends the start, and it is said which setting to look at', async (context) => {
  await using world = await createWorld()
  const { url, skip } = await needs('rabbitmq')
  if (skip) return context.skip(skip)
  const BROKER_URL = new URL(url)
  BROKER_URL.pathname = '/nowhere'
  const { code, stderr } = await refused({ DATA_DIR: join(world.directory, 'data'), BROKER_URL: BROKER_URL.href })
  assert.equal(code, 1, stderr)
  assert.match(stderr, /BROKER_URL: RabbitMQ refuses: the virtual host 'nowhere'; name a virtual host that exists/)
})

test('a process that waits for its broker ends at once when asked to', async () => {
  await using world = await createWorld()
  const BROKER_URL = `redis://127.0.0.1:${await freePort()}`
  await using main = startMain({ DATA_DIR: join(world.directory, 'data'), BROKER_URL })
  await eventually(() => main.out.stdout.includes('is waited for'), { timeoutMs: 30_000 })
  main.child.kill('SIGTERM')
  assert.equal(await main.exited, 0)
})

test('traces that are off cost nothing: of OpenTelemetry no more is loaded than the API, by the metrics library', async () => {
  const hooks = `import { registerHooks } from 'node:module'
    registerHooks({ load(url, context, next) {
      if (/@opentelemetry.(?!api.)/.test(url)) process.stderr.write('loaded ' + url + '\\n')
      return next(url, context)
    } })`
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(hooks)}`
  const loaded = async (environment: Record<string, string>) => {
    await using world = await createWorld()
    await using main = startMain({ DATA_DIR: join(world.directory, 'data'), NODE_OPTIONS, ...environment })
    await main.answers()
    return main.out.stderr.match(/^loaded /gm)?.length ?? 0
  }
  assert.equal(await loaded({}), 0)
  assert.ok((await loaded({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9' })) > 0)
})

test('where nobody reads what it writes, the shop goes on, and ends when asked to', async () => {
  await using world = await createWorld()
  const PORT = String(await freePort())
  await using main = startMain({ DATA_DIR: join(world.directory, 'data'), PORT, LOG_LEVEL: 'trace' })
  main.child.stdout.destroy()
  main.child.stderr.destroy()
  const isReady = () =>
    fetch(`http://127.0.0.1:${PORT}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    )
  await eventually(isReady, { timeoutMs: 30_000 })
  assert.equal((await fetch(`http://127.0.0.1:${PORT}/api/orders`)).status, 401)
  main.child.kill('SIGTERM')
  assert.equal(await main.exited, 0)
})
