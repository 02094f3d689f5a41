/** A service's bus: what it subscribes to, what it publishes, and everything that runs for it in the background. */
import { type Bridge, bridgeSource, sendOver } from './bridge.ts'
import { type Clock, type Random, systemClock } from './clock.ts'
import { type Codec, readingAll } from './codec.ts'
import { jsonCodec } from './codecs/json.ts'
import {
  Consumer,
  type ConsumerOptions,
  type Handler,
  type HandlerContext,
  type Middleware,
  type Registration,
  type Step,
  type SubscribeOptions,
  type SubscriptionStatus,
} from './consumer.ts'
import { type DeadLetter, DeadLetters } from './dead-letters.ts'
import type { Endpoint } from './endpoint.ts'
import { BusError, UnavailableError } from './errors.ts'
import { type DataOf, type EventType, validate } from './event.ts'
import { InboxSweeper } from './inbox.ts'
import { Inside } from './inside.ts'
import { type Limits, limitsWith } from './limits.ts'
import { consoleLog, type Log } from './log.ts'
import { idMaker } from './message.ts'
import { type Origin, Publications, type Publish, type PublishOptions, type StoredMessage } from './outbox.ts'
import { OUTBOX, type OutboxRow } from './refused.ts'
import { Relay } from './relay.ts'
import { validateBindings } from './routing.ts'
import { sql } from './sql.ts'
import type { MaybePromise, Reader, Store, Tx } from './store.ts'
import { StoreWatch } from './store-watch.ts'
import { type Schedule, Timers } from './timers.ts'
import type { Tracing } from './tracing.ts'
import type { Binding, Transport, TransportState } from './transport.ts'

export type BusOptions = {
  /** Names the service: the source of what it publishes, and its default subscription. */
  service: string
  transport: Transport
  store: Store
  /** Every event that may be met; those given to `subscribe` and `schedule` are added by themselves. */
  events?: readonly EventType[]
  clock?: Clock
  random?: Random
  log?: Log
  /** How it writes; it reads whatever any codec wrote. By default `jsonCodec`. */
  codec?: Codec
  limits?: Partial<Limits>
  /** Around every handler, the first outermost. */
  middleware?: readonly Middleware[]
  /** Told of what is sent and handled, as spans of the traces that messages carry; off by default, which costs nothing. */
  tracing?: Tracing
  /** For crash tests: called at each durable step. */
  onStep?: (step: Step) => void
}

export type TransactionContext = {
  readonly tx: Tx
  readonly publish: Publish
  readonly cancel: (id: string) => Promise<void>
}

export type BusStatus = {
  readonly service: string
  /** False while the broker or the database does not answer. */
  readonly ready: boolean
  readonly subscriptions: readonly SubscriptionStatus[]
  readonly outbox: {
    readonly waiting: number
    readonly oldestAgeMs: number
    /** Open dead letters of messages that the broker will never take. */
    readonly refused: number
  }
  readonly timers: number
  /** Those to programs of others. Not a part of `ready`: one that is away is no reason to take this service out of use. */
  readonly bridges: readonly (TransportState & { readonly name: string; readonly endpoint: string })[]
}

/** What to subscribe to: an event, a pattern (`order.*`, `#`), a binding, or several. */
export type Topic = EventType | string | Binding | readonly (EventType | string | Binding)[]

export type Bus = ReturnType<typeof createBus>

