/**
 * What a transaction publishes: composed and validated at once, written to the outbox (or, for later, to the timers)
 * before the transaction commits.
 */
import type { Clock } from './clock.ts'
import type { Codec } from './codec.ts'
import { BusError } from './errors.ts'
import { type EventType, validate } from './event.ts'
import type { Limits } from './limits.ts'
import type { Message, WireMessage } from './message.ts'
import { sql } from './sql.ts'
import type { Row, Tx } from './store.ts'

export type PublishOptions = {
  /** Publish so many milliseconds from now: durable, in the store. */
  delayMs?: number
  /** Publish at this time, milliseconds since the epoch: durable, in the store. */
  at?: number
  /**
   * Now: the message's id, by default a new UUIDv7; a repeat under the same id has no second effect.
   * Later: the name to `cancel` by; publishing later under the same id replaces what was planned.
   */
  id?: string
  /** For headers routing, and for what an application carries beside the payload. */
  headers?: Readonly<Record<string, string>>
}

/** Answers the message's id, or the timer's for a later one. Throws `invalid_payload`, `not_owner`, `message_too_large`. */
export type Publish = <Data>(event: EventType<Data>, data: NoInfer<Data>, options?: PublishOptions) => string

/** Where a message comes from, handed on to what its handling publishes. */
export type Origin = {
  readonly correlationId?: string
  readonly causationId?: string | null
  readonly traceparent?: string | null
}

export type ComposeContext = {
  readonly service: string
  readonly clock: Clock
  readonly newId: () => string
  readonly codec: Codec
  readonly limits: Limits
  /** Throws UnavailableError `outbox_full` where so many more messages have no room. */
  readonly refuseWhenFull: (count: number, tx: Tx) => Promise<void>
}

type PublicationsMark = { readonly rows: number; readonly timers: readonly Row[] }

/** The publications of one transaction. */
export class Publications {
  private readonly context: ComposeContext
  private readonly rows: Row[] = []
  /** Replaced and never changed in place, so that `mark` can keep it. */
  private timers: readonly Row[] = []
  /** The earliest time at which one of the timers is due. */
  nextDueAt = Number.POSITIVE_INFINITY

  constructor(context: ComposeContext) {
    this.context = context
  }

  get count(): number {
    return this.rows.length
  }

  /** The messages as the codec wrote them, those for later included. */
  composed(): (string | Uint8Array)[] {
    return [...this.rows, ...this.timers].map((row) => row.body as string | Uint8Array)
  }

  /** Where `backTo` goes back to. */
  mark(): PublicationsMark {
    return { rows: this.rows.length, timers: this.timers }
  }

  /** Undoes what was published since `mark()`: its savepoint was rolled back. */
  backTo(mark: PublicationsMark): void {
    this.rows.length = mark.rows
    this.timers = mark.timers
  }

  /** With `tx`, publishing is over when that is: a handler that comes late cannot publish in another's name. */
  publishFrom(origin: Origin, tx?: Tx): Publish {
    return (event, data, options = {}) => {
      if (tx?.ended)
        throw new BusError(
          'handler_timeout',
          `'${event.type}' was published after the handler's time: await everything inside it`,
        )
      const { clock, newId } = this.context
      const now = clock.now()
      const dueAt = dueTime(options, now)
      const messageId = dueAt === null && options.id ? options.id : newId()
      const row = outboxRow(this.context, event, data, messageId, dueAt ?? now, origin, options.headers)
      if (dueAt === null) {
        this.rows.push(row)
        return messageId
      }
      const timerId = options.id ?? messageId
      const { id: _, at: __, ...rest } = row
      this.timers = [...this.timers, { id: timerId, due_at: dueAt, message_id: messageId, ...rest }]
      this.nextDueAt = Math.min(this.nextDueAt, dueAt)
      return timerId
    }
  }

  /** Calls off a later publication, planned in this transaction or before; nothing happens where there is none. */
  async cancel(tx: Tx, id: string): Promise<void> {
    this.timers = this.timers.filter((timer) => timer.id !== id)
    await tx.run(sql`delete from bus_timer where id = ${id}`)
  }

