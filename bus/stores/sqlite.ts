/**
 * The embedded store: one SQLite file, one writing connection, one that reads.
 *
 * S1 Only `drain` touches the writing connection, so one transaction runs at a time.
 * S2 Transactions that wait together commit together (one fsync); each stands in a savepoint, and fails alone.
 * S3 A transaction's `tx` is dead once its work has ended, so a handler that comes late cannot write into another's.
 * S4 If SQLite gave up the transaction by itself (disk full, I/O error), everybody in the group hears of it.
 */
import { createHash } from 'node:crypto'
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import { BusError } from '../errors.ts'
import { type Sql, SqlList } from '../sql.ts'
import { openDatabase, openForReading, translate, translated } from '../sqlite.ts'
import type { MaybePromise, Reader, Row, Store, Tx } from '../store.ts'
import { addedColumns, busTables } from './sqlite-tables.ts'

/** Transactions that one commit carries. */
const GROUP_MAX = 512
/** Statements with lists or inserts that are kept prepared. */
const STATEMENTS_MAX = 500
/** Rows that one insert statement takes: measured, 8 to 16 cost a quarter less than one each. */
const INSERT_ROWS = 16

type Job = { work: (tx: Tx) => MaybePromise<unknown>; resolve: (value: any) => void; reject: (error: unknown) => void }

/** A store in the file `path`; `:memory:` for one that ends with the process. */
export function sqliteStore(path: string): Store {
  const inMemory = path === ':memory:'
  let writer: Connection | undefined
  let reader: Connection | undefined
  let closing: Promise<void> | undefined
  let queue: Job[] = []
  let draining: Promise<void> | undefined

  function transaction<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T> {
    if (closing) return Promise.reject(closedError(path))
    if (!writer) return Promise.reject(new BusError('invalid_argument', `${path}: open() the store first`))
    return new Promise<T>((resolve, reject) => {
      queue.push({ work, resolve, reject })
      draining ??= drain(writer!)
    })
  }

  async function drain(connection: Connection): Promise<void> {
    // Whoever asks in the same turn of the event loop shares the commit.
    await nextTurn()
    while (queue.length > 0) {
      const group = queue.length > GROUP_MAX ? queue.splice(0, GROUP_MAX) : queue
      if (group === queue) queue = []
      await commitTogether(connection, group)
      await nextTurn()
    }
    draining = undefined
  }

  return {
    dialect: 'sqlite',

    async open() {
      if (closing) throw closedError(path)
      if (writer) return
      const database = openDatabase(path)
      try {
        translated(path, () => {
          database.exec(busTables)
          addColumns(database)
        })
      } catch (error) {
        database.close()
        throw error
      }
      writer = new Connection(path, database)
      reader = inMemory ? writer : new Connection(path, openForReading(path))
    },

    async migrate(name, ddl) {
      const hash = createHash('sha256').update(ddl.replace(/\s+/g, ' ').trim()).digest('hex')
      await transaction(() => {
        const database = writer!.database
        const row = database.prepare('select hash from bus_migration where name = ?').get(name) as
          | { hash: string }
          | undefined
        if (row?.hash === hash) return
        if (row) {
          throw new BusError(
            'invalid_argument',
            `${path}: migration '${name}' was applied before with another text: add a new migration instead of changing it`,
          )
        }
        translated(path, () => database.exec(ddl))
        database.prepare('insert into bus_migration (name, hash) values (?, ?)').run(name, hash)
      })
    },

    transaction,

    async read<T>(work: (reader: Reader) => MaybePromise<T>): Promise<T> {
      // In memory there is one connection: reading waits its turn, so it never sees what is not committed.
      if (inMemory) return transaction(work)
      if (closing || !reader) throw closedError(path)
      return work(reader)
    },

    close() {
      closing ??= (async () => {
        await draining
        if (reader !== writer) reader?.database.close()
        writer?.database.close()
      })()
      return closing
    },
  }
}

/** A file that an earlier version made gets the columns that have been added since. */
function addColumns(database: DatabaseSync): void {
  for (const [table, column, type] of addedColumns) {
    const known = database.prepare('select 1 from pragma_table_info(?) where name = ?').get(table, column)
    if (!known) database.exec(`alter table ${table} add column ${column} ${type}`)
  }
}

