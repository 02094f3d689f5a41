/**
 * What the event store, projections and process managers ask of a store. Run the cases beside your own store:
 *
 *   eventStoreSuite('my store', { open: (world) => myStore({ schema: world.name }) })
 */
import assert from 'node:assert/strict'
import {
  type Aggregate,
  type AsOf,
  aggregate,
  append,
  type ExpectedVersion,
  type NewEvent,
  read,
  readAll,
  type StreamUpcasters,
} from '../event-store.ts'
import type { Sql } from '../sql.ts'
import type { Reader, Store, Tx } from '../store.ts'
import { processCases } from './process-cases.ts'
import { projectionCases } from './projection-cases.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import { createWorld, type World } from './world.ts'

export type EventStoreSuiteOptions = {
  /** Another store on the world's database, as another process would make it; the suite opens and closes it. */
  open: (world: World) => Store | Promise<Store>
}

/** A case's place: `open` makes another store on its one database, as another process would. */
export type StorePlace = { readonly store: Store; readonly open: () => Promise<Store> }

/** Registers a case in a world of its own. */
export type StoreCheck = (title: string, run: (place: StorePlace) => Promise<void>) => void

/** The first instant of the cases, milliseconds since the epoch. */
export const START_MS = Date.UTC(2025, 0, 1)

export function eventStoreSuite(name: string, options: EventStoreSuiteOptions, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)
  const check: StoreCheck = (title, run) =>
    register(title, async () => {
      await using world = await createWorld()
      const open = async () => {
        const store = await options.open(world)
        await store.open()
        world.defer(() => store.close())
        return store
      }
      await run({ store: await open(), open })
    })
  streamCases(check)
  aggregateCases(check)
  projectionCases(check)
  processCases(check)
}

// Streams --------------------------------------------------------------------------------------------------------------

