/** What people do with dead letters (B5, B6). Each act is recorded: who, when, why. */
import { isUtf8 } from 'node:buffer'
import { nextOfKeyIsDue } from './consumer.ts'
import { BusError } from './errors.ts'
import { type ComposeContext, type StoredMessage, toWire } from './outbox.ts'
import { OUTBOX, putBack } from './refused.ts'
import { sql } from './sql.ts'
import type { Reader, Store, Tx } from './store.ts'

export type DeadLetter = {
  readonly id: string
  /** `(outbox)`: the broker refused it, and nobody has heard it yet. */
  readonly subscription: string
  readonly messageId: string
  readonly type: string
  readonly key: string
  /** From the closed list of errors.ts, or what the handler's own error says. */
  readonly code: string
  readonly cause: string
  /** The stack, as it was thrown. */
  readonly detail: string
  readonly attempts: number
  /** Milliseconds since the epoch. */
  readonly failedAt: number
  readonly status: 'open' | 'redriven' | 'discarded'
  readonly headers: Readonly<Record<string, string>>
  /** The message's bytes as they came. */
  readonly body: string | Uint8Array
}

export type DeadLetterGroup = {
  /** Names the group for `redrive({ group })`. */
  readonly group: string
  readonly subscription: string
  readonly type: string
  readonly code: string
  readonly cause: string
  readonly count: number
  readonly oldestAt: number
  readonly newestAt: number
}

export type Act = {
  readonly act: 'redrive' | 'edit' | 'discard'
  readonly by: string
  readonly why: string
  readonly at: number
  readonly detail: string
}
export type Actor = { by: string; why: string }

/** What would have happened: the handlers ran in a transaction that was rolled back. Outside work is not done. */
export type Rehearsal =
  | {
      readonly outcome: 'would_succeed'
      readonly publications: readonly { readonly type: string; readonly data: unknown }[]
    }
  | { readonly outcome: 'would_fail'; readonly code: string; readonly cause: string }

export type DeadLettersOptions = {
  store: Store
  compose: ComposeContext
  /** The bytes of a dead letter with another payload. Throws `invalid_payload`, `unknown_event`. */
  rewrite: (letter: DeadLetter, data: unknown) => string | Uint8Array
  /** Runs the handlers of a subscription on a message inside `tx`, and answers what they published. */
  tryOut: (subscription: string, message: StoredMessage, tx: Tx) => Promise<{ type: string; data: unknown }[]>
  /** Rows of this subscription are due. */
  onDue: (subscription: string) => void
}

type Stored = StoredMessage & {
  subscription: string
  message_id: string
  message_key: string
  code: string
  cause: string
  detail: string
  attempts: number
  failed_at: number
  status: DeadLetter['status']
  parks: number
  trace: string | null
}

const LIST_MAX = 1_000
/** Redriven in one transaction. */
const REDRIVE_BATCH = 100

export class DeadLetters {
  private readonly options: DeadLettersOptions

  constructor(options: DeadLettersOptions) {
    this.options = options
  }

  /** Oldest first; `after` is the id of the last one seen. At most 1,000 at once. */
  async list(
    filter: { subscription?: string; status?: DeadLetter['status']; after?: string; limit?: number } = {},
  ): Promise<DeadLetter[]> {
    const { subscription = null, status = 'open', after = '', limit = 100 } = filter
    const rows = await this.options.store.read((reader) =>
      reader.all<Stored>(sql`
        select * from bus_dead_letter
        where id > ${after} and status = ${status} and (cast(${subscription} as text) is null or subscription = ${subscription})
        order by id limit ${Math.min(Math.max(1, limit), LIST_MAX)}`),
    )
    return rows.map(toDeadLetter)
  }

  /** Open dead letters by subscription, type and cause, the largest group first. */
  async groups(): Promise<DeadLetterGroup[]> {
    const rows = await this.options.store.read((reader) =>
      reader.all<{
        subscription: string
        type: string
        code: string
        cause: string
        count: number
        oldest: number
        newest: number
      }>(sql`
        select subscription, type, code, cause, count(*) as count, min(failed_at) as oldest, max(failed_at) as newest
        from bus_dead_letter where status = 'open' group by subscription, type, code, cause order by count(*) desc limit ${LIST_MAX}`),
    )
    return rows.map((row) => ({
      group: JSON.stringify([row.subscription, row.type, row.code, row.cause]),
      subscription: row.subscription,
      type: row.type,
      code: row.code,
      cause: row.cause,
      count: Number(row.count),
      oldestAt: Number(row.oldest),
      newestAt: Number(row.newest),
    }))
  }

