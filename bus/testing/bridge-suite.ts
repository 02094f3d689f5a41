/**
 * What every bridge does, whatever the endpoint: run it for an endpoint of your own. The other side is played by the broker's
 * own client, which knows nothing of us.
 */
import assert from 'node:assert/strict'
import type { Bridge, Reading } from '../bridge.ts'
import { type Bus, createBus } from '../bus.ts'
import type { Endpoint, Note } from '../endpoint.ts'
import { event } from '../event.ts'
import { silentLog } from '../log.ts'
import { sqliteStore } from '../stores/sqlite.ts'
import { memoryTransport } from '../transports/memory.ts'
import { schemaOf } from './bus-stage.ts'
import { eventually } from './eventually.ts'
import type { Server } from './servers/server.ts'
import type { Stranger } from './strangers.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import type { World } from './world.ts'

export type BridgeSuiteOptions = SuiteRunner & {
  /** The address of a server that everybody may use; '' with `skip` where there is none. */
  url: string
  skip: string | false
  /** A server of the case's own, which is killed and started again. */
  startServer(): Promise<Server>
  endpoint(url: string, place: string): Endpoint
  stranger(url: string, place: string): Promise<Stranger>
  /** What nobody took is kept and comes again. */
  keeps: boolean
}

type Line = { text: string }
const lineSchema = schemaOf<Line>((value) => (typeof value.text === 'string' ? null : 'text must be text'))
const lineHeard = event<Line>('bridge.line_heard', { version: 1, key: () => 'one', schema: lineSchema })
const lineSaid = event<Line>('bridge.line_said', { version: 1, key: () => 'one', schema: lineSchema })

const PLACE_TIMEOUT_MS = 30_000
const soon = async <T>(check: () => T | Promise<T>, message: string) =>
  (await eventually(check, { timeoutMs: PLACE_TIMEOUT_MS, message })) as Exclude<T, false | null | undefined>

/** `line: …`; anything else is not understood. */
const read = ({ body }: Note): Reading<Line> | null => {
  const text = Buffer.from(body).toString()
  return text.startsWith('line: ') ? { data: { text: text.slice(6) } } : null
}

type Receive = Omit<NonNullable<Bridge<Line, void>['receive']>, 'read'>
const publishing: Receive = { handle: (line, { publish }) => void publish(lineHeard, line) }

/** A service with a bridge to `place`, and what its bus has heard of it. */
async function openBridge(
  world: World,
  endpoint: Endpoint,
  {
    receive = publishing,
    store = 'one',
    ...rest
  }: { receive?: Receive | null; store?: string; send?: Bridge['send'] } = {},
): Promise<{ bus: Bus; heard: string[] }> {
  const database = sqliteStore(`${world.directory}/${store}.db`)
  const bus = createBus({ service: 'bridge', transport: memoryTransport(), store: database, log: silentLog })
  const heard: string[] = []
  bus.subscribe(lineHeard, ({ text }) => void heard.push(text), { name: 'listener' })
  bus.bridge<Line>({
    name: 'lines',
    endpoint,
    ...(receive && { receive: { ...receive, read } }),
    ...rest,
  })
  await bus.start()
  world.defer(async () => {
    await bus.close()
    await database.close()
  })
  return { bus, heard }
}

const sending: { send: NonNullable<Bridge['send']>; receive: null } = {
  receive: null,
  send: { topic: lineSaid, write: ({ data }) => ({ body: `line: ${data.text}` }) },
}
const lines = (count: number) => Array.from({ length: count }, (_, index) => `${index}`)
const ready = (bus: Bus) => soon(() => bus.bridges()[0]!.ready, 'the bridge is connected')

