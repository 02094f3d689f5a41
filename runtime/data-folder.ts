import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { StartError } from './start-error.ts'

/**
 * Looks at DATA_DIR before anything is opened in it, so that a full disk, a missing right or a damaged file is one clear
 * sentence at the start and not a failure in the middle of an order. Several processes may share the folder.
 */

const FREE_BYTES_MIN = 64 * 1024 * 1024
const CHECKED_BYTES_MAX = 32 * 1024 * 1024 // a larger file is not read through: the start must not take minutes
const LOCK_WAIT_MS = 2_000
const SQLITE_HEADER = 'SQLite format 3\0'

/** Creates `folder` where it is missing and checks it. Throws StartError, saying what to do. Writes nothing that stays. */
export function prepareDataFolder(
  folder: string,
  { freeBytesMin = FREE_BYTES_MIN, lockWaitMs = LOCK_WAIT_MS } = {},
): void {
  create(folder)
  checkWritable(folder)
  checkSpace(folder, freeBytesMin)
  for (const name of readdirSync(folder)) {
    if (/\.db(-wal|-shm)?$/.test(name)) checkRights(join(folder, name))
    if (name.endsWith('.db')) checkDatabase(join(folder, name), lockWaitMs)
  }
}

/** Beside the databases: an empty file named like each that was set up. Whoever copies the folder copies it too. */
const MARKS = 'set-up'

/**
 * A database that was set up and is gone, or has nothing in it, is not begun anew without a word: what the other services
 * know would hang in the air. Throws StartError, saying what to do. A service that is new in this folder has no mark.
 */
export function refuseLostDatabase(file: string): void {
  const mark = markOf(file)
  if (!existsSync(mark)) return
  const lost = existsSync(file) ? statSync(file).size === 0 && 'empty' : 'missing'
  if (!lost) return
  throw new StartError(
    `${file} is ${lost}, and it was set up before: put back a copy of the whole folder, or move the folder away to begin with an empty shop (to lose this one database alone, delete ${mark})`,
  )
}

/** To be called once the database has its tables. Throws StartError. */
export function markSetUp(file: string): void {
  const mark = markOf(file)
  if (existsSync(mark)) return
  try {
    mkdirSync(dirname(mark), { recursive: true })
    writeFileSync(mark, '', { flush: true })
  } catch (error) {
    throw new StartError(`${mark} cannot be written (${reason(error)}): give this user the right, and free some space`)
  }
}

const markOf = (file: string) => join(dirname(file), MARKS, basename(file))

function create(folder: string): void {
  if (existsSync(folder) && !statSync(folder).isDirectory()) {
    throw new StartError(`DATA_DIR ${folder} is a file: move it away, or set DATA_DIR=… to a folder`)
  }
  try {
    mkdirSync(folder, { recursive: true })
  } catch (error) {
    throw new StartError(
      `DATA_DIR ${folder} cannot be created (${reason(error)}): set DATA_DIR=… to a folder that this user may write`,
    )
  }
}

function checkWritable(folder: string): void {
  const probe = join(folder, `.write-check-${process.pid}`)
  try {
    writeFileSync(probe, 'x')
  } catch (error) {
    const full = (error as NodeJS.ErrnoException).code === 'ENOSPC'
    throw new StartError(
      full
        ? `the disk of DATA_DIR ${folder} is full: free some space, or set DATA_DIR=… to a folder on another disk`
        : `DATA_DIR ${folder} cannot be written (${reason(error)}): give this user the right, or set DATA_DIR=… to another folder`,
    )
  } finally {
    rmSync(probe, { force: true })
  }
}

function checkSpace(folder: string, freeBytesMin: number): void {
  const { bavail, bsize } = statfsSync(folder)
  const freeBytes = bavail * bsize
  if (freeBytes >= freeBytesMin) return
  const mebibytes = (bytes: number) => `${Math.floor(bytes / 1024 / 1024)} MiB`
  throw new StartError(
    `the disk of DATA_DIR ${folder} has ${mebibytes(freeBytes)} left and ${mebibytes(freeBytesMin)} are needed: free some space, or set DATA_DIR=… to a folder on another disk`,
  )
}

function checkRights(file: string): void {
  try {
    accessSync(file, constants.R_OK | constants.W_OK)
  } catch (error) {
    // Another process that closes takes -wal and -shm away with it.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw new StartError(
      `${file} cannot be read and written (${reason(error)}): give this user the rights, for example with chown`,
    )
  }
}

function checkDatabase(file: string, lockWaitMs: number): void {
  const bytes = statSync(file).size
  if (bytes === 0) return
  if (readStart(file) !== SQLITE_HEADER) throw damaged(file, 'it is no SQLite database')
  try {
    using database = new DatabaseSync(file, { timeout: lockWaitMs })
    database.exec('begin immediate; rollback')
    if (bytes > CHECKED_BYTES_MAX) return
    const finding = String(Object.values(database.prepare('pragma quick_check(1)').get() ?? {})[0])
    if (finding !== 'ok') throw damaged(file, finding)
  } catch (error) {
    if (error instanceof StartError) throw error
    throw explain(file, lockWaitMs, error as Error & { errcode?: number })
  }
}

const SQLITE_BUSY = 5
const SQLITE_READONLY = 8
const SQLITE_CORRUPT = 11
const SQLITE_NOTADB = 26

/** The first byte of an extended result code is the plain one. */
function explain(file: string, lockWaitMs: number, error: Error & { errcode?: number }): StartError {
  const code = (error.errcode ?? 0) & 0xff
  if (code === SQLITE_BUSY) {
    return new StartError(
      `${file} has been locked by another program for over ${lockWaitMs} ms: close what has it open, then start again`,
    )
  }
  if (code === SQLITE_READONLY) return new StartError(`${file} is read-only: give this user the right to write it`)
  if (code === SQLITE_CORRUPT || code === SQLITE_NOTADB) return damaged(file, error.message)
  return new StartError(`${file} cannot be opened: ${error.message}`, { cause: error })
}

const damaged = (file: string, finding: string) =>
  new StartError(
    `${file} is damaged (${finding}): put back a copy of the whole folder, or move the folder away to begin with an empty shop`,
  )

function readStart(file: string): string {
  const start = Buffer.alloc(SQLITE_HEADER.length)
  const descriptor = openSync(file, 'r')
  try {
    readSync(descriptor, start, 0, start.length, 0)
  } finally {
    closeSync(descriptor)
  }
  return start.toString('latin1')
}

const reason = (error: unknown) => (error as NodeJS.ErrnoException).code ?? String(error)
