/**
 * A store is a service's own database, seen as little as the bus needs it: transactions with tagged-template SQL. The
 * bus keeps its tables (inbox, outbox, deferred, dead letters, timers, streams, checkpoints) beside the service's own,
 * so one transaction holds a handler's effects, its inbox mark and what it publishes.
 *
 * A store is whatever passes `storeSuite` (testing/store-suite.ts).
 */
import type { Sql, SqlValue } from './sql.ts'

/** A store may answer at once (SQLite) or later (PostgreSQL): always `await`. */
export type MaybePromise<T> = T | Promise<T>

export type Row = Record<string, SqlValue>

export type Reader = {
  readonly dialect: Store['dialect']
  /** The first row, or undefined. */
  get<R = Row>(query: Sql): MaybePromise<R | undefined>
  /** All rows, in memory at once: give the query a `limit`, and page through more. */
  all<R = Row>(query: Sql): MaybePromise<R[]>
}

export type Tx = Reader & {
  /** True once its transaction or savepoint is over: everything else then throws. */
  readonly ended: boolean
  /** Runs a statement; answers the number of rows that it changed. */
  run(query: Sql): MaybePromise<number>
  /**
   * Inserts rows that share their columns. With `orIgnore`, rows that a unique key refuses are left out.
   * Answers the positions, in `rows`, of those inserted. `table` and the columns are names from code, never input.
   */
  insert(table: string, rows: readonly Row[], options?: { orIgnore?: boolean }): MaybePromise<number[]>
  /**
   * Runs `work`; if it throws, only what it wrote is undone, and the error goes on to the caller. The `tx` it gets is dead
   * once it has ended.
   */
  savepoint<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T>
}

export type Store = {
  readonly dialect: 'sqlite' | 'postgres'
  /** Opens the database and creates the bus's tables. Opening twice is fine. */
  open(): Promise<void>
  /** Creates a service's own tables: runs `ddl` once per name, and refuses a later `ddl` that differs. */
  migrate(name: string, ddl: string): Promise<void>
  /**
   * Runs `work` and commits; each statement sees what was committed when it began, and what this transaction wrote. If
   * `work` throws, nothing of it remains and the error goes on to the caller. Transactions that
   * wait at the same time may be committed together, each undone alone if it fails. Durable when it resolves.
   */
  transaction<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T>
  /** Reads what is committed, never what a running transaction has written. */
  read<T>(work: (reader: Reader) => MaybePromise<T>): Promise<T>
  /** Waits for what runs, then closes. Closing twice is fine. */
  close(): Promise<void>
}