export function bridgeSuite(name: string, options: BridgeSuiteOptions): void {
  const { url, skip, endpoint, stranger, startServer, keeps } = options
  const register = caseRegistrar(name, options)
  const bridgeCase = (title: string, run: (world: World) => Promise<void>) =>
    register(title, async (world, context) => (skip ? context.skip(skip) : run(world)))
  const strangerIn = async (world: World, at = url) => {
    const they = await stranger(at, world.name)
    world.defer(() => they[Symbol.asyncDispose]())
    return they
  }

  bridgeCase('G1 what a stranger says is an event of ours, in order, and says where it came from', async (world) => {
    const sources: string[] = []
    const handle: Receive['handle'] = (line, { publish, message }) => {
      sources.push(`${message.source} ${message.type} ${message.causationId}`)
      publish(lineHeard, line)
    }
    const at = endpoint(url, world.name)
    const { bus, heard } = await openBridge(world, at, { receive: { handle, prefetch: 1 } })
    const they = await strangerIn(world)
    for (const text of lines(5)) await they.say(`line: ${text}`)
    await soon(() => heard.length >= 5, 'five lines are heard')
    assert.deepEqual(heard, lines(5))
    assert.deepEqual(new Set(sources), new Set([`${at.name} lines null`]))
    assert.deepEqual(bus.bridges(), [{ name: 'lines', endpoint: at.name, ready: true, reason: null }])
  })

  bridgeCase(
    'G1 a handler that fails is tried again, and given up as a dead letter that can be redriven',
    async (world) => {
      let broken = true
      const { bus, heard } = await openBridge(world, endpoint(url, world.name), {
        receive: {
          attemptsMax: 2,
          backoff: { firstMs: 1, jitter: false },
          handle(line, { publish, attempt }) {
            if (line.text === 'bad' && broken) throw new Error(`try ${attempt}`)
            publish(lineHeard, line)
          },
        },
      })
      const they = await strangerIn(world)
      await they.say('line: bad')
      await they.say('line: good')
      const letter = await soon(async () => (await bus.deadLetters.list())[0], 'it is given up')
      await soon(() => heard.includes('good'), 'the other one is heard')
      assert.deepEqual([letter.subscription, letter.cause, letter.attempts], ['lines', 'try 2', 2])
      broken = false
      assert.deepEqual(await bus.deadLetters.rehearse(letter.id), {
        outcome: 'would_succeed',
        publications: [{ type: lineHeard.type, data: { text: 'bad' } }],
      })
      assert.equal(await bus.deadLetters.redrive(letter.id, { by: 'Ada', why: 'mended' }), 1)
      await soon(() => heard.includes('bad'), 'it is heard after all')
    },
  )

  bridgeCase('G3 B6 what is not understood is a dead letter with its bytes; edited, it is', async (world) => {
    const { bus, heard } = await openBridge(world, endpoint(url, world.name))
    const they = await strangerIn(world)
    const bytes = Uint8Array.of(0xff, 0x00, 0x6c)
    await they.say('nonsense')
    await they.say(bytes)
    await they.say('line: after')
    await soon(() => heard.includes('after'), 'what comes after it is heard')
    const letters = await soon(async () => {
      const all = await bus.deadLetters.list()
      return all.length === 2 ? all : null
    }, 'two dead letters')
    assert.deepEqual(new Set(letters.map(({ code }) => code)), new Set(['undecodable']))
    const bodies = letters.map(({ body }) => Buffer.from(body as Uint8Array).toString('hex')).sort()
    assert.deepEqual(bodies, [Buffer.from('nonsense'), Buffer.from(bytes)].map((one) => one.toString('hex')).sort())
    const text = letters.find(({ body }) => Buffer.from(body as Uint8Array).toString() === 'nonsense')!
    assert.match(text.cause, /'lines' does not understand what came from /)
    await assert.rejects(bus.deadLetters.edit(text.id, 'still nonsense', { by: 'Ada', why: 'a try' }), {
      code: 'invalid_payload',
    })
    await bus.deadLetters.edit(text.id, 'line: sense', { by: 'Ada', why: 'they meant this' })
    await soon(() => heard.includes('sense'), 'it is heard as edited')
    assert.deepEqual(
      (await bus.deadLetters.acts(text.id)).map(({ act, detail }) => [act, detail]),
      [
        ['edit', 'nonsense'],
        ['redrive', ''],
      ],
    )
  })

  bridgeCase('G4 what we say reaches a stranger, in the order of its key', async (world) => {
    const { bus } = await openBridge(world, endpoint(url, world.name), sending)
    const they = await strangerIn(world)
    await they.listen()
    for (const text of lines(20)) await bus.publish(lineSaid, { text })
    await soon(() => they.heard.length >= 20, 'twenty lines arrive')
    assert.deepEqual(
      they.heard,
      lines(20).map((text) => `line: ${text}`),
    )
  })

  bridgeCase('G4 Q1 a broker that is away at the start is waited for, and what we say waits for it', async (world) => {
    const server = await startServer()
    world.defer(() => server[Symbol.asyncDispose]())
    await server.kill()
    const { bus } = await openBridge(world, endpoint(server.url, world.name), sending)
    for (const text of lines(3)) await bus.publish(lineSaid, { text })
    const [state] = bus.bridges()
    assert.equal(state!.ready, false)
    assert.match(state!.reason!, /is away .*tried again by itself/)
    assert.equal(bus.ready(), true, 'our own work goes on')
    await server.start()
    if (keeps) await ready(bus)
    const they = await strangerIn(world, server.url)
    await they.listen()
    await bus.publish(lineSaid, { text: 'late' })
    await soon(() => they.heard.includes('line: late'), 'the last line arrives')
    if (keeps)
      assert.deepEqual(
        they.heard.filter((text) => text !== 'line: late'),
        lines(3).map((text) => `line: ${text}`),
      )
    assert.deepEqual(await bus.deadLetters.list(), [])
  })

  bridgeCase('Q2 after a broker was killed and came back, both ways go on by themselves', async (world) => {
    const server = await startServer()
    world.defer(() => server[Symbol.asyncDispose]())
    const { bus, heard } = await openBridge(world, endpoint(server.url, world.name))
    const before = await stranger(server.url, world.name)
    await before.say('line: before')
    await soon(() => heard.includes('before'), 'the first line is heard')
    await before[Symbol.asyncDispose]()
    await server.kill()
    await soon(() => !bus.bridges()[0]!.ready, 'the loss is noticed')
    await server.start()
    await ready(bus)
    const after = await strangerIn(world, server.url)
    await after.say('line: after')
    await soon(() => heard.includes('after'), 'what is said after it is heard')
    assert.equal(heard.filter((text) => text === 'after').length, 1)
  })

  if (!keeps) return

  bridgeCase('G1 B2 what is said while nobody runs is handled when somebody does, once', async (world) => {
    const first = await openBridge(world, endpoint(url, world.name))
    const they = await strangerIn(world)
    await they.say('line: 0')
    await soon(() => first.heard.length === 1, 'the first line is heard')
    await first.bus.close()
    await they.say('line: 1')
    await they.say('line: 2')
    const second = await openBridge(world, endpoint(url, world.name))
    await soon(() => second.heard.length >= 2, 'the others are heard')
    assert.deepEqual([...first.heard, ...second.heard], lines(3))
  })

  bridgeCase('G1 B12 what was in hand and not committed when a process ended comes again', async (world) => {
    const begun = Promise.withResolvers<void>()
    const at = endpoint(url, world.name)
    await openBridge(world, at, {
      store: 'dies',
      receive: {
        prefetch: 1,
        handle: {
          outside(_, { signal }) {
            begun.resolve()
            return new Promise<void>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
          },
          handle: () => assert.fail('it never comes so far'),
        },
        handlerTimeoutMs: 3_000,
        attemptsMax: 1,
      },
    })
    const they = await strangerIn(world)
    await they.say('line: held')
    await begun.promise
    await at.close() // as when the process dies in the middle of its work: the connection ends, and nothing is settled
    const second = await openBridge(world, endpoint(url, world.name), { store: 'lives' })
    await soon(() => second.heard.includes('held'), 'another process gets it')
  })
}
