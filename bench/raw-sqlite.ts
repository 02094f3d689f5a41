import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'

export const rawLoop = 'raw node:sqlite loop'
export const fullDurability = 'synchronous=FULL, write-ahead log: confirmed is on disk'

const ROWS = 20_000
const BODY = 'x'.repeat(500)

/** Rows a second of the simplest durable loop there is: one row of 500 bytes a commit, nothing else. */
export function rawCommitsPerSecond(directory: string): number {
  const database = new DatabaseSync(join(directory, 'raw.db'))
  database.exec('pragma journal_mode = wal; pragma synchronous = full; drop table if exists row')
  database.exec('create table row (id integer primary key, body text not null)')
  const insert = database.prepare('insert into row (body) values (?)')
  const begin = performance.now()
  for (let row = 0; row < ROWS; row++) insert.run(BODY)
  const seconds = (performance.now() - begin) / 1_000
  database.close()
  return ROWS / seconds
}
