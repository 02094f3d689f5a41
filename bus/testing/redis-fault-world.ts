/** Redis as `faultSuite` opens it. */
import type { Log } from '../log.ts'
import { redisTransport } from '../transports/redis.ts'
import { planted } from './fault-bugs.ts'
import type { FaultPlace } from './fault-services.ts'
import { eraseStores, openStoreOf } from './fault-stores.ts'

export const open = (place: FaultPlace, log: Log) => ({
  transport: planted(
    redisTransport(place.url, { prefix: place.name, shards: 4, leaseMs: 900, replyTimeoutMs: 1_000, log }),
    place.settings.bug,
  ),
  openStore: openStoreOf(place),
})
export const erase = eraseStores