  /** Writes everything; the last thing before the commit. Throws UnavailableError `outbox_full`. */
  async write(tx: Tx): Promise<void> {
    if (this.rows.length > 0) await this.context.refuseWhenFull(this.rows.length, tx)
    for (const timer of this.timers) {
      await tx.run(sql`
        insert into bus_timer (id, due_at, message_id, type, message_key, headers, body)
        values (${timer.id!}, ${timer.due_at!}, ${timer.message_id!}, ${timer.type!}, ${timer.message_key!}, ${timer.headers!}, ${timer.body!})
        on conflict (id) do update set due_at = excluded.due_at, message_id = excluded.message_id, type = excluded.type,
          message_key = excluded.message_key, headers = excluded.headers, body = excluded.body`)
    }
    if (this.rows.length > 0) await tx.insert('bus_outbox', this.rows)
  }
}

function outboxRow(
  context: ComposeContext,
  event: EventType,
  data: unknown,
  id: string,
  time: number,
  origin: Origin,
  headers: Readonly<Record<string, string>> = {},
): Row {
  const { service, codec, limits } = context
  if (event.owner !== service) {
    throw new BusError(
      'not_owner',
      `'${event.type}' belongs to ${event.owner}; ${service} may subscribe to it, not publish it`,
    )
  }
  const valid = validate(event, data)
  const message: Message = {
    id,
    type: event.type,
    version: event.version,
    source: service,
    time,
    key: event.key(valid),
    correlationId: origin.correlationId ?? id,
    causationId: origin.causationId ?? null,
    traceparent: origin.traceparent ?? null,
    headers,
    data: valid,
  }
  const body = codec.encode(message)
  // UTF-8 takes at most three bytes for a UTF-16 unit: only long texts are measured exactly.
  if (body.length * 3 > limits.messageBytesMax && Buffer.byteLength(body as string) > limits.messageBytesMax) {
    throw new BusError(
      'message_too_large',
      `${event.type} would be ${Buffer.byteLength(body as string)} bytes; messageBytesMax is ${limits.messageBytesMax}: keep large things elsewhere and publish where they are`,
    )
  }
  const row = { id, type: event.type, message_key: message.key, headers: headersText(headers), body, at: time }
  refuseLarge(event.type, 'id', row.id, limits.idBytesMax)
  refuseLarge(event.type, 'key', row.message_key ?? '', limits.keyBytesMax)
  refuseLarge(event.type, 'headers', row.headers, limits.headersBytesMax)
  return row
}

/** What a broker could never take would stop everything behind it in the outbox. */
function refuseLarge(type: string, what: 'id' | 'key' | 'headers', text: string, bytesMax: number): void {
  if (text.length * 3 <= bytesMax || Buffer.byteLength(text) <= bytesMax) return
  throw new BusError(
    'message_too_large',
    `${type} would have ${Buffer.byteLength(text)} bytes of ${what}; ${what}BytesMax is ${bytesMax}: put what is long into the payload`,
  )
}

function dueTime(options: PublishOptions, now: number): number | null {
  const at = options.at ?? (options.delayMs === undefined ? null : now + options.delayMs)
  if (at === null) return null
  if (!Number.isFinite(at))
    throw new BusError(
      'invalid_argument',
      `delayMs and at must be finite numbers of milliseconds, not ${options.delayMs ?? options.at}`,
    )
  return at > now || options.id !== undefined ? at : null
}

export function headersText(headers: Readonly<Record<string, string>>): string {
  for (const _ in headers) return JSON.stringify(headers)
  return '{}'
}

/** Columns that every table with waiting messages shares. */
export type StoredMessage = {
  id: string
  type: string
  message_key: string | null
  headers: string
  body: string | Uint8Array
}

export function toWire(row: StoredMessage): WireMessage {
  return {
    id: row.id,
    type: row.type,
    key: row.message_key,
    headers: row.headers === '{}' ? NO_HEADERS : JSON.parse(row.headers),
    body: row.body,
  }
}

const NO_HEADERS: Readonly<Record<string, string>> = Object.freeze({})
