import { sql } from './sql.ts'
import type { Tx } from './store.ts'

/**
 * Waits until nobody else's transaction holds `name`, and holds it until this one ends. What is read afterwards is then
 * what is written upon. SQLite has one writer at a time, who holds everything anyway.
 */
export async function hold(tx: Tx, name: string): Promise<void> {
  if (tx.dialect === 'sqlite') return
  await tx.run(sql`select pg_advisory_xact_lock(current_schema()::regnamespace::oid::int, hashtext(${name})) as held`)
}
