/** What the server is, and what it promises: read when the transport opens. */
import { BusError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Connection } from './redis-connection.ts'

const VERSION_MIN = 7

export type ServerFacts = {
  version: string
  /** Confirmed is on disk: the append-only file is on, and flushed with every write. */
  durable: boolean
  /** What a crash of the server may cost; null: nothing that was confirmed. */
  crashCosts: string | null
}

/** Throws `transport_refused` where this server cannot carry the log. */
export async function inspect(connection: Connection): Promise<ServerFacts> {
  const refuse = (why: string) => new BusError('transport_refused', `${connection.address}: ${why}`)
  const info = fieldsOf((await connection.command(['INFO'])) as string)
  const version = info.get('redis_version') ?? 'unknown'
  if (!(Number.parseInt(version, 10) >= VERSION_MIN))
    throw refuse(`it is Redis ${version}, and ${VERSION_MIN}.0 or later is needed: update it`)
  if (info.get('cluster_enabled') === '1')
    throw refuse('Redis Cluster is not supported: give a server that is not in cluster mode')
  if (info.get('role') === 'slave')
    throw refuse(`it is a replica, which takes no writes: give the address of its primary`)
  const settings = await configOf(connection)
  const policy = settings.get('maxmemory-policy') ?? info.get('maxmemory_policy') ?? 'noeviction'
  if (policy.startsWith('allkeys') && info.get('maxmemory') !== '0')
    throw refuse(`maxmemory-policy ${policy} may throw streams away: set maxmemory-policy noeviction`)
  return { version, ...durabilityOf(info.get('aof_enabled') === '1', settings.get('appendfsync')) }
}

function durabilityOf(appendOnly: boolean, fsync: string | undefined): Pick<ServerFacts, 'durable' | 'crashCosts'> {
  if (!appendOnly)
    return { durable: false, crashCosts: 'appendonly no: all that was said since the last snapshot, or everything' }
  if (fsync === 'always') return { durable: true, crashCosts: null }
  if (fsync === undefined)
    return { durable: false, crashCosts: 'appendfsync may not be read here: nobody knows how much' }
  const cost = fsync === 'everysec' ? 'the last second or two of what was confirmed' : 'what the system had not written'
  return { durable: false, crashCosts: `appendfsync ${fsync}: ${cost}` }
}

export function warnOf({ crashCosts }: ServerFacts, address: string, log: Log): void {
  if (crashCosts === null) return
  const text = `a crash of ${address} may cost messages that were confirmed (${crashCosts}); for none: appendonly yes, appendfsync always`
  log.warn({ address }, text)
}

/** Managed servers may not let it be read. */
async function configOf(connection: Connection): Promise<Map<string, string>> {
  try {
    const flat = (await connection.command(['CONFIG', 'GET', 'appendfsync', 'maxmemory-policy'])) as string[]
    return new Map(flat.flatMap((name, at) => (at % 2 === 0 ? [[name, flat[at + 1]!] as const] : [])))
  } catch (error) {
    if (error instanceof BusError && error.code === 'transport_refused') return new Map()
    throw error
  }
}

function fieldsOf(info: string): Map<string, string> {
  const lines = info.split('\r\n').filter((line) => line.includes(':'))
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]))
}
