/** Kafka as `faultSuite` opens it. */
import type { Log } from '../log.ts'
import { kafkaTransport } from '../transports/kafka.ts'
import type { FaultPlace } from './fault-services.ts'
import { eraseStores, openStoreOf } from './fault-stores.ts'

const settings = {
  partitions: 4,
  sessionTimeoutMs: 1_500,
  handOverMs: 1_000,
  publishTimeoutMs: 3_000,
  requestTimeoutMs: 1_500,
}

export const open = (place: FaultPlace, log: Log) => ({
  transport: kafkaTransport(place.url, { prefix: `${place.name}.`, ...settings, log }),
  openStore: openStoreOf(place),
})
export const erase = eraseStores
