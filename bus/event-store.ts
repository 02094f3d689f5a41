/**
 * Streams of facts in the service's own database: appended with an expected version, read as of any version or time.
 *
 * `bus_stream` keeps the head of each stream and, beside it, the state that an aggregate folded from it. That row is
 * the snapshot, and by default it is always current: handling a command is one row read, one row written and the
 * events inserted, however long the stream is, and a plain load is one row read. Measured on SQLite with streams of up to
 * eight events, that is twice as fast as reading and folding them each time. The head in a row of its own is also what
 * makes two writers meet: the second one's update finds another version. Reads as of the past fold the events.
 */
import { BusError } from './errors.ts'
import { list, sql } from './sql.ts'
import type { Reader, Row, Tx } from './store.ts'

/** Events in one `append`; also the most that one `read` or `readAll` answers. */
export const streamEventsMax = 1_000
/** One event's `data` as JSON, in UTF-16 code units. */
export const streamEventLengthMax = 1_048_576
/** Positions that one `readAll` looks through for its types, so that rare types never hold a thread for long. */
const SCAN_POSITIONS_MAX = 20_000
const FOLD_PAGE_EVENTS = 500

/** What an aggregate decides: a plain fact, internal to its service. */
export type StreamEvent = { readonly type: string; readonly data: unknown }

/** Carried beside an event and never folded: which message caused it, who asked for it. */
export type StreamMeta = Readonly<Record<string, unknown>>

export type NewEvent = StreamEvent & {
  /** The version of the shape of `data`; 1 unless told. */
  readonly schemaVersion?: number
  readonly meta?: StreamMeta | null
}

export type StoredEvent<Event extends StreamEvent = StreamEvent> = Event & {
  readonly stream: string
  /** 1 for the first event of its stream, then one more each. */
  readonly version: number
  /** Grows over all streams of the store. */
  readonly position: number
  /** The version that `data` had when it was stored; `data` itself has been through the upcasters. */
  readonly schemaVersion: number
  readonly meta: StreamMeta | null
  /** Milliseconds since the Unix epoch, as the writer said. */
  readonly at: number
}

/**
 * Per type, from each older version of its data to the next: `{ placed: { 1: (old) => new } }` makes 2 the current
 * version of `placed`. The upcasters of a bus event fit: `{ [orderPlaced.type]: orderPlaced.upcast }`.
 */
export type StreamUpcasters = Readonly<Record<string, Readonly<Record<number, (old: any) => unknown>>>>

/** A number: exactly this version (0: nothing yet); `none`: the stream is new; `any`: whatever is there. */
export type ExpectedVersion = number | 'none' | 'any'

export type AsOf = { readonly version: number } | { readonly timeMs: number }

type EventRow = {
  position: number
  stream: string
  version: number
  type: string
  schema_version: number
  data: string
  meta: string | null
  at: number
}

/**
 * Appends `events` to `stream` and answers its new version. `at` is milliseconds since the epoch.
 * Throws `version_conflict` where the stream is not at the expected version; load it again and decide again.
 */
export async function append(
  tx: Tx,
  stream: string,
  events: readonly NewEvent[],
  options: { expectedVersion: ExpectedVersion; at: number },
): Promise<number> {
  const { expectedVersion, at } = options
  checkAppend(stream, events, expectedVersion, at)
  const version =
    expectedVersion === 'any'
      ? await advanceAny(tx, stream, events.length)
      : await advance(tx, stream, expectedVersion === 'none' ? 0 : expectedVersion, events.length)
  await insertEvents(tx, stream, version - events.length, events, at)
  return version
}

/**
 * The events of `stream` in order, from `fromVersion` (1) on, at most `limit` (and `streamEventsMax`): page on with
 * `fromVersion`. As of a time: those before the first that is later, so a clock that stepped back leaves no hole.
 */
