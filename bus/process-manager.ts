/**
 * Process managers: they join messages that belong together, decide what is said next, and wait with durable timers.
 *
 * M1 State, timers and publications change in the handler's transaction; the inbox makes each message count once.
 * M2 A process's end is final: whatever comes later, answer, timer or repeat, does nothing.
 * M3 A timer counts only while the process waits for it: its message carries which arming it comes from, so one that was
 *    already on its way when it was cancelled or replaced does nothing.
 * M4 The state is kept with the version of the code that wrote it and migrated when it is read; a state of a newer
 *    version is left alone.
 */
import { BusError } from './errors.ts'
import type { EventType } from './event.ts'
import { hold } from './lock.ts'
import type { Message } from './message.ts'
import type { Publish, PublishOptions } from './outbox.ts'
import { sql } from './sql.ts'
import type { Reader, Tx } from './store.ts'

/** What a process manager needs of the bus. */
export type ProcessBus = {
  subscribe<Data>(
    event: EventType<Data>,
    handler: (data: Data, context: ProcessHandlerContext) => Promise<void>,
    options?: { name?: string },
  ): unknown
}

export type ProcessHandlerContext = {
  readonly tx: Tx
  readonly publish: Publish
  readonly cancel: (id: string) => Promise<unknown>
  readonly message: Message
}

/** What a reaction says; made by `say`. */
export type Publication = { readonly event: EventType; readonly data: unknown; readonly options?: PublishOptions }

/** An event to be published to this process, and whoever else subscribes, `delayMs` from now; made by `timer`. */
export type ProcessTimer = {
  /** Unique within the process; arming it again replaces it. */
  readonly id: string
  readonly event: EventType
  readonly data: unknown
  readonly delayMs: number
}

/** What follows from a message; nothing at all where `react` answers nothing. */
export type Reaction<State> = {
  /** The new state, plain JSON; as it was where left out. */
  readonly state?: State
  readonly publish?: readonly Publication[]
  readonly timers?: readonly ProcessTimer[]
  /** Ids of timers that are not waited for any more. */
  readonly cancel?: readonly string[]
  /** The process has ended: its timers are cancelled, and whatever comes later does nothing. */
  readonly done?: boolean
}

export type ReactionContext = {
  /** The id that the messages are correlated by. */
  readonly id: string
  /** For its `time`, in place of a clock. */
  readonly message: Message
}

/** Pure: it may run more than once for one message. */
export type React<State, Data> = (state: State, data: Data, context: ReactionContext) => Reaction<State> | undefined

/** One message that the process takes; made by the `when` that `on` is given. */
export type ProcessStep<State> = {
  readonly event: EventType
  readonly correlate: (data: unknown) => string | null
  readonly react: React<State, unknown>
}

/** `correlate` answers the process's id, or null where the message is none of its business. */
export type When<State> = <Data>(
  event: EventType<Data>,
  correlate: (data: Data) => string | null,
  react: React<State, Data>,
) => ProcessStep<State>

export type ProcessManagerOptions<State> = {
  name: string
  /** Grows with the shape of the state. */
  version: number
  /** The state before the first message, whichever comes first. */
  initial: State
  on: (when: When<State>) => readonly ProcessStep<State>[]
  /** From each older version of the state to the next. */
  upcastState?: Readonly<Record<number, (old: any) => unknown>>
  /** A subscription of its own; by default it joins the service's, and its order by key. */
  subscription?: string
}

export type ProcessManager<State> = {
  readonly name: string
  /** The state as of now; undefined: no message has come yet. */
  load(reader: Reader, id: string): Promise<{ state: State; done: boolean; updatedAt: number } | undefined>
  /**
   * Deletes processes that ended before `endedBefore` (milliseconds since the epoch), `limit` at most, and answers how
   * many. A message for one of them would begin it anew: wait at least as long as the inbox remembers.
   */
  forget(tx: Tx, options: { endedBefore: number; limit: number }): Promise<number>
}

/** Names the arming that a timer's message comes from: JSON of [manager, process, timer, id of the message that armed it]. */
const TIMER_HEADER = 'process-timer'

type ProcessRow = { version: number; state: string; done: number; updated_at: number }

/** The `state` column: timers by id, each with the id of the message whose handling armed it. */
type Kept<State> = { readonly state: State; readonly timers: Readonly<Record<string, string>> }

export const say = <Data>(event: EventType<Data>, data: NoInfer<Data>, options?: PublishOptions): Publication => ({
  event,
  data,
  options,
})

export const timer = <Data>(
  id: string,
  event: EventType<Data>,
  data: NoInfer<Data>,
  delayMs: number,
): ProcessTimer => ({
  id,
  event,
  data,
  delayMs,
})

/**
 * Subscribes the process to its messages. Of two messages of one process that are handled at the same time the second
 * waits, and finds the new state; should its row change all the same, it fails with `version_conflict` and is tried again.
 */
