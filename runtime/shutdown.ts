import type { Log } from './log.ts'

const CLOSE_LIMIT_MS = 15_000
/** Ctrl+C reaches npm and this process, and npm passes it on: what comes so soon is the same press. */
const SAME_PRESS_MS = 500
const signalNumbers = { SIGINT: 2, SIGTERM: 15 } as const

/** What is used of `process`; a test gives its own. */
export type Process = Pick<NodeJS.Process, 'on' | 'off' | 'exit'>

/**
 * SIGTERM and SIGINT end the process with 0 while it starts, without closing: what it has begun by then is taken up by the
 * next one. A container's first process would not hear them otherwise. Answers what takes this back, once onShutdown sees to it.
 */
export function exitWhenAsked(process: Process = globalThis.process): () => void {
  const exit = () => process.exit(0)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, exit)
  return () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, exit)
  }
}

/** Whoever read what is written may have gone, as in `npm start | head`: no reason to end. */
export function surviveClosedOutput(streams: readonly NodeJS.WritableStream[]): void {
  for (const stream of streams) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
    })
  }
}

/**
 * SIGTERM or SIGINT closes once and exits 0; a second signal, half a second later or more, exits at once, as the shell expects
 * of one that was killed.
 * An error that nobody caught is logged and ends the process with 1, without closing: what the process believes can no
 * longer be trusted, and whatever was committed is taken up by the next one.
 */
export function onShutdown(
  close: () => Promise<void>,
  options: { log: Log; process?: Process; limitMs?: number; now?: () => number },
): void {
  const { log, process = globalThis.process, limitMs = CLOSE_LIMIT_MS, now = () => performance.now() } = options
  let closingSinceMs: number | undefined

  const stop = async (signal: keyof typeof signalNumbers) => {
    if (closingSinceMs !== undefined) {
      if (now() - closingSinceMs >= SAME_PRESS_MS) process.exit(128 + signalNumbers[signal])
      return
    }
    closingSinceMs = now()
    log.info({ signal }, 'closing')
    // Not unref'd: where close hangs with nothing else to do, the process still says so.
    const tooLong = setTimeout(() => {
      log.error({ limitMs }, 'closing took too long; what runs is cut and taken up at the next start')
      process.exit(1)
    }, limitMs)
    try {
      await close()
      log.info('closed')
      process.exit(0)
    } catch (error) {
      log.error({ err: error }, 'closing failed')
      process.exit(1)
    } finally {
      clearTimeout(tooLong)
    }
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void stop(signal))

  const fail = (error: unknown) => {
    log.fatal({ err: error }, 'an error that nobody caught')
    process.exit(1)
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
}
