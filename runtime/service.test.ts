import assert from 'node:assert/strict'
import { mkdtempDisposableSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { event, memoryBroker, memoryTransport, type Store, sql, sqliteStore, systemClock } from '@shopsphere/bus'
import { z } from 'zod'
import { readConfig } from './config.ts'
import { createApi } from './http.ts'
import { createLog } from './log.ts'
import { defineService, type Host, prepareService } from './service.ts'

const orderPlaced = event('order.placed', {
  version: 1,
  schema: z.object({ orderId: z.string() }),
  key: (order) => order.orderId,
})

/** A process with a broker and stores in memory; says which stores are open. */
function createHost() {
  const broker = memoryBroker()
  const open = new Set<string>()
  const host: Host = {
    transport: memoryTransport(broker),
    openStore: (name) => {
      open.add(name)
      return noting(sqliteStore(':memory:'), () => open.delete(name))
    },
    events: [orderPlaced],
    clock: systemClock,
    config: readConfig({ SEED: '1' }, ['order', 'payment']),
    log: createLog('silent'),
  }
  return { host, open }
}

const noting = (store: Store, closed: () => void): Store => ({ ...store, close: () => store.close().then(closed) })

const order = defineService({ name: 'order', schema: null, wire: () => {} })

test('a service hears what another says, once both are prepared and started, and its tables are there', async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'service-'))
  const schema = join(folder.path, 'schema.sql')
  writeFileSync(schema, 'create table payment (id text primary key)')
  const { host, open } = createHost()
  const heard = Promise.withResolvers<string>()
  const payment = defineService({
    name: 'payment',
    schema: pathToFileURL(schema),
    wire({ bus, newId, log }) {
      const id = newId('pay')
      assert.match(id, /^pay_[\da-f]{8}-[\da-f]{4}-7/)
      bus.subscribe(orderPlaced, async ({ orderId }, { tx }) => {
        await tx.run(sql`insert into payment (id) values (${id})`)
        heard.resolve(orderId)
      })
      return { routes: createApi(log) }
    },
  })
  const services = [await prepareService(order, host), await prepareService(payment, host)]
  assert.equal(services[0]!.routes, undefined)
  assert(services[1]!.routes)
  for (const service of services) await service.start()
  await services[0]!.bus.publish(orderPlaced, { orderId: 'ord_1' })
  assert.equal(await heard.promise, 'ord_1')
  assert.equal((await services[1]!.status()).service, 'payment')
  for (const service of services) await Promise.all([service.close(), service.close()])
  assert.equal(open.size, 0)
})

test('a service that cannot be prepared leaves no store open', async () => {
  const { host, open } = createHost()
  const broken = { ...order, wire: () => Promise.reject(new Error('broken wire')) }
  await assert.rejects(prepareService(broken, host), /broken wire/)
  await assert.rejects(prepareService({ ...order, schema: new URL('file:///nowhere/schema.sql') }, host), /ENOENT/)
  assert.equal(open.size, 0)
})

test('a service that was never started can be closed', async () => {
  const { host, open } = createHost()
  const service = await prepareService(order, host)
  await service.close()
  assert.equal(open.size, 0)
})
