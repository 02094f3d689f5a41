/**
 * The PostgreSQL store: a schema of one database for each service, a few connections that write, two that only read.
 *
 * G1 A transaction has a connection of its own from `begin` to its end; transactions of one store run at the same time,
 *    at READ COMMITTED. Whoever reads and then writes says in the `where` of the write what must still be so.
 * G2 A transaction's `tx` is dead once its work has ended, so a handler that comes late cannot write into another's.
 * G3 Where a statement failed and nobody undid it with a savepoint, the commit is refused and that failure comes out.
 * G4 A deadlock, a lost connection or a full server is an UnavailableError: nothing is run again behind the caller's back;
 *    the consumer comes again without counting an attempt. Where the answer to a commit is lost, whether it happened is
 *    unknown: the inbox (or the caller's own key) recognises the repeat.
 */
import { createHash } from 'node:crypto'
import { BusError, UnavailableError } from '../errors.ts'
import { type Sql, sql } from '../sql.ts'
import type { MaybePromise, Row, Store, Tx } from '../store.ts'
import { type Connection, type ConnectionLimits, connect } from './postgres-connection.ts'
import { ddlForPostgres } from './postgres-ddl.ts'
import { isConnectionLost, serverTooOld } from './postgres-errors.ts'
import { Pool } from './postgres-pool.ts'
import { busTables } from './postgres-tables.ts'

export type PostgresStoreOptions = Partial<PostgresStoreLimits> & {
  /** Holds this store's tables, and is created with them; `public` unless told. */
  schema?: string
}

export type PostgresStoreLimits = ConnectionLimits & {
  /** Transactions at the same time; further ones wait for their turn. */
  poolMax: number
  /** Reads outside of transactions at the same time, on connections of their own: 2 or more, since the relay has one while it sends. */
  readersMax: number
  /** A connection that nobody needed for so long is closed. */
  idleTimeoutMs: number
}

const defaults: PostgresStoreLimits = {
  poolMax: 4,
  readersMax: 2,
  idleTimeoutMs: 10_000,
  connectTimeoutMs: 10_000,
  statementTimeoutMs: 30_000,
  idleInTransactionTimeoutMs: 15_000,
}

/** PostgreSQL 13 brought xid8 and the functions around it. */
const VERSION_MIN = 130_000

/** @param url `postgres://user:password@host:5432/database?sslmode=…` */
export function postgresStore(url: string, options: PostgresStoreOptions = {}): Store {
  const { schema = 'public', ...overrides } = options
  const limits = limitsWith(overrides)
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema)) {
    throw new BusError('invalid_argument', `schema '${schema}': write lower-case letters, digits and _, 63 at most`)
  }
  const place = placeOf(url, schema)
  const make = () => connect(url, { schema, place, limits })
  const writers = new Pool(make, limits.poolMax, limits.idleTimeoutMs)
  const readers = new Pool(make, limits.readersMax, limits.idleTimeoutMs)
  let opening: Promise<void> | undefined
  let isOpen = false
  let closing: Promise<void> | undefined

  function refuseUnlessOpen(): void {
    if (closing) throw new BusError('bus_closed', `${place} is closed`)
    if (!isOpen) throw new BusError('invalid_argument', `${place}: open() the store first`)
  }

  /** G1, G3, G4 */
  async function inTransaction<T>(work: (tx: Transaction) => MaybePromise<T>): Promise<T> {
    const connection = await writers.take()
    const tx = new Transaction(connection, 0)
    try {
      connection.begin()
      const value = await work(tx)
      tx.end() // G2
      await commit(connection)
      return value
    } catch (error) {
      tx.end()
      await connection.rollback()
      throw error
    } finally {
      writers.give(connection)
    }
  }

  async function commit(connection: Connection): Promise<void> {
    try {
      await connection.commit()
    } catch (error) {
      if (!isConnectionLost(error)) throw error
      throw new UnavailableError(
        'store_unavailable',
        `${place}: the connection was lost while committing, so whether it happened is not known: ask again under the same id or key`,
        { cause: error },
      )
    }
  }

  /** Creates what is missing. Several processes may come at once: one after another, by a lock that ends with the transaction. */
  async function prepare(): Promise<void> {
    await inTransaction(async (tx) => {
      const { connection } = tx
      const version = Number((await connection.script('show server_version_num')).server_version_num)
      if (version < VERSION_MIN) throw serverTooOld(place, version)
      await connection.lock(`${schema} tables`)
      // Looked for first: `create … if not exists` asks for the right to create even where nothing is to be done.
      const found = await connection.script(`select 1 as one from pg_namespace where nspname = '${schema}'`)
      if (!found.one) await connection.script(`create schema ${schema}`)
      const hash = hashOf(busTables)
      const table = await connection.script(`select to_regclass('${schema}.bus_migration')::text as name`)
      if (table.name && (await hashUnder(connection, '')) === hash) return
      await connection.script(busTables)
      await connection.script(
        `insert into bus_migration (name, hash) values ('', '${hash}') on conflict (name) do update set hash = excluded.hash`,
      )
    })
  }

  return {
    dialect: 'postgres',

    open() {
      if (closing) return Promise.reject(new BusError('bus_closed', `${place} is closed`))
      opening ??= prepare().then(
        () => {
          isOpen = true
        },
        (error) => {
          opening = undefined // it may be tried again
          throw error
        },
      )
      return opening
    },

    async migrate(name, ddl) {
      refuseUnlessOpen()
      const hash = hashOf(ddl)
      await inTransaction(async ({ connection }) => {
        await connection.lock(`${schema} tables`)
        const known = await hashUnder(connection, name)
        if (known === hash) return
        if (known !== undefined) {
          throw new BusError(
            'invalid_argument',
            `${place}: migration '${name}' was applied before with another text: add a new migration instead of changing it`,
          )
        }
        await connection.script(ddlForPostgres(ddl))
        await connection.insert('bus_migration', [{ name, hash }], false)
      })
    },

    async transaction(work) {
      refuseUnlessOpen()
      return inTransaction(work)
    },

    async read(work) {
      refuseUnlessOpen()
      const connection = await readers.take()
      const reader = new Transaction(connection, 0)
      try {
        return await work(reader)
      } finally {
        reader.end()
        readers.give(connection)
      }
    },

    close() {
      closing ??= (async () => {
        await opening?.catch(() => {})
        await Promise.all([writers.close(), readers.close()])
      })()
      return closing
    },
  }
}

