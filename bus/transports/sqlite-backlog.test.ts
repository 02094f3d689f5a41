import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../clock.ts'
import type { WireMessage } from '../message.ts'
import { consume } from '../testing/inbox.ts'
import { virtualClock } from '../testing/virtual-clock.ts'
import { inWorld } from '../testing/world.ts'
import type { Binding, Delivery, Transport } from '../transport.ts'
import { sqliteTransport } from './sqlite.ts'

const LEASE_MS = 5_000
const bindings: Readonly<Record<string, Binding>> = {
  all: { kind: 'fanout' },
  orders: { kind: 'topic', pattern: 'order.*' },
  gifts: { kind: 'headers', match: 'all', headers: { gift: 'yes' } },
  never: { kind: 'direct', type: 'never.said' },
}
const takes: Readonly<Record<string, (message: WireMessage) => boolean>> = {
  all: () => true,
  orders: ({ type }) => type === 'order.placed',
  gifts: ({ headers }) => headers.gift === 'yes',
  never: () => false,
}

test('B10 the backlog is what a plain count finds, over many blocks of the log and whatever is finished in which order', () =>
  inWorld(async (world) => {
    const random = seededRandom(11)
    const clock = virtualClock()
    const path = join(world.directory, 'broker.db')
    const open = async (): Promise<Transport> => {
      const transport = sqliteTransport(path, { clock, leaseMs: LEASE_MS })
      world.defer(() => transport.close())
      await transport.open()
      return transport
    }
    const transport = await open()
    const looking = await open()
    for (const [name, binding] of Object.entries(bindings))
      await transport.declare({ name, bindings: [binding], from: 'beginning' })
    const published: { message: WireMessage; at: number }[] = []
    const publish = async (count: number) => {
      const messages = Array.from({ length: count }, (): WireMessage => {
        const n = published.length
        const [type, gift] = [random() < 0.3 ? 'order.placed' : 'cart.changed', random() < 0.05]
        const message: WireMessage = {
          id: `id-${n}`,
          type,
          key: `k${n % 50}`,
          headers: gift ? { gift: 'yes' } : {},
          body: '{}',
        }
        published.push({ message, at: clock.now() })
        return message
      })
      await transport.publish(messages)
    }
    const finished = new Map(Object.keys(bindings).map((name) => [name, new Set<string>()]))
    const plain = (name: string) => {
      const waiting = published.filter(({ message }) => takes[name]!(message) && !finished.get(name)!.has(message.id))
      return { waiting: waiting.length, oldestAt: waiting[0]?.at ?? null }
    }
    const compare = async (place: Transport, what: string) => {
      for (const name of Object.keys(bindings))
        assert.deepEqual(await place.backlog(name), plain(name), `${name} ${what}`)
    }

    for (const count of [0, 1, 1_022, 1, 1, 3_000, 700]) {
      await publish(count)
      await clock.advance(1_000)
      await compare(transport, `of ${published.length}`)
      await compare(looking, `of ${published.length}, seen by another process`)
    }

    const inboxes = new Map(
      await Promise.all(
        ['all', 'orders', 'gifts'].map(
          async (name) => [name, await consume(transport, name, { ack: false, windowMax: 600 })] as const,
        ),
      ),
    )
    const hand = new Map([...inboxes.keys()].map((name) => [name, [] as Delivery[]]))
    const taken = new Map([...inboxes.keys()].map((name) => [name, 0]))
    for (let round = 0; round < 30; round++) {
      if (round % 10 === 3) await publish(900)
      for (const [name, inbox] of inboxes) {
        const mine = hand.get(name)!
        if (mine.length < 100)
          await inbox.until(
            Math.min(taken.get(name)! + 1, published.filter(({ message }) => takes[name]!(message)).length),
          )
        mine.push(...inbox.deliveries.slice(taken.get(name)!))
        taken.set(name, inbox.deliveries.length)
        // Any of them but the first, which stays unfinished for a while.
        const done = mine.filter((_, index) => (index > 0 || round % 7 === 6) && random() < 0.7)
        hand.set(
          name,
          mine.filter((delivery) => !done.includes(delivery)),
        )
        for (const { message } of done) finished.get(name)!.add(message.id)
        inbox.consumer.ack(done)
      }
      await compare(transport, `in round ${round}`)
      await clock.advance(30)
    }
    for (const [name, inbox] of inboxes) {
      const all = published.filter(({ message }) => takes[name]!(message))
      while (finished.get(name)!.size < all.length) {
        await inbox.until(Math.min(all.length, finished.get(name)!.size + 1))
        inbox.consumer.ack(inbox.deliveries)
        for (const { message } of inbox.deliveries) finished.get(name)!.add(message.id)
        await clock.advance(30)
      }
    }
    await compare(transport, 'at the end')
    for (const { consumer } of inboxes.values()) await consumer.close() // writes down how far they are
    await compare(looking, 'at the end, seen by another process')
  }))

test('B10 a subscription that comes again with other bindings, or from the beginning, is counted anew', () =>
  inWorld(async (world) => {
    const transport = sqliteTransport(join(world.directory, 'broker.db'))
    world.defer(() => transport.close())
    await transport.open()
    const declare = (binding: Binding) => transport.declare({ name: 'one', bindings: [binding], from: 'beginning' })
    await declare(bindings.orders!)
    const messages = Array.from({ length: 3_000 }, (_, n): WireMessage => {
      return { id: `id-${n}`, type: n % 3 ? 'cart.changed' : 'order.placed', key: `k${n % 9}`, headers: {}, body: '{}' }
    })
    await transport.publish(messages)
    assert.equal((await transport.backlog('one')).waiting, 1_000)
    await declare(bindings.all!)
    assert.equal((await transport.backlog('one')).waiting, 3_000)
    await transport.remove('one')
    await assert.rejects(transport.backlog('one'), { code: 'not_found' })
    await declare(bindings.orders!)
    assert.equal((await transport.backlog('one')).waiting, 1_000)
  }))
