/**
 * Who writes the embedded log. In a file: a thread of its own, so that nobody's handler waits for the disk. In memory:
 * the caller.
 *
 * A1 Batches are appended in the order in which they were given, each in one transaction: all of it or nothing.
 * A2 The answer comes after the commit; a batch whose thread died is answered with an error, and may be given again.
 * A3 Another process that is committing is waited for here, in steps of a fraction of a millisecond.
 */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import { UnavailableError } from '../errors.ts'
import { openDatabase, translate } from '../sqlite.ts'
import { WRITE_CURSOR } from './sqlite-log.ts'

/** shard, type, id, key, headers, at, body: row after row in one flat list, which is cheapest to hand to a thread. */
export type AppendValue = string | number | null | Uint8Array
const ROW_WIDTH = 7

/** How far a subscription's shard is and up to where it may have been begun (E7), written along with what is appended. */
export type Cursor = {
  readonly subscription: string
  readonly shard: number
  readonly epoch: number
  readonly position: number
  readonly reach: number
}

export type Batch = { readonly rows: AppendValue[]; readonly cursors: readonly Cursor[] }

export type Appender = {
  /** Answers the position of the batch's first row; the others follow without a gap. Throws UnavailableError. */
  append(batch: Batch): Promise<number>
  /** Finishes what it was given. */
  close(): Promise<void>
}

const BUSY = 5
const BUSY_MAX_MS = 10_000
const BUSY_PAUSE_MS = 0.1

/** Appends on the caller's own connection. */
export function appendHere(path: string, database: DatabaseSync): Appender {
  const write = writer(database)
  return {
    async append(batch) {
      try {
        return write(batch)
      } catch (error) {
        throw translate(path, error)
      }
    },
    async close() {},
  }
}

type Reply = { first: number } | { message: string; errcode: number | undefined }
type Waiting = { resolve: (first: number) => void; reject: (error: unknown) => void }

/** Appends in a thread of its own. */
export function appendInThread(path: string): Appender {
  const waiting: Waiting[] = []
  let thread: Worker | undefined
  let drained: (() => void) | undefined

  function settle(act: (one: Waiting) => void): void {
    const one = waiting.shift()
    if (one) act(one)
    if (waiting.length > 0) return
    thread?.unref() // an idle thread keeps no process alive
    drained?.()
  }

  function start(): Worker {
    const started = new Worker(new URL(import.meta.url), { workerData: { appendTo: path } })
    started.on('message', (reply: Reply) => {
      if ('first' in reply) settle(({ resolve }) => resolve(reply.first))
      else
        settle(({ reject }) =>
          reject(translate(path, Object.assign(new Error(reply.message), { errcode: reply.errcode }))),
        )
    })
    const died = (cause: unknown) => {
      if (thread === started) thread = undefined
      const error = new UnavailableError(
        'transport_unavailable',
        `the thread that writes ${path} ended; it is started again`,
        { cause },
      )
      while (waiting.length > 0) settle(({ reject }) => reject(error)) // A2
    }
    started.on('error', died)
    started.on('exit', died)
    return started
  }

  return {
    append(batch) {
      thread ??= start()
      thread.ref()
      thread.postMessage(batch)
      return new Promise((resolve, reject) => waiting.push({ resolve, reject }))
    },
    async close() {
      if (waiting.length > 0) {
        await new Promise<void>((resolve) => {
          drained = resolve
        })
      }
      const closing = thread
      thread = undefined
      await closing?.terminate()
    },
  }
}

function writer(database: DatabaseSync): (batch: Batch) => number {
  const begin = database.prepare('begin immediate')
  const commit = database.prepare('commit')
  const append = database.prepare(
    'insert into log (shard, type, id, message_key, headers, at, body) values (?, ?, ?, ?, ?, ?, ?)',
  )
  const writeCursor = database.prepare(WRITE_CURSOR)
  return ({ rows, cursors }) => {
    beginPatiently(begin)
    try {
      let first = 0
      for (let start = 0; start < rows.length; start += ROW_WIDTH) {
        const { lastInsertRowid } = append.run(
          rows[start]!,
          rows[start + 1]!,
          rows[start + 2]!,
          rows[start + 3]!,
          rows[start + 4]!,
          rows[start + 5]!,
          rows[start + 6]!,
        )
        if (start === 0) first = Number(lastInsertRowid)
      }
      for (const { position, reach, subscription, shard, epoch } of cursors)
        writeCursor.run(position, reach, subscription, shard, epoch)
      commit.run()
      return first
    } catch (error) {
      if (database.isTransaction) database.exec('rollback')
      throw error
    }
  }
}

/** A3. SQLite's own waiting sleeps for whole milliseconds, which two busy processes would mostly spend asleep. */
function beginPatiently(begin: StatementSync): void {
  const pause = new Int32Array(new SharedArrayBuffer(4))
  for (let waitedMs = 0; ; waitedMs += BUSY_PAUSE_MS) {
    try {
      begin.run()
      return
    } catch (error) {
      if ((error as { errcode?: number }).errcode !== BUSY || waitedMs > BUSY_MAX_MS) throw error
      Atomics.wait(pause, 0, 0, BUSY_PAUSE_MS)
    }
  }
}

const mission = workerData as { appendTo?: string } | null
if (parentPort && mission?.appendTo) {
  const port = parentPort
  const database = openDatabase(mission.appendTo)
  database.exec('pragma busy_timeout = 0')
  const write = writer(database)
  port.on('message', (batch: Batch) => {
    try {
      port.postMessage({ first: write(batch) } satisfies Reply)
    } catch (error) {
      const { message, errcode } = error as Error & { errcode?: number }
      port.postMessage({ message, errcode } satisfies Reply)
    }
  })
}
