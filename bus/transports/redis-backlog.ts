/** How much waits for a subscription. */
import { matcher } from '../routing.ts'
import type { Backlog, Binding } from '../transport.ts'
import type { Connection } from './redis-connection.ts'
import { compareIds, timeOf } from './redis-entry.ts'
import type { RedisKeys } from './redis-keys.ts'
import type { Reader } from './redis-reader.ts'
import { scan, standings } from './redis-scripts.ts'

/** Entries that are looked at one by one, of each shard; beyond them the share that matches is taken to be the same. */
const SCAN_ENTRIES_MAX = 20_000
/** The server is busy with nothing else meanwhile. */
const SCAN_CHUNK = 1_000

type Standing = [
  cursor: string,
  entriesRead: number,
  entriesAdded: number,
  length: number,
  lastId: string,
  first: string,
]
type Kind = [type: string, headers: string, count: number, firstId: string]
type Place = { stream: string; cursor: string; behind: number; finishedBehind: number }
type Count = { waiting: number; oldestId: string | null }

/**
 * Exact for what this process reads itself and for bindings that take everything; up to SCAN_ENTRIES_MAX a shard exact for
 * other bindings, and estimated beyond. Of shards that others read, what is finished behind an unfinished one counts as
 * waiting. Undefined: there is no such subscription.
 */
export async function countBacklog(
  name: string,
  connection: Connection,
  keys: RedisKeys,
  reader: Reader | undefined,
): Promise<Backlog | undefined> {
  const answer = (await connection.run(standings, [keys.subscriptions, ...keys.streams], [name])) as
    | [string, ...Standing[]]
    | null
  if (!answer) return undefined
  const [record, ...rows] = answer
  const bindings = JSON.parse((JSON.parse(record) as { bindings: string }).bindings) as Binding[]
  const places = rows
    .map((row, shard) => placeOf(keys.streams[shard]!, row, reader, shard))
    .filter(({ behind }) => behind > 0)
  const takesAll = bindings.some(({ kind }) => kind === 'fanout')
  const count = takesAll ? countAll : countMatching(bindings)
  const counts = await Promise.all(places.map((place) => count(place, connection)))
  const times = counts.flatMap(({ oldestId }) => (oldestId === null ? [] : [timeOf(oldestId)]))
  return {
    waiting: counts.reduce((sum, { waiting }) => sum + waiting, 0),
    oldestAt: times.length === 0 ? null : Math.min(...times),
  }
}

/** What this process has finished is not written down yet, perhaps. */
function placeOf(
  stream: string,
  [cursor, read, added, length]: Standing,
  reader: Reader | undefined,
  shard: number,
): Place {
  if (cursor === '') return { stream, cursor: '0-0', behind: length, finishedBehind: 0 } // made anew, from the beginning
  const ours = reader?.progressOf(shard)
  if (!ours) return { stream, cursor, behind: added - read, finishedBehind: 0 }
  return { stream, cursor: ours.id, behind: added - ours.sequence, finishedBehind: ours.finishedBehind }
}

async function countAll({ stream, cursor, behind, finishedBehind }: Place, connection: Connection): Promise<Count> {
  const waiting = Math.max(0, behind - finishedBehind)
  if (waiting === 0) return { waiting, oldestId: null }
  const [, first] = (await connection.run(scan, [stream], [cursor, '1', '0'])) as [string, ...Kind[]]
  return { waiting, oldestId: first ? first[3] : null }
}

function countMatching(bindings: readonly Binding[]): (place: Place, connection: Connection) => Promise<Count> {
  const matches = matcher(bindings)
  const byHeaders = bindings.some(({ kind }) => kind === 'headers') ? '1' : '0'
  const isTaken = ([type, headers]: Kind) => matches({ type, headers: JSON.parse(headers) as Record<string, string> })
  return async ({ stream, cursor, behind, finishedBehind }, connection) => {
    let waiting = 0
    let looked = 0
    let oldestId: string | null = null
    for (let from = cursor; from !== '' && looked < SCAN_ENTRIES_MAX; ) {
      const answer = (await connection.run(scan, [stream], [from, `${SCAN_CHUNK}`, byHeaders])) as [string, ...Kind[]]
      const [next, ...kinds] = answer
      for (const kind of kinds) {
        looked += kind[2]
        if (!isTaken(kind)) continue
        waiting += kind[2]
        if (oldestId === null || compareIds(kind[3], oldestId) < 0) oldestId = kind[3]
      }
      from = next
    }
    if (looked >= SCAN_ENTRIES_MAX && behind > looked) waiting = Math.round((waiting / looked) * behind)
    waiting = Math.max(0, waiting - finishedBehind)
    return { waiting, oldestId: waiting === 0 ? null : oldestId }
  }
}
