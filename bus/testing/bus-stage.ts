/** Where the cases of bus-suite.ts play: a shop that says things, a clerk that hears them, on one virtual clock. */
import assert from 'node:assert/strict'
import { type Bus, type BusOptions, createBus } from '../bus.ts'
import { type Clock, type Random, seededRandom } from '../clock.ts'
import { jsonCodec } from '../codecs/json.ts'
import type { HandlerContext } from '../consumer.ts'
import { BusError, PermanentError, UnavailableError } from '../errors.ts'
import { type EventType, event, type Schema } from '../event.ts'
import { silentLog } from '../log.ts'
import { idMaker, type Message, type WireMessage } from '../message.ts'
import { sql } from '../sql.ts'
import type { Store, Tx } from '../store.ts'
import type { Transport } from '../transport.ts'
import { eventually } from './eventually.ts'
import { FACT_TIMEOUT_MS } from './inbox.ts'
import type { StoreCapabilities } from './store-suite.ts'
import { VIRTUAL_START_MS, type VirtualClock, virtualClock } from './virtual-clock.ts'
import { Answers } from './waiting-store.ts'
import type { World } from './world.ts'

export type BusSuiteOptions = {
  /** Another transport on the world's broker, as another process would make it; it need not be open yet. */
  openTransport: (world: World, options: { clock: Clock }) => Transport | Promise<Transport>
  /** A store on the service's own database in this world; it need not be open yet. */
  openStore: (world: World, service: string, options: { clock: Clock }) => Store | Promise<Store>
  /** What the store can; see `storeSuite`. Where it lives in one process only, that one store serves all of the service's. */
  storeCapabilities?: Partial<StoreCapabilities>
}

/** What is said: `about` is the key. */
export type Saying = { about: string | null; number: number; note?: string }

const sayingSchema = schemaOf<Saying>(({ about, number, note }) => {
  if (about !== null && typeof about !== 'string') return 'about must be a string or null'
  if (!Number.isSafeInteger(number)) return 'number must be a whole number'
  return note === undefined || typeof note === 'string' ? null : 'note must be a string'
})

export const said = saying('shop.said')
export const shouted = saying('shop.shouted')
export const answered = saying('clerk.answered')
export const suiteEvents: readonly EventType[] = [said, shouted, answered]

export function saying(
  type: string,
  version = 1,
  upcast: NonNullable<Parameters<typeof event<Saying>>[1]['upcast']> = {},
): EventType<Saying> {
  return event<Saying>(type, { version, upcast, key: ({ about }) => about, schema: sayingSchema })
}

/** A Standard Schema by hand: this package depends on no validation library. */
export function schemaOf<Data>(
  problemOf: (value: any) => string | null,
  output = (value: any): Data => value,
): Schema<Data> {
  return {
    '~standard': {
      version: 1,
      vendor: 'bus-suite',
      validate(value) {
        const message = typeof value === 'object' && value !== null ? problemOf(value) : 'must be an object'
        return message === null ? { value: output(value) } : { issues: [{ message }] }
      },
    },
  }
}

/** How late a thing planned for a time may come, in virtual milliseconds. */
export const LATE_MAX_MS = 500
/** Each try of a failing message 1 s, then 2 s, 4 s … after the one before; no chance in it. */
export const exactBackoff = { firstMs: 1_000, factor: 2, maxMs: 60_000, jitter: false }
export const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
/** Who acts on dead letters here. */
export const me = { by: 'Ada', why: 'a test' }

/** A transport may wait a little for more to send or to write down: after so many looks time moves on by small steps. */
const GATHERING_LOOKS = 20
const GATHERING_STEP_MS = 5
/** So many looks apart, because a wake-up from another thread or process takes real time and must not cost virtual time. */
const GATHERING_PAUSE = 10
/** Real milliseconds after which time moves on although a question is not answered: what it waits for may need time. */
const ANSWER_MAX_MS = 50
/** Real milliseconds that cleaning up may take where a case went wrong. */
const CLEAN_UP_MAX_MS = 3_000

const HEARD_DDL = `create table heard (turn bigint primary key, process text, subscription text, message_id text, type text,
  about text, number bigint, note text, attempt bigint, at bigint)`