function limitsWith(overrides: Partial<PostgresStoreLimits>): PostgresStoreLimits {
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined)
  for (const [name, value] of given) {
    if (!Object.hasOwn(defaults, name))
      throw new BusError('invalid_argument', `a PostgreSQL store has no option '${name}'`)
    const min = name === 'readersMax' ? 2 : 1
    if (!Number.isSafeInteger(value) || value < min || value > 2 ** 31 - 1) {
      throw new BusError('invalid_argument', `${name} must be a whole number from ${min} to 2147483647, not ${value}`)
    }
  }
  return { ...defaults, ...Object.fromEntries(given) }
}

/** https://www.postgresql.org/docs/current/libpq-ssl.html; `no-verify` is the client's own. */
const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full', 'no-verify']
const SSL_WORDS = ['ssl', 'sslmode', 'sslcert', 'sslkey', 'sslrootcert', 'sslnegotiation']

/** For messages: where it is, without the password. Throws `invalid_argument`. */
function placeOf(url: string, schema: string): string {
  const parsed = URL.parse(url)
  if (!parsed || !/^postgres(ql)?:$/.test(parsed.protocol)) {
    throw new BusError('invalid_argument', 'a PostgreSQL store takes postgres://user:password@host:5432/database')
  }
  // The client passes over what it does not know, and would not encrypt.
  for (const [word, value] of parsed.searchParams) {
    if (/^ssl/i.test(word) && !SSL_WORDS.includes(word))
      throw new BusError('invalid_argument', `'${word}' in a PostgreSQL address: there are ${SSL_WORDS.join(', ')}`)
    if (word === 'sslmode' && !SSL_MODES.includes(value))
      throw new BusError(
        'invalid_argument',
        `sslmode=${value} in a PostgreSQL address: there are ${SSL_MODES.join(', ')}`,
      )
  }
  return `PostgreSQL ${parsed.hostname || 'localhost'}:${parsed.port || 5432}${parsed.pathname} (schema ${schema})`
}

function hashOf(ddl: string): string {
  return createHash('sha256').update(ddl.replace(/\s+/g, ' ').trim()).digest('hex')
}

async function hashUnder(connection: Connection, name: string): Promise<string | undefined> {
  const row = await connection.get<{ hash: string }>(sql`select hash from bus_migration where name = ${name}`)
  return row?.hash
}

/** A failure that nobody awaits ends no process: the commit tells of it (G3). */
function heard<T>(answer: Promise<T>): Promise<T> {
  answer.catch(() => {})
  return answer
}

class Transaction implements Tx {
  readonly dialect = 'postgres'
  private live_: Connection | undefined
  private readonly depth: number

  /** @param depth of the savepoint that it stands in; 0: none */
  constructor(connection: Connection, depth: number) {
    this.live_ = connection
    this.depth = depth
  }

  get ended(): boolean {
    return this.live_ === undefined
  }

  end(): void {
    this.live_ = undefined
  }

  get connection(): Connection {
    if (this.live_) return this.live_
    throw new BusError(
      'handler_timeout',
      'this transaction has ended: await everything inside the handler, and return before its time is over',
    )
  }

  get<R>(query: Sql): Promise<R | undefined> {
    return heard(this.connection.get<R>(query))
  }

  all<R>(query: Sql): Promise<R[]> {
    return heard(this.connection.all<R>(query))
  }

  run(query: Sql): Promise<number> {
    return heard(this.connection.run(query))
  }

  insert(table: string, rows: readonly Row[], options?: { orIgnore?: boolean }): Promise<number[]> {
    return heard(this.connection.insert(table, rows, options?.orIgnore ?? false))
  }

  async savepoint<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T> {
    const { connection } = this
    const depth = this.depth + 1
    const scoped = new Transaction(connection, depth)
    connection.savepoint(depth) // its answer is not waited for: what follows stands behind it on the same connection
    try {
      const value = await work(scoped)
      scoped.end()
      await this.connection.release(depth) // whoever comes back after its time touches nothing (G2)
      return value
    } catch (error) {
      scoped.end()
      if (!this.ended) await connection.undo(depth)
      throw error
    }
  }
}
