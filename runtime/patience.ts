import { type Clock, UnavailableError } from '@shopsphere/bus'
import type { Log } from './log.ts'

const PAUSE_FIRST_MS = 250
const PAUSE_MAX_MS = 5_000
/** A server that is not there by then is not coming by itself. */
const PATIENCE_MS = 300_000

/**
 * Opens what lives on a server that may start after us: tries again while it is not there, says so, and gives up after
 * five minutes with what the last try said. What waiting cannot mend (credentials, rights, versions) is thrown at once.
 */
export async function patiently(
  what: string,
  open: () => Promise<void>,
  { clock, log, patienceMs = PATIENCE_MS }: { clock: Clock; log: Log; patienceMs?: number },
): Promise<void> {
  const until = clock.now() + patienceMs
  // The clock's timers keep no process alive, and before a server answers nothing else does.
  const alive = setInterval(() => {}, PAUSE_MAX_MS)
  try {
    return await openBy(until, what, open, clock, log)
  } finally {
    clearInterval(alive)
  }
}

async function openBy(until: number, what: string, open: () => Promise<void>, clock: Clock, log: Log): Promise<void> {
  for (let pauseMs = PAUSE_FIRST_MS; ; pauseMs = Math.min(PAUSE_MAX_MS, pauseMs * 2)) {
    try {
      return await open()
    } catch (error) {
      if (!(error instanceof UnavailableError) || clock.now() + pauseMs > until) throw error
      log.warn(`${what} is not there yet and is waited for: ${error.message}`)
    }
    await new Promise<void>((resolve) => void clock.after(pauseMs, resolve))
  }
}
