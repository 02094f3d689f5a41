/** The replay against the real shop, over a cut of the real book: every figure is what the rules alone come to. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { createWorld, needs, type ServerName, type World } from '@shopsphere/bus/testing'
import { expectedFigures } from '../replay/oracle.ts'
import { fileSource, openBook } from '../replay/order-book.ts'
import { replay } from '../replay/replay.ts'
import { startShopOn } from '../replay/start-shop.ts'

const BOOK = new URL('../replay/books/online-retail.csv', import.meta.url)
/** For combinations of servers, where the same rules hold and every message costs more. */
const LINES_SHORT = 250
const TIMEOUT_MS = 180_000
/** With the header: 66 invoices, among them some that give goods back, one of which names goods bought above. */
const LINES = 1_000

describe('a replay of the first lines of the real book comes to what the rules say', () => {
  let world: World
  let file: string

  before(async () => {
    world = await createWorld()
    file = join(world.directory, 'book.csv')
    const lines = (await readFile(BOOK, 'utf8')).split('\n').slice(0, LINES)
    await writeFile(file, `${lines.join('\n')}\n`)
  })
  after(() => world[Symbol.asyncDispose]())

  async function run(options: string[] = [], environment: Record<string, string> = {}, book = file) {
    const out = { stdout: '', stderr: '' }
    const status = await replay([book, '--json', ...options], {
      stdout: { write: (text: string) => (out.stdout += text) },
      stderr: { write: (text: string) => (out.stderr += text) },
      signal: new AbortController().signal,
      startShop: () => startShopOn({ ...process.env, ...environment }),
    })
    assert.equal(status, 0, out.stderr)
    const { events, seconds, violations, ...figures } = JSON.parse(out.stdout.trimEnd().split('\n').at(-1)!)
    assert.deepEqual(violations, [])
    assert.ok(events > 0 && seconds > 0)
    return figures
  }

  test('with as much on the shelves as is sold', async () => {
    const expected = await expectedFigures(await openBook(fileSource(file)))
    assert.ok(expected.orders.completed > 0 && expected.orders.cancelled === 0 && expected.units.returned > 0)
    assert.deepEqual(await run(), expected)
  })

  test('with so little that some orders find nothing left', async () => {
    const stock = 30
    const expected = await expectedFigures(await openBook(fileSource(file)), { stock })
    assert.ok(expected.orders.completed > 0 && expected.orders.cancelled > 0)
    assert.deepEqual(await run(['--stock', String(stock)]), expected)
  })

  const embedded = { url: 'sqlite:', skip: false as const }
  for (const brokerName of ['embedded', 'rabbitmq', 'kafka', 'redis'] as const) {
    for (const databaseName of ['SQLite', 'PostgreSQL'] as const) {
      if (brokerName === 'embedded' && databaseName === 'SQLite') continue // the two above
      test(`on ${brokerName} with ${databaseName}, the same`, { timeout: TIMEOUT_MS }, async (context) => {
        const broker = brokerName === 'embedded' ? embedded : await needs(brokerName satisfies ServerName)
        const database = databaseName === 'SQLite' ? embedded : await needs('postgres')
        if (broker.skip || database.skip) return context.skip(String(broker.skip || database.skip))
        const short = join(world.directory, 'short.csv')
        const lines = (await readFile(file, 'utf8')).split('\n').slice(0, LINES_SHORT)
        await writeFile(short, `${lines.join('\n')}\n`)
        const expected = await expectedFigures(await openBook(fileSource(short)))
        assert.ok(expected.orders.completed > 0)
        const environment = { BROKER_URL: broker.url, DATABASE_URL: database.url }
        assert.deepEqual(await run([], environment, short), expected)
      })
    }
  }
})
