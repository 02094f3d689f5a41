/** Two services that talk by events: `node docs/examples/two-services.ts` prints what payment did, once. */
import { mkdirSync } from 'node:fs'
import { createBus, event, sql, sqliteStore, sqliteTransport } from '@shopsphere/bus'
import { z } from 'zod'

// An event has one owner, the first word of its type: the service that may publish it.
const order = z.object({ orderId: z.string(), totalPence: z.int() })
const key = ({ orderId }: { orderId: string }) => orderId // messages of one key are handled in order
const orderPlaced = event('order.placed', { version: 1, schema: order, key })
const paymentProcessed = event('payment.processed', { version: 1, schema: order, key })

const folder = process.argv[2] ?? 'two-services'
mkdirSync(folder, { recursive: true })
const transport = sqliteTransport(`${folder}/broker.db`)
const orders = createBus({
  service: 'order',
  transport,
  store: sqliteStore(`${folder}/order.db`),
  events: [orderPlaced],
})
const payments = createBus({
  service: 'payment',
  transport,
  store: sqliteStore(`${folder}/payment.db`),
  events: [paymentProcessed],
})

await payments.store.open()
await payments.store.migrate('payment', 'create table payment (order_id text primary key, pence bigint not null)')

payments.subscribe(orderPlaced, async ({ orderId, totalPence }, { tx, publish }) => {
  await tx.run(sql`insert into payment (order_id, pence) values (${orderId}, ${totalPence})`)
  publish(paymentProcessed, { orderId, totalPence }) // leaves only if this transaction commits
})
const paid = Promise.withResolvers<string>()
orders.subscribe(paymentProcessed, ({ orderId, totalPence }) => paid.resolve(`${orderId} is paid: ${totalPence} pence`))

await payments.start()
await orders.start()
await orders.publish(orderPlaced, { orderId: `ord_${Date.now()}`, totalPence: 1530 })

console.log(await paid.promise)

for (const bus of [orders, payments]) await bus.close()
await transport.close()
for (const bus of [orders, payments]) await bus.store.close()
