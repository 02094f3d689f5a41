/**
 * Read models made from the streams of a store, and made again beside the live one.
 *
 * P1 A batch's writes and its checkpoint commit in one transaction: an event is applied exactly once to a generation.
 * P2 A generation owns its tables (`sales_by_day__3`). Code gets their names from the row in `bus_projection`, never from
 *    a constant, so live and building never meet.
 * P3 A rebuild becomes live in the transaction in which it has seen every event: readers never go back in time.
 * P4 What a crash leaves of a rebuild is a row and tables that fit each other: the next `rebuild` goes on from there.
 * P5 An older version of the code never writes into a newer one's tables, and rebuilds over them only when told to.
 */

import type { Clock, Timer } from './clock.ts'
import { BusError } from './errors.ts'
import { headPosition, readAll, type StoredEvent, type StreamUpcasters } from './event-store.ts'
import { hold } from './lock.ts'
import { sql } from './sql.ts'
import type { MaybePromise, Reader, Store, Tx } from './store.ts'
import { statement, TableName } from './table-name.ts'

const BATCH_EVENTS = 200
const BACKOFF_FIRST_MS = 200
const BACKOFF_MAX_MS = 60_000

export type ProjectionOptions<Table extends string> = {
  name: string
  /** Grows with every change of `tables` or `apply`; the next `catchUp` then rebuilds beside the live one. */
  version: number
  /** Types of stored events; others are passed over. */
  events: readonly string[]
  /** For each table the statements that create it and its indexes, under the name that they are given. */
  tables: Readonly<Record<Table, (table: string) => readonly string[]>>
  /** Writes one event into this generation's tables: `tx.run(tableSql…)` with `table('sales_by_day')`. */
  apply: (tx: Tx, event: StoredEvent, table: (name: Table) => TableName) => MaybePromise<unknown>
  /** For stored events of an older shape. */
  upcast?: StreamUpcasters
}

export type CatchUpOptions = {
  /** Events that one transaction applies; 200 unless told. */
  batchMax?: number
  /** Stops between two batches; what is done stays done. */
  signal?: AbortSignal
  /** Told after each batch. */
  progress?: (progress: ProjectionProgress) => void
}

export type ProjectionProgress = {
  readonly generation: number
  /** Where it stands and where the newest event is. Positions grow, but are no count. */
  readonly position: number
  readonly headPosition: number
  /** Events applied by this call. */
  readonly applied: number
}

export type CatchUpResult = {
  readonly applied: number
  readonly position: number
  /** False where it was stopped, or where a newer version of the code is live and this one stood back. */
  readonly complete: boolean
}

export type Follower = {
  /** Say it after a commit that appended; many calls make one run. */
  wake(): void
  /** Resolves when everything woken for is applied, or waits for its next try. */
  settled(): Promise<void>
  /** Finishes the running batch. Closing twice is fine. */
  close(): Promise<void>
}

export type FollowOptions = {
  clock: Clock
  /** Told of each failure; the batch is tried again with back-off, and nothing is passed over. */
  onError: (error: unknown) => void
  batchMax?: number
}

export type GenerationStatus = { readonly generation: number; readonly version: number; readonly position: number }

export type ProjectionStatus = {
  readonly live: GenerationStatus | null
  readonly building: GenerationStatus | null
  readonly headPosition: number
}

export type Projection<Table extends string> = {
  readonly name: string
  /** The live table behind the name. Where a switch may come between two statements, use `query`. Throws `not_found`. */
  table(reader: Reader, name: Table): Promise<TableName>
  /** Runs `work` on the live tables, and again if they were switched meanwhile. Throws `not_found` before the first catch-up. */
  query<T>(store: Store, work: (reader: Reader, table: (name: Table) => TableName) => MaybePromise<T>): Promise<T>
  /** Applies what is new to the live tables; rebuilds where they are of an older version. Throws what `apply` throws. */
  catchUp(store: Store, options?: CatchUpOptions): Promise<CatchUpResult>
  /** Catches up now and whenever it is woken. */
  follow(store: Store, options: FollowOptions): Follower
  /**
   * Fills new tables beside the live ones, then switches and drops the old. Goes on with what an interrupted rebuild of
   * this version left, unless `restart`. Of an older version than the live one, it goes back to the older.
   */
  rebuild(store: Store, options?: CatchUpOptions & { restart?: boolean }): Promise<CatchUpResult>
  status(reader: Reader): Promise<ProjectionStatus>
}

