/** Cases of `eventStoreSuite`: process managers, and everything that races in them (F7). */
import assert from 'node:assert/strict'
import { type EventType, event, type Schema } from '../event.ts'
import type { Message } from '../message.ts'
import type { PublishOptions } from '../outbox.ts'
import {
  type ProcessBus,
  type ProcessHandlerContext,
  type ProcessManagerOptions,
  processManager,
  say,
  timer,
} from '../process-manager.ts'
import { sql } from '../sql.ts'
import type { Store } from '../store.ts'
import { type Meanwhile, overtaken, START_MS, type StoreCheck } from './event-store-suite.ts'

type OrderData = { readonly orderId: string }

const anything: Schema<OrderData> = {
  '~standard': { version: 1, vendor: 'cases', validate: (value) => ({ value: value as OrderData }) },
}
const define = (type: string) => event(type, { version: 1, schema: anything, key: (data) => data.orderId })

const placed = define('order.placed')
const paid = define('order.paid')
const allocated = define('order.allocated')
const timedOut = define('order.timed_out')
const confirmed = define('order.confirmed')
const cancelled = define('order.cancelled')
const reminded = define('order.reminded')

const PAYMENT_TIMEOUT_MS = 600_000

type Joining = { readonly paid: boolean; readonly allocated: boolean }

/** Confirms an order once it is paid and allocated, in whichever order these come; cancels it when payment takes too long. */
const joining: ProcessManagerOptions<Joining> = {
  name: 'joining',
  version: 1,
  initial: { paid: false, allocated: false },
  on: (when) => [
    when(placed, orderId, (_state, order) => ({ timers: [timer('payment', timedOut, order, PAYMENT_TIMEOUT_MS)] })),
    when(paid, orderId, (state, order) => join({ ...state, paid: true }, order)),
    when(allocated, orderId, (state, order) => join({ ...state, allocated: true }, order)),
    when(timedOut, orderId, (state, order) =>
      state.paid ? undefined : { publish: [say(cancelled, order)], done: true },
    ),
  ],
}

function orderId(data: OrderData): string {
  return data.orderId
}

function join(state: Joining, order: OrderData) {
  const complete = state.paid && state.allocated
  return {
    state,
    publish: complete ? [say(confirmed, order)] : [],
    cancel: state.paid ? ['payment'] : [],
    done: complete,
  }
}