export async function read(
  reader: Reader,
  stream: string,
  options: { fromVersion?: number; asOf?: AsOf; limit?: number; upcast?: StreamUpcasters } = {},
): Promise<StoredEvent[]> {
  const { fromVersion = 1, asOf, limit = streamEventsMax, upcast = {} } = options
  checkWhole('fromVersion', fromVersion, 0)
  checkWhole('limit', limit, 1)
  checkAsOf(asOf)
  const toVersion = asOf ? await versionAsOf(reader, stream, asOf) : Number.MAX_SAFE_INTEGER
  return page(reader, stream, fromVersion, toVersion, Math.min(limit, streamEventsMax), upcast)
}

export type AllPage = {
  readonly events: StoredEvent[]
  /** Everything up to here has been seen: the next call's `afterPosition`. */
  readonly position: number
  /** Nothing was stored beyond `position` when this was read. */
  readonly end: boolean
  readonly headPosition: number
}

/**
 * Events of all streams in the order of their positions, for projections; `types`: only these. A page may be empty
 * although more follow (it looks through a bounded stretch): go on until `end`.
 */
export async function readAll(
  reader: Reader,
  options: { afterPosition: number; types?: readonly string[]; limit: number; upcast?: StreamUpcasters },
): Promise<AllPage> {
  const { afterPosition, types, upcast = {} } = options
  checkWhole('afterPosition', afterPosition, 0)
  checkWhole('limit', options.limit, 1)
  const limit = Math.min(options.limit, streamEventsMax)
  const head = await settledPosition(reader)
  const until = Math.min(head, afterPosition + SCAN_POSITIONS_MAX)
  if (until <= afterPosition) return { events: [], position: afterPosition, end: true, headPosition: head }
  const rows = types
    ? await reader.all<EventRow>(sql`
        select position, stream, version, type, schema_version, data, meta, at from bus_stream_event
        where position > ${afterPosition} and position <= ${until} and type in ${list(types)}
        order by position limit ${limit}`)
    : await reader.all<EventRow>(sql`
        select position, stream, version, type, schema_version, data, meta, at from bus_stream_event
        where position > ${afterPosition} and position <= ${until}
        order by position limit ${limit}`)
  const position = rows.length < limit ? until : rows.at(-1)!.position
  return { events: rows.map((row) => decode(row, upcast)), position, end: position >= head, headPosition: head }
}

/** The position of the newest event of all streams; 0: there is none. */
export async function headPosition(reader: Reader): Promise<number> {
  const row = await reader.get<{ head: number | null }>(sql`select max(position) as head from bus_stream_event`)
  return row?.head ?? 0
}

/** Up to here nothing comes any more that is not there: see stores/event-store-ddl.ts. The order of the two looks matters. */
async function settledPosition(reader: Reader): Promise<number> {
  const head = await headPosition(reader)
  if (reader.dialect === 'sqlite') return head
  const row = await reader.get<{ bound: number | null }>(sql`select bus_event_bound() as bound`)
  return Math.min(head, row?.bound ?? head)
}

export type AggregateOptions<State, Command, Event extends StreamEvent> = {
  /** The first word of its streams' names: `order` makes `order:ord_…`. */
  name: string
  /** The state of a stream without events. Plain JSON, as every state; frozen here. */
  initial: State
  /** What happens, or an empty list: nothing. Pure; throws where the command contradicts the state. */
  decide: (state: State, command: Command) => readonly Event[]
  /** Pure. */
  evolve: (state: State, event: Event) => State
  /** Grows whenever `evolve`, `initial` or the state's shape changes: stored states of other versions are ignored. */
  version: number
  /** For stored events of an older shape. */
  upcast?: StreamUpcasters
  /**
   * Writes the state only when that many events came since it was last written; 1 unless told. More suits states of
   * many kilobytes: each load then folds the events since.
   */
  snapshotEvery?: number
}

export type Loaded<State> = { readonly state: State; readonly version: number }

