/**
 * What a store is: whatever passes these cases. They know nothing but the interface and SQL that SQLite and PostgreSQL
 * share. Run them beside your own store:
 *
 *   storeSuite('my database', { open: (world) => myStore({ schema: world.name }) })
 *
 * Several stores opened in one world stand for several processes on one database.
 */
import assert from 'node:assert/strict'
import { list, sql } from '../sql.ts'
import type { Reader, Store, Tx } from '../store.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import type { World } from './world.ts'

export type StoreSuiteOptions = {
  /** Another store on the world's database, as another process would make it; it need not be open yet. */
  open: (world: World) => Store | Promise<Store>
  capabilities?: Partial<StoreCapabilities>
}

/** What a store may lack; cases that need it are then skipped. All true by default. */
export type StoreCapabilities = {
  /** Several stores, in one process or in several, can share a database, and it outlives them. */
  acrossProcesses: boolean
  /** Reading does not wait for a transaction that runs. */
  readsBesideWrites: boolean
}

const ITEM_DDL = 'create table item (id text primary key, amount bigint, note text, place bigint unique)'

type Item = { id: string; amount: number | null; note: string | null }

export function storeSuite(name: string, options: StoreSuiteOptions, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)

  /**
   * Registers a case; `make` gives a store as it is made, `open` one that is open and has a table `item`. `needs` names the
   * capability without which the case says nothing.
   */
  function check(
    title: string,
    run: (place: { make(): Promise<Store>; open(): Promise<Store> }) => Promise<void>,
    needs?: keyof StoreCapabilities,
  ): void {
    register(title, async (world, context) => {
      if (needs && options.capabilities?.[needs] === false) {
        context.skip(`this store's capability '${needs}' is false`)
        return
      }
      const make = async () => {
        const store = await options.open(world)
        world.defer(() => store.close())
        return store
      }
      const open = async () => {
        const store = await make()
        await store.open()
        await store.migrate('item', ITEM_DDL)
        return store
      }
      await run({ make, open })
    })
  }

  // Transactions -----------------------------------------------------------------------------------------------------

  check('B1 what a transaction wrote is there when it resolves, and its answer comes back', async ({ open }) => {
    const store = await open()
    const answer = await store.transaction(async (tx) => {
      assert.equal(await tx.run(sql`insert into item (id, amount) values (${'a'}, ${1}), (${'b'}, ${2})`), 2)
      return 'done'
    })
    assert.equal(answer, 'done')
    assert.deepEqual(await amounts(store), { a: 1, b: 2 })
  })

  check('B1 of a transaction that throws nothing remains, and its error comes out unchanged', async ({ open }) => {
    const store = await open()
    await put(store, 'a', 1)
    const error = new Error('changed my mind')
    const failing = store.transaction(async (tx) => {
      await tx.run(sql`update item set amount = ${9} where id = ${'a'}`)
      await tx.run(sql`insert into item (id) values (${'b'})`)
      throw error
    })
    await assert.rejects(failing, (caught) => caught === error)
    assert.deepEqual(await amounts(store), { a: 1 })
  })

  check('B1 work that throws at once, without awaiting, is undone as well', async ({ open }) => {
    const store = await open()
    const error = new Error('at once')
    const failing = store.transaction(() => {
      throw error
    })
    await assert.rejects(failing, (caught) => caught === error)
    await put(store, 'a', 1)
    assert.deepEqual(await amounts(store), { a: 1 })
  })

  check('a transaction sees what it wrote itself', async ({ open }) => {
    const store = await open()
    await store.transaction(async (tx) => {
      await tx.insert('item', [item('a', 1)])
      await tx.run(sql`update item set amount = amount + 1 where id = ${'a'}`)
      assert.equal((await get(tx, 'a'))?.amount, 2)
      assert.equal((await all(tx)).length, 1)
    })
  })

  check('get answers undefined and all an empty array where nothing is found', async ({ open }) => {
    const store = await open()
    await store.transaction(async (tx) => {
      assert.equal(await get(tx, 'nobody'), undefined)
      assert.deepEqual(await all(tx), [])
      assert.equal(await tx.run(sql`delete from item`), 0)
    })
  })

  check('returning gives rows back, and on conflict updates in place', async ({ open }) => {
    const store = await open()
    const upsert = (tx: Tx, amount: number) =>
      tx.get<Item>(
        sql`insert into item (id, amount) values (${'a'}, ${amount})
            on conflict (id) do update set amount = item.amount + excluded.amount returning id, amount`,
      )
    await store.transaction(async (tx) => {
      assert.deepEqual({ ...(await upsert(tx, 1)) }, { id: 'a', amount: 1 })
      assert.deepEqual({ ...(await upsert(tx, 5)) }, { id: 'a', amount: 6 })
    })
    assert.deepEqual(await amounts(store), { a: 6 })
  })

  check('a wrong statement rejects, undoes its transaction, and leaves the store in order', async ({ open }) => {
    const store = await open()
    const failing = store.transaction(async (tx) => {
      await tx.insert('item', [item('a', 1)])
      await tx.run(sql`insert into no_such_table (id) values (${1})`)
    })
    await assert.rejects(failing, /no_such_table/)
    await put(store, 'b', 2)
    assert.deepEqual(await amounts(store), { b: 2 })
  })

  check(
    'B12 a transaction that has ended takes no more: what comes late is refused, and written nowhere',
    async ({ open }) => {
      const store = await open()
      const leaked = await store.transaction(async (tx) => ({ tx }))
      await store.transaction(async () => {
        await assert.rejects(async () => leaked.tx.run(sql`insert into item (id) values (${'late'})`))
        await assert.rejects(async () => leaked.tx.insert('item', [item('late', 1)]))
        await assert.rejects(async () => leaked.tx.savepoint(async () => {}))
      })
      assert.deepEqual(await amounts(store), {})
    },
  )

  // Savepoints -------------------------------------------------------------------------------------------------------

  check('a savepoint that throws is undone alone; its error passes on and may be caught', async ({ open }) => {
    const store = await open()
    const error = new Error('only this part')
    await store.transaction(async (tx) => {
      await tx.insert('item', [item('before', 1)])
      const failing = tx.savepoint(async () => {
        await tx.insert('item', [item('inside', 2)])
        throw error
      })
      await assert.rejects(failing, (caught) => caught === error)
      await tx.insert('item', [item('after', 3)])
    })
    assert.deepEqual(await amounts(store), { after: 3, before: 1 })
  })

  check('a savepoint answers what its work answered, and keeps what it wrote', async ({ open }) => {
    const store = await open()
    const answer = await store.transaction((tx) =>
      tx.savepoint(async () => {
        await tx.insert('item', [item('a', 1)])
        return 'kept'
      }),
    )
    assert.equal(answer, 'kept')
    assert.deepEqual(await amounts(store), { a: 1 })
  })

  check('savepoints nest: the inner one is undone alone, the outer one with everything in it', async ({ open }) => {
    const store = await open()
    const give = () => Promise.reject(new Error('undo'))
    await store.transaction(async (tx) => {
      await tx.savepoint(async () => {
        await tx.insert('item', [item('outer', 1)])
        const inner = tx.savepoint(async () => {
          await tx.insert('item', [item('inner, undone', 2)])
          await give()
        })
        await inner.catch(() => {})
      })
      const undone = tx.savepoint(async () => {
        await tx.savepoint(() => tx.insert('item', [item('inner, kept and then undone', 3)]))
        await give()
      })
      await undone.catch(() => {})
    })
    assert.deepEqual(await amounts(store), { outer: 1 })
  })

  check(
    'B1 a savepoint left open inside another is undone with it, and is over when it comes back',
    async ({ open }) => {
      const store = await open()
      await store.transaction(async (tx) => {
        const begun = Promise.withResolvers<void>()
        const gate = Promise.withResolvers<void>()
        let left: Promise<unknown> | undefined
        const outer = tx.savepoint(async (scoped) => {
          await scoped.insert('item', [item('outer', 1)])
          left = scoped.savepoint(async (inner) => {
            await inner.insert('item', [item('inner', 2)])
            begun.resolve()
            await gate.promise
          })
          left.catch(() => {})
          await begun.promise
          throw new Error('undo')
        })
        await assert.rejects(outer, /undo/)
        await tx.savepoint(async (next) => {
          await next.insert('item', [item('next', 3)])
          gate.resolve()
          await assert.rejects(left!)
        })
        await tx.insert('item', [item('after', 4)])
      })
      assert.deepEqual(await amounts(store), { after: 4, next: 3 })
    },
  )

  check('a unique key refused inside a savepoint leaves the transaction usable', async ({ open }) => {
    const store = await open()
    await put(store, 'a', 1)
    await store.transaction(async (tx) => {
      await tx.insert('item', [item('b', 2)])
      await assert.rejects(tx.savepoint(() => tx.insert('item', [item('c', 3), item('a', 4)])))
      await tx.insert('item', [item('d', 5)])
    })
    assert.deepEqual(await amounts(store), { a: 1, b: 2, d: 5 })
  })

  check(
    'B4 the tx of a savepoint is dead once the savepoint has ended: what comes late is written nowhere',
    async ({ open }) => {
      const store = await open()
      await store.transaction(async (tx) => {
        let kept: Tx | undefined
        let undone: Tx | undefined
        await tx.savepoint(async (scoped) => {
          kept = scoped
          assert.equal(scoped.ended, false)
          await scoped.insert('item', [item('in time', 1)])
        })
        const failing = tx.savepoint((scoped) => {
          undone = scoped
          throw new Error('undo')
        })
        await assert.rejects(failing, /undo/)
        for (const late of [kept!, undone!]) {
          assert.equal(late.ended, true)
          await assert.rejects(async () => late.insert('item', [item('late', 2)]))
          await assert.rejects(async () => late.get(sql`select id from item`))
          await assert.rejects(async () => late.savepoint(async () => {}))
        }
        assert.equal(tx.ended, false)
      })
      assert.deepEqual(await amounts(store), { 'in time': 1 })
    },
  )

  check('a savepoint that was released is undone with the transaction that fails afterwards', async ({ open }) => {
    const store = await open()
    const failing = store.transaction(async (tx) => {
      await tx.savepoint(() => tx.insert('item', [item('a', 1)]))
      throw new Error('later')
    })
    await assert.rejects(failing, /later/)
    assert.deepEqual(await amounts(store), {})
  })

  // At the same time -------------------------------------------------------------------------------------------------

  check(
    'B1 64 transactions at the same time: each is whole, none is lost, none sees half of another',
    async ({ open }) => {
      const store = await open()
      await put(store, 'sum', 0)
      const one = (index: number) =>
        store.transaction(async (tx) => {
          await tx.insert('item', [item(`left-${index}`, 1)])
          await turns(index % 4)
          const halves = await tx.get<{ lefts: number; rights: number }>(sql`
            select count(case when id like 'left-%' then 1 end) as lefts,
              count(case when id like 'right-%' then 1 end) as rights from item`)
          assert.equal(halves!.lefts, halves!.rights + 1, 'another transaction shows half done')
          await tx.run(sql`update item set amount = amount + ${index} where id = ${'sum'}`)
          await tx.insert('item', [item(`right-${index}`, 1)])
        })
      await Promise.all(Array.from({ length: 64 }, (_, index) => one(index)))
      const after = await amounts(store)
      assert.equal(after.sum, (63 * 64) / 2)
      assert.equal(Object.keys(after).length, 129)
    },
  )

  check('B1 of many transactions at the same time those that fail undo nothing of the others', async ({ open }) => {
    const store = await open()
    const one = (index: number) =>
      store.transaction(async (tx) => {
        await tx.insert('item', [item(`t-${index}`, index)])
        await turns(index % 3)
        if (index % 5 === 0) throw new Error(`number ${index} fails`)
        if (index % 7 === 0) await tx.run(sql`insert into no_such_table (id) values (${1})`)
        await turns(1)
        return index
      })
    const outcomes = await Promise.allSettled(Array.from({ length: 50 }, (_, index) => one(index)))
    const fails = (index: number) => index % 5 === 0 || index % 7 === 0
    for (const [index, outcome] of outcomes.entries()) {
      assert.equal(outcome.status, fails(index) ? 'rejected' : 'fulfilled', `transaction ${index}`)
    }
    const kept = Array.from({ length: 50 }, (_, index) => index).filter((index) => !fails(index))
    assert.deepEqual(Object.values(await amounts(store)).sort(byNumber), kept)
  })

  check(
    'B1 one transaction that is refused by a unique key fails alone among those that wait with it',
    async ({ open }) => {
      const store = await open()
      const outcomes = await Promise.allSettled(
        ['a', 'b', 'a', 'c'].map((id, index) => store.transaction((tx) => tx.insert('item', [item(id, index)]))),
      )
      const statuses = outcomes.map(({ status }) => status)
      assert.deepEqual(statuses.filter((status) => status === 'rejected').length, 1)
      assert.deepEqual(Object.keys(await amounts(store)), ['a', 'b', 'c'])
    },
  )

  check(
    'reading never shows what is not committed, and does not wait for who writes',
    async ({ open }) => {
      const store = await open()
      await put(store, 'a', 1)
      await store.transaction(async (tx) => {
        await tx.run(sql`update item set amount = ${2} where id = ${'a'}`)
        await tx.insert('item', [item('b', 3)])
        assert.deepEqual(await amounts(store), { a: 1 })
      })
      assert.deepEqual(await amounts(store), { a: 2, b: 3 })
    },
    'readsBesideWrites',
  )

  check('what is read after a transaction resolved includes it, also among 20 readers', async ({ open }) => {
    const store = await open()
    await put(store, 'a', 0)
    for (let round = 1; round <= 20; round++) {
      await store.transaction((tx) => tx.run(sql`update item set amount = ${round} where id = ${'a'}`))
      const seen = await Promise.all(Array.from({ length: 20 }, () => amounts(store)))
      assert.ok(seen.every(({ a }) => a === round))
    }
  })

  check('a read that throws passes its error on and harms nothing', async ({ open }) => {
    const store = await open()
    const error = new Error('while reading')
    await assert.rejects(
      store.read(() => Promise.reject(error)),
      (caught) => caught === error,
    )
    await assert.rejects(
      store.read((reader) => reader.all(sql`select * from no_such_table`)),
      /no_such_table/,
    )
    await put(store, 'a', 1)
    assert.deepEqual(await amounts(store), { a: 1 })
  })

  check(
    'two stores on one database, as two processes: nothing is lost, each sees the other',
    async ({ open }) => {
      const stores = [await open(), await open()]
      await put(stores[0]!, 'sum', 0)
      const add = (index: number) =>
        stores[index % 2]!.transaction(async (tx) => {
          await tx.run(sql`update item set amount = amount + 1 where id = ${'sum'}`)
          await tx.insert('item', [item(`t-${index}`, index)])
        })
      await Promise.all(Array.from({ length: 100 }, (_, index) => add(index)))
      for (const store of stores) {
        const seen = await amounts(store)
        assert.equal(seen.sum, 100)
        assert.equal(Object.keys(seen).length, 101)
      }
    },
    'acrossProcesses',
  )

  // Rows and values --------------------------------------------------------------------------------------------------

  check('insert of many rows answers their positions', async ({ open }) => {
    const store = await open()
    await store.transaction(async (tx) => {
      assert.deepEqual(await tx.insert('item', [item('a', 1), item('b', 2), item('c', 3)]), [0, 1, 2])
      assert.deepEqual(await tx.insert('item', []), [])
    })
    assert.deepEqual(await amounts(store), { a: 1, b: 2, c: 3 })
  })

  check(
    'B2 insert with orIgnore leaves out what a unique key refuses, and says which rows are new',
    async ({ open }) => {
      const store = await open()
      await put(store, 'b', 1)
      await store.transaction(async (tx) => {
        const rows = ['a', 'b', 'c', 'a', 'd'].map((id, index) => item(id, index * 10))
        assert.deepEqual(await tx.insert('item', rows, { orIgnore: true }), [0, 2, 4])
        assert.deepEqual(await tx.insert('item', rows, { orIgnore: true }), [])
      })
      assert.deepEqual(await amounts(store), { a: 0, b: 1, c: 20, d: 40 })
    },
  )

  check('B2 orIgnore heeds every unique key, not only the primary one', async ({ open }) => {
    const store = await open()
    await store.transaction(async (tx) => {
      const rows = [
        { id: 'a', place: 1 },
        { id: 'b', place: 1 },
        { id: 'c', place: null },
        { id: 'd', place: null },
      ]
      assert.deepEqual(await tx.insert('item', rows, { orIgnore: true }), [0, 2, 3])
    })
  })

  check('10,000 rows go in by one insert', async ({ open }) => {
    const store = await open()
    const rows = Array.from({ length: 10_000 }, (_, index) => item(`i-${index}`, index))
    const positions = await store.transaction((tx) => tx.insert('item', rows))
    assert.equal(positions.length, 10_000)
    assert.equal(positions[9_999], 9_999)
    assert.equal(await store.read((reader) => count(reader, '%')), 10_000)
    const again = await store.transaction((tx) => tx.insert('item', [...rows, item('new', 1)], { orIgnore: true }))
    assert.deepEqual(again, [10_000])
  })

  check('list() in an in (…): one, many, none, and values that look like SQL', async ({ open }) => {
    const store = await open()
    const odd = "x'), ('y"
    await store.transaction((tx) => tx.insert('item', [item('a', 1), item('b', 2), item('c', 3), item(odd, 4)]))
    const among = (ids: string[]) =>
      store.read(async (reader) => {
        const rows = await reader.all<Item>(
          sql`select id from item where id in ${list(ids)} and amount > ${0} order by amount`,
        )
        return rows.map(({ id }) => id)
      })
    assert.deepEqual(await among(['b']), ['b'])
    assert.deepEqual(await among(['a', 'c', 'nobody', 'a']), ['a', 'c'])
    assert.deepEqual(await among([]), [])
    assert.deepEqual(await among([odd]), [odd])
    assert.deepEqual(await among(Array.from({ length: 1_000 }, (_, index) => `${index}`).concat('c')), ['c'])
    const deleted = await store.transaction((tx) => tx.run(sql`delete from item where id in ${list(['a', 'b'])}`))
    assert.equal(deleted, 2)
  })

  check('a value stays a value: nothing in it is read as SQL', async ({ open }) => {
    const store = await open()
    const evil = `'; drop table item; -- " \\ ? $1 :a @b %`
    await store.transaction((tx) => tx.run(sql`insert into item (id, note) values (${evil}, ${`${evil}${evil}`})`))
    await store.transaction((tx) => tx.insert('item', [{ id: `${evil}2`, amount: null, note: evil }]))
    const found = await store.read((reader) => reader.get<Item>(sql`select id, note from item where id = ${evil}`))
    assert.deepEqual({ ...found }, { id: evil, note: `${evil}${evil}` })
    assert.equal(await store.read((reader) => count(reader, '%')), 2)
  })

  check('text comes back as it went in: unicode, empty, long', async ({ open }) => {
    const store = await open()
    const texts = ['', ' ', 'Zoë – 日本語 – 🛒👩‍👩‍👧', '"quoted" \'single\' \\ \n\t\u0001', 'x'.repeat(1_000_000)]
    await store.transaction((tx) =>
      tx.insert(
        'item',
        texts.map((note, index) => ({ id: `${index}`, amount: index, note })),
      ),
    )
    const rows = await store.read((reader) => reader.all<Item>(sql`select note from item order by amount`))
    assert.ok(
      rows.every(({ note }, index) => note === texts[index]),
      'a text came back changed',
    )
  })

  check('whole numbers up to 2^53 − 1 either way come back as numbers, null as null', async ({ open }) => {
    const store = await open()
    const numbers = [
      0,
      -1,
      1,
      2 ** 31,
      2 ** 32 + 1,
      Date.UTC(2025, 0, 1),
      Number.MAX_SAFE_INTEGER,
      Number.MIN_SAFE_INTEGER,
      null,
    ]
    await store.transaction(async (tx) => {
      for (const [index, amount] of numbers.entries()) {
        await tx.run(sql`insert into item (id, amount, note) values (${`${index}`}, ${amount}, ${null})`)
      }
    })
    const rows = await store.read((reader) => reader.all<Item>(sql`select id, amount, note from item`))
    for (const row of rows) assert.deepEqual({ ...row }, { id: row.id, amount: numbers[Number(row.id)], note: null })
    const sum = await store.read((reader) => reader.get<{ n: number }>(sql`select count(*) as n from item`))
    assert.equal(sum?.n, numbers.length)
  })

  check('bigint parameters are taken, and mean the same as numbers', async ({ open }) => {
    const store = await open()
    await store.transaction((tx) => tx.insert('item', [{ id: 'a', amount: 9_007_199_254_740_991n, note: null }]))
    const found = await store.read((reader) =>
      reader.get<Item>(sql`select amount from item where amount = ${2 ** 53 - 1}`),
    )
    assert.equal(found?.amount, 2 ** 53 - 1)
  })

  check('bytes come back as they went in', async ({ open }) => {
    const store = await open()
    const type = store.dialect === 'postgres' ? 'bytea' : 'blob'
    await store.migrate('bytes', `create table bytes (id bigint primary key, body ${type})`)
    const bodies = [Uint8Array.from({ length: 256 }, (_, byte) => byte), new Uint8Array(0), Uint8Array.of(0, 0, 255)]
    await store.transaction((tx) =>
      tx.insert(
        'bytes',
        bodies.map((body, id) => ({ id, body })),
      ),
    )
    const rows = await store.read((reader) => reader.all<{ body: Uint8Array }>(sql`select body from bytes order by id`))
    for (const [index, { body }] of rows.entries()) {
      assert.ok(body instanceof Uint8Array)
      assert.ok(Buffer.compare(body, bodies[index]!) === 0, `body ${index} came back changed`)
    }
  })

  check('one statement, prepared once, serves any values', async ({ open }) => {
    const store = await open()
    await store.transaction(async (tx) => {
      for (let index = 0; index < 300; index++) {
        const note = index % 3 === 0 ? null : `n${index}`
        await tx.run(sql`insert into item (id, amount, note) values (${`${index}`}, ${index}, ${note})`)
        assert.equal((await get(tx, `${index}`))?.note, note)
      }
    })
  })

  // Opening, migrating, closing --------------------------------------------------------------------------------------

  check(
    'migrate runs a name once; the same again is fine, also from another process',
    async ({ open }) => {
      const first = await open()
      await put(first, 'a', 1)
      await first.migrate('item', ITEM_DDL)
      const second = await open()
      assert.deepEqual(await amounts(second), { a: 1 })
    },
    'acrossProcesses',
  )

  check('migrate refuses a ddl that differs from the one that ran, and says which', async ({ open }) => {
    const store = await open()
    await put(store, 'a', 1)
    await assert.rejects(store.migrate('item', `${ITEM_DDL}; create table more (id text)`), /item/)
    assert.deepEqual(await amounts(store), { a: 1 })
  })

  check('migrate takes several statements, and leaves nothing behind where one is wrong', async ({ open }) => {
    const store = await open()
    const ddl = `create table one (id text primary key);
      -- a comment; with a semicolon
      create index one_by_id on one (id);
      create table two (id text check (id <> ';'));`
    await assert.rejects(store.migrate('several', `${ddl} create tabel three (id text)`))
    await store.migrate('several', ddl)
    await store.transaction(async (tx) => {
      await tx.insert('one', [{ id: 'a' }])
      await tx.insert('two', [{ id: 'b' }])
    })
  })

  check(
    'two processes that migrate at the same time do not get in each other’s way',
    async ({ make }) => {
      const stores = [await make(), await make(), await make()]
      await Promise.all(
        stores.map(async (store) => {
          await store.open()
          await store.migrate('item', ITEM_DDL)
        }),
      )
      await put(stores[2]!, 'a', 1)
      assert.deepEqual(await amounts(stores[0]!), { a: 1 })
    },
    'acrossProcesses',
  )

  check(
    'what was committed is there after closing and opening again',
    async ({ open }) => {
      const first = await open()
      await put(first, 'a', 1)
      await first.close()
      assert.deepEqual(await amounts(await open()), { a: 1 })
    },
    'acrossProcesses',
  )

  check('opening twice and closing twice are fine, closing while opening too', async ({ make, open }) => {
    const store = await make()
    await Promise.all([store.open(), store.open()])
    await store.open()
    await Promise.all([store.close(), store.close()])
    await store.close()
    const hasty = await make()
    const opening = hasty.open().catch(() => {})
    await hasty.close()
    await opening
    await put(await open(), 'a', 1)
  })

  check(
    'B12 close waits for what runs, and what ran is committed',
    async ({ open }) => {
      const store = await open()
      const gate = Promise.withResolvers<void>()
      const begun = Promise.withResolvers<void>()
      const running = store.transaction(async (tx) => {
        await tx.insert('item', [item('a', 1)])
        begun.resolve()
        await gate.promise
        await tx.insert('item', [item('b', 2)])
      })
      await begun.promise
      let closed = false
      const closing = store.close().then(() => {
        closed = true
      })
      await turns(5)
      assert.equal(closed, false, 'closed under a running transaction')
      gate.resolve()
      await running
      await closing
      assert.deepEqual(await amounts(await open()), { a: 1, b: 2 })
    },
    'acrossProcesses',
  )

  check('after close everything is refused with bus_closed', async ({ open }) => {
    const store = await open()
    await store.close()
    const refused = { code: 'bus_closed' }
    await assert.rejects(
      store.transaction((tx) => tx.run(sql`delete from item`)),
      refused,
    )
    await assert.rejects(amounts(store), refused)
  })
}

function item(id: string, amount: number | null) {
  return { id, amount, note: null }
}

async function put(store: Store, id: string, amount: number): Promise<void> {
  await store.transaction((tx) => tx.insert('item', [item(id, amount)]))
}

async function get(reader: Reader, id: string): Promise<Item | undefined> {
  return reader.get<Item>(sql`select id, amount, note from item where id = ${id}`)
}

async function all(reader: Reader): Promise<Item[]> {
  return reader.all<Item>(sql`select id, amount, note from item order by id`)
}

async function count(reader: Reader, like: string): Promise<number> {
  return (await reader.get<{ n: number }>(sql`select count(*) as n from item where id like ${like}`))!.n
}

/** What is committed: every item's amount, by id, ids in order. */
async function amounts(store: Store): Promise<Record<string, number | null>> {
  const rows = await store.read(all)
  return Object.fromEntries(rows.map(({ id, amount }) => [id, amount]))
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

function byNumber(one: number | null, other: number | null): number {
  return (one ?? 0) - (other ?? 0)
}