export function processCases(check: StoreCheck): void {
  for (const order of permutations([placed, paid, allocated])) {
    const names = order.map(({ type }) => type).join(', ')
    check(`a process joins its messages in whichever order they come: ${names}`, async ({ store }) => {
      const bus = new HandBus(store)
      const manager = processManager(bus, joining)
      for (const event of order) await bus.deliver(bus.message(event, { orderId: 'o1' }))
      assert.deepEqual(bus.said(), ['order.confirmed'])
      const process = await store.read((reader) => manager.load(reader, 'o1'))
      assert.deepEqual(process?.state, { paid: true, allocated: true })
      assert.equal(process?.done, true)
      assert.equal(await store.read((reader) => manager.load(reader, 'o2')), undefined)
    })
  }

  check('B9 a timer that nobody cancels is delivered and ends the process', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, joining)
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    assert.deepEqual(
      [...bus.timers.values()].map(({ delayMs }) => delayMs),
      [PAYMENT_TIMEOUT_MS],
    )
    await bus.deliver(bus.takeTimer())
    await bus.deliver(bus.message(paid, { orderId: 'o1' }))
    await bus.deliver(bus.message(allocated, { orderId: 'o1' }))
    assert.deepEqual(bus.said(), ['order.cancelled'])
  })

  check('M3 a timer that was on its way when the answer came does nothing', async ({ store }) => {
    const bus = new HandBus(store)
    // As careless as can be: only the manager knows that the timer was cancelled.
    const careless = processManager(bus, {
      ...joining,
      on: (when) => [
        when(placed, orderId, (_state, order) => ({ timers: [timer('payment', timedOut, order, 1)] })),
        when(paid, orderId, (state) => ({ state: { ...state, paid: true }, cancel: ['payment'] })),
        when(timedOut, orderId, (_state, order) => ({ publish: [say(cancelled, order)] })),
      ],
    })
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    const onItsWay = bus.takeTimer()
    await bus.deliver(bus.message(paid, { orderId: 'o1' }))
    await bus.deliver(onItsWay)
    assert.deepEqual(bus.said(), [])
    const process = await store.read((reader) => careless.load(reader, 'o1'))
    assert.deepEqual(process?.state, { paid: true, allocated: false })
  })

  check('M2 the answer that comes after the timeout does nothing', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, joining)
    await bus.deliver(bus.message(allocated, { orderId: 'o1' }))
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    await bus.deliver(bus.takeTimer())
    await bus.deliver(bus.message(paid, { orderId: 'o1' }))
    assert.deepEqual(bus.said(), ['order.cancelled'])
  })

  check('M3 a timer that was replaced while on its way does nothing; the one in its place does', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, {
      name: 'reminders',
      version: 1,
      initial: { count: 0 },
      on: (when) => [
        when(placed, orderId, (_state, order) => ({ timers: [timer('reminder', timedOut, order, 10)] })),
        when(timedOut, orderId, ({ count }, order) => ({
          state: { count: count + 1 },
          publish: [say(reminded, order)],
          timers: count < 1 ? [timer('reminder', timedOut, order, 10)] : [],
        })),
      ],
    })
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    const first = bus.takeTimer()
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    await bus.deliver(first)
    assert.deepEqual(bus.said(), [])
    await bus.deliver(bus.takeTimer())
    assert.deepEqual(bus.said(), ['order.reminded'], 'the replacement counts, and arms the next one')
    await bus.deliver(bus.takeTimer())
    assert.deepEqual(bus.said(), ['order.reminded', 'order.reminded'])
    assert.equal(bus.timers.size, 0)
  })

  check('M3 a timer counts once, also where the inbox has forgotten it', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, {
      name: 'reminders',
      version: 1,
      initial: {},
      on: (when) => [
        when(placed, orderId, (_state, order) => ({ timers: [timer('reminder', timedOut, order, 10)] })),
        when(timedOut, orderId, (_state, order) => ({ publish: [say(reminded, order)] })),
      ],
    })
    await bus.deliver(bus.message(placed, { orderId: 'o1' }))
    const reminder = bus.takeTimer()
    await bus.deliver(reminder)
    await bus.deliver({ ...reminder, id: 'as if never seen' })
    assert.deepEqual(bus.said(), ['order.reminded'])
  })

  check('M2 the end cancels every timer of the process, and only of this one', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, joining)
    for (const id of ['o1', 'o2']) await bus.deliver(bus.message(placed, { orderId: id }))
    for (const event of [paid, allocated]) await bus.deliver(bus.message(event, { orderId: 'o1' }))
    assert.deepEqual([...bus.timers.keys()], ['joining:o2:payment'])
  })

  check('B2 a message that comes again, and a fact that is said again, have no second effect', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, joining)
    const messages = [placed, paid, allocated].map((event) => bus.message(event, { orderId: 'o1' }))
    for (const message of [...messages, ...messages]) await bus.deliver(message)
    for (const event of [paid, allocated, placed]) await bus.deliver(bus.message(event, { orderId: 'o1' }))
    assert.deepEqual(bus.said(), ['order.confirmed'])
    assert.equal(bus.timers.size, 0)
  })

  check('M1 a reaction that throws, and a transaction that fails after it, leave nothing', async ({ store }) => {
    const bus = new HandBus(store)
    const manager = processManager(bus, {
      ...joining,
      on: (when) => [
        when(paid, orderId, () => assert.fail('planted')),
        when(placed, orderId, (state, order) => ({
          state: { ...state, paid: true },
          publish: [say(confirmed, order)],
          timers: [timer('payment', timedOut, order, 1)],
        })),
        when(timedOut, orderId, () => undefined),
      ],
    })
    await assert.rejects(bus.deliver(bus.message(paid, { orderId: 'o1' })), /planted/)
    const message = bus.message(placed, { orderId: 'o1' })
    await assert.rejects(bus.deliver(message, { crashBeforeCommit: true }), /crash/)
    assert.equal(await store.read((reader) => manager.load(reader, 'o1')), undefined)
    assert.deepEqual([bus.said().length, bus.timers.size], [0, 0])
    await bus.deliver(message)
    assert.deepEqual([bus.said().length, bus.timers.size], [1, 1])
  })

  check('M1 two messages of one process at the same time are both counted', async ({ store }) => {
    const bus = new HandBus(store)
    processManager(bus, joining)
    const deliver = (event: EventType<OrderData>) => bus.deliver(bus.message(event, { orderId: 'o1' }))
    await Promise.all([deliver(paid), deliver(allocated)])
    assert.deepEqual(bus.said(), ['order.confirmed'])
  })

  check(
    'M1 a process that changed since it was read is not written over; the message is tried again',
    async ({ store }) => {
      const bus = new HandBus(store)
      const manager = processManager(bus, joining)
      const first = bus.message(paid, { orderId: 'o1' })
      const begun = JSON.stringify({ state: { paid: false, allocated: true }, timers: {} })
      await assert.rejects(
        bus.deliver(first, {
          meanwhile: (tx) =>
            tx.run(sql`insert into bus_process (name, id, version, state, done, updated_at)
            values ('joining', 'o1', 1, ${begun}, 0, ${START_MS})`),
        }),
        { code: 'version_conflict' },
      )
      assert.equal(await store.read((reader) => manager.load(reader, 'o1')), undefined)
      await bus.deliver(first)
      const second = bus.message(allocated, { orderId: 'o1' })
      const ended = sql`update bus_process set done = 1 where name = 'joining' and id = 'o1'`
      await assert.rejects(bus.deliver(second, { meanwhile: (tx) => tx.run(ended) }), { code: 'version_conflict' })
      await bus.deliver(second)
      assert.deepEqual(bus.said(), ['order.confirmed'])
    },
  )

  check('M4 B14 new code takes over midway: states are migrated, timers stay armed', async ({ store }) => {
    const before = new HandBus(store)
    processManager(before, joining)
    for (const id of ['o1', 'o2']) await before.deliver(before.message(placed, { orderId: id }))
    await before.deliver(before.message(allocated, { orderId: 'o1' }))

    type Steps = { readonly steps: readonly string[] }
    const after = new HandBus(store, before)
    const manager = processManager<Steps>(after, {
      name: 'joining',
      version: 3,
      initial: { steps: [] },
      upcastState: {
        1: (old: Joining) => ({ did: [old.paid && 'paid', old.allocated && 'allocated'].filter(Boolean) }),
        2: (old: { did: string[] }) => ({ steps: old.did }),
      },
      on: (when) => [
        when(paid, orderId, ({ steps }, order) => ({
          state: { steps: [...steps, 'paid'] },
          publish: steps.includes('allocated') ? [say(confirmed, order)] : [],
          cancel: ['payment'],
        })),
        when(timedOut, orderId, (_state, order) => ({ publish: [say(cancelled, order)], done: true })),
      ],
    })
    await after.deliver(after.message(paid, { orderId: 'o1' }))
    assert.deepEqual(after.said(), ['order.confirmed'])
    const process = await store.read((reader) => manager.load(reader, 'o1'))
    assert.deepEqual(process?.state, { steps: ['allocated', 'paid'] })
    await after.deliver(after.takeTimer())
    assert.deepEqual(
      after.said(),
      ['order.confirmed', 'order.cancelled'],
      "the other order's timer was armed by old code",
    )

    // The old code still runs somewhere: it must not write over what it does not understand.
    await assert.rejects(before.deliver(before.message(paid, { orderId: 'o1' })), { code: 'version_too_new' })
    assert.deepEqual((await store.read((reader) => manager.load(reader, 'o1')))?.state, process?.state)
  })

  check('processes that ended long ago can be forgotten, a bounded number at a time', async ({ store }) => {
    const bus = new HandBus(store)
    const manager = processManager(bus, joining)
    for (const id of ['o1', 'o2', 'o3', 'open']) {
      const events = id === 'open' ? [paid] : [paid, allocated]
      for (const event of events) await bus.deliver(bus.message(event, { orderId: id }))
    }
    const forget = (endedBefore: number) => store.transaction((tx) => manager.forget(tx, { endedBefore, limit: 2 }))
    assert.equal(await forget(START_MS), 0)
    assert.equal(await forget(Number.MAX_SAFE_INTEGER), 2)
    assert.equal(await forget(Number.MAX_SAFE_INTEGER), 1)
    assert.equal(await forget(Number.MAX_SAFE_INTEGER), 0)
    assert.equal((await store.read((reader) => manager.load(reader, 'open')))?.done, false)
  })

  check('a process manager that cannot work is refused when it is defined', async ({ store }) => {
    const bus = new HandBus(store)
    assert.throws(() => processManager(bus, { ...joining, version: 2 }), { code: 'no_upcaster' })
    assert.throws(() => processManager(bus, { ...joining, on: () => [] }), { code: 'invalid_argument' })
    processManager(bus, {
      name: 'deaf',
      version: 1,
      initial: {},
      on: (when) => [when(placed, orderId, (_state, order) => ({ timers: [timer('t', timedOut, order, 1)] }))],
    })
    await assert.rejects(bus.deliver(bus.message(placed, { orderId: 'o1' })), /does not react to/)
  })
}

