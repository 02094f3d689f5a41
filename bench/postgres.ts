/**
 * Exactly-once handling on PostgreSQL: a message's inbox mark, one row of effect and one message published, in one
 * transaction, the outbox carried on meanwhile. Beside the same bus with a transaction for each message, and beside pg-boss,
 * which fetches and completes without an effect; all on one private server, in turn.
 */
import { createBus, event, memoryBroker, memoryTransport, type Schema, sqliteStore } from '@shopsphere/bus'
import { postgresStore } from '@shopsphere/bus/postgres'
import { startPostgres } from '@shopsphere/bus/testing'
import { PgBoss } from 'pg-boss'
import { type Bench, compare, type Pair, type Result } from './result.ts'

const MESSAGES = 10_000
/** A transaction for each takes its time. */
const MESSAGES_ALONE = 1_500
const JOBS = 10_000
/** Jobs that pg-boss fetches, and completes, at a time. */
const JOBS_AT_ONCE = 100
const PUBLISHED_AT_ONCE = 1_000
const KEYS = 1_000
const NOTE = 'n'.repeat(300)

const durability = 'fsync and synchronous_commit on: survives a crash of the server'

type Reading = { sensor: string; n: number; note: string }

const readingSchema: Schema<Reading> = {
  '~standard': {
    version: 1,
    vendor: 'bench',
    validate(value) {
      const { sensor, n, note } = value as Reading
      if (typeof sensor === 'string' && Number.isSafeInteger(n) && typeof note === 'string')
        return { value: { sensor, n, note } }
      return { issues: [{ message: 'not a reading' }] }
    },
  },
}
const key = ({ sensor }: Reading) => sensor
const readingTaken = event('reading.taken', { version: 1, owner: 'sensors', schema: readingSchema, key })
const readingFiled = event('reading.filed', { version: 1, owner: 'archive', schema: readingSchema, key })

export const run: Bench = async ({ runs, note }) => {
  await using server = await startPostgres()
  const alone: Pair[] = []
  const pgBoss: Pair[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    const jobs = await fetchAndComplete(server.url, `jobs_${round}`)
    const ours = await handle(server.url, `batched_${round}`, MESSAGES, {})
    const oneByOne = await handle(server.url, `alone_${round}`, MESSAGES_ALONE, { batchMax: 1 })
    if (round === 0) continue
    alone.push({ ours, peer: oneByOne })
    pgBoss.push({ ours, peer: jobs })
  }
  const labels = { what: 'exactly-once handling', unit: 'messages/s', durability }
  return [
    compare(alone, { ...labels, against: 'a transaction for each message' }),
    compare(pgBoss, { ...labels, against: `pg-boss, fetched and completed by ${JOBS_AT_ONCE}` }),
  ] satisfies Result[]
}

const perSecond = (count: number, begin: number) => count / ((performance.now() - begin) / 1_000)
const reading = (n: number): Reading => ({ sensor: `s${n % KEYS}`, n, note: NOTE })

/** Messages a second of a consumer that starts with all of them waiting, until nothing of what it published waits either. */
async function handle(url: string, schema: string, count: number, limits: { batchMax?: number }): Promise<number> {
  const broker = memoryBroker({})
  const publisherStore = sqliteStore(':memory:')
  const store = postgresStore(url, { schema })
  const events = [readingTaken, readingFiled]
  const publisher = createBus({
    service: 'sensors',
    store: publisherStore,
    transport: memoryTransport(broker),
    events,
  })
  const archive = createBus({ service: 'archive', store, transport: memoryTransport(broker), events, limits })
  await store.open()
  await store.migrate('filed', 'create table filed (n integer primary key, sensor text not null, note text not null)')
  const all = Promise.withResolvers<void>()
  let handled = 0
  archive.subscribe(readingTaken, (data, { tx, publish }) => {
    void tx.insert('filed', [data]) // nothing is done with its answer; where it fails, the commit does
    publish(readingFiled, data)
    if (++handled === count) all.resolve()
  })
  await archive.declare()
  await publisher.start()
  for (let first = 0; first < count; first += PUBLISHED_AT_ONCE) {
    await publisher.transaction(({ publish }) => {
      for (let n = first; n < Math.min(count, first + PUBLISHED_AT_ONCE); n++) publish(readingTaken, reading(n))
    })
  }
  await publisher.idle()
  const begin = performance.now()
  await archive.start()
  await all.promise
  await archive.idle()
  const rate = perSecond(count, begin)
  for (const bus of [publisher, archive]) await bus.close()
  for (const opened of [publisherStore, store]) await opened.close()
  return rate
}

/** Jobs a second from the first fetched to the last completed; a job carries what a message carries. */
async function fetchAndComplete(connectionString: string, schema: string): Promise<number> {
  const boss = new PgBoss({ connectionString, schema, supervise: false, schedule: false })
  boss.on('error', (error) => {
    throw error
  })
  await boss.start()
  await boss.createQueue('readings')
  for (let first = 0; first < JOBS; first += PUBLISHED_AT_ONCE) {
    const jobs = Array.from({ length: PUBLISHED_AT_ONCE }, (_, index) => ({ data: reading(first + index) }))
    await boss.insert('readings', jobs)
  }
  const begin = performance.now()
  let completed = 0
  while (completed < JOBS) {
    const jobs = await boss.fetch('readings', { batchSize: JOBS_AT_ONCE })
    await boss.complete(
      'readings',
      jobs.map(({ id }) => id),
    )
    completed += jobs.length
    if (jobs.length === 0) throw new Error(`pg-boss has no more jobs after ${completed} of ${JOBS}`)
  }
  const rate = perSecond(JOBS, begin)
  await boss.stop({ graceful: false })
  return rate
}
