import { list, type Message, type Reader, type Sql, sql, type Tx } from '@shopsphere/bus'
import { type AuditedEvent, byTime, type Caused } from './causality.ts'

/** The most that one thread, tree or order shows. */
export const THREAD_EVENTS_MAX = 2_000
/** Rows that one page looks through for its type, so that a rare one never holds the database for long. */
const SCAN_ROWS_MAX = 5_000
/** Ids in one `in (…)`. */
const IDS_MAX = 500

/** An event without its payload, as lists show it. */
export type EventHead = Omit<AuditedEvent, 'data'>

export type Position = readonly [time: number, id: string]

export type EventFilter = {
  /** `order.placed`, or `order.*` for all that begin so. */
  readonly type?: string | undefined
  readonly key?: string | undefined
  readonly correlationId?: string | undefined
  /** Milliseconds since the epoch; `to` is not included. */
  readonly from?: number | undefined
  readonly to?: number | undefined
}

type HeadRow = {
  id: string
  type: string
  source: string
  time: number
  message_key: string | null
  correlation_id: string
  causation_id: string | null
  traceparent: string | null
  version: number
}
type EventRow = HeadRow & { body: string }

/** One insert: audit hears everything, so this is the hottest statement of the shop. `version`: of the shape that `data` has now. */
export function keep(tx: Tx, message: Message, version: number) {
  return tx.run(sql`
    insert into audit_event (id, type, source, time, message_key, correlation_id, causation_id, traceparent, version, body)
    values (${message.id}, ${message.type}, ${message.source}, ${message.time}, ${message.key}, ${message.correlationId},
      ${message.causationId}, ${message.traceparent}, ${version}, ${JSON.stringify(message.data)})
    on conflict (id) do nothing`)
}

export async function findEvent(reader: Reader, id: string): Promise<AuditedEvent | undefined> {
  const row = await reader.get<EventRow>(sql`select * from audit_event where id = ${id}`)
  return row && toEvent(row)
}

export type Found = {
  /** Newest first. */
  readonly events: EventHead[]
  /** Where the next page begins; null: there is no more. A page may be short, even empty, although there is. */
  readonly next: Position | null
}

/** What matches `filter`, newest first, from `before` on. */
export async function search(
  reader: Reader,
  filter: EventFilter,
  { before, limit }: { before: Position | undefined; limit: number },
): Promise<Found> {
  const start = before ?? [filter.to ?? Number.MAX_SAFE_INTEGER, '']
  if (filter.correlationId !== undefined) {
    const thread = await threadOf(reader, filter.correlationId)
    const matching = thread.filter((event) => isBefore(event, start) && fits(event, filter))
    return pageOf(matching.toSorted(byTime).toReversed(), limit)
  }
  if (filter.key !== undefined) {
    const rows = await reader.all<HeadRow>(eventsOfKey(filter.key, start, filter, limit + 1))
    return pageOf(rows.map(toHead), limit)
  }
  return scan(reader, filter, start, limit)
}

/** `+time` keeps SQLite from walking the time index instead of the key's few rows. */
function eventsOfKey(key: string, [time, id]: Position, filter: EventFilter, limit: number): Sql {
  return sql`
    select id, type, source, time, message_key, correlation_id, causation_id, traceparent, version from audit_event
    where message_key = ${key} and (+time < ${time} or (+time = ${time} and id < ${id})) and +time >= ${filter.from ?? 0}
      and type like ${typePattern(filter.type)} escape '!'
    order by +time desc, id desc limit ${limit}`
}

/** Goes back in time through a bounded stretch; where that found less than a page, the next one goes on behind it. */
async function scan(reader: Reader, filter: EventFilter, [time, id]: Position, limit: number): Promise<Found> {
  const from = filter.from ?? 0
  const end = await reader.get<{ time: number; id: string }>(sql`
    select time, id from audit_event where (time, id) < (${time}, ${id}) and time >= ${from}
    order by time desc, id desc limit 1 offset ${SCAN_ROWS_MAX - 1}`)
  const rows = await reader.all<HeadRow>(sql`
    select id, type, source, time, message_key, correlation_id, causation_id, traceparent, version from audit_event
    where (time, id) < (${time}, ${id}) and (time, id) >= (${end?.time ?? from}, ${end?.id ?? ''})
      and type like ${typePattern(filter.type)} escape '!'
    order by time desc, id desc limit ${limit + 1}`)
  const found = pageOf(rows.map(toHead), limit)
  return { events: found.events, next: found.next ?? (end ? [Number(end.time), end.id] : null) }
}

function pageOf(events: EventHead[], limit: number): Found {
  const shown = events.slice(0, limit)
  const last = shown.at(-1)
  return { events: shown, next: events.length > limit && last ? [last.time, last.id] : null }
}

const isBefore = (event: Caused, [time, id]: Position) => event.time < time || (event.time === time && event.id < id)

