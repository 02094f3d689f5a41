/** I7 for the read models of analytics: made anew from the same facts, beside the live ones, they must be the same. */
import { type Reader, type Row, type Store, sql, sqliteStore } from '@shopsphere/bus'
import { dumpFigures, figures } from '../services/analytics/figures.ts'
import type { AuditedStore } from './order-facts.ts'
import type { Violation } from './violation.ts'

const FACTS_PER_PAGE = 1_000
const SHOWN_MAX = 3

/** Only where the live figures have caught up: what is not applied yet is late and not wrong. */
export async function checkFigures(analytics: AuditedStore): Promise<Violation[]> {
  const { live, headPosition } = await analytics.read((reader) => figures.status(reader))
  if (!live || live.position < headPosition) return []
  const fresh = sqliteStore(':memory:')
  try {
    await fresh.open()
    await copyFacts(analytics, fresh)
    await figures.catchUp(fresh)
    return compareDumps(await analytics.read(dumpFigures), await fresh.read(dumpFigures))
  } finally {
    await fresh.close()
  }
}

async function copyFacts(from: AuditedStore, to: Store): Promise<void> {
  for (let after = 0; ; ) {
    const rows = await from.read((reader) => factsAfter(reader, after))
    if (rows.length === 0) return
    await to.transaction((tx) => tx.insert('bus_stream_event', rows))
    after = Number(rows.at(-1)!.position)
  }
}

function factsAfter(reader: Reader, after: number) {
  return reader.all<Row>(sql`
    select position, stream, version, type, schema_version, data, meta, at from bus_stream_event
    where position > ${after} order by position limit ${FACTS_PER_PAGE}`)
}

function compareDumps(
  live: Readonly<Record<string, readonly string[]>>,
  fresh: Readonly<Record<string, readonly string[]>>,
): Violation[] {
  return Object.keys(live).flatMap((table) => {
    const expected = new Set(fresh[table])
    const actual = new Set(live[table])
    const wrong = live[table]!.filter((row) => !expected.has(row))
    const missing = fresh[table]!.filter((row) => !actual.has(row))
    if (wrong.length + missing.length === 0) return []
    const shown = [...wrong.map((row) => `has ${row}`), ...missing.map((row) => `lacks ${row}`)].slice(0, SHOWN_MAX)
    const text = `${table}: ${wrong.length + missing.length} rows are not what the facts come to: ${shown.join('; ')}`
    return [{ invariant: 'I7' as const, text }]
  })
}