/** Makes a bus; nothing runs before `start`. Throws `invalid_argument`. */
export function createBus(options: BusOptions) {
  const {
    service,
    transport,
    store,
    clock = systemClock,
    random = Math.random,
    log = consoleLog(service),
    middleware = [],
    tracing,
  } = options
  const codec = readingAll(options.codec ?? jsonCodec)
  const onStep = options.onStep ?? (() => {})
  const limits = limitsWith(options.limits)
  const newId = idMaker(clock, random)
  const compose = { service, clock, newId, codec, limits, refuseWhenFull }
  const events = new Map<string, EventType>()
  const consumers = new Map<string, Consumer>()
  const bridges = new Map<string, Bridge<any, any>>()
  let state: 'new' | 'started' | 'closed' = 'new'
  let starting: Promise<void> | undefined
  let closing: Promise<void> | undefined
  let waitingInOutbox = 0
  let measuredAt = Number.NEGATIVE_INFINITY
  let measuring: Promise<unknown> | undefined
  /** From start to close: whoever only hears goes on living, whatever the clients do with their sockets. */
  let alive: NodeJS.Timeout | undefined

  let saidOfRelay = ''
  const onFailure = (error: unknown) => {
    if (saidOfRelay === (error as Error).message) return
    saidOfRelay = (error as Error).message
    log.warn({ err: error }, 'the outbox could not be relayed; it is kept and tried again')
  }
  const onRecovery = () => {
    saidOfRelay = ''
    log.info({}, 'the outbox is relayed again')
  }
  const onSent = (count: number) => {
    waitingInOutbox = Math.max(0, waitingInOutbox - count)
  }
  const onRefused = ({ id: messageId, type }: OutboxRow, err: BusError) =>
    log.error(
      { messageId, type, err },
      'the broker will never take this message: it is a dead letter of the outbox now, and the others go on',
    )
  const relay = new Relay({
    ...{ store, transport, clock, limits, codec, tracing, newId },
    ...{ onStep, onFailure, onRecovery, onSent, onRefused },
  })
  const timers = new Timers({
    store,
    clock,
    limits,
    compose,
    log,
    onCommit: (published) => committed(published, Number.POSITIVE_INFINITY),
  })
  const inside = new Inside()
  const noticed = inside.noticing(store)
  const storeWatch = new StoreWatch({ store, clock })
  const inbox = new InboxSweeper({ store, clock, limits, log })
  const deadLetters = new DeadLetters({
    store,
    compose,
    rewrite,
    tryOut,
    onDue,
  })

  for (const event of options.events ?? []) learn(event)

  function learn(event: EventType): void {
    const known = events.get(event.type)
    if (known && known !== event)
      throw new BusError('invalid_argument', `two definitions of '${event.type}' were given to ${service}`)
    events.set(event.type, event)
  }

  function committed(published: number, nextDueAt: number): void {
    waitingInOutbox += published
    if (published > 0 && state === 'started') relay.wake()
    timers.expect(nextDueAt)
  }

  /** Rows of this subscription, or of the outbox and its timers, are due. */
  function onDue(subscription: string): void {
    if (subscription !== OUTBOX) return void consumers.get(subscription)?.planDue()
    if (state === 'started') relay.wake()
    timers.expect(clock.now())
  }

  function subscribe<E extends EventType, Answer = void>(
    topic: E,
    handler: Handler<DataOf<E>, Answer>,
    settings?: SubscribeOptions,
  ): void
  function subscribe<E extends EventType, Answer = void>(
    topic: readonly E[],
    handler: Handler<DataOf<E>, Answer>,
    settings?: SubscribeOptions,
  ): void
  function subscribe<Answer = void>(topic: Topic, handler: Handler<any, Answer>, settings?: SubscribeOptions): void
  function subscribe(topic: Topic, handler: Handler, settings: SubscribeOptions = {}): void {
    if (state !== 'new')
      throw new BusError(
        'invalid_argument',
        'subscribe before start(): a subscription gets its bindings when it is declared',
      )
    const registrations = registrationsOf(topic, handler)
    const name = settings.name ?? service
    if (name === OUTBOX) throw new BusError('invalid_argument', `'${OUTBOX}' is the outbox's own: choose another name`)
    let consumer = consumers.get(name)
    consumer?.configure(settings)
    if (!consumer) {
      consumer = newConsumer({ name, settings, transport })
      consumers.set(name, consumer)
    }
    for (const registration of registrations) {
      if (registration.event) learn(registration.event)
      consumer.add(registration)
    }
  }

  function newConsumer(
    own: Pick<ConsumerOptions, 'name' | 'settings' | 'transport' | 'decodeForeign'> & { limits?: Limits },
  ): Consumer {
    const shared = { service, store: noticed, events, compose, limits, clock, random, log, middleware, tracing, onStep }
    return new Consumer({ ...shared, ...own, onCommit: committed })
  }

  /** What a foreign program says goes through a subscription like any other, whose broker is the endpoint. */
  function bridge<Data, Answer = void>(given: Bridge<Data, Answer>): void {
    if (state !== 'new') throw new BusError('invalid_argument', 'bridge before start()')
    const { name, endpoint, receive, send } = given
    if (bridges.has(name) || consumers.has(name))
      throw new BusError('invalid_argument', `'${name}' is the name of another bridge or subscription of ${service}`)
    bridges.set(name, given)
    if (receive) {
      const { handle, prefetch = limits.windowMax, read: _, ...settings } = receive
      const windowMax = Math.min(prefetch, limits.windowMax)
      const consumer = newConsumer({
        name,
        settings,
        limits: limitsWith({
          ...limits,
          windowMax,
          batchMax: Math.min(limits.batchMax, windowMax),
          concurrency: Math.min(limits.concurrency, windowMax),
        }),
        ...bridgeSource({ name, endpoint, receive, newId, clock, limits }),
      })
      consumer.add({ binding: { kind: 'fanout' }, handler: handle, event: null })
      consumers.set(name, consumer)
    }
    if (send) {
      const { topic, write, ...settings } = send
      subscribe(topic, sendOver(endpoint, write), { ...settings, name: `${service}.${name}` })
    }
  }

  async function openBridges(): Promise<void> {
    for (const endpoint of endpoints()) await endpoint.open({ log })
  }

  /** Each once, however many bridges lead over it. */
  const endpoints = (): Endpoint[] => [...new Set([...bridges.values()].map(({ endpoint }) => endpoint))]

  /** The bytes of a dead letter with another payload: of today's version, or whatever its bridge understands. */
  function rewrite(letter: DeadLetter, data: unknown): string | Uint8Array {
    const receive = bridges.get(letter.subscription)?.receive
    if (receive) {
      const body = Buffer.from(typeof data === 'string' ? data : JSON.stringify(data))
      if (receive.read({ ...letter, id: letter.messageId, body })) return body
      throw new BusError('invalid_payload', `bridge '${letter.subscription}' does not understand that either`)
    }
    const event = events.get(letter.type)
    if (!event) throw new BusError('unknown_event', `'${letter.type}' is not known to ${service}`)
    return codec.encode({ ...codec.decode(letter.body), version: event.version, data: validate(event, data) })
  }

  function refuseWhenClosed(): void {
    if (state === 'closed') throw new BusError('bus_closed', `the bus of ${service} is closed`)
  }

  /** Handlers wait for room, routes hear of it: nothing that was accepted is dropped. */
  async function refuseWhenFull(count: number, tx: Tx): Promise<void> {
    const fits = () => waitingInOutbox + count <= limits.outboxMessagesMax
    // What other processes of the service have sent is not told here: before anything is refused, it is counted.
    if (!fits() && Math.abs(clock.now() - measuredAt) >= limits.sweepMs) {
      if (measuring) await measuring.catch(() => {})
      else {
        measuring = measureOutbox(tx).finally(() => {
          measuring = undefined
        })
        await measuring
      }
    }
    if (fits()) return
    throw new UnavailableError(
      'outbox_full',
      `${waitingInOutbox} messages wait in the outbox of ${service}: bring the broker back, then try again`,
    )
  }

  /** As the store's, and the watch hears of a database that is away. */
  async function written<T>(work: (tx: Tx) => MaybePromise<T>): Promise<T> {
    try {
      return await noticed.transaction(work)
    } catch (error) {
      storeWatch.failed(error)
      throw error
    }
  }

  async function transaction<T>(
    work: (context: TransactionContext) => MaybePromise<T>,
    origin: Origin = {},
  ): Promise<T> {
    refuseWhenClosed()
    inside.refuse()
    let publications!: Publications
    const result = await written(async (tx) => {
      publications = new Publications(compose)
      const value = await work({
        tx,
        publish: publications.publishFrom(origin),
        cancel: (id) => publications.cancel(tx, id),
      })
      await publications.write(tx)
      return value
    })
    committed(publications.count, publications.nextDueAt)
    return result
  }

  async function publish<Data>(
    event: EventType<Data>,
    data: NoInfer<Data>,
    settings: PublishOptions & Origin = {},
  ): Promise<string> {
    refuseWhenClosed()
    inside.refuse()
    const id = alone.publishFrom(settings)(event, data, settings)
    writing ??= writeAlone()
    await writing
    return id
  }

  /** Publications without a transaction of the caller's share one: whatever waits when its turn comes. */
  let alone = new Publications(compose)
  let writing: Promise<void> | undefined
  async function writeAlone(): Promise<void> {
    let mine: Publications | undefined
    const take = () => {
      if (mine) return mine
      mine = alone
      alone = new Publications(compose)
      writing = undefined
      return mine
    }
    try {
      await written((tx) => take().write(tx))
    } finally {
      take() // also where the transaction never began: those who wait hear of it, and the next begin anew
    }
    committed(mine!.count, mine!.nextDueAt)
  }

  async function tryOut(
    subscription: string,
    message: StoredMessage,
    tx: Tx,
  ): Promise<{ type: string; data: unknown }[]> {
    const consumer = consumers.get(subscription)
    if (!consumer) throw new BusError('not_found', `${service} has no subscription '${subscription}' now`)
    const publications = new Publications(compose)
    await consumer.tryOut(message, tx, publications)
    return publications.composed().map((body) => {
      const { type, data } = codec.decode(body)
      return { type, data }
    })
  }

  async function measureOutbox(reader: Reader): Promise<BusStatus['outbox']> {
    const row = await reader.get<{ count: number; oldest: number | null; refused: number }>(sql`
      select count(*) as count, min(at) as oldest,
        (select count(*) from bus_dead_letter where subscription = ${OUTBOX} and status = 'open') as refused
      from bus_outbox where position > ${relay.bookmark}`)
    waitingInOutbox = Number(row!.count)
    measuredAt = clock.now()
    return {
      waiting: waitingInOutbox,
      oldestAgeMs: row!.oldest === null ? 0 : Math.max(0, clock.now() - Number(row!.oldest)),
      refused: Number(row!.refused),
    }
  }

  function watchOutbox(): void {
    clock.after(limits.sweepMs, () => {
      if (state !== 'started') return
      void store
        .read(measureOutbox)
        .catch(() => {})
        .finally(watchOutbox)
    })
  }

  async function startAll(): Promise<void> {
    await store.open()
    await transport.open()
    await openBridges()
    for (const consumer of consumers.values()) await consumer.declare()
    if (state === 'new') {
      await store.read(measureOutbox)
      await timers.start()
      state = 'started'
      alive = setInterval(() => {}, ALIVE_MS)
      relay.start()
      inbox.start()
      watchOutbox()
    }
    for (const consumer of consumers.values()) await consumer.start()
  }

  /** Nothing is running, waiting or due now: neither here nor, for this service's subscriptions, on the broker. */
  async function isIdle(): Promise<boolean> {
    if (!relay.idle || !timers.idle || (await timers.hasDue())) return false
    for (const consumer of consumers.values()) {
      if (!consumer.idle || (await consumer.hasDue())) return false
      if ((await consumer.backlog()).waiting > 0) return false
    }
    return !(await relay.hasUnsent()) && relay.idle
  }

  return {
    service,
    store,
    clock,
    newId,
    subscribe,
    /** Lets another program's messages in, or ours out to it; see bridge.ts. */
    bridge,
    publish,
    transaction,
    deadLetters,
    /** Publishes an event by cron, once for all processes of the service. */
    schedule<Data>(schedule: Schedule<Data>): void {
      if (state !== 'new') throw new BusError('invalid_argument', 'schedule before start()')
      learn(schedule.event)
      timers.add(schedule)
    },
    /** Calls off a later publication by its id. */
    async cancel(id: string): Promise<void> {
      await transaction(({ cancel }) => cancel(id))
    },
    /** Makes the subscriptions on the broker without consuming: from now on nothing they want is missed. */
    async declare(): Promise<void> {
      await store.open()
      await transport.open()
      await openBridges()
      for (const consumer of consumers.values()) await consumer.declare()
    },
    /**
     * Opens store and transport, declares, begins to work, and keeps the process alive until `close`. Where one of them is not
     * there yet, it may be called again.
     */
    start(): Promise<void> {
      if (state === 'closed') return Promise.reject(new BusError('bus_closed', `the bus of ${service} is closed`))
      starting ??= startAll().catch((error) => {
        starting = undefined // what runs by then goes on, and the next call begins the rest
        throw error
      })
      return starting
    },
    /** Names of its subscriptions. */
    subscriptions: (): string[] => [...consumers.keys()],
    isIdle,
    /** Resolves once `isIdle`; for tests and commands that end. */
    async idle(): Promise<void> {
      while (!(await isIdle())) await new Promise((resolve) => setTimeout(resolve, 2))
    },
    ready: () =>
      state === 'started' &&
      relay.healthy &&
      storeWatch.healthy &&
      transport.state().ready &&
      [...consumers.values()].every((consumer) => consumer.serving),
    bridges: (): BusStatus['bridges'] =>
      [...bridges.values()].map(({ name, endpoint }) => ({ name, endpoint: endpoint.name, ...endpoint.state() })),
    async status(): Promise<BusStatus> {
      const subscriptions = await Promise.all([...consumers.values()].map((consumer) => consumer.status()))
      const pending = await store.read((reader) =>
        reader.get<{ count: number }>(sql`select count(*) as count from bus_timer`),
      )
      return {
        service,
        ready: this.ready(),
        subscriptions,
        bridges: this.bridges(),
        outbox: await store.read(measureOutbox),
        timers: Number(pending!.count),
      }
    },
    /** Takes no more, finishes what runs, leaves (B12). Store and transport stay open: who opened them closes them. */
    close(): Promise<void> {
      closing ??= (async () => {
        await starting?.catch(() => {})
        /** One that fails holds up none of the others: what it could not give back comes again. */
        const all = async (stops: readonly Promise<unknown>[]) => {
          for (const stop of await Promise.allSettled(stops))
            if (stop.status === 'rejected')
              log.warn(
                { service, err: stop.reason },
                'something did not close in order; what it held is delivered again',
              )
        }
        const done = (async () => {
          await all([...consumers.values()].map((consumer) => consumer.stop()))
          await all(endpoints().map((endpoint) => endpoint.close()))
          state = 'closed'
          for (const part of [timers, relay, inbox, storeWatch]) await all([part.stop()])
        })()
        let timer: { cancel(): void } | undefined
        const late = new Promise<void>((resolve) => {
          timer = clock.after(limits.closeTimeoutMs, () => {
            log.error(
              { service },
              `handlers still run after ${limits.closeTimeoutMs} ms; what they hold is delivered again`,
            )
            resolve()
          })
        })
        await Promise.race([done, late])
        timer?.cancel()
        state = 'closed'
        clearInterval(alive)
      })()
      return closing
    },
    [Symbol.asyncDispose](): Promise<void> {
      return this.close()
    },
  }
}

/** It does nothing; the longest interval that timers know. */
const ALIVE_MS = 2_147_483_647

function registrationsOf(topic: Topic, handler: Handler): Registration[] {
  const topics = Array.isArray(topic) ? topic : [topic as EventType | string | Binding]
  const registrations = topics.map((one): Registration => {
    if (typeof one === 'string') return { binding: { kind: 'topic', pattern: one }, handler, event: null }
    if ('kind' in one) return { binding: one, handler, event: null }
    return { binding: { kind: 'direct', type: one.type }, handler, event: one }
  })
  validateBindings(registrations.map(({ binding }) => binding))
  return registrations
}

export type { HandlerContext }
