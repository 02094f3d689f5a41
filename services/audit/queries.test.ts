import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { type Message, type Reader, sqliteStore } from '@shopsphere/bus'
import { causesOf, effectsOf, eventsOfOrder, findEvent, keep, type Position, search } from './queries.ts'

type Kept = Partial<Message> & { id: string }

const message = (kept: Kept): Message => ({
  type: 'order.placed',
  version: 1,
  source: 'order',
  time: 1_000,
  key: 'ord_1',
  correlationId: 'request-1',
  causationId: null,
  traceparent: null,
  headers: {},
  data: { of: kept.id },
  ...kept,
})

/** An audit log that holds `messages`. */
async function createLog(messages: readonly Kept[]) {
  const store = sqliteStore(':memory:')
  await store.open()
  await store.migrate('audit', await readFile(new URL('./schema.sql', import.meta.url), 'utf8'))
  await store.transaction(async (tx) => {
    for (const each of messages) await keep(tx, message(each), each.version ?? 1)
  })
  const read = <T>(work: (reader: Reader) => Promise<T>) => store.read(work)
  return { store, read, [Symbol.asyncDispose]: () => store.close() }
}

const ids = (events: readonly { id: string }[]) => events.map(({ id }) => id).join(' ')

test('an event is kept whole, and a repeat changes nothing', async () => {
  await using log = await createLog([{ id: 'm1' }, { id: 'm1', data: { of: 'somebody else' } }])
  assert.deepEqual(await log.read((reader) => findEvent(reader, 'm1')), {
    id: 'm1',
    type: 'order.placed',
    source: 'order',
    time: 1_000,
    key: 'ord_1',
    correlationId: 'request-1',
    causationId: null,
    traceparent: null,
    version: 1,
    data: { of: 'm1' },
  })
  assert.equal(await log.read((reader) => findEvent(reader, 'm2')), undefined)
})

const thread: Kept[] = [
  { id: 'a', time: 1 },
  { id: 'b', time: 2, causationId: 'a', type: 'inventory.reserved', source: 'inventory' },
  { id: 'c', time: 3, causationId: 'b', type: 'inventory.level_changed', source: 'inventory', key: 'sku' },
  { id: 'd', time: 4, correlationId: 'request-2', key: 'ord_2' },
  { id: 'e', time: 5, causationId: 'd', correlationId: 'request-2', key: 'ord_2', type: 'order.cancelled' },
]

test('search finds by type, beginning of a type, key, correlation id and time, newest first', async () => {
  await using log = await createLog(thread)
  const find = async (filter: Parameters<typeof search>[1]) =>
    ids((await log.read((reader) => search(reader, filter, { before: undefined, limit: 10 }))).events)
  assert.equal(await find({}), 'e d c b a')
  assert.equal(await find({ type: '#' }), 'e d c b a')
  assert.equal(await find({ type: 'inventory.reserved' }), 'b')
  assert.equal(await find({ type: 'inventory.*' }), 'c b')
  assert.equal(await find({ type: 'inventory.level' }), '')
  assert.equal(await find({ type: 'inventory_level.changed' }), '')
  assert.equal(await find({ key: 'ord_1' }), 'b a')
  assert.equal(await find({ key: 'ord_1', type: 'order.placed' }), 'a')
  assert.equal(await find({ correlationId: 'request-1' }), 'c b a')
  assert.equal(await find({ correlationId: 'request-1', type: 'inventory.*', key: 'sku' }), 'c')
  assert.equal(await find({ from: 2, to: 4 }), 'c b')
  assert.equal(await find({ correlationId: 'request-1', from: 2, to: 3 }), 'b')
  assert.equal(await find({ key: 'ord_2', from: 5 }), 'e')
})

for (const filter of [{}, { key: 'ord_1' }, { correlationId: 'request-1' }, { type: 'order.*' }]) {
  test(`pages by ${JSON.stringify(filter)} neither repeat nor hide an event, also among equal times`, async () => {
    const many = Array.from({ length: 25 }, (_, index) => ({
      id: `m${String(index).padStart(2, '0')}`,
      time: 100 + (index >> 2),
    }))
    await using log = await createLog(many)
    const seen: string[] = []
    let before: Position | undefined
    do {
      const found = await log.read((reader) => search(reader, filter, { before, limit: 4 }))
      seen.push(...found.events.map(({ id }) => id))
      before = found.next ?? undefined
    } while (before)
    assert.deepEqual(seen, many.map(({ id }) => id).toReversed())
  })
}

