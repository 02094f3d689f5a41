/**
 * How often a password may be guessed. Failures count per e-mail, whether it has an account or not, so that a refusal
 * tells nobody who is a customer here.
 */
import { createHash } from 'node:crypto'
import { problem } from '@shopsphere/runtime/problem'

/** Wrong passwords in a row that cost nothing. */
export const FREE_FAILURES = 5
const LOCK_FIRST_MS = 30_000
const LOCK_LONGEST_MS = 15 * 60_000
/** After so long without a failure the count begins anew. Longer than any lock. */
export const FAILURES_KEPT_MS = 3_600_000

export type Failures = { readonly failures: number; readonly failedAt: number }

/** How long the next attempt must still wait: nothing at first, then twice as long after each failure. */
export function waitMs(failed: Failures | undefined, nowMs: number): number {
  if (!failed || failed.failures < FREE_FAILURES) return 0
  const lockMs = Math.min(LOCK_LONGEST_MS, LOCK_FIRST_MS * 2 ** (failed.failures - FREE_FAILURES))
  return Math.max(0, failed.failedAt + lockMs - nowMs)
}

/** The count after one more failure. */
export function afterFailure(failed: Failures | undefined, nowMs: number): Failures {
  const current = failed && nowMs - failed.failedAt < FAILURES_KEPT_MS ? failed.failures : 0
  return { failures: current + 1, failedAt: nowMs }
}

/** Throws the problem `too_many_requests` with `Retry-After` while an e-mail has to wait. */
export function assertMayTry(failed: Failures | undefined, nowMs: number): void {
  const seconds = Math.ceil(waitMs(failed, nowMs) / 1000)
  if (seconds === 0) return
  throw problem(
    429,
    'too_many_requests',
    `There were too many wrong passwords for this e-mail: try again in ${seconds} s.`,
    {},
    { 'retry-after': String(seconds) },
  )
}

/** An e-mail in the form that is compared: whoever types it in another case means the same. */
export function comparable(email: string): string {
  return email.normalize('NFKC').toLowerCase()
}

/** What failures are kept under: what strangers type is no address book. */
export function digestOf(email: string): string {
  return createHash('sha256').update(comparable(email)).digest('base64url')
}

const WAITING_MAX = 256

/**
 * Runs work of one key one after another: a hundred guesses at the same time count as a hundred. Throws the problem
 * `unavailable` when too much waits, because each attempt costs memory and time.
 */
export function createTurns(waitingMax = WAITING_MAX) {
  const last = new Map<string, Promise<unknown>>()
  let waiting = 0
  return async function inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
    if (waiting >= waitingMax) {
      throw problem(503, 'unavailable', 'Too many people sign in right now: try again.', {}, { 'retry-after': '2' })
    }
    waiting += 1
    const done = (last.get(key) ?? Promise.resolve()).then(work)
    const settled = done.catch(() => {})
    last.set(key, settled)
    try {
      return await done
    } finally {
      waiting -= 1
      if (last.get(key) === settled) last.delete(key)
    }
  }
}

export type InTurn = ReturnType<typeof createTurns>