  /** Throws `not_found`. */
  async get(id: string): Promise<DeadLetter> {
    return toDeadLetter(await this.options.store.read((reader) => this.find(reader, id)))
  }

  async acts(id: string): Promise<Act[]> {
    const rows = await this.options.store.read((reader) =>
      reader.all<Act>(
        sql`select act, by, why, at, detail from bus_dead_letter_act where dead_letter = ${id} order by position`,
      ),
    )
    return rows.map((row) => ({ ...row, at: Number(row.at) }))
  }

  /** Runs the handlers and undoes everything; see `Rehearsal`. Throws `invalid_argument` for what the broker refused. */
  async rehearse(id: string): Promise<Rehearsal> {
    const { store, tryOut } = this.options
    const letter = await store.read((reader) => this.find(reader, id))
    if (letter.subscription === OUTBOX) {
      const what = 'the broker refuses this message, and no handler has seen it'
      throw new BusError('invalid_argument', `${what}: do what its cause says and redrive it, or edit it`)
    }
    let publications: { type: string; data: unknown }[] = []
    const undo = new Error('rehearsed')
    try {
      await store.transaction(async (tx) => {
        publications = await tryOut(letter.subscription, { ...letter, id: letter.message_id }, tx)
        throw undo
      })
    } catch (error) {
      if (error === undo) return { outcome: 'would_succeed', publications }
      return {
        outcome: 'would_fail',
        code: error instanceof BusError ? error.code : 'attempts_exhausted',
        cause: (error as Error).message,
      }
    }
    throw new BusError('invalid_argument', 'a rehearsal was committed') // cannot happen: the work always throws
  }

  /**
   * Hands one, a group, or all open ones back to their handlers, attempts counted anew; what the broker refused is
   * published again. `perSecondMax` spreads them.
   * Answers how many. Redriving what is not open changes nothing.
   */
  async redrive(
    which: string | { group: string } | 'all',
    { by, why, perSecondMax }: Actor & { perSecondMax?: number },
  ): Promise<number> {
    const { store } = this.options
    const ids = await this.select(which)
    const stepMs = perSecondMax === undefined ? 0 : 1_000 / perSecondMax
    const begin = this.options.compose.clock.now()
    let redriven = 0
    const touched = new Set<string>()
    for (let start = 0; start < ids.length; start += REDRIVE_BATCH) {
      await store.transaction(async (tx) => {
        for (const [offset, id] of ids.slice(start, start + REDRIVE_BATCH).entries()) {
          const letter = await this.find(tx, id)
          if (letter.status !== 'open') continue
          if (!(await this.settle(tx, letter, 'redriven'))) continue
          await this.handBack(tx, letter, Math.round(begin + (start + offset) * stepMs))
          await this.record(tx, id, 'redrive', { by, why }, '')
          touched.add(letter.subscription)
          redriven += 1
        }
      })
    }
    for (const subscription of touched) this.options.onDue(subscription)
    return redriven
  }

  /**
   * Replaces the payload, of today's version, and redrives; of a bridge's dead letter, its whole text. Throws `invalid_payload`,
   * `unknown_event`, `not_found`.
   */
  async edit(id: string, data: unknown, { by, why }: Actor): Promise<void> {
    const { store, rewrite } = this.options
    await store.transaction(async (tx) => {
      const letter = await this.find(tx, id)
      if (letter.status !== 'open') throw new BusError('not_found', `dead letter ${id} is ${letter.status}`)
      const body = rewrite(toDeadLetter(letter), data)
      await tx.run(sql`update bus_dead_letter set body = ${body} where id = ${id}`)
      await tx.run(sql`
        update bus_deferred set body = ${body} where subscription = ${letter.subscription} and message_key = ${letter.message_key} and id = ${letter.message_id}`)
      await this.record(tx, id, 'edit', { by, why }, readable(letter.body))
    })
    await this.redrive(id, { by, why })
  }