function streamCases(check: StoreCheck): void {
  check('appended events are read back as they were said, in order', async ({ store, open }) => {
    const version = await put(store, 'order:1', [said('placed', { pence: 5 }), said('paid')], {
      meta: { messageId: 'm1' },
    })
    assert.equal(version, 2)
    assert.equal(await put(store, 'order:1', [said('shipped')], { at: START_MS + 1 }), 3)
    const elsewhere = await open()
    const events = await elsewhere.read((reader) => read(reader, 'order:1'))
    assert.deepEqual(
      events.map(({ version, type, data, schemaVersion, meta, at }) => ({
        version,
        type,
        data,
        schemaVersion,
        meta,
        at,
      })),
      [
        { version: 1, type: 'placed', data: { pence: 5 }, schemaVersion: 1, meta: { messageId: 'm1' }, at: START_MS },
        { version: 2, type: 'paid', data: {}, schemaVersion: 1, meta: { messageId: 'm1' }, at: START_MS },
        { version: 3, type: 'shipped', data: {}, schemaVersion: 1, meta: null, at: START_MS + 1 },
      ],
    )
  })

  check('B1 a transaction that throws leaves neither events nor a version', async ({ store }) => {
    await put(store, 'order:1', [said('placed')])
    await assert.rejects(
      store.transaction(async (tx) => {
        await append(tx, 'order:1', [said('paid')], { expectedVersion: 1, at: START_MS })
        throw new Error('later on in the handler')
      }),
      /later on/,
    )
    assert.deepEqual(await types(store, 'order:1'), ['placed'])
    assert.equal(await put(store, 'order:1', [said('paid')], { expectedVersion: 1 }), 2)
  })

  check('an expected version that is not there is a conflict that names both versions', async ({ store }) => {
    await put(store, 'order:1', [said('placed'), said('paid')])
    const wrong: [string, ExpectedVersion, RegExp][] = [
      ['order:1', 1, /version 2, not 1/],
      ['order:1', 3, /version 2, not 3/],
      ['order:1', 'none', /version 2, not 0/],
      ['order:1', 0, /version 2, not 0/],
      ['order:2', 4, /version 0, not 4/],
    ]
    for (const [stream, expectedVersion, message] of wrong) {
      await assert.rejects(put(store, stream, [said('shipped')], { expectedVersion }), {
        code: 'version_conflict',
        message,
      })
    }
    assert.deepEqual(await types(store, 'order:1'), ['placed', 'paid'])
    assert.deepEqual(await types(store, 'order:2'), [])
    assert.equal(await put(store, 'order:2', [said('placed')], { expectedVersion: 'none' }), 1)
    assert.equal(await put(store, 'order:2', [said('paid')], { expectedVersion: 'any' }), 2)
    assert.equal(await put(store, 'order:3', [said('placed'), said('paid')], { expectedVersion: 'any' }), 2)
  })

  check('of concurrent writers with one expected version exactly one wins', async ({ store }) => {
    for (const expectedVersion of ['none', 1, 2] as const) {
      const attempts = await Promise.allSettled(
        Array.from({ length: 16 }, (_, writer) =>
          put(store, 'order:1', [said('noted', { writer })], { expectedVersion }),
        ),
      )
      const losers = attempts.filter((attempt) => attempt.status === 'rejected')
      assert.equal(losers.length, 15)
      for (const { reason } of losers) assert.equal(reason.code, 'version_conflict')
    }
    assert.equal((await types(store, 'order:1')).length, 3)
  })

  check('a stream is read as of a version, and by pages', async ({ store }) => {
    await put(
      store,
      'order:1',
      ['a', 'b', 'c', 'd', 'e'].map((type) => said(type)),
    )
    const typesOf = (options: Parameters<typeof read>[2]) => types(store, 'order:1', options)
    assert.deepEqual(await typesOf({ asOf: { version: 3 } }), ['a', 'b', 'c'])
    assert.deepEqual(await typesOf({ asOf: { version: 0 } }), [])
    assert.deepEqual(await typesOf({ asOf: { version: 99 } }), ['a', 'b', 'c', 'd', 'e'])
    assert.deepEqual(await typesOf({ fromVersion: 2, limit: 2 }), ['b', 'c'])
    assert.deepEqual(await typesOf({ fromVersion: 2, asOf: { version: 2 } }), ['b'])
    assert.deepEqual(await typesOf({ fromVersion: 6 }), [])
  })

  check('a stream is read as of a time, without holes where the clock stepped back', async ({ store }) => {
    for (const [type, at] of [
      ['a', 10],
      ['b', 20],
      ['c', 40],
      ['d', 30],
      ['e', 50],
    ] as const) {
      await put(store, 'order:1', [said(type)], { at })
    }
    const asOf = (timeMs: number) => types(store, 'order:1', { asOf: { timeMs } })
    assert.deepEqual(await asOf(9), [])
    assert.deepEqual(await asOf(10), ['a'])
    assert.deepEqual(await asOf(35), ['a', 'b'])
    assert.deepEqual(await asOf(40), ['a', 'b', 'c', 'd'])
    assert.deepEqual(await asOf(1_000), ['a', 'b', 'c', 'd', 'e'])
  })

  check('all streams are read in the order in which they were appended, by type and by pages', async ({ store }) => {
    for (let count = 1; count <= 5; count++) {
      await put(store, 'order:1', [said('odd', { count }), said('other')])
      await put(store, 'order:2', [said('even', { count })])
    }
    const seen: unknown[] = []
    let afterPosition = 0
    for (let end = false; !end; ) {
      const page = await store.read((reader) => readAll(reader, { afterPosition, types: ['odd', 'even'], limit: 3 }))
      assert.ok(page.events.length <= 3)
      seen.push(...page.events.map((event) => `${event.type} ${(event.data as { count: number }).count}`))
      afterPosition = page.position
      end = page.end
    }
    assert.deepEqual(
      seen,
      [1, 2, 3, 4, 5].flatMap((count) => [`odd ${count}`, `even ${count}`]),
    )
    const all = await store.read((reader) => readAll(reader, { afterPosition: 0, limit: 100 }))
    assert.equal(all.events.length, 15)
    const positions = all.events.map((event) => event.position)
    assert.deepEqual(
      positions,
      [...new Set(positions)].toSorted((a, b) => a - b),
    )
    assert.deepEqual([all.position, all.headPosition], [positions.at(-1), positions.at(-1)])
    assert.equal(all.position, afterPosition)
    const none = await store.read((reader) => readAll(reader, { afterPosition, limit: 100 }))
    assert.deepEqual({ events: none.events, end: none.end }, { events: [], end: true })
  })

  check('bad arguments are refused with what to do', async ({ store }) => {
    const refused = { code: 'invalid_argument' }
    await assert.rejects(put(store, '', [said('a')]), refused)
    await assert.rejects(put(store, 'order:1', []), refused)
    await assert.rejects(put(store, 'order:1', [said('a')], { expectedVersion: -1 }), refused)
    await assert.rejects(put(store, 'order:1', [said('a')], { at: Number.NaN }), refused)
    await assert.rejects(put(store, 'order:1', [{ type: 'a', data: undefined }]), refused)
    await assert.rejects(put(store, 'order:1', [said('a', 'x'.repeat(1_048_577))]), { code: 'message_too_large' })
    await assert.rejects(types(store, 'order:1', { asOf: { version: 1.5 } }), refused)
    assert.deepEqual(await types(store, 'order:1'), [])
  })
}