type Generation = {
  generation: number
  version: number
  status: 'live' | 'building'
  position: number
  /** JSON: the names that this version of the code gave its tables, so that another can drop them. */
  tables: string
}
type Batch = { applied: number; position: number; generation: number; headPosition: number; end: boolean }

export function projection<Table extends string>(options: ProjectionOptions<Table>): Projection<Table> {
  const { name, version, events, apply, upcast } = options
  const tables = Object.keys(options.tables) as Table[]
  checkOptions(options, tables)

  /** Each name is made once for a batch: checking it costs more than the statement that it stands in. */
  const tableOf = (generation: number) => {
    const made = new Map<Table, TableName>()
    return (table: Table) => {
      const known = made.get(table)
      if (known) return known
      if (!Object.hasOwn(options.tables, table)) {
        throw new BusError('invalid_argument', `projection '${name}' declares no table '${table}': add it to tables`)
      }
      const tableName = new TableName(`${table}__${generation}`)
      made.set(table, tableName)
      return tableName
    }
  }

  async function generations(reader: Reader): Promise<Generation[]> {
    return reader.all<Generation>(
      sql`select generation, version, status, position, tables from bus_projection where name = ${name} order by generation`,
    )
  }

  async function withStatus(reader: Reader, status: Generation['status']): Promise<Generation | undefined> {
    return (await generations(reader)).find((row) => row.status === status)
  }

  async function live(reader: Reader): Promise<Generation> {
    const row = await withStatus(reader, 'live')
    if (row) return row
    throw new BusError('not_found', `projection '${name}' has no tables yet: call catchUp first`)
  }

  async function create(tx: Tx, status: Generation['status']): Promise<Generation> {
    const generation = Math.max(0, ...(await generations(tx)).map((row) => row.generation)) + 1
    const names: string[] = []
    for (const table of tables) {
      const { name: created } = tableOf(generation)(table)
      for (const text of options.tables[table](created)) await tx.run(statement(text))
      names.push(created)
    }
    const row: Generation = { generation, version, status, position: 0, tables: JSON.stringify(names) }
    await tx.insert('bus_projection', [{ name, ...row }])
    return row
  }

  async function drop(tx: Tx, { generation, tables }: Generation): Promise<void> {
    for (const table of JSON.parse(tables) as string[]) {
      await tx.run(statement(`drop table if exists ${new TableName(table).name}`))
    }
    await tx.run(sql`delete from bus_projection where name = ${name} and generation = ${generation}`)
  }

  /** One batch into one generation, with its checkpoint. (P1) */
  async function applyBatch(tx: Tx, row: Generation, batchMax: number): Promise<Batch> {
    const page = await readAll(tx, { afterPosition: row.position, types: events, limit: batchMax, upcast })
    const table = tableOf(row.generation)
    for (const event of page.events) await apply(tx, event, table)
    if (page.position !== row.position) {
      const moved = await tx.run(sql`
        update bus_projection set position = ${page.position}
        where name = ${name} and generation = ${row.generation} and position = ${row.position}`)
      if (moved === 0) {
        throw new BusError(
          'version_conflict',
          `projection '${name}': another process applied this batch; catch up again`,
        )
      }
    }
    const { position, headPosition, end } = page
    return { applied: page.events.length, generation: row.generation, position, headPosition, end }
  }

  /** The transactions of one projection come one after another, whichever process runs them. */
  const alone =
    <T>(work: (tx: Tx) => Promise<T>) =>
    async (tx: Tx) => {
      await hold(tx, `projection ${name}`)
      return work(tx)
    }

  /** Runs `step` in transactions of their own until it answers null or the end is reached. */
  async function repeat(
    store: Store,
    { signal, progress }: CatchUpOptions,
    step: (tx: Tx) => Promise<Batch | null>,
  ): Promise<CatchUpResult> {
    let applied = 0
    let position = 0
    while (!signal?.aborted) {
      const batch = await store.transaction(alone(step))
      if (!batch) return { applied, position, complete: false }
      applied += batch.applied
      position = batch.position
      progress?.({ generation: batch.generation, position, headPosition: batch.headPosition, applied })
      if (batch.end) return { applied, position, complete: true }
    }
    return { applied, position, complete: false }
  }

  async function catchUp(store: Store, options: CatchUpOptions = {}): Promise<CatchUpResult> {
    const batchMax = batchOf(options)
    let outdated = false
    const result = await repeat(store, options, async (tx) => {
      const row = (await withStatus(tx, 'live')) ?? (await create(tx, 'live'))
      outdated = row.version < version
      return row.version === version ? applyBatch(tx, row, batchMax) : null // P5
    })
    return outdated ? rebuild(store, options) : result
  }

  async function rebuild(store: Store, options: CatchUpOptions & { restart?: boolean } = {}): Promise<CatchUpResult> {
    const batchMax = batchOf(options)
    const target = await store.transaction(
      alone(async (tx) => {
        const left = await withStatus(tx, 'building')
        if (left && left.version === version && !options.restart) return left.generation // P4
        if (left && left.version > version && !options.restart) return null // P5
        const { generation } = await create(tx, 'building')
        if (left) await drop(tx, left) // after the new one took its number, so that no number ever comes twice
        return generation
      }),
    )
    return repeat(store, options, async (tx) => {
      const row = (await generations(tx)).find(({ generation }) => generation === target)
      if (!row || row.version !== version) return null // another process began anew
      const batch = await applyBatch(tx, row, batchMax)
      if (batch.end && row.status === 'building') await switchTo(tx, row)
      return batch
    })
  }

  /** In the transaction that applied the last batch, so nothing was appended in between. (P3) */
  async function switchTo(tx: Tx, row: Generation): Promise<void> {
    const old = await withStatus(tx, 'live')
    if (old) await drop(tx, old)
    await tx.run(sql`update bus_projection set status = 'live' where name = ${name} and generation = ${row.generation}`)
  }

  return {
    name,
    catchUp,
    rebuild,

    async table(reader, table) {
      return tableOf((await live(reader)).generation)(table)
    },

    async query(store, work) {
      while (true) {
        const { generation } = await store.read(live)
        try {
          return await store.read((reader) => work(reader, tableOf(generation)))
        } catch (error) {
          const now = await store.read(live)
          if (now.generation === generation) throw error
        }
      }
    },

    follow: (store, options) => follow((signal) => catchUp(store, { batchMax: options.batchMax, signal }), options),

    async status(reader) {
      const rows = await generations(reader)
      const of = (status: Generation['status']) => {
        const row = rows.find((candidate) => candidate.status === status)
        return row ? { generation: row.generation, version: row.version, position: row.position } : null
      }
      return { live: of('live'), building: of('building'), headPosition: await headPosition(reader) }
    },
  }
}