export type Aggregate<State, Command, Event extends StreamEvent> = {
  readonly name: string
  /**
   * Decides on the present state and appends what happened. `at`: milliseconds since the epoch. Throws what `decide`
   * throws, and `version_conflict` where somebody else was faster (the bus tries the handler again).
   */
  handle(
    tx: Tx,
    id: string,
    command: Command,
    options: { at: number; meta?: StreamMeta },
  ): Promise<Loaded<State> & { readonly events: readonly Event[] }>
  /** The state now, or as of a version or a time; version 0 is `initial`. */
  load(reader: Reader, id: string, options?: { asOf?: AsOf }): Promise<Loaded<State>>
  /** Its stored events, as `read`. */
  read(
    reader: Reader,
    id: string,
    options?: { fromVersion?: number; asOf?: AsOf; limit?: number },
  ): Promise<StoredEvent<Event>[]>
  /** The name of its stream. */
  stream(id: string): string
}

type HeadRow = { version: number; state: string | null; folded_version: number | null; evolve_version: number | null }

/** A decider (https://thinkbeforecoding.com/post/2021/12/17/functional-event-sourcing-decider) on stored streams. */
export function aggregate<State, Command, Event extends StreamEvent>(
  options: AggregateOptions<State, Command, Event>,
): Aggregate<State, Command, Event> {
  const { name, decide, evolve, version: evolveVersion, upcast = {}, snapshotEvery = 1 } = options
  checkName('aggregate', name)
  checkWhole(`aggregate '${name}': version`, evolveVersion, 1)
  checkWhole(`aggregate '${name}': snapshotEvery`, snapshotEvery, 1)
  const schemaVersions = currentVersions(name, upcast)
  const initial = deepFreeze(options.initial)
  const stream = (id: string) => `${name}:${id}`

  async function fold(reader: Reader, id: string, from: Loaded<State>, toVersion: number): Promise<Loaded<State>> {
    let { state, version } = from
    while (version < toVersion) {
      const events = await page(reader, stream(id), version + 1, toVersion, FOLD_PAGE_EVENTS, upcast)
      if (events.length === 0) break
      for (const event of events) state = evolve(state, event as StoredEvent<Event>)
      version = events.at(-1)!.version
    }
    return { state, version }
  }

  function snapshotOf(row: HeadRow, toVersion: number): Loaded<State> {
    const usable = row.state !== null && row.evolve_version === evolveVersion && row.folded_version! <= toVersion
    return usable ? { state: JSON.parse(row.state!), version: row.folded_version! } : { state: initial, version: 0 }
  }

  /** The state at the head, and from which version its stored state would save folding. */
  async function present(reader: Reader, id: string): Promise<Loaded<State> & { foldedFrom: number }> {
    const row = await headRow(reader, stream(id))
    if (!row) return { state: initial, version: 0, foldedFrom: 0 }
    const snapshot = snapshotOf(row, row.version)
    if (snapshot.version === row.version) return { ...snapshot, foldedFrom: snapshot.version }
    return { ...(await fold(reader, id, snapshot, row.version)), foldedFrom: snapshot.version }
  }

  async function past(reader: Reader, id: string, asOf: AsOf): Promise<Loaded<State>> {
    checkAsOf(asOf)
    const row = await headRow(reader, stream(id))
    if (!row) return { state: initial, version: 0 }
    const toVersion = Math.min(await versionAsOf(reader, stream(id), asOf), row.version)
    return fold(reader, id, snapshotOf(row, toVersion), toVersion)
  }

  return {
    name,
    stream,

    async handle(tx, id, command, { at, meta }) {
      const loaded = await present(tx, id)
      const events = decide(loaded.state, command)
      if (events.length === 0) return { events, state: loaded.state, version: loaded.version }
      checkAppend(stream(id), events, loaded.version, at)
      let state = loaded.state
      for (const event of events) state = evolve(state, event)
      const stateDue = loaded.version + events.length - loaded.foldedFrom >= snapshotEvery
      const snapshot = stateDue ? { state: toJson('state', state), evolveVersion } : null
      const version = await advance(tx, stream(id), loaded.version, events.length, snapshot)
      const stored = events.map((event) => ({ ...event, meta, schemaVersion: schemaVersions.get(event.type) ?? 1 }))
      await insertEvents(tx, stream(id), loaded.version, stored, at)
      return { events, state, version }
    },

    async load(reader, id, { asOf } = {}) {
      if (asOf) return past(reader, id, asOf)
      const { state, version } = await present(reader, id)
      return { state, version }
    },

    read: (reader, id, range = {}) => read(reader, stream(id), { ...range, upcast }) as Promise<StoredEvent<Event>[]>,
  }
}

