/**
 * What the broker will never take (B6): it leaves the outbox as a dead letter of the pseudo-subscription `(outbox)`, with
 * its bytes and the broker's reason, so that it holds up nothing behind it. Redriven, it is published again.
 *
 * The later messages of its key go on: consumers see them without it, and it comes last if it is redriven. To hold them
 * back would fill the outbox until the service could say nothing at all, for one message that seldom can be sent as it is.
 */
import type { Clock } from './clock.ts'
import { BusError } from './errors.ts'
import type { StoredMessage } from './outbox.ts'
import { sql } from './sql.ts'
import type { Store, Tx } from './store.ts'

/** Stands where a dead letter names its subscription. */
export const OUTBOX = '(outbox)'

export type OutboxRow = StoredMessage & { position: number; at: number }

/** The message is at fault: publishing it again cannot help. Whatever else a broker refuses, its operator can mend. */
export function isRefusal(error: unknown): error is BusError {
  return error instanceof BusError && (error.code === 'message_too_large' || error.code === 'invalid_argument')
}

/** Moves a row from the outbox to the dead letters. False: another process was faster. */
export function setAside(
  store: Store,
  row: OutboxRow,
  refusal: BusError,
  { newId, clock }: { newId: () => string; clock: Clock },
): Promise<boolean> {
  const { position, id, type, message_key, headers, body } = row
  const now = clock.now()
  return store.transaction(async (tx) => {
    if ((await tx.run(sql`delete from bus_outbox where position = ${position}`)) === 0) return false
    const why = { code: refusal.code, cause: refusal.message, detail: refusal.stack ?? refusal.message }
    const state = { attempts: 1, failed_at: now, position: now, status: 'open', parks: 0, trace: null }
    const message = { message_id: id, message_key: message_key ?? id, type, headers, body }
    await tx.insert('bus_dead_letter', [{ id: newId(), subscription: OUTBOX, ...message, ...why, ...state }])
    return true
  })
}

/** Publishes what was set aside again, at `dueAt`. */
export async function putBack(
  tx: Tx,
  letter: StoredMessage & { message_id: string },
  { dueAt, now }: { dueAt: number; now: number },
): Promise<void> {
  const { id, message_id, type, headers, body } = letter
  const message_key = letter.message_key === message_id ? null : letter.message_key
  if (dueAt <= now) await tx.insert('bus_outbox', [{ id: message_id, type, message_key, headers, body, at: now }])
  else await tx.insert('bus_timer', [{ id, due_at: dueAt, message_id, type, message_key, headers, body }])
}
