/** The file of the embedded broker: its tables, its statements, and its newest rows in memory (E5). */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import type { WireMessage } from '../message.ts'
import { openDatabase, translate, translated } from '../sqlite.ts'

/** Two write them, the thread (sqlite-appender.ts) and who takes and gives back shards; under one owner neither goes back. */
export const WRITE_CURSOR = `update share set position = max(position, ?), reach = max(reach, ?)
  where subscription = ? and shard = ? and epoch = ?`

const READ_MAX = 512
const BUSY_MAX_MS = 1_000
const TAIL_MESSAGES_MAX = 4_096
const TAIL_BYTES_MAX = 16 * 2 ** 20
/** A gap of more rows than this is not worth reading for those who may not need it. */
const GAP_MAX = 2_048

const tables = `
create table if not exists log (
  position integer primary key autoincrement,
  shard integer not null, type text not null, id text not null, message_key text, headers text not null,
  at integer not null, body blob not null
);
create table if not exists subscription (name text primary key, bindings text not null, ephemeral_of text) without rowid;
create table if not exists share (
  subscription text not null, shard integer not null, position integer not null, owner text, epoch integer not null,
  reach integer not null default ${Number.MAX_SAFE_INTEGER},
  primary key (subscription, shard)
) without rowid;
create table if not exists member (
  subscription text not null, process text not null, pid integer not null, host text not null, until integer not null,
  primary key (subscription, process)
) without rowid;
create table if not exists setting (name text primary key, value integer not null) without rowid;
`

export type LogRow = { position: number; shard: number; at: number; message: WireMessage; bytes: number }
/** `reach`: up to where its owner or an earlier one may have begun (E7). */
export type Share = { shard: number; position: number; owner: string | null; epoch: number; reach: number }
export type Member = { process: string; pid: number; host: string; until: number }

/** The log of one open file, with its newest rows in memory for all readers of this process (E5). */
export class Log {
  readonly path: string
  readonly database: DatabaseSync
  readonly statements: Statements
  private tail: LogRow[] = []
  private tailBytes = 0

  private constructor(path: string, database: DatabaseSync) {
    this.path = path
    this.database = database
    this.statements = prepareStatements(database)
  }

  /** Opens the file and makes what is missing. */
  static open(path: string): Log {
    const database = openDatabase(path)
    try {
      // Everybody's handlers run beside this connection: it must not sit and wait long for another process.
      translated(path, () => {
        database.exec(`pragma busy_timeout = ${BUSY_MAX_MS}; begin immediate; ${tables}`) // others may open it too
        addReach(database)
        database.exec('commit')
      })
      return new Log(path, database)
    } catch (error) {
      database.close()
      throw error
    }
  }

  transaction<T>(work: () => T): T {
    const { database, path } = this
    try {
      database.exec('begin immediate')
      const value = work()
      database.exec('commit')
      return value
    } catch (error) {
      if (database.isTransaction) database.exec('rollback')
      throw translate(path, error)
    }
  }

  firstPosition(): number {
    return (this.statements.oldest.get() as { position: number } | undefined)?.position ?? this.lastPosition() + 1
  }

  lastPosition(): number {
    // The sequence remembers the last position also when the log was trimmed to nothing.
    return (this.statements.sequence.get() as { seq: number } | undefined)?.seq ?? 0
  }

  sizeBytes(): number {
    const { pages, free, size } = this.statements.size.get() as { pages: number; free: number; size: number }
    return (pages - free) * size
  }

  appended(rows: LogRow[]): void {
    this.fillGap(rows[0]!.position)
    const last = this.tail.at(-1)?.position
    for (const row of rows) {
      if (last !== undefined && row.position <= last) continue // read from the file before its own confirmation came
      this.keep(row)
    }
    if (this.tail.length <= TAIL_MESSAGES_MAX && this.tailBytes <= TAIL_BYTES_MAX) return
    const dropped = this.tail.splice(0, Math.max(1, this.tail.length >> 1))
    for (const row of dropped) this.tailBytes -= row.bytes
  }

  /** Rows of other processes lie between: they are read once for all readers of this one, or not kept where they are many. */
  private fillGap(before: number): void {
    for (;;) {
      const last = this.tail.at(-1)?.position
      if (last === undefined || last >= before - 1) return
      const between = before - last - 1 > GAP_MAX ? [] : this.readAfter(last).filter((row) => row.position < before)
      if (between.length === 0) {
        this.clearTail()
        return
      }
      for (const row of between) this.keep(row)
    }
  }

  private keep(row: LogRow): void {
    this.tail.push(row)
    this.tailBytes += row.bytes
  }

  private readAfter(position: number): LogRow[] {
    return (this.statements.after.all(position) as unknown as LogTuple[]).map(toLogRow)
  }

  private clearTail(): void {
    this.tail = []
    this.tailBytes = 0
  }

