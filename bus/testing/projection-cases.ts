/** Cases of `eventStoreSuite`: projections, their checkpoints, rebuilds and switches. */
import assert from 'node:assert/strict'
import type { StoredEvent } from '../event-store.ts'
import { type Projection, projection } from '../projection.ts'
import { sql } from '../sql.ts'
import type { Store } from '../store.ts'
import { tableSql } from '../table-name.ts'
import { put, type StoreCheck, said } from './event-store-suite.ts'
import { virtualClock } from './virtual-clock.ts'

type SaleTable = 'sales_by_day'

/** Pence per day; `factor` stands for what a new version of the code makes different. */
function salesByDay(version = 1, options: { factor?: number; before?: (event: StoredEvent) => unknown } = {}) {
  const { factor = 1, before } = options
  return projection<SaleTable>({
    name: 'sales',
    version,
    events: ['sold'],
    tables: {
      sales_by_day: (table) => [
        `create table ${table} (day text primary key, pence bigint not null)`,
        `create index ${table}_by_pence on ${table} (pence)`,
      ],
    },
    async apply(tx, event, table) {
      const { day, pence } = event.data as { day: string; pence: number }
      await tx.run(tableSql`
        insert into ${table('sales_by_day')} (day, pence) values (${day}, ${pence * factor})
        on conflict (day) do update set pence = ${table('sales_by_day')}.pence + excluded.pence`)
      await before?.(event)
    },
  })
}

const sold = (day: string, pence: number) => said('sold', { day, pence })

function sales(store: Store, subject: Projection<SaleTable>): Promise<Record<string, number>> {
  return subject.query(store, async (reader, table) => {
    const rows = await reader.all<{ day: string; pence: number }>(
      tableSql`select day, pence from ${table('sales_by_day')} order by day`,
    )
    return Object.fromEntries(rows.map(({ day, pence }) => [day, pence]))
  })
}

const tableNow = async (store: Store, subject: Projection<SaleTable>) =>
  (await store.read((reader) => subject.table(reader, 'sales_by_day'))).name

const exists = (store: Store, table: string) =>
  store.transaction(async (tx) => {
    try {
      await tx.savepoint(async () => tx.get(tableSqlOf(table)))
      return true
    } catch {
      return false
    }
  })

const tableSqlOf = (table: string) => sql(Object.assign([`select count(*) as rows from ${table}`], { raw: [] }))