async function headRow(reader: Reader, stream: string): Promise<HeadRow | undefined> {
  return reader.get<HeadRow>(
    sql`select version, state, folded_version, evolve_version from bus_stream where stream = ${stream}`,
  )
}

/** As of a time: the version before the first event that is later. */
async function versionAsOf(reader: Reader, stream: string, asOf: AsOf): Promise<number> {
  if ('version' in asOf) return asOf.version
  const later = await reader.get<{ version: number | null }>(
    sql`select min(version) as version from bus_stream_event where stream = ${stream} and at > ${asOf.timeMs}`,
  )
  return later?.version == null ? Number.MAX_SAFE_INTEGER : later.version - 1
}

async function page(
  reader: Reader,
  stream: string,
  fromVersion: number,
  toVersion: number,
  limit: number,
  upcast: StreamUpcasters,
): Promise<StoredEvent[]> {
  const rows = await reader.all<EventRow>(sql`
    select position, stream, version, type, schema_version, data, meta, at from bus_stream_event
    where stream = ${stream} and version >= ${fromVersion} and version <= ${toVersion}
    order by version limit ${limit}`)
  return rows.map((row) => decode(row, upcast))
}

/** Moves the head of `stream` from `from` on, in one statement that only one of two writers can win. */
async function advance(
  tx: Tx,
  stream: string,
  from: number,
  count: number,
  snapshot: { state: string; evolveVersion: number } | null = null,
): Promise<number> {
  const to = from + count
  const folded = snapshot ? to : null
  const evolveVersion = snapshot ? snapshot.evolveVersion : null
  const state = snapshot ? snapshot.state : null
  let changed: number
  if (from === 0) {
    changed = await tx.run(sql`
      insert into bus_stream (stream, version, state, folded_version, evolve_version)
      values (${stream}, ${to}, ${state}, ${folded}, ${evolveVersion}) on conflict (stream) do nothing`)
  } else if (snapshot) {
    changed = await tx.run(sql`
      update bus_stream set version = ${to}, state = ${state}, folded_version = ${folded}, evolve_version = ${evolveVersion}
      where stream = ${stream} and version = ${from}`)
  } else {
    changed = await tx.run(sql`update bus_stream set version = ${to} where stream = ${stream} and version = ${from}`)
  }
  if (changed === 1) return to
  const found = (await headRow(tx, stream))?.version ?? 0
  throw new BusError(
    'version_conflict',
    `stream '${stream}' is at version ${found}, not ${from} as expected: load it again and decide again`,
  )
}

async function advanceAny(tx: Tx, stream: string, count: number): Promise<number> {
  const row = await tx.get<{ version: number }>(sql`
    insert into bus_stream (stream, version) values (${stream}, ${count})
    on conflict (stream) do update set version = bus_stream.version + excluded.version
    returning version`)
  return row!.version
}

async function insertEvents(tx: Tx, stream: string, after: number, events: readonly NewEvent[], at: number) {
  if (events.length === 1) {
    const row = eventRow(stream, after + 1, events[0]!, at) // the usual case: one statement, prepared once
    await tx.run(sql`
      insert into bus_stream_event (stream, version, type, schema_version, data, meta, at)
      values (${row.stream}, ${row.version}, ${row.type}, ${row.schema_version}, ${row.data}, ${row.meta}, ${row.at})`)
    return
  }
  await tx.insert(
    'bus_stream_event',
    events.map((event, index) => eventRow(stream, after + index + 1, event, at)),
  )
}