/** One effect of one handler. */
export type Heard = {
  turn: number
  /** Which process it was, counted from 1 in the order of starting. */
  process: string
  subscription: string
  message_id: string
  type: string
  about: string | null
  number: number
  note: string | null
  attempt: number
  at: number
}

export type ProcessOptions = Partial<Omit<BusOptions, 'service' | 'store' | 'transport'>> & {
  /** Stands between the bus and its broker. */
  through?: (transport: Transport) => Transport
  /** Give false to start it oneself. */
  start?: boolean
}

/** A process of a service: its bus, and what that stands on. */
export type Process = {
  readonly bus: Bus
  readonly store: Store
  readonly transport: Transport
  /** Closes everything, as a process that ends in good order. */
  stop(): Promise<void>
}

/** Registers a case of the suite; `needs` names what the store must be able to do, or the case says nothing. */
export type Check = (title: string, run: (stage: Stage) => Promise<void>, needs?: 'acrossProcesses') => void

/** Subscribes, and plans what is regular. */
export type SetUp = (bus: Bus, effects: Effects) => void

export type Effects = {
  /** A handler that writes what it hears; `inside` runs before, in the same transaction. */
  hears(
    inside?: (data: Saying, context: HandlerContext<Saying>) => unknown,
    subscription?: string,
  ): (data: Saying, context: HandlerContext<Saying>) => Promise<void>
}

