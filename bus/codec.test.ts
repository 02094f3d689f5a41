/** Buses that write differently, on one broker: the embedded one, with everything on disk. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, createBus } from './bus.ts'
import type { Codec } from './codec.ts'
import { foreignEnvelopeCodec, jsonCodec } from './codecs/json.ts'
import { messagePackCodec } from './codecs/message-pack.ts'
import { PermanentError } from './errors.ts'
import { event } from './event.ts'
import type { Message } from './message.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { schemaOf } from './testing/bus-stage.ts'
import { eventually } from './testing/eventually.ts'
import { inWorld, type World } from './testing/world.ts'
import { sqliteTransport } from './transports/sqlite.ts'

type Said = { about: string; text: string }
const schema = schemaOf<Said>(({ about, text }) => (about && text ? null : 'about and text must be there'))
const noted = event<Said>('talk.noted', { version: 1, owner: 'talker', key: ({ about }) => about, schema })
const codecs: Record<string, Codec> = { json: jsonCodec, messagePack: messagePackCodec, envelope: foreignEnvelopeCodec }
const me = { by: 'Ada', why: 'a test' }

async function openBus(
  world: World,
  service: string,
  codec: Codec | undefined,
  wire: (bus: Bus) => void,
): Promise<Bus> {
  const transport = sqliteTransport(`${world.directory}/broker.db`)
  const store = sqliteStore(`${world.directory}/${service}.db`)
  const bus = createBus({ service, transport, store, events: [noted], ...(codec && { codec }) })
  wire(bus)
  await bus.start()
  world.defer(async () => {
    await bus.close()
    await store.close()
    await transport.close()
  })
  return bus
}

test('K2 every bus reads what every other wrote, without having been told', () =>
  inWorld(async (world) => {
    const heard = new Map<string, Message<Said>[]>()
    const writers = ['json', 'messagePack', 'envelope', 'default']
    for (const name of writers) {
      heard.set(name, [])
      await openBus(world, `hears_${name}`, codecs[name], (bus) =>
        bus.subscribe(noted, (_, { message }) => void heard.get(name)!.push(message)),
      )
    }
    for (const name of writers) {
      // One service, that writes differently after each of its deployments.
      const talker = await openBus(world, 'talker', codecs[name], () => {})
      await talker.publish(noted, { about: 'one', text: name }, { headers: { by: name } })
      await talker.close()
    }
    for (const messages of heard.values()) {
      await eventually(() => messages.length === writers.length, { message: 'all four are heard' })
      for (const [index, name] of writers.entries()) {
        const { data, source, key, headers, type } = messages[index]!
        assert.deepEqual(
          { data, source, key, headers, type },
          {
            data: { about: 'one', text: name },
            source: 'talker',
            key: 'one',
            headers: { by: name },
            type: 'talk.noted',
          },
        )
      }
    }
  }))

test('K2 B5 a dead letter that was written in one way is edited and redriven by a bus that writes in another', () =>
  inWorld(async (world) => {
    const heard: string[] = []
    const wire = (bus: Bus) =>
      bus.subscribe(noted, ({ text }) => {
        if (text === 'bad') throw new PermanentError('it is bad')
        heard.push(text)
      })
    const talker = await openBus(world, 'talker', messagePackCodec, () => {})
    const before = await openBus(world, 'listener', messagePackCodec, wire)
    await talker.publish(noted, { about: 'one', text: 'bad' })
    await talker.publish(noted, { about: 'one', text: 'behind it' })
    await eventually(async () => (await before.status()).subscriptions[0]!.deferred === 2, {
      message: 'the key is parked',
    })
    await before.close()
    const after = await openBus(world, 'listener', jsonCodec, wire)
    const [letter] = await after.deadLetters.list()
    assert.ok(letter!.body instanceof Uint8Array)
    await after.deadLetters.edit(letter!.id, { about: 'one', text: 'good' }, me)
    await eventually(() => heard.length === 2, { message: 'both are handled' })
    assert.deepEqual(heard, ['good', 'behind it'])
  }))

test('C11 B2 a foreign envelope has its effect once for its event id, whatever ids its broker gives', () =>
  inWorld(async (world) => {
    const heard: Message<Said>[] = []
    const bus = await openBus(world, 'listener', undefined, (opened) =>
      opened.subscribe(noted, (_, { message }) => void heard.push(message)),
    )
    const transport = sqliteTransport(`${world.directory}/broker.db`)
    await transport.open()
    world.defer(() => transport.close())
    const body = (eventId: string) =>
      JSON.stringify({
        type: 'talk.noted',
        data: { about: 'one', text: eventId },
        metadata: { eventId, timestamp: '2010-12-01T08:26:00Z', source: 'a stranger', version: '1.0' },
      })
    const wires = ['a', 'a', 'b', 'a'].map((eventId, index) => ({
      id: `given-by-the-broker-${index}`,
      type: 'talk.noted',
      key: null,
      headers: {},
      body: Buffer.from(body(eventId)),
    }))
    for (const wire of wires) await transport.publish([wire])
    await transport.publish(wires) // and the broker delivers all of them again
    await eventually(() => heard.length >= 2)
    await bus.idle()
    // The key is the contract's, since strangers say none: who looks for one finds what they said.
    assert.deepEqual(
      heard.map(({ id, key, source }) => [id, key, source]),
      [
        ['a', 'one', 'a stranger'],
        ['b', 'one', 'a stranger'],
      ],
    )
    assert.deepEqual(await bus.deadLetters.list(), [])
  }))

test('B6 an envelope that was routed as something else than it says is a dead letter', () =>
  inWorld(async (world) => {
    const bus = await openBus(world, 'listener', undefined, (opened) => opened.subscribe('#', () => {}))
    const transport = sqliteTransport(`${world.directory}/broker.db`)
    await transport.open()
    world.defer(() => transport.close())
    const metadata = { eventId: 'a', timestamp: 0, source: 's' }
    const body = JSON.stringify({ type: 'talk.shouted', data: {}, metadata })
    await transport.publish([{ id: 'a', type: 'talk.noted', key: null, headers: {}, body }])
    const letter = await eventually(async () => (await bus.deadLetters.list())[0], { message: 'a dead letter' })
    assert.match(letter!.cause, /routed as 'talk.noted' but says it is 'talk.shouted'/)
    assert.equal(String(letter!.body), body)
  }))