function eventRow(stream: string, version: number, event: NewEvent, at: number) {
  const data = toJson(`event '${event.type}'`, event.data)
  if (data.length > streamEventLengthMax) {
    throw new BusError(
      'message_too_large',
      `event '${event.type}' of stream '${stream}' is ${data.length} characters of JSON, at most ${streamEventLengthMax} fit: split it`,
    )
  }
  const meta = event.meta ? toJson('meta', event.meta) : null
  return { stream, version, type: event.type, schema_version: event.schemaVersion ?? 1, data, meta, at } satisfies Row
}

function decode(row: EventRow, upcast: StreamUpcasters): StoredEvent {
  return {
    type: row.type,
    data: upcastStored(row, upcast[row.type]),
    stream: row.stream,
    version: row.version,
    position: row.position,
    schemaVersion: row.schema_version,
    meta: row.meta === null ? null : JSON.parse(row.meta),
    at: row.at,
  }
}

function upcastStored(row: EventRow, steps: StreamUpcasters[string] | undefined): unknown {
  let data: unknown = JSON.parse(row.data)
  // Without upcasters the reader wants what was stored: `append` lets its caller number the shapes.
  if (!steps) return data
  const current = currentVersion(steps)
  if (row.schema_version > current) {
    throw new BusError(
      'version_too_new',
      `event '${row.type}' version ${row.version} of stream '${row.stream}' has shape ${row.schema_version} and this process knows up to ${current}: deploy the newer code`,
    )
  }
  for (let from = row.schema_version; from < current; from++) data = steps[from]!(data)
  return data
}

function currentVersion(steps: StreamUpcasters[string]): number {
  return Object.keys(steps).length + 1
}

/** The current shape of each type that has upcasters. Throws `no_upcaster` where a step is missing. */
function currentVersions(name: string, upcast: StreamUpcasters): Map<string, number> {
  const versions = new Map<string, number>()
  for (const [type, steps] of Object.entries(upcast)) {
    const current = currentVersion(steps)
    for (let from = 1; from < current; from++) {
      if (!steps[from]) throw new BusError('no_upcaster', `'${name}', event '${type}': give an upcaster from ${from}`)
    }
    versions.set(type, current)
  }
  return versions
}

function toJson(what: string, value: unknown): string {
  const text = JSON.stringify(value)
  if (text === undefined)
    throw new BusError('invalid_argument', `${what} must be JSON; undefined and functions are not`)
  return text
}

function checkAppend(stream: string, events: readonly StreamEvent[], expected: ExpectedVersion, at: number): void {
  if (typeof stream !== 'string' || stream === '') throw new BusError('invalid_argument', 'stream: give it a name')
  if (events.length === 0 || events.length > streamEventsMax) {
    throw new BusError(
      'invalid_argument',
      `stream '${stream}': append 1 to ${streamEventsMax} events, not ${events.length}`,
    )
  }
  if (typeof expected === 'number') checkWhole('expectedVersion', expected, 0)
  checkWhole('at', at, 0)
}

function checkAsOf(asOf: AsOf | undefined): void {
  if (!asOf) return
  if ('version' in asOf) checkWhole('asOf.version', asOf.version, 0)
  else checkWhole('asOf.timeMs', asOf.timeMs, 0)
}

function checkWhole(what: string, value: number, min: number): void {
  if (Number.isSafeInteger(value) && value >= min) return
  throw new BusError('invalid_argument', `${what} must be a whole number from ${min}, not ${value}`)
}

function checkName(what: string, name: string): void {
  if (/^[a-z][a-z0-9_]*$/.test(name)) return
  throw new BusError('invalid_argument', `${what} '${name}': write lower-case letters, digits and _`)
}

/** A mutation of the shared initial state would show up in every new stream; frozen, it throws where it is made. */
function deepFreeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const part of Object.values(value)) deepFreeze(part)
  return Object.freeze(value)
}
