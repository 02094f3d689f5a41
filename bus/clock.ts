/** Time and chance come in as arguments, so that a test can live a month in a second and a seed can replay a failure. */

export type Timer = { cancel(): void }

export type Clock = {
  /** Milliseconds since the Unix epoch. */
  now(): number
  /** Calls `run` once, `delayMs` from now. A pending timer never keeps the process alive. */
  after(delayMs: number, run: () => void): Timer
}

/** A number in [0, 1), as `Math.random`. */
export type Random = () => number

const TIMEOUT_MAX_MS = 2 ** 31 - 1

export const systemClock: Clock = {
  now: Date.now,
  after(delayMs, run) {
    // A longer delay would overflow Node's timer and fire at once; whoever waits looks at the clock again anyway.
    const handle = setTimeout(run, Math.min(Math.max(0, delayMs), TIMEOUT_MAX_MS))
    handle.unref()
    return { cancel: () => clearTimeout(handle) }
  },
}

/** A sequence of numbers in [0, 1) that the seed alone decides (mulberry32, Tommy Ettinger, public domain). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export type SkippableClock = Clock & {
  /** Jumps ahead: what becomes due meanwhile comes at once, in the order of its times; nothing runs twice. */
  skip(byMs: number): void
}

/** Real time that can jump, so that a month passes at once and everything else takes as long as it takes. */
export function skippableClock(base: Clock = systemClock): SkippableClock {
  type Pending = { dueAt: number; run: () => void; timer: Timer }
  const pending = new Set<Pending>()
  let aheadMs = 0

  const now = () => base.now() + aheadMs
  function arm(one: Pending): void {
    one.timer = base.after(Math.max(0, one.dueAt - now()), () => {
      pending.delete(one)
      one.run()
    })
  }

  return {
    now,
    after(delayMs, run) {
      const one: Pending = { dueAt: now() + delayMs, run, timer: { cancel() {} } }
      pending.add(one)
      arm(one)
      return {
        cancel() {
          pending.delete(one)
          one.timer.cancel()
        },
      }
    },
    skip(byMs) {
      aheadMs += byMs
      for (const one of [...pending].sort((a, b) => a.dueAt - b.dueAt)) {
        one.timer.cancel()
        arm(one)
      }
    },
  }
}