function fits({ type, key, time }: EventHead, filter: EventFilter): boolean {
  const wanted = filter.type?.endsWith('.*')
    ? type.startsWith(filter.type.slice(0, -1))
    : type === (filter.type ?? type) || filter.type === '#'
  return wanted && key === (filter.key ?? key) && time >= (filter.from ?? 0)
}

/** For `like`: every type, those that begin so, or the one. */
function typePattern(type: string | undefined): string {
  if (type === undefined || type === '#') return '%'
  const literal = type.replace(/\*$/, '').replaceAll('_', '!_')
  return type.endsWith('.*') ? `${literal}%` : literal
}

/** Everything that one request set off: what began it, and from there along the causes. */
async function threadOf(reader: Reader, correlationId: string): Promise<EventHead[]> {
  const rows = await reader.all<HeadRow>(sql`
    select id, type, source, time, message_key, correlation_id, causation_id, traceparent, version from audit_event
    where correlation_id = ${correlationId} and causation_id is null limit ${THREAD_EVENTS_MAX}`)
  const begun = rows.map(toHead)
  return [...begun, ...(await effectsOf(reader, begun)).events]
}

/** What `events` set off, all the way down and without themselves; `complete` is false where there is more than is shown. */
export async function effectsOf(
  reader: Reader,
  events: readonly Caused[],
): Promise<{ events: EventHead[]; complete: boolean }> {
  const known = new Set(events.map(({ id }) => id))
  const effects: EventHead[] = []
  let level: readonly Caused[] = events
  while (level.length > 0) {
    const rows = await inChunks(level, (ids) =>
      reader.all<HeadRow>(sql`
        select id, type, source, time, message_key, correlation_id, causation_id, traceparent, version from audit_event
        where causation_id in ${list(ids)} limit ${THREAD_EVENTS_MAX + 1}`),
    )
    const found = rows.map(toHead).filter(({ id }) => !known.has(id))
    for (const { id } of found) known.add(id)
    effects.push(...found)
    if (effects.length > THREAD_EVENTS_MAX) return { events: effects.slice(0, THREAD_EVENTS_MAX), complete: false }
    level = found
  }
  return { events: effects, complete: true }
}

/** What led to `event`, the first cause first and `event` not included. */
export async function causesOf(reader: Reader, event: Caused): Promise<AuditedEvent[]> {
  const causes: AuditedEvent[] = []
  const seen = new Set([event.id])
  let { causationId } = event
  while (causationId !== null && !seen.has(causationId) && causes.length < THREAD_EVENTS_MAX) {
    seen.add(causationId)
    const cause = await findEvent(reader, causationId)
    if (!cause) break // said before audit listened
    causes.push(cause)
    causationId = cause.causationId
  }
  return causes.toReversed()
}

/**
 * Everything about an order: what is keyed by it, what led there (a cart's check-out) and what came of it elsewhere (a
 * product's availability). At most THREAD_EVENTS_MAX; `complete` is false where there is more.
 */
export async function eventsOfOrder(
  reader: Reader,
  orderId: string,
): Promise<{ events: AuditedEvent[]; complete: boolean }> {
  const rows = await reader.all<HeadRow>(sql`
    select id, type, source, time, message_key, correlation_id, causation_id, traceparent, version from audit_event
    where message_key = ${orderId} limit ${THREAD_EVENTS_MAX + 1}`)
  const own = rows.slice(0, THREAD_EVENTS_MAX).map(toHead)
  const heads = new Map<string, EventHead>(own.map((event) => [event.id, event]))
  for (const event of own) {
    if (event.causationId === null || heads.has(event.causationId)) continue
    for (const { data: _, ...cause } of await causesOf(reader, event)) heads.set(cause.id, cause)
  }
  const effects = await effectsOf(reader, own)
  for (const event of effects.events) heads.set(event.id, event)
  const ids = [...heads.values()].toSorted(byTime).slice(0, THREAD_EVENTS_MAX)
  const bodies = await inChunks(ids, (chunk) =>
    reader.all<EventRow>(sql`select * from audit_event where id in ${list(chunk)}`),
  )
  const complete = rows.length <= THREAD_EVENTS_MAX && effects.complete && heads.size <= THREAD_EVENTS_MAX
  return { events: bodies.map(toEvent), complete }
}

async function inChunks<R>(events: readonly Caused[], read: (ids: string[]) => R[] | Promise<R[]>): Promise<R[]> {
  const rows: R[] = []
  for (let start = 0; start < events.length && rows.length <= THREAD_EVENTS_MAX; start += IDS_MAX) {
    rows.push(...(await read(events.slice(start, start + IDS_MAX).map(({ id }) => id))))
  }
  return rows
}

function toHead(row: HeadRow): EventHead {
  return {
    id: row.id,
    type: row.type,
    source: row.source,
    time: Number(row.time),
    key: row.message_key,
    correlationId: row.correlation_id,
    causationId: row.causation_id,
    traceparent: row.traceparent,
    version: Number(row.version),
  }
}

function toEvent(row: EventRow): AuditedEvent {
  return { ...toHead(row), data: JSON.parse(row.body) }
}
