/** One connection to PostgreSQL: statements go out as they come, a turn's in one write, and are answered in their order. */
import { createHash } from 'node:crypto'
import type { Writable } from 'node:stream'
import { Client, type QueryResult } from 'pg'
import { BusError } from '../errors.ts'
import { type Sql, SqlList, type SqlValue } from '../sql.ts'
import type { Row } from '../store.ts'
import { ddlForPostgres, isDdl } from './postgres-ddl.ts'
import { isConnectionLost, translate } from './postgres-errors.ts'

export type ConnectionLimits = {
  /** How long a connection may take to be made. */
  connectTimeoutMs: number
  /** One statement, waiting for locks included; a longer one fails. */
  statementTimeoutMs: number
  /** How long a transaction may stand still between two statements before the server undoes it and frees its locks. */
  idleInTransactionTimeoutMs: number
}

/** Rows of one insert statement, at most. Numbers of rows are split into powers of two, so that few statements are prepared. */
const INSERT_ROWS_MAX = 128
/** Statements with lists or inserts that are prepared; those beyond are sent as text. */
const STATEMENTS_MAX = 500
/** Any number will do: it sets these locks apart from others. */
const MIGRATION_LOCK = 1_397_051_213
/** Beyond the server's own limit, the connection is given up: nobody answers. */
const ANSWER_MARGIN_MS = 5_000

/** What its types leave out. */
type Untyped = { ref(): void; unref(): void; readonly connection: { readonly stream: Writable } }

type Statement = { readonly name: string | undefined; readonly text: string }

/** `names` of the columns, as SQL has them. */
type Insertion = { table: string; names: string; rows: readonly Row[]; orIgnore: boolean }
/** Rows that are not sent yet. */
type Held = { table: string; names: string; rows: Row[]; sent: PromiseWithResolvers<unknown> }

const byTemplate = new WeakMap<TemplateStringsArray, Statement>()
const byText = new Map<string, Statement>()
const insertStatements = new Map<string, Statement>()
let named = 0

export async function connect(
  url: string,
  options: { schema: string; place: string; limits: ConnectionLimits },
): Promise<Connection> {
  const { schema, place, limits } = options
  const client = new Client({
    connectionString: url,
    pipeline: true,
    keepAlive: true,
    application_name: `shopsphere ${schema}`,
    connectionTimeoutMillis: limits.connectTimeoutMs,
    statement_timeout: limits.statementTimeoutMs,
    idle_in_transaction_session_timeout: limits.idleInTransactionTimeoutMs,
    query_timeout: limits.statementTimeoutMs + ANSWER_MARGIN_MS,
    // Only `begin` allows to write: nothing is written outside of a transaction, be it that its `begin` failed.
    options: `-c search_path=${schema} -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=on`,
    types: { getTypeParser: parserOf },
  })
  const connection = new Connection(client, place)
  try {
    await client.connect()
  } catch (error) {
    await connection.close()
    throw translate(place, error)
  }
  return connection
}

export class Connection {
  broken = false
  private readonly client: Client
  private readonly place: string
  /** The first statement that failed in this transaction, outside of savepoints that were undone (G3). */
  private failure: { error: unknown } | undefined
  private begun: Promise<unknown> | undefined
  private gathering = false
  private held: Held | undefined

  constructor(client: Client, place: string) {
    this.client = client
    this.place = place
    client.on('error', () => {
      this.broken = true // whoever waits for an answer hears of it by itself
    })
    client.on('end', () => {
      this.broken = true
    })
  }

  ref(): void {
    ;(this.client as unknown as Untyped).ref()
  }

  unref(): void {
    ;(this.client as unknown as Untyped).unref()
  }

  async close(): Promise<void> {
    await this.client.end().catch(() => {})
  }

  /** Its answer is not waited for: where it fails, nothing behind it can write, and the commit tells. */
  begin(): void {
    this.failure = undefined
    this.begun = this.send({ name: undefined, text: 'begin read write' }, [])
  }

  /** G3: the server answers `rollback` to the commit of a transaction in which something failed. */
  async commit(): Promise<void> {
    const [{ command }] = await Promise.all([this.send({ name: undefined, text: 'commit' }, []), this.begun])
    if (command !== 'COMMIT') throw this.failure?.error ?? new Error(`${this.place}: the transaction was undone`)
  }

  async rollback(): Promise<void> {
    if (this.broken) return
    await this.send({ name: undefined, text: 'rollback' }, []).catch(() => {
      this.broken = true // what it stands in is not known: nobody works on it any more
    })
  }

