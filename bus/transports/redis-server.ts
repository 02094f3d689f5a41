/** What the server is, and what it promises: read when the transport opens. */
import { BusError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Connection } from './redis-connection.ts'

const VERSION_MIN = 7
/** Beside a text, its line's end stands in the query buffer. */
const LINE_END_BYTES = 2
/** No server can be told to take less. */
export const SIZE_LIMIT_MIN = 2 ** 20 - LINE_END_BYTES

export type SizeLimit = { readonly bytesMax: number; readonly setting: string }

export type ServerFacts = {
  version: string
  /** Confirmed is on disk: the append-only file is on, and flushed with every write. */
  durable: boolean
  /** What a crash of the server may cost; null: nothing that was confirmed. */
  crashCosts: string | null
  /** How long a text may be; null: it may not be read here. */
  sizeLimit: SizeLimit | null
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
  const durability = durabilityOf(info.get('aof_enabled') === '1', settings.get('appendfsync'))
  return { version, ...durability, sizeLimit: sizeLimitOf(settings) }
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

export async function readSizeLimit(connection: Connection): Promise<SizeLimit | null> {
  return sizeLimitOf(await configOf(connection))
}

function sizeLimitOf(settings: ReadonlyMap<string, string>): SizeLimit | null {
  const text = Number(settings.get('proto-max-bulk-len'))
  const buffer = Number(settings.get('client-query-buffer-limit')) - LINE_END_BYTES
  if (Number.isNaN(text) || Number.isNaN(buffer)) return null
  if (text <= buffer) return { bytesMax: text, setting: 'proto-max-bulk-len' }
  return { bytesMax: buffer, setting: 'client-query-buffer-limit' }
}

const SETTINGS = ['appendfsync', 'maxmemory-policy', 'proto-max-bulk-len', 'client-query-buffer-limit']

/** Managed servers may not let it be read. */
async function configOf(connection: Connection): Promise<Map<string, string>> {
  try {
    const flat = (await connection.command(['CONFIG', 'GET', ...SETTINGS])) as string[]
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
