/** Redis and the SQLite store as `crashSuite` and `processesSuite` open them in their child processes; REDIS_URL says where. */
import { basename, join } from 'node:path'
import { sqliteStore } from '../stores/sqlite.ts'
import { redisTransport } from '../transports/redis.ts'
import type { CrashWorld } from './crash-suite.ts'

/** A process that dies leaves its shards for so long. */
const LEASE_MS = 600

export async function open(directory: string, { leaseMs = LEASE_MS }: { leaseMs?: number } = {}): Promise<CrashWorld> {
  return {
    transport: redisTransport(process.env.REDIS_URL!, { prefix: basename(directory), leaseMs }),
    openStore: (name) => sqliteStore(join(directory, `${name}.db`)),
  }
}