  savepoint(depth: number): void {
    void this.send({ name: undefined, text: `savepoint depth_${depth}` }, []) // the release tells
  }

  async release(depth: number): Promise<void> {
    try {
      await this.send({ name: undefined, text: `release depth_${depth}` }, [])
    } catch (error) {
      throw this.failure?.error ?? error
    }
  }

  /** Everything since the savepoint of this depth, and those inside it. */
  async undo(depth: number): Promise<void> {
    if (this.broken) return
    const before = this.failure
    this.failure = undefined
    try {
      const undone = this.send({ name: undefined, text: `rollback to depth_${depth}` }, [])
      const released = this.send({ name: undefined, text: `release depth_${depth}` }, [])
      await Promise.all([undone, released])
    } catch (error) {
      this.failure = before ?? { error }
    }
  }

  /** Everyone who asks for the same name waits until this transaction has ended. */
  async lock(name: string): Promise<void> {
    const key = createHash('sha256').update(name).digest().readInt32BE()
    await this.send({ name: undefined, text: `select pg_advisory_xact_lock(${MIGRATION_LOCK}, ${key})` }, [])
  }

  /** Statements without parameters, as they stand; answers the first row of the last, or an empty one. */
  async script(text: string): Promise<Record<string, SqlValue>> {
    const result = await this.send({ name: undefined, text }, [])
    const last = Array.isArray(result) ? (result as QueryResult[]).at(-1) : result
    return last?.rows?.[0] ?? {}
  }

  async get<R>(query: Sql): Promise<R | undefined> {
    return (await this.query(query)).rows[0] as R | undefined
  }

  async all<R>(query: Sql): Promise<R[]> {
    return (await this.query(query)).rows as R[]
  }

  async run(query: Sql): Promise<number> {
    return (await this.query(query)).rowCount ?? 0
  }

  /** Rows of one table that come in one turn, one after the other, go out as one statement. */
  async insert(table: string, rows: readonly Row[], orIgnore: boolean): Promise<number[]> {
    const first = rows[0]
    if (!first) return []
    const names = Object.keys(first).join(', ')
    if (orIgnore) return this.insertAll({ table, names, rows, orIgnore })
    if (this.held?.table !== table || this.held.names !== names) {
      this.sendHeld()
      this.held = { table, names, rows: [], sent: Promise.withResolvers() }
      this.gather()
    }
    this.held.rows.push(...rows)
    await this.held.sent.promise
    return rows.map((_, index) => index)
  }

  private sendHeld(): void {
    const { held } = this
    if (!held) return
    this.held = undefined
    this.insertAll({ ...held, orIgnore: false }).then(held.sent.resolve, held.sent.reject)
  }

  private async insertAll({ rows, ...insertion }: Insertion): Promise<number[]> {
    const chunks: Promise<number[]>[] = []
    for (let start = 0; start < rows.length; ) {
      const count = Math.min(INSERT_ROWS_MAX, 2 ** Math.floor(Math.log2(rows.length - start)))
      chunks.push(this.insertChunk({ ...insertion, rows: rows.slice(start, start + count) }, start))
      start += count
    }
    return (await Promise.all(chunks)).flat()
  }

  private async insertChunk(insertion: Insertion, start: number): Promise<number[]> {
    const { rows } = insertion
    const columns = Object.keys(rows[0]!)
    const values: unknown[] = []
    for (const row of rows) for (const column of columns) values.push(encoded(row[column] as SqlValue))
    const result = await this.send(insertStatement(insertion, columns.length), values)
    const all = result.rowCount === rows.length ? rows.map((_, index) => index) : insertedOf(rows, columns, result.rows)
    return all.map((index) => start + index)
  }

  private query({ strings, values }: Sql): Promise<QueryResult> {
    if (values.some((value) => value instanceof SqlList)) {
      const { text, flat } = withLists({ strings, values })
      return this.send(prepared(text), flat.map(encoded))
    }
    let statement = byTemplate.get(strings)
    if (!statement) {
      const text = strings.reduce((before, part, index) => `${before}$${index}${part}`)
      statement = isDdl(text) ? { name: undefined, text: ddlForPostgres(text) } : { name: `t${++named}`, text }
      byTemplate.set(strings, statement)
    }
    return this.send(statement, (values as readonly SqlValue[]).map(encoded))
  }