// Aggregates -----------------------------------------------------------------------------------------------------------

type Account = { readonly balancePence: number; readonly entries: number }
type AccountCommand = { readonly type: 'pay_in' | 'pay_out'; readonly pence: number } | { readonly type: 'nothing' }
type AccountEvent = { readonly type: 'paid_in' | 'paid_out'; readonly data: { readonly pence: number } }

const accountVersion1 = {
  name: 'account',
  version: 1,
  initial: { balancePence: 0, entries: 0 } as Account,
  decide(state: Account, command: AccountCommand): AccountEvent[] {
    if (command.type === 'nothing') return []
    const { pence } = command
    if (command.type === 'pay_in') return [{ type: 'paid_in', data: { pence } }]
    if (state.balancePence < pence) throw new RangeError(`${pence} exceeds the balance of ${state.balancePence}`)
    return [{ type: 'paid_out', data: { pence } }]
  },
  evolve(state: Account, event: AccountEvent): Account {
    const pence = event.type === 'paid_in' ? event.data.pence : -event.data.pence
    return { balancePence: state.balancePence + pence, entries: state.entries + 1 }
  },
}

const accounts = aggregate(accountVersion1)

function aggregateCases(check: StoreCheck): void {
  check('a command is decided on the present state; what happened is stored', async ({ store }) => {
    const handle = (command: AccountCommand) =>
      store.transaction((tx) => accounts.handle(tx, 'a', command, { at: START_MS, meta: { messageId: 'm1' } }))
    assert.deepEqual(await handle({ type: 'pay_in', pence: 100 }), {
      events: [{ type: 'paid_in', data: { pence: 100 } }],
      state: { balancePence: 100, entries: 1 },
      version: 1,
    })
    assert.equal((await handle({ type: 'pay_out', pence: 30 })).version, 2)
    await assert.rejects(handle({ type: 'pay_out', pence: 71 }), RangeError)
    assert.deepEqual(await handle({ type: 'nothing' }), {
      events: [],
      state: { balancePence: 70, entries: 2 },
      version: 2,
    })
    assert.deepEqual(await load(store, accounts), { state: { balancePence: 70, entries: 2 }, version: 2 })
    const [first] = await store.read((reader) => accounts.read(reader, 'a'))
    assert.deepEqual([first?.stream, first?.data.pence, first?.meta], ['account:a', 100, { messageId: 'm1' }])
    assert.deepEqual(await store.read((reader) => accounts.load(reader, 'unknown')), {
      state: { balancePence: 0, entries: 0 },
      version: 0,
    })
  })

  check('concurrent commands to one aggregate are all counted, once each', async ({ store }) => {
    const payIn = () =>
      store.transaction((tx) => accounts.handle(tx, 'a', { type: 'pay_in', pence: 1 }, { at: START_MS }))
    await Promise.all(Array.from({ length: 40 }, () => untilNoConflict(payIn)))
    assert.deepEqual(await load(store, accounts), { state: { balancePence: 40, entries: 40 }, version: 40 })
    const versions = (await store.read((reader) => accounts.read(reader, 'a'))).map((event) => event.version)
    assert.deepEqual(
      versions,
      Array.from({ length: 40 }, (_, index) => index + 1),
    )
  })

  check('a command decided on a state that changed since is a conflict, and leaves nothing', async ({ store }) => {
    const payIn = (meanwhile?: Meanwhile) =>
      store.transaction((tx) =>
        accounts.handle(meanwhile ? overtaken(tx, meanwhile) : tx, 'a', { type: 'pay_in', pence: 1 }, { at: START_MS }),
      )
    const other: Meanwhile = (tx) =>
      append(tx, 'account:a', [{ type: 'paid_in', data: { pence: 1 } }], { expectedVersion: 'any', at: START_MS })
    await assert.rejects(payIn(other), { code: 'version_conflict', message: /version 1, not 0/ })
    assert.equal((await payIn()).version, 1)
    await assert.rejects(payIn(other), { code: 'version_conflict', message: /version 2, not 1/ })
    assert.equal((await load(store, accounts)).state.balancePence, 1)
  })

  for (const snapshotEvery of [1, 3, 1_000]) {
    check(`the state equals folding at every version and time (snapshot every ${snapshotEvery})`, async ({ store }) => {
      const subject = aggregate({ ...accountVersion1, snapshotEvery })
      const expected: Account[] = [accountVersion1.initial]
      for (let pence = 1; pence <= 10; pence++) {
        const { state } = await store.transaction((tx) =>
          subject.handle(tx, 'a', { type: pence % 3 ? 'pay_in' : 'pay_out', pence }, { at: START_MS + pence }),
        )
        expected.push(state)
        assert.deepEqual(await load(store, subject), { state, version: pence })
      }
      for (const [version, state] of expected.entries()) {
        assert.deepEqual(await load(store, subject, { version }), { state, version })
        assert.deepEqual(await load(store, subject, { timeMs: START_MS + version }), { state, version })
      }
      assert.equal((await load(store, subject, { version: 99 })).version, 10)
      assert.equal((await load(store, subject, { timeMs: 0 })).version, 0)
    })
  }

  check('a state stored by another version of evolve is ignored, and written anew', async ({ store }) => {
    const payIn = (subject: typeof accounts, pence: number) =>
      store.transaction((tx) => subject.handle(tx, 'a', { type: 'pay_in', pence }, { at: START_MS }))
    for (const pence of [1, 2, 3]) await payIn(accounts, pence)
    const version2 = aggregate({
      ...accountVersion1,
      version: 2,
      evolve: (state, event) => ({
        balancePence: state.balancePence + 10 * event.data.pence,
        entries: state.entries + 1,
      }),
    })
    assert.deepEqual((await load(store, version2)).state, { balancePence: 60, entries: 3 })
    assert.deepEqual((await payIn(version2, 4)).state, { balancePence: 100, entries: 4 })
    // Both versions of the code run for a while when a service is deployed.
    assert.deepEqual((await payIn(accounts, 5)).state, { balancePence: 15, entries: 5 })
    assert.deepEqual((await load(store, version2)).state, { balancePence: 150, entries: 5 })
    assert.deepEqual(await load(store, version2, { version: 2 }), {
      state: { balancePence: 30, entries: 2 },
      version: 2,
    })
  })

  check('events appended beside an aggregate are folded onto its stored state', async ({ store }) => {
    await store.transaction((tx) => accounts.handle(tx, 'a', { type: 'pay_in', pence: 1 }, { at: START_MS }))
    await put(store, 'account:a', [{ type: 'paid_in', data: { pence: 5 } }], { expectedVersion: 1 })
    assert.deepEqual(await load(store, accounts), { state: { balancePence: 6, entries: 2 }, version: 2 })
    const { version } = await store.transaction((tx) =>
      accounts.handle(tx, 'a', { type: 'pay_out', pence: 6 }, { at: START_MS }),
    )
    assert.equal(version, 3)
  })

  check('a stream longer than a page is folded whole', async ({ store }) => {
    const events = Array.from({ length: 700 }, () => ({ type: 'paid_in', data: { pence: 1 } }))
    await put(store, 'account:a', events)
    await put(store, 'account:a', events)
    assert.deepEqual(await load(store, accounts), { state: { balancePence: 1_400, entries: 1_400 }, version: 1_400 })
    assert.equal((await load(store, accounts, { version: 1_111 })).state.balancePence, 1_111)
    const rest = await store.read((reader) => accounts.read(reader, 'a', { fromVersion: 1_001 }))
    assert.equal(rest.length, 400)
  })

  check('B14 upcasters run on stored events, wherever they are read', async ({ store }) => {
    await store.transaction((tx) => accounts.handle(tx, 'a', { type: 'pay_in', pence: 100 }, { at: START_MS }))
    const upcast: StreamUpcasters = {
      paid_in: {
        1: (old: { pence: number }) => ({ amountPence: old.pence }),
        2: (old: { amountPence: number }) => ({ pence: old.amountPence, currency: 'GBP' }),
      },
    }
    const grown = aggregate({ ...accountVersion1, version: 2, upcast })
    await store.transaction((tx) => grown.handle(tx, 'a', { type: 'pay_in', pence: 5 }, { at: START_MS }))
    assert.equal((await load(store, grown)).state.balancePence, 105)
    const events = await store.read((reader) => grown.read(reader, 'a'))
    assert.deepEqual(
      events.map(({ data, schemaVersion }) => ({ data, schemaVersion })),
      [
        { data: { pence: 100, currency: 'GBP' }, schemaVersion: 1 },
        { data: { pence: 5 }, schemaVersion: 3 },
      ],
    )
    const all = await store.read((reader) => readAll(reader, { afterPosition: 0, limit: 1, upcast }))
    assert.deepEqual(all.events[0]?.data, { pence: 100, currency: 'GBP' })
  })

  check('B14 an event of a shape from the future is refused, not misread', async ({ store }) => {
    await put(store, 'account:a', [{ type: 'paid_in', data: { pounds: 1 }, schemaVersion: 3 }])
    const upcast = { paid_in: { 1: (old: unknown) => old } }
    await assert.rejects(load(store, aggregate({ ...accountVersion1, upcast })), { code: 'version_too_new' })
    assert.throws(() => aggregate({ ...accountVersion1, upcast: { paid_in: { 2: (old) => old } } }), {
      code: 'no_upcaster',
    })
  })
}

