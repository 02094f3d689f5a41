import { sql } from './sql.ts'
import type { Reader, Tx } from './store.ts'

/**
 * Waits until nobody else's transaction holds `name`, and holds it until this one ends. What is read afterwards is then
 * what is written upon. SQLite has one writer at a time, who holds everything anyway.
 */
export async function hold(tx: Tx, name: string): Promise<void> {
  if (tx.dialect === 'sqlite') return
  await tx.run(sql`select pg_advisory_xact_lock(current_schema()::regnamespace::oid::int, hashtext(${name})) as held`)
}

/**
 * Runs `work` while no other connection to this PostgreSQL schema runs any by the same name. Null: another one does; come again.
 */
export async function inTurn<T>(reader: Reader, name: string, work: () => Promise<T>): Promise<T | null> {
  // A lock of the connection, not of a transaction: none stands open meanwhile, and a process that dies lets go of it.
  const row = await reader.get<{ is_mine: number }>(sql`
    select pg_try_advisory_lock(current_schema()::regnamespace::oid::int, hashtext(${name}))::int as is_mine`)
  if (row!.is_mine === 0) return null
  try {
    return await work()
  } finally {
    await letGo(reader, name)
  }
}

async function letGo(reader: Reader, name: string): Promise<void> {
  try {
    await reader.get(
      sql`select pg_advisory_unlock(current_schema()::regnamespace::oid::int, hashtext(${name}))::int as was_held`,
    )
  } catch {
    // the connection is gone, and the lock with it; what could still hold it stands still, and loses it (endStillTurn)
  }
}

/** Whoever has its turn and has asked the database for nothing for `stillMs` loses its connection, and with it the turn. */
export async function endStillTurn(reader: Reader, name: string, stillMs: number): Promise<void> {
  await reader.get(sql`
    select count(pg_terminate_backend(pid)) as ended from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and objsubid = 2
      and pg_locks.database = (select oid from pg_database where datname = current_database())
      and classid::bigint = current_schema()::regnamespace::oid::bigint
      and objid::bigint = hashtext(${name})::bigint & 4294967295
      and state = 'idle' and state_change < clock_timestamp() - ${stillMs}::float8 * interval '1 millisecond'`)
}