  /** Rows after `position`, at most READ_MAX, in order and without a gap. */
  after(position: number): LogRow[] {
    const first = this.tail[0]?.position
    if (first !== undefined && position >= first - 1) {
      const rows = this.tail.slice(position - first + 1, position - first + 1 + READ_MAX)
      if (rows.length > 0) return rows
    }
    const rows = this.readAfter(position)
    // What other processes appended is read once for all readers of this one.
    if (rows.length > 0 && (this.tail.at(-1)?.position ?? -1) === position) this.appended(rows)
    return rows
  }
}

/** Arrays, because SQLite hands them over at three times the speed of objects. */
type LogTuple = [number, number, string, string, string | null, string, number, string | Uint8Array]

function toLogRow([position, shard, type, id, key, headers, at, body]: LogTuple): LogRow {
  const message = { id, type, key, headers: headers === '{}' ? NO_HEADERS : JSON.parse(headers), body }
  return { position, shard, at, bytes: body.length, message }
}

/** To a file of an earlier version, where anything may have been begun. */
function addReach(database: DatabaseSync): void {
  const known = database.prepare("select 1 from pragma_table_info('share') where name = 'reach'").get()
  if (!known) database.exec(`alter table share add column reach integer not null default ${Number.MAX_SAFE_INTEGER}`)
}

const NO_HEADERS = Object.freeze({})

export type Statements = ReturnType<typeof prepareStatements>

function prepareStatements(database: DatabaseSync) {
  const prepare = (text: string): StatementSync => database.prepare(text)
  const prepareTuples = (text: string): StatementSync => {
    const statement = prepare(text)
    statement.setReturnArrays(true)
    return statement
  }
  return {
    keepSetting: prepare('insert into setting (name, value) values (?, ?) on conflict do nothing'),
    setting: prepare('select value from setting where name = ?'),
    after: prepareTuples(
      `select position, shard, type, id, message_key, headers, at, body from log where position > ? order by position limit ${READ_MAX}`,
    ),
    heads: prepareTuples(
      'select position, shard, type, headers, at from log where position > ? and position <= ? order by position',
    ),
    oldest: prepare('select position, at from log order by position limit 1'),
    sequence: prepare("select seq from sqlite_sequence where name = 'log'"),
    size: prepare(
      'select page_count as pages, freelist_count as free, page_size as size from pragma_page_count, pragma_freelist_count, pragma_page_size',
    ),
    trim: prepare('delete from log where position <= ? and at < ?'),
    slowest: prepare('select min(position) as position from share'),
    declare: prepare(
      'insert into subscription (name, bindings, ephemeral_of) values (?, ?, ?) on conflict (name) do update set bindings = excluded.bindings',
    ),
    subscription: prepare('select bindings from subscription where name = ?'),
    durableNames: prepare('select name from subscription where ephemeral_of is null order by name'),
    ephemerals: prepare('select name, ephemeral_of from subscription where ephemeral_of is not null'),
    ephemeralOf: prepare('select name from subscription where ephemeral_of = ?'),
    removeSubscription: prepare('delete from subscription where name = ?'),
    removeShares: prepare('delete from share where subscription = ?'),
    removeMembers: prepare('delete from member where subscription = ?'),
    addShare: prepare(
      'insert into share (subscription, shard, position, owner, epoch, reach) values (?, ?, ?, null, ?, 0) on conflict do nothing',
    ),
    shares: prepare('select shard, position, owner, epoch, reach from share where subscription = ? order by shard'),
    take: prepare('update share set owner = ?, reach = ?, epoch = epoch + 1 where subscription = ? and shard = ?'),
    // Under another epoch, what the appender still has of this owner's cursors changes nothing any more.
    release: prepare(
      'update share set owner = null, reach = ?, epoch = epoch + 1 where subscription = ? and shard = ? and owner = ?',
    ),
    // What a consumer of this process could not give back when it closed.
    releaseLeftovers: prepare('update share set owner = null, epoch = epoch + 1 where subscription = ? and owner = ?'),
    forgetMembers: prepare('delete from member where subscription = ? and until < ?'),
    keepEpoch: prepare(
      "insert into setting (name, value) select 'epoch', coalesce(max(epoch), 0) from share where subscription = ? on conflict (name) do update set value = max(value, excluded.value)",
    ),
    writeCursor: prepare(WRITE_CURSOR),
    join: prepare(
      'insert into member (subscription, process, pid, host, until) values (?, ?, ?, ?, ?) on conflict do nothing',
    ),
    renew: prepare('update member set until = ? where subscription = ? and process = ?'),
    leave: prepare('delete from member where subscription = ? and process = ?'),
    leaveEverything: prepare('delete from member where process = ?'),
    members: prepare('select process, pid, host, until from member where subscription = ? order by process'),
    others: prepare('select count(*) as count from member where process <> ? and until >= ?'),
  }
}