  private send({ name, text }: Statement, values: unknown[]): Promise<QueryResult> {
    this.sendHeld()
    this.gather()
    const answer = this.client
      .query(name === undefined && values.length === 0 ? { text } : { name, text, values })
      .catch((error) => {
        if (isConnectionLost(error)) this.broken = true
        const translation = translate(this.place, error)
        this.failure ??= { error: translation }
        throw translation
      })
    answer.catch(() => {}) // somebody may not await it; the commit is refused then (G3)
    return answer
  }

  /** What is asked for in one turn goes out in one write: each costs a call of the system, and wakes the server. */
  private gather(): void {
    if (this.gathering) return
    this.gathering = true
    const { stream } = (this.client as unknown as Untyped).connection
    stream.cork()
    process.nextTick(() => {
      this.sendHeld()
      this.gathering = false
      stream.uncork()
    })
  }
}

function prepared(text: string): Statement {
  let statement = byText.get(text)
  if (!statement) {
    if (byText.size >= STATEMENTS_MAX) return { name: undefined, text }
    statement = { name: `l${++named}`, text }
    byText.set(text, statement)
  }
  return statement
}

function insertStatement({ table, names, rows, orIgnore }: Insertion, columns: number): Statement {
  const shape = `${rows.length} ${orIgnore} ${table} ${names}`
  const known = insertStatements.get(shape)
  if (known) return known
  let place = 0
  const one = () => `(${Array.from({ length: columns }, () => `$${++place}`).join(', ')})`
  const end = orIgnore ? ` on conflict do nothing returning ${names}` : ''
  const places = Array.from({ length: rows.length }, one).join(', ')
  const statement = prepared(`insert into ${table} (${names}) values ${places}${end}`)
  if (statement.name !== undefined) insertStatements.set(shape, statement)
  return statement
}

/** Rows come back in the order in which they went in, those that were refused left out. */
function insertedOf(rows: readonly Row[], columns: readonly string[], returned: readonly Row[]): number[] {
  const positions: number[] = []
  for (const [index, row] of rows.entries()) {
    const next = returned[positions.length]
    if (!next) break
    if (columns.every((column) => isSame(row[column] as SqlValue, next[column] as SqlValue))) positions.push(index)
  }
  if (positions.length === returned.length) return positions
  throw new BusError('invalid_argument', 'insert with orIgnore: a column changes what is written into it')
}

function isSame(given: SqlValue, stored: SqlValue): boolean {
  if (given === stored) return true
  if (given === null || stored === null) return false
  if (stored instanceof Uint8Array) return Buffer.compare(Buffer.from(given as Uint8Array), stored) === 0
  return withoutNul(String(given)).toWellFormed() === String(stored)
}

/** Lists are filled up to a power of two with their last value, so that few statements are prepared. */
function withLists({ strings, values }: Sql): { text: string; flat: SqlValue[] } {
  let text = strings[0]!
  const flat: SqlValue[] = []
  values.forEach((value, index) => {
    if (!(value instanceof SqlList)) text += `$${flat.push(value)}`
    else if (value.values.length === 0) text += '(null)'
    else {
      const places: string[] = []
      const size = 2 ** Math.ceil(Math.log2(value.values.length))
      for (let at = 0; at < size; at++) {
        places.push(`$${flat.push(value.values[Math.min(at, value.values.length - 1)]!)}`)
      }
      text += `(${places.join(', ')})`
    }
    text += strings[index + 1]
  })
  return { text, flat }
}

/**
 * Texts go out as their bytes: the server reads them as text or, for a `bytea` column, as the bytes that they are. It has
 * no text with a NUL in it; one is written as U+FFFD.
 */
function encoded(value: SqlValue): unknown {
  if (typeof value === 'string') return Buffer.from(withoutNul(value))
  if (typeof value === 'number' || typeof value === 'bigint') return String(value)
  return value === null || Buffer.isBuffer(value)
    ? value
    : Buffer.from(value.buffer, value.byteOffset, value.byteLength)
}

const withoutNul = (text: string) => (text.includes('\0') ? text.replaceAll('\0', '\ufffd') : text)

// Object ids of types. https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
const BOOL = 16
const BYTEA = 17
const NUMBERS: ReadonlySet<number> = new Set([20, 21, 23, 26, 700, 701, 1700, 5069])

function parserOf(oid: number): (text: string) => SqlValue {
  if (NUMBERS.has(oid)) return Number
  if (oid === BYTEA) return (text) => Buffer.from(text.slice(2), 'hex')
  if (oid === BOOL) return (text) => (text === 't' ? 1 : 0)
  return (text) => text
}
