/** Redis as `faultSuite` opens it. */
import type { Log } from '../log.ts'
import { redisTransport } from '../transports/redis.ts'
import type { FaultPlace } from './fault-services.ts'
import { eraseStores, openStoreOf } from './fault-stores.ts'

export const open = (place: FaultPlace, log: Log) => ({
  transport: redisTransport(place.url, { prefix: place.name, shards: 4, leaseMs: 900, replyTimeoutMs: 1_000, log }),
  openStore: openStoreOf(place),
})
export const erase = eraseStores