/**
 * F1 One run at a time. F2 A wake during a run, or while a failure waits, is not lost. F3 A failure waits for its
 * back-off, however often it is woken.
 */
function follow(run: (signal: AbortSignal) => Promise<unknown>, { clock, onError }: FollowOptions): Follower {
  const closing = new AbortController()
  let wanted = false
  let running: Promise<void> | undefined
  let retry: Timer | undefined
  let failures = 0

  async function loop(): Promise<void> {
    while (wanted && !retry && !closing.signal.aborted) {
      // F3
      wanted = false
      try {
        await run(closing.signal)
        failures = 0
      } catch (error) {
        wanted = true
        if (!closing.signal.aborted) retry = clock.after(backoffMs(failures++), tryAgain)
        onError(error)
      }
    }
    running = undefined // in the same turn as the look at `wanted` (F2)
  }

  function tryAgain(): void {
    retry = undefined
    wake()
  }

  function wake(): void {
    wanted = true
    if (running || closing.signal.aborted) return // F1
    running = Promise.resolve().then(loop)
  }

  wake()
  return {
    wake,
    async settled() {
      while (running) await running
    },
    async close() {
      closing.abort()
      retry?.cancel()
      await running
    },
  }
}

function backoffMs(failures: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(failures, 30))
}

function batchOf({ batchMax = BATCH_EVENTS }: CatchUpOptions): number {
  if (Number.isSafeInteger(batchMax) && batchMax >= 1) return batchMax
  throw new BusError('invalid_argument', `batchMax must be a whole number from 1, not ${batchMax}`)
}

function checkOptions(options: ProjectionOptions<string>, tables: readonly string[]): void {
  const { name, version, events } = options
  if (name === '' || tables.length === 0 || events.length === 0) {
    throw new BusError(
      'invalid_argument',
      `projection '${name}': give it a name, at least one table and one event type`,
    )
  }
  if (!Number.isSafeInteger(version) || version < 1) {
    throw new BusError(
      'invalid_argument',
      `projection '${name}': version must be a whole number from 1, not ${version}`,
    )
  }
  for (const table of tables) {
    new TableName(table)
    if (table.length > 48) {
      throw new BusError('invalid_argument', `table '${table}': 48 characters at most, the generation is added to it`)
    }
  }
}