export class Stage {
  readonly world: World
  readonly #answers = new Answers()
  readonly clock: VirtualClock = virtualClock(VIRTUAL_START_MS, { settle: this.#answers.settle })
  readonly random: Random = seededRandom(4711)
  readonly #options: BusSuiteOptions
  readonly #running = new Set<Bus>()
  readonly #newId = idMaker(this.clock, this.random)
  #processes = 0
  #turn = 0

  constructor(world: World, options: BusSuiteOptions) {
    this.world = world
    this.#options = options
  }

  get storesAreShared(): boolean {
    return this.#options.storeCapabilities?.acrossProcesses ?? true
  }

  /** Starts a process of `service`; `setUp` subscribes. */
  async run(service: string, setUp: SetUp, options: ProcessOptions = {}): Promise<Process> {
    const { through = (transport) => transport, start = true, ...busOptions } = options
    const process = `process ${++this.#processes}`
    const store = await this.#storeOf(service)
    const inner = await this.#options.openTransport(this.world, { clock: this.clock })
    this.world.defer(() => inner.close())
    const transport = through(inner)
    const { clock, random } = this
    const bus = createBus({
      service,
      store,
      transport,
      clock,
      random,
      events: suiteEvents,
      log: silentLog,
      ...busOptions,
    })
    setUp(bus, { hears: (inside, subscription = service) => this.#handler(process, subscription, inside) })

    let stopping: Promise<void> | undefined
    const stop = () => {
      stopping ??= (async () => {
        this.#running.delete(bus)
        await this.whileTimePasses(bus.close())
        await transport.close()
        if (this.storesAreShared) await orGiveUp(store.close(), `the store of ${service} did not close`)
      })()
      return stopping
    }
    this.world.defer(stop)
    if (start) {
      await bus.start()
      this.#running.add(bus)
    }
    return { bus, store, transport, stop }
  }

  /** The bus of a process that was started by hand takes part in `quiet`. */
  watch(bus: Bus): void {
    this.#running.add(bus)
  }

  async #storeOf(service: string): Promise<Store> {
    const make = async () => {
      const opened = await this.#options.openStore(this.world, service, { clock: this.clock })
      // An embedded one answers at once, or waits for a transaction that only time ends.
      const store = opened.dialect === 'sqlite' ? opened : this.#answers.awaitedOf(opened)
      this.world.defer(() => orGiveUp(store.close(), `the store of ${service} did not close`))
      await store.open()
      await store.migrate('heard', HEARD_DDL)
      return store
    }
    return this.storesAreShared ? make() : this.world.share(`store of ${service}`, make)
  }

  #handler(process: string, subscription: string, inside: Parameters<Effects['hears']>[0] = () => {}) {
    return async (data: Saying, context: HandlerContext<Saying>) => {
      await inside(data, context)
      const { message, attempt, tx } = context
      const { about, number, note = null } = data
      const row = { turn: ++this.#turn, process, subscription, message_id: message.id, type: message.type }
      await tx.insert('heard', [{ ...row, about, number, note, attempt, at: this.clock.now() }])
    }
  }

  /** A row of state beside what is published. */
  async note(tx: Tx, number: number): Promise<void> {
    await tx.insert('heard', [{ turn: ++this.#turn, number }])
  }

  /** What was heard in this process's database, in order, as it is committed. */
  async heard({ store }: Process, subscription?: string): Promise<Heard[]> {
    const rows = await store.read((reader) => reader.all<Heard>(sql`select * from heard order by turn`))
    return rows
      .map((row) => ({ ...row }))
      .filter((row) => subscription === undefined || row.subscription === subscription)
  }

  async numbers(process: Process, about?: string, subscription?: string): Promise<number[]> {
    const rows = await this.heard(process, subscription)
    return rows.filter((row) => about === undefined || row.about === about).map(({ number }) => number)
  }

  /** Lets everything that can be done now be done. Time stands, unless a transport needs a moment to gather. */
  async quiet(): Promise<void> {
    let looks = 0
    let idleInARow = 0
    const atRest = async () => {
      await this.clock.settle()
      if (++looks > GATHERING_LOOKS && looks % GATHERING_PAUSE === 0) await this.clock.advance(GATHERING_STEP_MS)
      // Twice: while the last one was looked at, it may have said something to the first.
      idleInARow = (await this.#allIdle()) ? idleInARow + 1 : 0
      return idleInARow === 2
    }
    const message = 'the buses did not come to rest'
    await eventually(atRest, { timeoutMs: FACT_TIMEOUT_MS, intervalMs: 1, message })
  }

  async #allIdle(): Promise<boolean> {
    for (const bus of this.#running) if (!(await bus.isIdle())) return false
    return true
  }

  /** Moves time on until the fact holds, also while the question itself is waiting for time to pass. */
  async until(fact: () => boolean | Promise<boolean>, stepMs = 100): Promise<void> {
    let asking: Promise<boolean> | undefined
    const look = async () => {
      await this.clock.settle()
      asking ??= Promise.resolve(fact()).finally(() => {
        asking = undefined
      })
      if (await Promise.race([asking, noAnswer()])) return true
      await this.clock.advance(stepMs)
      return false
    }
    const message = `the fact ${fact} did not come true as time moved on`
    await eventually(look, { timeoutMs: FACT_TIMEOUT_MS, intervalMs: 1, message })
  }

  /** Moves time on from timer to timer, and lets everything come to rest at each: real wake-ups take real time. */
  async advance(ms: number): Promise<void> {
    const target = this.clock.now() + ms
    await this.quiet()
    for (let next = this.clock.nextAt(); next !== null && next <= target; next = this.clock.nextAt()) {
      await this.clock.advance(Math.max(0, next - this.clock.now()))
      await this.quiet()
    }
    await this.clock.advance(Math.max(0, target - this.clock.now()))
    await this.quiet()
  }

  /** The fact comes true although time stands, but for a moment in which a transport may gather. */
  async untilAwake(fact: () => boolean | Promise<boolean>): Promise<void> {
    let looks = 0
    const look = async () => {
      await this.clock.settle()
      if (++looks <= GATHERING_LOOKS) await this.clock.advance(GATHERING_STEP_MS)
      return fact()
    }
    const message = `the fact ${fact} did not come true while time stood`
    await eventually(look, { timeoutMs: FACT_TIMEOUT_MS, intervalMs: 1, message })
  }

  async whileTimePasses<T>(work: Promise<T>): Promise<T> {
    let done = false
    const settled = work.finally(() => {
      done = true
    })
    settled.catch(() => {})
    await this.until(() => done)
    return settled
  }

  /** Puts a message on the broker as another program would: nothing of it is checked. */
  async publishRaw(
    { transport }: Process,
    message: Partial<WireMessage> & Pick<WireMessage, 'type' | 'body'>,
  ): Promise<string> {
    const id = this.#newId()
    await transport.publish([{ id, key: null, headers: {}, ...message }])
    return id
  }

  /** A whole message as a bus would have encoded it, but for what is given. */
  encoded(event: EventType, data: unknown, parts: Partial<Message> = {}): WireMessage {
    const id = this.#newId()
    const key = (data as Partial<Saying> | null)?.about ?? null
    const attributes = {
      id,
      type: event.type,
      version: event.version,
      source: event.owner,
      time: this.clock.now(),
      key,
    }
    const origin = { correlationId: id, causationId: null, traceparent: null, headers: {} }
    const message: Message = { ...attributes, ...origin, data, ...parts }
    return {
      id: message.id,
      type: message.type,
      key: message.key,
      headers: message.headers,
      body: jsonCodec.encode(message),
    }
  }
}

/** The transport with some of its functions replaced. */
export function altered(inner: Transport, changes: Partial<Transport>): Transport {
  return {
    name: inner.name,
    capabilities: inner.capabilities,
    open: () => inner.open(),
    state: () => inner.state(),
    declare: (subscription) => inner.declare(subscription),
    publish: (messages) => inner.publish(messages),
    consume: (name, options) => inner.consume(name, options),
    backlog: (name) => inner.backlog(name),
    subscriptions: () => inner.subscriptions(),
    remove: (name) => inner.remove(name),
    close: () => inner.close(),
    ...changes,
  }
}

async function noAnswer(): Promise<false> {
  await new Promise((resolve) => setTimeout(resolve, ANSWER_MAX_MS).unref())
  return false
}

async function orGiveUp(work: Promise<void>, message: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${message} within ${CLEAN_UP_MAX_MS} ms`)), CLEAN_UP_MAX_MS)
  })
  await Promise.race([work, late]).finally(() => clearTimeout(timer))
}

/** Every key's numbers grow by one from 1 to `countPerKey`. */
export function assertInOrder(heard: readonly Heard[], keys: readonly string[], countPerKey: number): void {
  const expected = Array.from({ length: countPerKey }, (_, index) => index + 1)
  const byKey = Map.groupBy(heard, ({ about }) => about)
  for (const key of keys) {
    const numbers = byKey.get(key)?.map(({ number }) => number) ?? []
    assert.deepEqual(numbers, expected, `key ${key} lost, doubled or disordered something`)
  }
  assert.equal(heard.length, keys.length * countPerKey)
}

export function keysOf(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `key-${index}`)
}

/** Some turns of the event loop, at most `turnsMax`, as chance decides. */
export async function randomTurns(random: Random, turnsMax: number): Promise<void> {
  for (let turn = Math.floor(random() * (turnsMax + 1)); turn > 0; turn--) {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** A clerk who has handled 1 and 2 of key 'free' and 1 of 'stuck', and whose 2 of 'stuck' is a dead letter until `mend`. */
export async function withDeadLetter(stage: Stage, afterDeadLetter: 'park' | 'skip') {
  let broken = true
  const setUp: SetUp = (bus, { hears }) => {
    const handler = hears(({ about, number }) => {
      if (broken && about === 'stuck' && number === 2) throw new PermanentError('broken')
    })
    bus.subscribe(said, handler, { afterDeadLetter })
  }
  const clerk: Process = await stage.run('clerk', setUp)
  const shop: Process = await stage.run('shop', () => {})
  for (const number of [1, 2]) for (const about of ['stuck', 'free']) await shop.bus.publish(said, { about, number })
  await stage.quiet()
  assert.equal((await clerk.bus.deadLetters.list()).length, 1)
  const mend = () => {
    broken = false
  }
  return { clerk, shop, setUp, mend }
}

/** A broker that can be away for publishers. */
export function interrupted(inner: Transport, broker: { away: boolean; refused: number }): Transport {
  return altered(inner, {
    async publish(messages) {
      if (broker.away) {
        broker.refused++
        throw new UnavailableError('transport_unavailable', 'the broker is away')
      }
      await inner.publish(messages)
    },
  })
}

/** A broker that refuses some messages for good, and with them the whole batch, of which it took what stands before. */
export function refusing(
  inner: Transport,
  refuses: (message: WireMessage) => boolean,
  code: 'message_too_large' | 'transport_refused' = 'message_too_large',
): Transport {
  return altered(inner, {
    async publish(messages) {
      const culprit = messages.findIndex(refuses)
      if (culprit !== 0) await inner.publish(culprit < 0 ? messages : messages.slice(0, culprit))
      if (culprit >= 0) throw new BusError(code, 'a message is too long for this broker')
    },
  })
}

export function byNumber(one: number, other: number): number {
  return one - other
}
