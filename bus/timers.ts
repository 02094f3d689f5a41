/**
 * Later publications (B9): rows in `bus_timer` that become outbox rows when they are due, in one transaction; and crons,
 * which keep the time of their next turn. Any process of the service may do it: a row can be taken only once.
 */
import { Cron } from 'croner'
import type { Clock, Timer } from './clock.ts'
import { BusError } from './errors.ts'
import type { EventType } from './event.ts'
import type { Limits } from './limits.ts'
import type { Log } from './log.ts'
import { type ComposeContext, Publications, type StoredMessage } from './outbox.ts'
import { sql } from './sql.ts'
import type { Store, Tx } from './store.ts'

export type Schedule<Data = any> = {
  /** Durable, unique in the service. */
  name: string
  /** Five or six fields, in UTC: `0 3 * * *`. */
  cron: string
  event: EventType<Data>
  data: NoInfer<Data> | ((turnAt: number) => NoInfer<Data>)
}

const DUE_MAX = 500

export type TimersOptions = {
  store: Store
  clock: Clock
  limits: Limits
  compose: ComposeContext
  log: Log
  /** So many rows were written to the outbox. */
  onCommit: (published: number) => void
}

export class Timers {
  private readonly options: TimersOptions
  private readonly schedules = new Map<string, Schedule>()
  private next: { timer: Timer; at: number } | undefined
  private running: Promise<void> | undefined
  private sweeper: Timer | undefined
  private started = false
  private stopped = false

  constructor(options: TimersOptions) {
    this.options = options
  }

  add(schedule: Schedule): void {
    if (this.schedules.has(schedule.name))
      throw new BusError('invalid_argument', `schedule '${schedule.name}' exists already`)
    nextTurn(schedule.cron, this.options.clock.now()) // refuses a bad expression at once
    this.schedules.set(schedule.name, schedule)
  }

  get idle(): boolean {
    return this.running === undefined
  }

  /** True where a timer or a schedule is due and has not been published. */
  async hasDue(): Promise<boolean> {
    const now = this.options.clock.now()
    const row = await this.options.store.read((reader) =>
      reader.get<{ timer: number | null; cron: number | null }>(sql`
        select (select 1 from bus_timer where due_at <= ${now} limit 1) as timer,
          (select 1 from bus_cron where next_at <= ${now} limit 1) as cron`),
    )
    return Boolean(row?.timer) || (this.schedules.size > 0 && Boolean(row?.cron))
  }

  async start(): Promise<void> {
    const { store, clock } = this.options
    this.started = true
    const schedules = [...this.schedules.values()]
    if (schedules.length > 0) {
      await store.transaction(async (tx) => {
        for (const { name, cron } of schedules) {
          // A changed expression starts anew; an unchanged one keeps its turn, also one that was missed meanwhile.
          const nextAt = nextTurn(cron, clock.now())
          await tx.run(sql`
            insert into bus_cron (name, expression, next_at) values (${name}, ${cron}, ${nextAt})
            on conflict (name) do update set expression = excluded.expression, next_at = excluded.next_at
            where bus_cron.expression <> excluded.expression`)
        }
      })
    }
    this.sweep()
  }

  /** A timer is due at `dueAt`: look then, if not before. */
  expect(dueAt: number): void {
    if (!this.started || this.stopped || dueAt === Number.POSITIVE_INFINITY) return
    if (this.next && this.next.at <= dueAt) return
    this.next?.timer.cancel()
    const delayMs = dueAt - this.options.clock.now()
    this.next = { at: dueAt, timer: this.options.clock.after(delayMs, () => this.look()) }
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.next?.timer.cancel()
    this.sweeper?.cancel()
    await this.running
  }

  private sweep(): void {
    this.look()
    this.sweeper = this.options.clock.after(this.options.limits.sweepMs, () => this.sweep())
  }

  private look(): void {
    this.next?.timer.cancel()
    this.next = undefined
    if (this.stopped) return
    this.running ??= this.fireDue()
      .catch((error) =>
        this.options.log.warn({ err: error }, 'timers could not be read; tried again with the next sweep'),
      )
      .finally(() => {
        this.running = undefined
      })
  }

  private async fireDue(): Promise<void> {
    const { store, clock, onCommit } = this.options
    for (;;) {
      const now = clock.now()
      const nextAt = await store.read((reader) =>
        reader.get<{ timer: number | null; cron: number | null }>(sql`
          select (select min(due_at) from bus_timer) as timer, (select min(next_at) from bus_cron) as cron`),
      )
      const soonest = Math.min(
        Number(nextAt?.timer ?? Number.POSITIVE_INFINITY),
        this.schedules.size > 0 ? Number(nextAt?.cron ?? Number.POSITIVE_INFINITY) : Number.POSITIVE_INFINITY,
      )
      if (soonest > now) return this.expect(soonest)
      const published = await store.transaction(
        async (tx) => (await this.fireTimers(tx, now)) + (await this.fireSchedules(tx, now)),
      )
      if (published === 0) return
      onCommit(published)
    }
  }

  private async fireTimers(tx: Tx, now: number): Promise<number> {
    const due = await tx.all<Omit<StoredMessage, 'id'> & { message_id: string; due_at: number }>(sql`
      delete from bus_timer where due_at <= ${now}
        and id in (select id from bus_timer where due_at <= ${now} order by due_at limit ${DUE_MAX})
      returning message_id, type, message_key, headers, body, due_at`)
    due.sort((a, b) => Number(a.due_at) - Number(b.due_at))
    const rows = due.map(({ message_id, due_at: _, ...rest }) => ({ id: message_id, ...rest, at: now }))
    await tx.insert('bus_outbox', rows)
    return rows.length
  }

  private async fireSchedules(tx: Tx, now: number): Promise<number> {
    const publications = new Publications(this.options.compose)
    const due = await tx.all<{ name: string; next_at: number }>(
      sql`select name, next_at from bus_cron where next_at <= ${now}`,
    )
    for (const { name, next_at } of due) {
      const schedule = this.schedules.get(name)
      const turnAt = Number(next_at)
      // A name that the code no longer has is forgotten; turns missed while nothing ran are made up for once.
      if (!schedule) await tx.run(sql`delete from bus_cron where name = ${name}`)
      else {
        const taken = await tx.run(
          sql`update bus_cron set next_at = ${nextTurn(schedule.cron, now)} where name = ${name} and next_at = ${next_at}`,
        )
        if (taken === 0) continue // another process was faster
        const data = typeof schedule.data === 'function' ? schedule.data(turnAt) : schedule.data
        publications.publishFrom({})(schedule.event, data)
      }
    }
    await publications.write(tx)
    return publications.count
  }
}

function nextTurn(expression: string, after: number): number {
  let next: Date | null
  try {
    next = new Cron(expression, { timezone: 'UTC', paused: true }).nextRun(new Date(after))
  } catch (cause) {
    throw new BusError('invalid_argument', `cron '${expression}': ${(cause as Error).message}`, { cause })
  }
  if (!next) throw new BusError('invalid_argument', `cron '${expression}' never comes again`)
  return next.getTime()
}