// What the cases share -------------------------------------------------------------------------------------------------

export function said(type: string, data: unknown = {}): NewEvent {
  return { type, data }
}

/** Appends in a transaction of its own. */
export function put(
  store: Store,
  stream: string,
  events: readonly NewEvent[],
  options: { expectedVersion?: ExpectedVersion; at?: number; meta?: Record<string, unknown> } = {},
): Promise<number> {
  const { expectedVersion = 'any', at = START_MS, meta } = options
  const withMeta = events.map((event) => ({ ...event, meta }))
  return store.transaction((tx: Tx) => append(tx, stream, withMeta, { expectedVersion, at }))
}

/** What another transaction does in between. */
export type Meanwhile = (tx: Tx) => unknown

/** A transaction that is overtaken right after its first read, as it can happen where writers run side by side. */
export function overtaken(tx: Tx, meanwhile: Meanwhile): Tx {
  let overtaken = false
  return {
    dialect: tx.dialect,
    get ended() {
      return tx.ended
    },
    async get<R>(query: Sql) {
      const row = await tx.get<R>(query)
      if (!overtaken) await meanwhile(tx)
      overtaken = true
      return row
    },
    all: (query) => tx.all(query),
    run: (query) => tx.run(query),
    insert: (table, rows, options) => tx.insert(table, rows, options),
    savepoint: (work) => tx.savepoint(work),
  }
}

async function types(store: Store, stream: string, options?: Parameters<typeof read>[2]): Promise<string[]> {
  const events = await store.read((reader: Reader) => read(reader, stream, options))
  return events.map((event) => event.type)
}

function load(store: Store, subject: Aggregate<Account, AccountCommand, AccountEvent>, asOf?: AsOf) {
  return store.read((reader) => subject.load(reader, 'a', { asOf }))
}

/** As the bus does with a handler: a conflict is tried again. */
async function untilNoConflict<T>(work: () => Promise<T>): Promise<T> {
  while (true) {
    try {
      return await work()
    } catch (error) {
      if ((error as { code?: string }).code !== 'version_conflict') throw error
    }
  }
}