export function projectionCases(check: StoreCheck): void {
  check('a projection applies its own types once each, and goes on from its checkpoint', async ({ store, open }) => {
    const subject = salesByDay()
    await assert.rejects(sales(store, subject), { code: 'not_found' })
    await put(store, 'sale:1', [sold('mon', 5), said('noted'), sold('mon', 7)])
    assert.equal((await subject.catchUp(store, { batchMax: 1 })).applied, 2)
    assert.equal((await subject.catchUp(store)).applied, 0)
    await put(store, 'sale:2', [sold('tue', 1), said('noted')])
    const elsewhere = await open()
    const result = await salesByDay().catchUp(elsewhere)
    assert.deepEqual([result.applied, result.complete], [1, true])
    assert.deepEqual(await sales(store, subject), { mon: 12, tue: 1 })
    const { live, headPosition } = await store.read((reader) => subject.status(reader))
    assert.equal(live?.position, headPosition)
  })

  check('P1 a throw in the middle of a batch undoes its writes and its checkpoint', async ({ store }) => {
    let broken = true
    const subject = salesByDay(1, {
      before: (event) => assert.ok(!broken || (event.data as { pence: number }).pence !== 13, 'planted'),
    })
    await put(store, 'sale:1', [sold('mon', 1), sold('mon', 2)])
    await subject.catchUp(store)
    await put(store, 'sale:1', [sold('mon', 4), sold('mon', 13), sold('mon', 8)])
    await assert.rejects(subject.catchUp(store), /planted/)
    assert.deepEqual(await sales(store, subject), { mon: 3 })
    broken = false
    assert.equal((await subject.catchUp(store)).applied, 3)
    assert.deepEqual(await sales(store, subject), { mon: 28 })
  })

  check('P1 concurrent catch-ups apply each event once', async ({ store }) => {
    const subject = salesByDay()
    await put(
      store,
      'sale:1',
      Array.from({ length: 30 }, () => sold('mon', 1)),
    )
    await Promise.all([1, 2, 3].map(() => subject.catchUp(store, { batchMax: 4 })))
    assert.deepEqual(await sales(store, subject), { mon: 30 })
  })

  check('I7 a rebuild makes what the live tables hold, then takes their place', async ({ store }) => {
    const subject = salesByDay()
    for (const [day, pence] of [
      ['mon', 1],
      ['tue', 2],
      ['mon', 4],
      ['wed', 8],
    ] as const) {
      await put(store, `sale:${day}`, [sold(day, pence), said('noted')])
      await subject.catchUp(store)
    }
    const before = await sales(store, subject)
    const old = await tableNow(store, subject)
    const seen: number[] = []
    const result = await subject.rebuild(store, { batchMax: 1, progress: ({ applied }) => seen.push(applied) })
    assert.deepEqual([result.applied, result.complete], [4, true])
    assert.deepEqual(
      seen,
      seen.toSorted((a, b) => a - b),
    )
    assert.equal(seen.at(-1), 4)
    assert.notEqual(await tableNow(store, subject), old)
    assert.deepEqual(await sales(store, subject), before)
    assert.equal(await exists(store, old), false)
    await put(store, 'sale:1', [sold('thu', 16)])
    assert.equal((await subject.catchUp(store)).applied, 1)
    assert.deepEqual(await sales(store, subject), { ...before, thu: 16 })
  })

  check(
    'P3 a rebuild goes on while events arrive; the live tables are read and kept up meanwhile',
    async ({ store }) => {
      const subject = salesByDay()
      await put(
        store,
        'sale:1',
        Array.from({ length: 10 }, () => sold('mon', 1)),
      )
      await subject.catchUp(store)
      let total = 10
      let arriving = Promise.resolve()
      const readings: number[] = []
      const arrive = async () => {
        await put(store, 'sale:2', [sold('mon', 1)])
        total += 1
        await subject.catchUp(store)
        readings.push((await sales(store, subject)).mon!)
      }
      await subject.rebuild(store, {
        batchMax: 3,
        progress: ({ applied }) => {
          if (applied <= 12) arriving = arriving.then(arrive)
        },
      })
      await arriving
      await subject.catchUp(store)
      assert.ok(total > 12)
      assert.deepEqual(
        readings,
        Array.from({ length: total - 10 }, (_, index) => 11 + index),
      )
      assert.deepEqual(await sales(store, subject), { mon: total })
    },
  )

  check('P4 an interrupted rebuild goes on where it stopped, also in another process', async ({ store, open }) => {
    const subject = salesByDay()
    await put(
      store,
      'sale:1',
      Array.from({ length: 10 }, () => sold('mon', 1)),
    )
    await subject.catchUp(store)
    const stop = new AbortController()
    const first = await subject.rebuild(store, {
      batchMax: 2,
      signal: stop.signal,
      progress: ({ applied }) => applied === 4 && stop.abort(),
    })
    assert.deepEqual([first.applied, first.complete], [4, false])
    const failing = salesByDay(1, { before: () => assert.fail('planted') })
    await assert.rejects(failing.rebuild(store), /planted/)
    assert.deepEqual(await sales(store, subject), { mon: 10 })
    const elsewhere = await open()
    const second = await salesByDay().rebuild(elsewhere, { batchMax: 2 })
    assert.deepEqual([second.applied, second.complete], [6, true])
    assert.deepEqual(await sales(store, subject), { mon: 10 })
    assert.equal((await store.read((reader) => subject.status(reader))).building, null)
  })

  check('P4 what another version left of a rebuild, or a restart, begins anew', async ({ store }) => {
    await put(
      store,
      'sale:1',
      Array.from({ length: 6 }, () => sold('mon', 1)),
    )
    await salesByDay(1).catchUp(store)
    const stopAfterFirst = () => {
      const stop = new AbortController()
      return { batchMax: 2, signal: stop.signal, progress: () => stop.abort() }
    }
    await salesByDay(2, { factor: 10 }).rebuild(store, stopAfterFirst())
    const left = (await store.read((reader) => salesByDay().status(reader))).building!
    await salesByDay(3, { factor: 100 }).rebuild(store, stopAfterFirst())
    assert.equal(await exists(store, `sales_by_day__${left.generation}`), false)
    const result = await salesByDay(3, { factor: 100 }).rebuild(store, { restart: true })
    assert.equal(result.applied, 6)
    assert.deepEqual(await sales(store, salesByDay(3)), { mon: 600 })
  })

  check('P5 new code rebuilds, old code then stands back, and goes back only when told to', async ({ store }) => {
    const older = projection({
      name: 'sales',
      version: 1,
      events: ['sold'],
      tables: { sales_once: (table) => [`create table ${table} (id text primary key)`] },
      apply: (tx, event, table) => tx.insert(table('sales_once').name, [{ id: `${event.position}` }]),
    })
    const newer = salesByDay(2)
    await put(store, 'sale:1', [sold('mon', 1)])
    await older.catchUp(store)
    assert.equal((await newer.catchUp(store)).complete, true)
    assert.deepEqual(await sales(store, newer), { mon: 1 })
    assert.equal(await exists(store, 'sales_once__1'), false)
    await put(store, 'sale:1', [sold('mon', 2)])
    assert.deepEqual(await older.catchUp(store), { applied: 0, position: 0, complete: false })
    await newer.catchUp(store)
    assert.deepEqual(await sales(store, newer), { mon: 3 })
    assert.equal((await older.rebuild(store)).applied, 2)
    assert.equal((await store.read((reader) => older.status(reader))).live?.version, 1)
  })

  check('a query that meets a switch runs again on the new tables', async ({ store }) => {
    const subject = salesByDay()
    await put(store, 'sale:1', [sold('mon', 1)])
    await subject.catchUp(store)
    let reads = 0
    const overtaken: Store = Object.assign(Object.create(store), {
      async read(work: Parameters<Store['read']>[0]) {
        if (++reads === 2) await subject.rebuild(store) // after it learned the tables' names, before it reads them
        return store.read(work)
      },
    })
    assert.deepEqual(await sales(overtaken, subject), { mon: 1 })
    assert.ok(reads > 2, 'it looked for the tables again')
  })

  check('B15 a follower applies what it is woken for, tries again after a failure, and stops', async ({ store }) => {
    const clock = virtualClock()
    const errors: unknown[] = []
    let broken = true
    let attempts = 0
    const subject = salesByDay(1, {
      before() {
        attempts += 1
        assert.ok(!broken, 'planted')
      },
    })
    await put(store, 'sale:1', [sold('mon', 1)])
    const follower = subject.follow(store, { clock, onError: (error) => errors.push(error) })
    await follower.settled()
    assert.deepEqual([errors.length, attempts], [1, 1])
    for (let wakes = 0; wakes < 5; wakes++) follower.wake()
    await follower.settled()
    assert.equal(attempts, 1, 'it waits for its back-off, however often it is woken')
    broken = false
    await clock.advanceUntil(async () => {
      await follower.settled()
      return attempts === 2
    })
    assert.deepEqual(await sales(store, subject), { mon: 1 })
    await put(store, 'sale:1', [sold('mon', 2)])
    follower.wake()
    await follower.settled()
    assert.deepEqual(await sales(store, subject), { mon: 3 })
    await follower.close()
    await follower.close()
    await put(store, 'sale:1', [sold('mon', 4)])
    follower.wake()
    await follower.settled()
    assert.deepEqual(await sales(store, subject), { mon: 3 })
    assert.equal(clock.pending(), 0)
  })

  check('a projection refuses table names that are none, and tables it did not declare', async ({ store }) => {
    const options = { name: 'x', version: 1, events: ['sold'], apply: () => undefined }
    assert.throws(() => projection({ ...options, tables: { 'a; drop table b': () => [] } }), {
      code: 'invalid_argument',
    })
    assert.throws(() => projection({ ...options, tables: {} }), { code: 'invalid_argument' })
    await salesByDay().catchUp(store)
    await assert.rejects(
      store.read((reader) => salesByDay().table(reader, 'other' as SaleTable)),
      {
        code: 'invalid_argument',
      },
    )
  })
}