export function processManager<State>(bus: ProcessBus, options: ProcessManagerOptions<State>): ProcessManager<State> {
  const { name, version, initial, upcastState = {}, subscription } = options
  const steps = options.on((event, correlate, react) => ({ event, correlate, react }) as ProcessStep<State>)
  checkOptions(options, steps)

  for (const step of steps) {
    const handler = (data: unknown, context: ProcessHandlerContext) => handle(step, data, context)
    bus.subscribe(step.event, handler, subscription === undefined ? undefined : { name: subscription })
  }

  async function handle(step: ProcessStep<State>, data: unknown, context: ProcessHandlerContext): Promise<void> {
    const { tx, message } = context
    const fired = firedTimer(message, name)
    const id = fired ? fired.process : step.correlate(data)
    if (id === null) return
    await hold(tx, `process ${name} ${id}`)
    const row = await rowOf(tx, id)
    if (row?.done) return // M2
    const kept = row ? decode(id, row) : { state: initial, timers: {} }
    if (fired && kept.timers[fired.timer] !== fired.armedBy) return // M3
    const reaction = step.react(kept.state, data, { id, message })
    if (!reaction && !fired) return
    const timers = { ...kept.timers }
    if (fired) delete timers[fired.timer]
    await carryOut(id, reaction ?? {}, timers, context)
    const state = reaction?.state === undefined ? kept.state : reaction.state
    await save(tx, id, row, { state, timers }, reaction?.done ?? false, message.time)
  }

  async function carryOut(
    id: string,
    reaction: Reaction<State>,
    timers: Record<string, string>,
    { publish, cancel, message }: ProcessHandlerContext,
  ): Promise<void> {
    const nameOf = (timer: string) => `${name}:${id}:${timer}`
    for (const timer of reaction.done ? Object.keys(timers) : (reaction.cancel ?? [])) {
      if (timers[timer] !== undefined) await cancel(nameOf(timer))
      delete timers[timer]
    }
    for (const { event, data, options } of reaction.publish ?? []) publish(event, data, options)
    if (reaction.done) return
    for (const { id: timer, event, data, delayMs } of reaction.timers ?? []) {
      if (!steps.some((step) => step.event.type === event.type)) {
        throw new BusError(
          'invalid_argument',
          `process '${name}': timer '${timer}' publishes '${event.type}', which it does not react to: add when(…) for it`,
        )
      }
      timers[timer] = message.id
      const headers = { [TIMER_HEADER]: JSON.stringify([name, id, timer, message.id]) }
      publish(event, data, { delayMs, id: nameOf(timer), headers })
    }
  }

  async function rowOf(reader: Reader, id: string): Promise<ProcessRow | undefined> {
    return reader.get<ProcessRow>(
      sql`select version, state, done, updated_at from bus_process where name = ${name} and id = ${id}`,
    )
  }

  /** M4 */
  function decode(id: string, row: ProcessRow): Kept<State> {
    const kept = JSON.parse(row.state) as Kept<State>
    if (row.version === version) return kept
    if (row.version > version) {
      throw new BusError(
        'version_too_new',
        `process '${name}' ${id}: its state has version ${row.version} and this process knows up to ${version}: deploy the newer code`,
      )
    }
    let state: unknown = kept.state
    for (let from = row.version; from < version; from++) state = upcastState[from]!(state)
    return { state: state as State, timers: kept.timers }
  }

  async function save(tx: Tx, id: string, row: ProcessRow | undefined, kept: Kept<State>, done: boolean, at: number) {
    const state = JSON.stringify(kept)
    const ended = done ? 1 : 0
    const changed = row
      ? await tx.run(sql`
          update bus_process set version = ${version}, state = ${state}, done = ${ended}, updated_at = ${at}
          where name = ${name} and id = ${id} and done = 0 and state = ${row.state}`)
      : await tx.run(sql`
          insert into bus_process (name, id, version, state, done, updated_at)
          values (${name}, ${id}, ${version}, ${state}, ${ended}, ${at}) on conflict (name, id) do nothing`)
    if (changed === 1) return
    throw new BusError('version_conflict', `process '${name}' ${id} changed meanwhile: try the message again`)
  }

  return {
    name,

    async load(reader, id) {
      const row = await rowOf(reader, id)
      return row && { state: decode(id, row).state, done: row.done === 1, updatedAt: row.updated_at }
    },

    async forget(tx, { endedBefore, limit }) {
      return tx.run(sql`
        delete from bus_process where name = ${name} and id in (
          select id from bus_process where name = ${name} and done = 1 and updated_at < ${endedBefore} limit ${limit})`)
    },
  }
}

function firedTimer(message: Message, name: string): { process: string; timer: string; armedBy: string } | undefined {
  const header = message.headers[TIMER_HEADER]
  if (header === undefined) return undefined
  const [manager, process, timer, armedBy] = JSON.parse(header) as [string, string, string, string]
  return manager === name ? { process, timer, armedBy } : undefined // another process's timer is an event like others
}

function checkOptions<State>(options: ProcessManagerOptions<State>, steps: readonly ProcessStep<State>[]): void {
  const { name, version, upcastState = {} } = options
  if (name === '' || steps.length === 0) {
    throw new BusError('invalid_argument', `process '${name}': give it a name and at least one when(…)`)
  }
  if (!Number.isSafeInteger(version) || version < 1) {
    throw new BusError('invalid_argument', `process '${name}': version must be a whole number from 1, not ${version}`)
  }
  for (let from = 1; from < version; from++) {
    if (!upcastState[from]) {
      throw new BusError(
        'no_upcaster',
        `process '${name}' version ${version}: give upcastState a step from version ${from}`,
      )
    }
  }
  const types = steps.map((step) => step.event.type)
  const twice = types.find((type, index) => types.indexOf(type) !== index)
  if (twice)
    throw new BusError('invalid_argument', `process '${name}' has two when(…) for '${twice}': join them in one`)
}
