export type EventuallyOptions = {
  /** Real milliseconds until giving up; 5,000 by default. */
  timeoutMs?: number
  /** Real milliseconds between two looks; 10 by default. */
  intervalMs?: number
  /** What was waited for; the error says it. */
  message?: string
}

/**
 * Looks again and again, in real time, until `check` answers something true, and answers that. A throw counts as "not
 * yet", so assertions may stand inside. Only for facts that another process or a broker brings about: whatever happens in
 * this process can say itself that it happened.
 */
export async function eventually<T>(check: () => T | Promise<T>, options: EventuallyOptions = {}): Promise<T> {
  const { timeoutMs = 5_000, intervalMs = 10, message = 'the fact did not come true' } = options
  let cause: unknown
  let late = false
  const lateness = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => {
    late = true
    lateness.resolve(undefined)
  }, timeoutMs)
  try {
    while (true) {
      try {
        // A check that itself hangs must not keep us from saying what was waited for.
        const answer = await Promise.race([check(), lateness.promise])
        if (answer) return answer
        if (!late) cause = undefined
      } catch (error) {
        cause = error
      }
      if (late) throw new Error(`${message} (waited ${timeoutMs} ms)`, { cause })
      await new Promise((resolve) => setTimeout(resolve, intervalMs))
    }
  } finally {
    clearTimeout(timer)
  }
}
