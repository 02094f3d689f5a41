/** PostgreSQL's errors as the bus's own, with what to do. */
import { encryptionRefusal } from '../encryption.ts'
import { BusError, UnavailableError } from '../errors.ts'

// https://www.postgresql.org/docs/current/errcodes-appendix.html
const UNAVAILABLE: Readonly<Record<string, string>> = {
  '40001': 'two transactions got in each other’s way, and this one was undone: try it again',
  '40P01': 'two transactions waited for each other, and this one was undone: try it again',
  '55P03': 'what it needs is locked by somebody else: try it again',
  '53100': 'the disk of the database is full: free some room; nothing was lost, and work goes on by itself',
  '53200': 'the database is out of memory: give it more, or lower poolMax; work goes on by itself',
  '53300': 'the database takes no more connections: raise its max_connections, or lower poolMax',
  '57P01': 'the database is being shut down: start it again; work goes on by itself',
  '57P02': 'the database crashed and recovers: work goes on by itself',
  '57P03': 'the database is starting: work goes on by itself',
  '57P05': 'the database ended an idle connection: work goes on by itself',
  '25P03':
    'a transaction stood still for too long (idleInTransactionTimeoutMs), and was undone: make the handler quicker',
  '25006': 'the database is read-only, a standby perhaps: connect to the primary',
}

const REFUSED: Readonly<Record<string, string>> = {
  '28P01': 'the password is wrong: correct it in the URL',
  '28000': 'this user may not come in: look at the user in the URL and at pg_hba.conf',
  '3D000': 'there is no such database: make it with createdb',
  '42501': 'this user lacks a right: grant CREATE on the database, or make the schema and grant it to the user',
  '3F000': 'the schema is gone: let the store create it again with open()',
}

const LOST = /^(08|57P0)|^25P03$/
/** What the operating system and the client say of a connection that is not there. */
const SOCKET = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
])
const CLIENT =
  /^(Connection terminated|timeout expired|Query read timeout|Client has encountered a connection error|Client was closed)/

const NO_ENCRYPTION = /does not support SSL/
const STANDBY = /during recovery/

/** True for an error after which the connection is of no use. */
export function isConnectionLost(error: unknown): boolean {
  const { code, message, cause } = error as { code?: unknown; message?: string; cause?: unknown }
  if (error instanceof BusError) return cause !== undefined && isConnectionLost(cause)
  if (typeof code === 'string' && (SOCKET.has(code) || LOST.test(code))) return true
  return CLIENT.test(message ?? '')
}

export function translate(place: string, error: unknown): unknown {
  if (error instanceof BusError) return error
  const { code, message } = error as { code?: string; message: string }
  const because = { cause: error }
  if (code !== undefined && Object.hasOwn(REFUSED, code)) {
    return new BusError('store_refused', `${place}: ${REFUSED[code]} (${message})`, because)
  }
  if (code !== undefined && Object.hasOwn(UNAVAILABLE, code)) {
    return new UnavailableError('store_unavailable', `${place}: ${UNAVAILABLE[code]} (${message})`, because)
  }
  const encryption = NO_ENCRYPTION.test(message) ? 'it does not encrypt' : encryptionRefusal(error)
  if (encryption !== undefined) {
    return new BusError('store_refused', `${place}: ${encryption}; or look at sslmode in the URL`, because)
  }
  if (STANDBY.test(message)) {
    return new UnavailableError('store_unavailable', `${place}: ${UNAVAILABLE['25006']} (${message})`, because)
  }
  if (isConnectionLost(error)) {
    const text = `${place} cannot be reached (${message || code}): start it, or correct the URL; work goes on by itself`
    return new UnavailableError('store_unavailable', text, because)
  }
  return error
}

export function serverTooOld(place: string, version: number): BusError {
  return new BusError(
    'store_refused',
    `${place} has version ${Math.floor(version / 10_000)}: PostgreSQL 13 or later is needed`,
  )
}
