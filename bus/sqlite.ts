/** What the embedded store and the embedded transport share: opening a database file, and telling its errors apart. */
import { DatabaseSync } from 'node:sqlite'
import { BusError, UnavailableError } from './errors.ts'

/** How long a writer waits for another process's commit. */
const BUSY_TIMEOUT_MS = 10_000
const CACHE_KIB = 2_048

/** Opens for writing: write-ahead log, and every commit on disk before it answers. */
export function openDatabase(path: string): DatabaseSync {
  return translated(path, () => {
    const database = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS })
    try {
      database.exec(`pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -${CACHE_KIB};
        pragma temp_store = memory; pragma foreign_keys = on`)
    } catch (error) {
      database.close()
      throw error
    }
    return database
  })
}

export function openForReading(path: string): DatabaseSync {
  return translated(path, () => new DatabaseSync(path, { readOnly: true, timeout: BUSY_TIMEOUT_MS }))
}

/** Runs `work`; SQLite's errors come out as the bus's own, with what to do. */
export function translated<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw translate(path, error)
  }
}

// Primary result codes. Source: https://www.sqlite.org/rescode.html
const BUSY = 5
const LOCKED = 6
const READONLY = 8
const IOERR = 10
const CORRUPT = 11
const FULL = 13
const CANTOPEN = 14
const NOTADB = 26

export function translate(path: string, error: unknown): unknown {
  const code = (error as { errcode?: number }).errcode
  if (code === undefined) return error
  const cause = { cause: error }
  switch (code & 0xff) {
    case BUSY:
    case LOCKED:
      return new UnavailableError(
        'store_unavailable',
        `${path} is locked by another program for over ${BUSY_TIMEOUT_MS} ms: stop that program, or use another data folder`,
        cause,
      )
    case FULL:
      return new UnavailableError(
        'store_unavailable',
        `the disk of ${path} is full: free some room; nothing was lost, and work goes on by itself`,
        cause,
      )
    case IOERR:
      return new UnavailableError(
        'store_unavailable',
        `${path} cannot be read or written (${(error as Error).message}): check the disk`,
        cause,
      )
    case READONLY:
      return new UnavailableError(
        'store_unavailable',
        `${path} is read-only: give this user the right to write it`,
        cause,
      )
    case CANTOPEN:
      return new UnavailableError(
        'store_unavailable',
        `${path} cannot be opened: does its folder exist, and may this user write there?`,
        cause,
      )
    case CORRUPT:
    case NOTADB:
      return new BusError(
        'store_corrupt',
        `${path} is damaged or is no SQLite database: restore it from a backup, or move it away to begin anew`,
        cause,
      )
    default:
      return error
  }
}
