/**
 * How far an outbox in PostgreSQL is settled: no transaction that runs can still bring a row up to the mark, and those that
 * came were sent and deleted. Where somebody's transaction stays open (a backup, a long query) deleted rows stay in the index;
 * a reader that begins at the mark does not walk them.
 *
 * L1 Who inserts a row holds a lock on the table from before it takes the row's position until after its commit is visible.
 *    So whoever has a position up to one that was seen, either stands among those who hold the lock now, or what it wrote is
 *    seen by any later statement.
 * L2 The mark moves to the position that was seen, once all those writers have ended and what they left was sent and deleted.
 *    Writers that came later took higher positions.
 * L3 All of it is true of one run of one server. Another one (a standby that took over, a restore before it started) may give
 *    the same positions again: there the mark begins anew.
 */
import { sql } from './sql.ts'
import type { Reader } from './store.ts'

/** Looked at when so many positions lie beyond the mark: fewer are walked in less than a look takes. */
const LOOK_EVERY = 4_000

export class LowWaterMark {
  position = 0
  private server = ''
  private highest = 0
  private next: { position: number; writers: ReadonlySet<string> } | undefined

  /** L3. False: the mark has begun anew, and what was read by the old one says nothing. */
  async isOfThisServer(reader: Reader): Promise<boolean> {
    const row = await reader.get<{ server: string }>(sql`select pg_postmaster_start_time()::text as server`)
    const { server } = row!
    if (server === this.server) return true
    const isFirst = this.server === ''
    this.server = server
    this.position = 0
    this.highest = 0
    this.next = undefined
    return isFirst
  }

  /** Before a reader reads what lies beyond the mark; true where what it reads now settles more of it (L2). */
  async look(reader: Reader): Promise<boolean> {
    if (!this.next && this.highest - this.position < LOOK_EVERY) return false
    const writing = await writersOf(reader)
    this.next = {
      position: this.next?.position ?? this.highest,
      writers: this.next ? this.next.writers.intersection(writing) : writing,
    }
    return this.next.writers.size === 0
  }

  /** This row was sent and deleted. */
  sent(position: number): void {
    this.highest = Math.max(this.highest, position)
  }

  /** After `look` answered true: what was visible then up to this position was sent, and is deleted. */
  settle(upTo: number): void {
    const { next } = this
    if (!next) return
    this.position = Math.max(this.position, Math.min(upTo, next.position))
    if (this.position === next.position) this.next = undefined
  }
}

async function writersOf(reader: Reader): Promise<Set<string>> {
  const rows = await reader.all<{ writer: string }>(sql`
    select distinct virtualtransaction as writer from pg_locks
    where locktype = 'relation' and relation = 'bus_outbox'::regclass and mode <> 'AccessShareLock' and granted
      and database = (select oid from pg_database where datname = current_database())
      and pid is distinct from pg_backend_pid()`)
  return new Set(rows.map(({ writer }) => writer))
}
