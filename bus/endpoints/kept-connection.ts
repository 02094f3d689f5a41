/**
 * Keeps one connection to a foreign broker: makes it, notices when it is lost, makes it again with back-off.
 *
 * Q1 A broker that is away is waited for, at the start as later; one that refuses is an error at the start, and later a
 *    reason that stands in `state`, since somebody may mend it.
 * Q2 Whatever was set up on one connection is set up on the next before anybody gets it.
 */
import { BusError, UnavailableError } from '../errors.ts'
import { type Log, silentLog } from '../log.ts'
import type { TransportState } from '../transport.ts'

const RETRY_FIRST_MS = 100
const RETRY_MAX_MS = 10_000

export type KeptConnection<Connection> = {
  /** Rejects with `transport_refused` only. */
  open(log: Log): Promise<void>
  state(): TransportState
  /** Throws UnavailableError `transport_unavailable` while there is none. */
  current(): Connection
  /** Runs `setUp` on the connection that there is, and on each one after it; `lost` when one of them is. */
  withEach(setUp: (connection: Connection) => Promise<void>, lost?: () => void): Promise<void>
  close(): Promise<void>
}

export function keepConnection<Connection>(options: {
  name: string
  /** Has an end of its own. `lost` may be called at any time and more than once. Throws `transport_refused`, or whatever else. */
  connect: (lost: (why: unknown) => void) => Promise<Connection>
  disconnect: (connection: Connection) => Promise<void>
}): KeptConnection<Connection> {
  const { name, connect, disconnect } = options
  const setUps: ((connection: Connection) => Promise<void>)[] = []
  const losses: (() => void)[] = []
  let current: Connection | undefined
  let reason: string | null = `${name} was not opened yet`
  let opening: Promise<void> | undefined
  let retry: NodeJS.Timeout | undefined
  let failures = 0
  let closed = false
  let log = silentLog

  async function attempt(): Promise<void> {
    const { promise: gone, reject: lost } = Promise.withResolvers<never>()
    gone.catch(() => {}) // looked at below, where there is a connection to lose
    const connection = await connect(lost)
    try {
      for (const setUp of setUps) await Promise.race([setUp(connection), gone]) // Q2
    } catch (error) {
      await disconnect(connection).catch(() => {})
      throw error
    }
    if (closed) return disconnect(connection)
    current = connection
    log.info({ endpoint: name }, failures > 0 ? 'connected again' : 'connected')
    failures = 0
    reason = null
    gone.catch((why) => void drop(connection, why))
  }

  async function drop(connection: Connection, why: unknown): Promise<void> {
    if (current !== connection) return
    current = undefined
    for (const lost of losses) lost()
    again(why)
    await disconnect(connection).catch(() => {})
  }

  function again(why: unknown): void {
    if (closed) return
    const text = why instanceof Error ? why.message : String(why)
    reason = isRefusal(why) ? text : `${name} is away (${text}); it is tried again by itself`
    if (failures === 0 || isRefusal(why)) log.warn({ endpoint: name, err: why }, reason)
    const delayMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(failures, 20))
    failures += 1
    retry = setTimeout(() => {
      opening = attempt().catch(again)
    }, delayMs)
    retry.unref() // the bus keeps no process alive by itself
  }

  return {
    open(given) {
      log = given
      opening ??= attempt().catch((error) => {
        if (!isRefusal(error)) return again(error) // Q1
        opening = undefined
        throw error
      })
      return opening
    },
    state: () => ({ ready: current !== undefined, reason }),
    current() {
      if (current !== undefined) return current
      throw new UnavailableError('transport_unavailable', reason ?? `${name} is away`)
    },
    async withEach(setUp, lost) {
      setUps.push(setUp)
      if (lost) losses.push(lost)
      const connection = current
      if (connection === undefined) return
      await setUp(connection).catch((error) => drop(connection, error))
    },
    async close() {
      closed = true
      clearTimeout(retry)
      await opening?.catch(() => {})
      const connection = current
      current = undefined
      reason = `${name} is closed`
      if (connection !== undefined) await disconnect(connection).catch(() => {})
    },
  }
}

const isRefusal = (error: unknown) => error instanceof BusError && error.code === 'transport_refused'

/** Whatever a client throws while it sends: perhaps it arrived, so it is to be sent again. */
export function notSent(name: string, cause: unknown): UnavailableError {
  if (cause instanceof UnavailableError) return cause
  const text = cause instanceof Error ? cause.message : String(cause)
  return new UnavailableError('transport_unavailable', `${name} has not confirmed (${text}); it is sent again`, {
    cause,
  })
}
