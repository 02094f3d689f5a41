import { type Clock, UnavailableError } from '@shopsphere/bus'
import type { Log } from './log.ts'

const PAUSE_FIRST_MS = 250
const PAUSE_MAX_MS = 5_000
/** A server that is not there by then is not coming by itself. */
const PATIENCE_MS = 300_000

/**
 * Opens what lives on a server that may start after us: tries again while it is not there, says so (in the log, and to
 * `onWait`), and gives up after five minutes with what the last try said. What waiting cannot mend (credentials, rights,
 * versions) is thrown at once.
 */
export async function patiently(
  what: string,
  open: () => Promise<void>,
  options: { clock: Clock; log: Log; onWait?: ((reason: string) => void) | undefined; patienceMs?: number },
): Promise<void> {
  // The clock's timers keep no process alive, and before a server answers nothing else does.
  const alive = setInterval(() => {}, PAUSE_MAX_MS)
  try {
    return await openInTime(what, open, options)
  } finally {
    clearInterval(alive)
  }
}

async function openInTime(
  what: string,
  open: () => Promise<void>,
  { clock, log, onWait, patienceMs = PATIENCE_MS }: Parameters<typeof patiently>[2],
): Promise<void> {
  const until = clock.now() + patienceMs
  for (let pauseMs = PAUSE_FIRST_MS; ; pauseMs = Math.min(PAUSE_MAX_MS, pauseMs * 2)) {
    try {
      return await open()
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error
      if (clock.now() + pauseMs > until) throw givenUp(what, error, patienceMs)
      const reason = `${what} is not there yet and is waited for: ${error.message}`
      onWait?.(reason)
      log.warn(reason)
    }
    await new Promise<void>((resolve) => void clock.after(pauseMs, resolve))
  }
}

function givenUp(what: string, { code, message }: UnavailableError, patienceMs: number): UnavailableError {
  const waited = `it was waited for ${Math.round(patienceMs / 1_000)} s. Start it, or correct its address`
  return new UnavailableError(code, `${what}: ${message}; ${waited}`)
}
