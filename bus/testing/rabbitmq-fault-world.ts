/** RabbitMQ as `faultSuite` opens it. */
import type { Log } from '../log.ts'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import type { FaultPlace } from './fault-services.ts'
import { eraseStores, openStoreOf } from './fault-stores.ts'

const settings = { heartbeatSeconds: 1, confirmMaxMs: 1_500, answerMaxMs: 3_000 }

export const open = (place: FaultPlace, log: Log) => ({
  transport: rabbitmqTransport(place.url, { prefix: `${place.name}.`, ...settings, log }),
  openStore: openStoreOf(place),
})
export const erase = eraseStores
