/** A process that consumes a subscription and acknowledges nothing; see rabbitmq-traps.test.ts. Argument: its plan as JSON. */
import { rabbitmqTransport } from '../transports/rabbitmq.ts'

export type RabbitmqSharePlan = { url: string; prefix: string; heartbeatSeconds: number; subscription: string }
export type RabbitmqShareReport =
  | { kind: 'ready' }
  | { kind: 'received'; id: string; shard: number; epoch: number }
  | { kind: 'revoked'; shard: number; epoch: number }

const { url, prefix, heartbeatSeconds, subscription } = JSON.parse(process.argv[2]!) as RabbitmqSharePlan
const report = (message: RabbitmqShareReport) => process.send!(message)
const transport = rabbitmqTransport(url, { prefix, heartbeatSeconds })
await transport.open()
await transport.consume(subscription, {
  windowMax: 1_000,
  receive: (deliveries) => {
    for (const { message, lease } of deliveries) report({ kind: 'received', id: message.id, ...lease })
  },
  revoked: (lease) => report({ kind: 'revoked', ...lease }),
})
report({ kind: 'ready' })