type Handler = (data: never, context: ProcessHandlerContext) => Promise<void>
type Planned = { readonly message: Message; readonly delayMs: number }

/**
 * A bus by hand: each delivery is one transaction with an inbox, and what it says and plans counts when it commits. It
 * delivers what it is told to and when, so a case can play any race.
 */
class HandBus implements ProcessBus {
  readonly timers: Map<string, Planned>
  private readonly published: Message[] = []
  private readonly handlers = new Map<string, Handler[]>()
  private readonly store: Store
  private readonly ids: { next: number }

  /** `before`: the same bus in an earlier version of the process; timers and ids go on. */
  constructor(store: Store, before?: HandBus) {
    this.store = store
    this.timers = before?.timers ?? new Map()
    this.ids = before?.ids ?? { next: 1 }
  }

  subscribe(event: EventType, handler: Handler): void {
    this.handlers.set(event.type, [...(this.handlers.get(event.type) ?? []), handler])
  }

  message(event: EventType, data: unknown, headers: Readonly<Record<string, string>> = {}): Message {
    const id = `m${this.ids.next++}`
    return {
      id,
      type: event.type,
      version: event.version,
      source: 'cases',
      time: START_MS + this.ids.next,
      key: event.key(data),
      correlationId: id,
      causationId: null,
      traceparent: null,
      headers,
      data,
    }
  }