async function commitTogether(connection: Connection, group: Job[]): Promise<void> {
  const { database, path } = connection
  const done: { job: Job; value: unknown }[] = []
  const alone = group.length === 1
  try {
    translated(path, () => connection.begin.run())
    for (const job of group) {
      const tx = new Transaction(connection, alone ? 0 : 1)
      if (!alone) connection.savepoint(1).begin.run()
      try {
        const value = job.work(tx)
        done.push({ job, value: value instanceof Promise ? await value : value })
        if (!alone) connection.savepoint(1).release.run()
      } catch (error) {
        if (!database.isTransaction) throw error // S4
        if (!alone) connection.undo(1)
        job.reject(error)
      } finally {
        tx.end() // S3
      }
    }
    translated(path, () => (done.length === 0 ? connection.rollback : connection.commit).run())
  } catch (error) {
    if (database.isTransaction) connection.rollback.run()
    const translation = translate(path, error)
    for (const job of group) job.reject(translation) // a second rejection of the same job changes nothing
    return
  }
  for (const { job, value } of done) job.resolve(value)
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

const closedError = (path: string) => new BusError('bus_closed', `${path} is closed`)

type Savepoint = { readonly begin: StatementSync; readonly release: StatementSync; readonly rollbackTo: StatementSync }

/** Deeper than any savepoint of a handler's. */
const INSERT_DEPTH = 1_000

class Connection implements Reader {
  readonly dialect = 'sqlite'
  readonly path: string
  readonly database: DatabaseSync
  readonly begin: StatementSync
  readonly commit: StatementSync
  readonly rollback: StatementSync
  private readonly savepoints: Savepoint[] = []
  private readonly byTemplate = new WeakMap<TemplateStringsArray, StatementSync>()
  private readonly byText = new Map<string, StatementSync>()

  constructor(path: string, database: DatabaseSync) {
    this.path = path
    this.database = database
    this.begin = database.prepare('begin immediate')
    this.commit = database.prepare('commit')
    this.rollback = database.prepare('rollback')
  }

  /** By depth, so that one that was left open inside is never taken for the one outside. */
  savepoint(depth: number): Savepoint {
    const { database } = this
    this.savepoints[depth] ??= {
      begin: database.prepare(`savepoint depth_${depth}`),
      release: database.prepare(`release depth_${depth}`),
      rollbackTo: database.prepare(`rollback to depth_${depth}`),
    }
    return this.savepoints[depth]
  }

  /** Everything since the savepoint of this depth, and those inside it. */
  undo(depth: number): void {
    const { rollbackTo, release } = this.savepoint(depth)
    rollbackTo.run()
    release.run()
  }

  get<R>(query: Sql): R | undefined {
    const { statement, values } = this.bind(query)
    try {
      return statement.get(...values) as R | undefined
    } catch (error) {
      throw translate(this.path, error)
    }
  }

  all<R>(query: Sql): R[] {
    const { statement, values } = this.bind(query)
    try {
      return statement.all(...values) as R[]
    } catch (error) {
      throw translate(this.path, error)
    }
  }

  run(query: Sql): number {
    const { statement, values } = this.bind(query)
    try {
      return Number(statement.run(...values).changes)
    } catch (error) {
      throw translate(this.path, error)
    }
  }

  insert(table: string, rows: readonly Row[], orIgnore: boolean): number[] {
    const inserted: number[] = []
    const first = rows[0]
    if (!first) return inserted
    const columns = Object.keys(first)
    try {
      for (let start = 0; start < rows.length; start += INSERT_ROWS) {
        const chunk = Math.min(INSERT_ROWS, rows.length - start)
        if (chunk === INSERT_ROWS && this.insertChunk(table, columns, rows, start, orIgnore)) {
          for (let position = start; position < start + chunk; position++) inserted.push(position)
        } else {
          this.insertSingly(table, columns, rows, start, start + chunk, orIgnore, inserted)
        }
      }
    } catch (error) {
      throw translate(this.path, error)
    }
    return inserted
  }

  /** Many rows by one statement. False, and nothing inserted: a row was refused, and only one by one tells which. */
  private insertChunk(
    table: string,
    columns: string[],
    rows: readonly Row[],
    start: number,
    orIgnore: boolean,
  ): boolean {
    const values: SQLInputValue[] = []
    for (let position = start; position < start + INSERT_ROWS; position++) {
      const row = rows[position]!
      for (const column of columns) values.push(row[column] as SQLInputValue)
    }
    const statement = this.prepareText(insertText(table, columns, INSERT_ROWS, orIgnore))
    if (!orIgnore) {
      statement.run(...values)
      return true
    }
    const { begin, release, rollbackTo } = this.savepoint(INSERT_DEPTH)
    begin.run()
    const complete = Number(statement.run(...values).changes) === INSERT_ROWS
    if (!complete) rollbackTo.run()
    release.run()
    return complete
  }

  private insertSingly(
    table: string,
    columns: string[],
    rows: readonly Row[],
    start: number,
    end: number,
    orIgnore: boolean,
    inserted: number[],
  ): void {
    const statement = this.prepareText(insertText(table, columns, 1, orIgnore))
    for (let position = start; position < end; position++) {
      const row = rows[position]!
      const { changes } = statement.run(...(columns.map((column) => row[column]) as SQLInputValue[]))
      if (changes !== 0) inserted.push(position)
    }
  }

  private bind(query: Sql): { statement: StatementSync; values: SQLInputValue[] } {
    for (const value of query.values) if (value instanceof SqlList) return this.bindLists(query)
    let statement = this.byTemplate.get(query.strings)
    if (!statement) {
      statement = translated(this.path, () => this.database.prepare(query.strings.join('?')))
      this.byTemplate.set(query.strings, statement)
    }
    return { statement, values: query.values as SQLInputValue[] }
  }

  private bindLists(query: Sql): { statement: StatementSync; values: SQLInputValue[] } {
    let text = query.strings[0]!
    const values: SQLInputValue[] = []
    query.values.forEach((value, index) => {
      const members = value instanceof SqlList ? value.values : [value]
      const places = members.map(() => '?').join(', ')
      text += (value instanceof SqlList ? `(${places})` : places) + query.strings[index + 1]
      values.push(...(members as SQLInputValue[]))
    })
    return { statement: this.prepareText(text), values }
  }

  private prepareText(text: string): StatementSync {
    let statement = this.byText.get(text)
    if (!statement) {
      if (this.byText.size >= STATEMENTS_MAX) this.byText.delete(this.byText.keys().next().value!)
      statement = translated(this.path, () => this.database.prepare(text))
      this.byText.set(text, statement)
    }
    return statement
  }
}

function insertText(table: string, columns: string[], rows: number, orIgnore: boolean): string {
  const places = `(${columns.map(() => '?').join(', ')})`
  return `insert ${orIgnore ? 'or ignore ' : ''}into ${table} (${columns.join(', ')}) values ${Array(rows).fill(places).join(', ')}`
}

class Transaction implements Tx {
  readonly dialect = 'sqlite'
  private connection: Connection | undefined
  private readonly depth: number

  /** @param depth of the savepoint that it stands in; 0: none */
  constructor(connection: Connection, depth: number) {
    this.connection = connection
    this.depth = depth
  }

  get ended(): boolean {
    return this.connection === undefined
  }

  end(): void {
    this.connection = undefined
  }

  private get live(): Connection {
    if (this.connection) return this.connection
    throw new BusError(
      'handler_timeout',
      'this transaction has ended: await everything inside the handler, and return before its time is over',
    )
  }

  get<R>(query: Sql): R | undefined {
    return this.live.get<R>(query)
  }

  all<R>(query: Sql): R[] {
    return this.live.all<R>(query)
  }

  run(query: Sql): number {
    return this.live.run(query)
  }

  insert(table: string, rows: readonly Row[], options?: { orIgnore?: boolean }): number[] {
    return this.live.insert(table, rows, options?.orIgnore ?? false)
  }

  async savepoint<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T> {
    const connection = this.live
    const depth = this.depth + 1
    const scoped = new Transaction(connection, depth)
    connection.savepoint(depth).begin.run()
    try {
      const value = await work(scoped)
      this.live.savepoint(depth).release.run() // whoever comes back after its time touches nothing (S3)
      return value
    } catch (error) {
      if (!this.ended && connection.database.isTransaction) connection.undo(depth)
      throw error
    } finally {
      scoped.end()
    }
  }
}
