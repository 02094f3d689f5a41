import type { Clock, Timer } from '../clock.ts'

export type VirtualClock = Clock & {
  /**
   * Moves time on by `ms`: fires what falls due, in order, each at its own time, and lets the work that it sets off settle
   * before the next. Resolves when nothing more is due. Calls made while another runs are taken up after it.
   */
  advance(ms: number): Promise<void>
  /**
   * Moves from timer to timer until `check` answers true, `withinMs` at most; the clock then stands where the fact came
   * true. Rejects where time or timers ran out first.
   */
  advanceUntil(
    check: () => boolean | Promise<boolean>,
    options?: { withinMs?: number; message?: string },
  ): Promise<void>
  /** Lets work that needs no time settle. */
  settle(): Promise<void>
  /** How many timers wait. */
  pending(): number
  /** When the next timer falls due, milliseconds since the epoch; null: none waits. */
  nextAt(): number | null
}

export type VirtualClockOptions = {
  /** Lets work settle between two timers; by default a few turns of the event loop. */
  settle?: () => Promise<void>
}

type Entry = { readonly at: number; readonly sequence: number; readonly run: () => void }

/** 2025-01-01T00:00:00Z: a round time that no test takes for the real one. */
export const VIRTUAL_START_MS = Date.UTC(2025, 0, 1)

/** So many timers at one instant are a timer that re-arms itself without delay. */
const FIRED_AT_ONE_INSTANT_MAX = 100_000
const SETTLE_TURNS = 8
const DAY_MS = 86_400_000

/** A clock that stands still until told to move, so that a test can live a month in a second. */
export function virtualClock(startMs: number = VIRTUAL_START_MS, options: VirtualClockOptions = {}): VirtualClock {
  const settle = options.settle ?? settleTurns
  const entries: Entry[] = [] // the next one last
  let nowMs = startMs
  let sequence = 0
  let moving: Promise<unknown> = Promise.resolve()

  function after(delayMs: number, run: () => void): Timer {
    // NaN would sort nowhere and never fire; the real clock would fire at once. Times are whole milliseconds, as real ones.
    const entry = { at: nowMs + Math.max(0, Number.isNaN(delayMs) ? 0 : Math.ceil(delayMs)), sequence: sequence++, run }
    entries.splice(positionOf(entries, entry), 0, entry)
    return {
      cancel() {
        const index = entries.indexOf(entry)
        if (index >= 0) entries.splice(index, 1)
      },
    }
  }

  async function moveTo(targetMs: number, stop?: () => boolean | Promise<boolean>): Promise<boolean> {
    let firedAtThisInstant = 0
    await settle()
    while (true) {
      if (stop && (await stop())) return true
      const next = entries.at(-1)
      if (!next || next.at > targetMs) break
      entries.pop()
      firedAtThisInstant = next.at > nowMs ? 0 : firedAtThisInstant + 1
      if (firedAtThisInstant > FIRED_AT_ONE_INSTANT_MAX) {
        throw new Error(
          `more than ${FIRED_AT_ONE_INSTANT_MAX} timers fired at ${nowMs}: one re-arms itself without delay`,
        )
      }
      nowMs = Math.max(nowMs, next.at)
      next.run()
      await settle()
    }
    nowMs = Math.max(nowMs, targetMs)
    await settle()
    return stop ? await stop() : false
  }

  function inTurn<T>(move: () => Promise<T>): Promise<T> {
    const done = moving.then(move)
    moving = done.catch(() => {})
    return done
  }

  return {
    now: () => nowMs,
    after,
    settle,
    pending: () => entries.length,
    nextAt: () => entries.at(-1)?.at ?? null,
    async advance(ms) {
      if (!(ms >= 0)) throw new RangeError(`advance(${ms}): give milliseconds from 0 up; time does not run back`)
      await inTurn(() => moveTo(nowMs + ms))
    },
    async advanceUntil(check, { withinMs = DAY_MS, message = 'the fact never came true' } = {}) {
      const came = await inTurn(() => moveTo(nowMs + withinMs, check))
      if (!came) throw new Error(`${message} (within ${withinMs} ms of virtual time; ${entries.length} timers wait)`)
    },
  }
}

/** Before which entry to insert: later times come first; among equal times, the younger. */
function positionOf(entries: readonly Entry[], entry: Entry): number {
  let low = 0
  let high = entries.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const other = entries[middle]!
    if (other.at > entry.at || (other.at === entry.at && other.sequence > entry.sequence)) low = middle + 1
    else high = middle
  }
  return low
}

/** Each turn runs all promises that are ready, what `setImmediate` holds, and one look at sockets and files. */
export async function settleTurns(): Promise<void> {
  for (let turn = 0; turn < SETTLE_TURNS; turn++) await new Promise((resolve) => setImmediate(resolve))
}