  /** The earliest timer, as it leaves the store: from here on it cannot be cancelled. */
  takeTimer(): Message {
    const [id, planned] = [...this.timers].sort(([, a], [, b]) => a.delayMs - b.delayMs)[0]!
    this.timers.delete(id)
    return planned.message
  }

  said(): string[] {
    return this.published.map(({ type }) => type)
  }

  /** `meanwhile`: what another transaction does once this one has read the process. */
  async deliver(message: Message, options: { crashBeforeCommit?: boolean; meanwhile?: Meanwhile } = {}): Promise<void> {
    const { crashBeforeCommit, meanwhile } = options
    const published: Message[] = []
    const timers: ((timers: Map<string, Planned>) => unknown)[] = []
    await this.store.transaction(async (tx) => {
      const inbox = { subscription: 'cases', id: message.id, at: message.time }
      if ((await tx.insert('bus_inbox', [inbox], { orIgnore: true })).length === 0) return
      const publish = (event: EventType, data: unknown, options: PublishOptions = {}) => {
        const said = this.message(event, data, options.headers)
        const { id = said.id, delayMs } = options
        if (delayMs === undefined) published.push(said)
        else timers.push((planned) => planned.set(id, { message: said, delayMs }))
        return id
      }
      const cancel = async (id: string) => void timers.push((planned) => planned.delete(id))
      for (const handler of this.handlers.get(message.type) ?? []) {
        await handler(message.data as never, {
          tx: meanwhile ? overtaken(tx, meanwhile) : tx,
          publish,
          cancel,
          message,
        })
      }
      if (crashBeforeCommit) throw new Error('crash')
    })
    this.published.push(...published)
    for (const change of timers) change(this.timers)
  }
}

function permutations<T>(values: readonly T[]): T[][] {
  if (values.length === 0) return [[]]
  return values.flatMap((value, index) => permutations(values.toSpliced(index, 1)).map((rest) => [value, ...rest]))
}
