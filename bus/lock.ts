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
 * Runs `work` while no other connection to this PostgreSQL schema runs any by the same name. Whoever has had its turn for
 * `waitMs` more milliseconds is waited for no longer: `work` then runs beside it, and is told that it is not alone.
 * `waitMs` is at least 1.
 */
export async function inTurn<T>(
  reader: Reader,
  { name, waitMs }: { name: string; waitMs: number },
  work: (isAlone: boolean) => Promise<T>,
): Promise<T> {
  // A lock of the connection, not of a transaction: none stands open meanwhile, and a process that dies lets go of it.
  const isAlone = await Promise.resolve(
    reader.get(sql`
      select pg_advisory_lock(current_schema()::regnamespace::oid::int, hashtext(${name}))::text as held
      from set_config('lock_timeout', ${String(waitMs)}, true)`),
  ).then(
    () => true,
    () => false, // where the connection is gone, whatever comes next says so
  )
  try {
    return await work(isAlone)
  } finally {
    if (isAlone) await letGo(reader, name)
  }
}

async function letGo(reader: Reader, name: string): Promise<void> {
  try {
    await reader.get(
      sql`select pg_advisory_unlock(current_schema()::regnamespace::oid::int, hashtext(${name})) as was_held`,
    )
  } catch {
    // the connection is gone, and the lock with it
  }
}