  /** Gives it up for good; what waited behind it goes on. */
  async discard(id: string, { by, why }: Actor): Promise<void> {
    const { store, compose, onDue } = this.options
    const subscription = await store.transaction(async (tx) => {
      const letter = await this.find(tx, id)
      if (letter.status !== 'open') return letter.subscription
      if (!(await this.settle(tx, letter, 'discarded'))) return letter.subscription
      await this.record(tx, id, 'discard', { by, why }, '')
      if (letter.parks) {
        await tx.run(
          sql`delete from bus_deferred where subscription = ${letter.subscription} and message_key = ${letter.message_key} and id = ${letter.message_id}`,
        )
        await tx.run(nextOfKeyIsDue(letter.subscription, letter.message_key, compose.clock.now()))
      }
      return letter.subscription
    })
    onDue(subscription)
  }

  private async select(which: string | { group: string } | 'all'): Promise<string[]> {
    if (typeof which === 'string' && which !== 'all') return [which]
    const rows = await this.options.store.read((reader) => {
      if (which === 'all')
        return reader.all<{ id: string }>(sql`select id from bus_dead_letter where status = 'open' order by id`)
      const [subscription, type, code, cause] = parseGroup((which as { group: string }).group)
      return reader.all<{ id: string }>(sql`
        select id from bus_dead_letter where status = 'open' and subscription = ${subscription} and type = ${type}
          and code = ${code} and cause = ${cause} order by id`)
    })
    return rows.map((row) => row.id)
  }

  /** A parked one stands at the head of its key and only becomes due; one that was skipped joins anew. */
  private async handBack(tx: Tx, letter: Stored, dueAt: number): Promise<void> {
    const { clock } = this.options.compose
    if (letter.subscription === OUTBOX) return putBack(tx, letter, { dueAt, now: clock.now() })
    const revived = letter.parks
      ? await tx.run(sql`
          update bus_deferred set due_at = ${dueAt}, attempts = 0, claimed_until = 0, trace = ${letter.trace}
          where subscription = ${letter.subscription} and message_key = ${letter.message_key} and id = ${letter.message_id}`)
      : 0
    if (revived > 0) return
    const { subscription, message_key, type, headers, body, trace } = letter
    await tx.insert('bus_deferred', [
      {
        subscription,
        message_key,
        id: letter.message_id,
        type,
        headers,
        body,
        attempts: 0,
        due_at: dueAt,
        claimed_until: 0,
        reason: 'redriven',
        trace,
      },
    ])
  }

  /** False: somebody else was faster. */
  private async settle(tx: Tx, letter: Stored, status: DeadLetter['status']): Promise<boolean> {
    return (
      (await tx.run(sql`update bus_dead_letter set status = ${status} where id = ${letter.id} and status = 'open'`)) > 0
    )
  }

  private async record(tx: Tx, id: string, act: Act['act'], { by, why }: Actor, detail: string): Promise<void> {
    if (!by || !why) throw new BusError('invalid_argument', 'say who does it and why: { by, why }')
    await tx.insert('bus_dead_letter_act', [
      { dead_letter: id, act, by, why, at: this.options.compose.clock.now(), detail },
    ])
  }

  private async find(reader: Reader, id: string): Promise<Stored> {
    const row = await reader.get<Stored>(sql`select * from bus_dead_letter where id = ${id}`)
    if (row) return row
    throw new BusError('not_found', `no dead letter '${id}'`)
  }
}

function parseGroup(group: string): [string, string, string, string] {
  try {
    const parts = JSON.parse(group)
    if (Array.isArray(parts) && parts.length === 4 && parts.every((part) => typeof part === 'string'))
      return parts as [string, string, string, string]
  } catch {
    // said below
  }
  throw new BusError('invalid_argument', `'${group}' is no group: take one from the list of groups`)
}

/** What was said before the edit: as text, or in base64 where the bytes are none. */
function readable(body: string | Uint8Array): string {
  if (typeof body === 'string') return body
  return isUtf8(body) ? Buffer.from(body).toString() : Buffer.from(body).toString('base64')
}

function toDeadLetter(row: Stored): DeadLetter {
  return {
    id: row.id,
    subscription: row.subscription,
    messageId: row.message_id,
    type: row.type,
    key: row.message_key,
    code: row.code,
    cause: row.cause,
    detail: row.detail,
    attempts: Number(row.attempts),
    failedAt: Number(row.failed_at),
    status: row.status,
    headers: toWire(row).headers,
    body: row.body,
  }
}
