/** I8 for messages: what was committed to be said was heard, and what was heard was handled. Only when nothing is under way. */
import { list, type Reader, sql } from '@shopsphere/bus'
import type { AuditedStores } from './order-facts.ts'
import type { Violation } from './violation.ts'

const ROWS_MAX = 1_000

export async function checkMessages(stores: AuditedStores): Promise<Violation[]> {
  const violations: Violation[] = []
  for (const [service, store] of stores) {
    const dead = await store.read(deadLetters)
    for (const { subscription, type, cause, count } of dead) {
      const text = `${subscription} has ${count} messages ${type} that it could not handle: ${cause}`
      violations.push({ invariant: 'I8', text })
    }
    const deferred = await store.read(waiting)
    if (deferred > 0)
      violations.push({ invariant: 'I8', text: `${service} has ${deferred} messages that wait to be handled` })
    const unheard = await withoutHeard(stores, await store.read(outbox))
    if (unheard.length > 0) {
      const types = [...new Set(unheard.map(({ type }) => type))].join(', ')
      const text = `${service} committed ${unheard.length} messages that nobody has heard: ${types}`
      violations.push({ invariant: 'I8', text })
    }
  }
  return violations
}

function deadLetters(reader: Reader) {
  return reader.all<{ subscription: string; type: string; cause: string; count: number }>(sql`
    select subscription, type, cause, count(*) as count from bus_dead_letter where status = 'open'
    group by subscription, type, cause order by subscription, type limit ${ROWS_MAX}`)
}

async function waiting(reader: Reader): Promise<number> {
  // Parked behind a dead letter is said with the dead letter.
  const row = await reader.get<{ count: number }>(
    sql`select count(*) as count from bus_deferred where due_at is not null`,
  )
  return Number(row!.count)
}

type Said = { id: string; type: string }

function outbox(reader: Reader) {
  return reader.all<Said>(sql`select id, type from bus_outbox order by position limit ${ROWS_MAX}`)
}

/** A row that was confirmed stays for a moment: it counts only where audit has not heard it. */
async function withoutHeard(stores: AuditedStores, said: readonly Said[]): Promise<Said[]> {
  const audit = stores.get('audit')
  if (said.length === 0 || !audit) return []
  const ids = said.map(({ id }) => id)
  const heard = await audit.read((reader) =>
    reader.all<{ id: string }>(sql`select id from audit_event where id in ${list(ids)}`),
  )
  const known = new Set(heard.map(({ id }) => id))
  return said.filter(({ id }) => !known.has(id))
}