test('a rare type is searched a stretch at a time: a page may be empty and lead on', async () => {
  const many = Array.from({ length: 6_000 }, (_, index) => ({ id: `m${String(index).padStart(4, '0')}`, time: index }))
  await using log = await createLog([...many, { id: 'rare', time: 0, type: 'payment.disputed' }])
  const find = (before?: Position) =>
    log.read((reader) => search(reader, { type: 'payment.disputed' }, { before, limit: 4 }))
  const first = await find()
  assert.deepEqual(first.events, [])
  assert.ok(first.next)
  const second = await find(first.next)
  assert.equal(ids(second.events), 'rare')
  assert.equal(second.next, null)
})

test('searches use an index and sort no more than one key or thread', async () => {
  await using log = await createLog([])
  const plans: string[] = []
  const explaining: Reader = {
    dialect: 'sqlite',
    get: () => undefined,
    all: async (query) => {
      const strings = Object.assign([...query.strings], { raw: [] })
      strings[0] = `explain query plan ${strings[0]}`
      const rows = await log.read(async (reader) => reader.all<{ detail: string }>({ ...query, strings }))
      plans.push(rows.map(({ detail }) => detail).join('; '))
      return []
    },
  }
  const page = { before: undefined, limit: 10 }
  await search(explaining, { key: 'ord_1' }, page)
  await search(explaining, { correlationId: 'request-1' }, page)
  await search(explaining, { type: 'order.*' }, page)
  await effectsOf(explaining, [{ id: 'a', time: 1, causationId: null }])
  assert.match(plans[0]!, /audit_event_key/)
  assert.match(plans[1]!, /audit_event_thread/)
  assert.match(plans[2]!, /audit_event_time/)
  assert.doesNotMatch(plans[2]!, /TEMP B-TREE/)
  assert.match(plans[3]!, /audit_event_cause/)
})

test('effects go all the way down; causes all the way up, as far as they are known', async () => {
  await using log = await createLog([...thread, { id: 'f', causationId: 'lost', time: 9 }])
  const [a, c, f] = await log.read((reader) =>
    Promise.all(['a', 'c', 'f'].map(async (id) => (await findEvent(reader, id))!)),
  )
  assert.equal(ids((await log.read((reader) => effectsOf(reader, [a!]))).events), 'b c')
  assert.equal(ids(await log.read((reader) => causesOf(reader, c!))), 'a b')
  assert.deepEqual(await log.read((reader) => causesOf(reader, f!)), [])
})

test('an order is all that is keyed by it, what led there and what came of it elsewhere', async () => {
  await using log = await createLog([
    { id: 'cart', time: 0, key: 'crt_1', type: 'cart.checked_out', source: 'cart' },
    { id: 'reminder', time: 0, key: 'crt_1', type: 'cart.updated', source: 'cart' },
    { ...thread[0]!, causationId: 'cart' },
    ...thread.slice(1),
  ])
  const order = await log.read((reader) => eventsOfOrder(reader, 'ord_1'))
  assert.deepEqual(order.events.map(({ id }) => id).sort(), ['a', 'b', 'c', 'cart'])
  assert.equal(order.complete, true)
  assert.deepEqual((await log.read((reader) => eventsOfOrder(reader, 'ord_9'))).events, [])
})

test('a thread without end is cut, and says so', async () => {
  const effects = Array.from({ length: 2_100 }, (_, index) => ({ id: `m${index}`, time: 2, causationId: 'root' }))
  await using log = await createLog([{ id: 'root' }, ...effects])
  const found = await log.read((reader) => effectsOf(reader, [message({ id: 'root' })]))
  assert.equal(found.events.length, 2_000)
  assert.equal(found.complete, false)
  assert.equal((await log.read((reader) => eventsOfOrder(reader, 'ord_1'))).complete, false)
})
