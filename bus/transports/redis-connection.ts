/**
 * One connection that comes back by itself, and never leaves anybody waiting.
 *
 * N1 Whoever asks is answered within replyTimeoutMs: a connection that is silent for longer is cut, and all that were
 *    waiting on it are rejected, because it is not known what became of their commands.
 * N2 Nothing is sent again by itself: what was on its way when the connection went may have been done.
 * N3 While there is no connection, commands are rejected at once; it is tried again with back-off for as long as it takes.
 */
import { isIP } from 'node:net'
import { createClient, type RedisClientType } from 'redis'
import type { Clock, Timer } from '../clock.ts'
import { refusedEncryption } from '../encryption.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { Argument } from './redis-entry.ts'
import type { Script } from './redis-scripts.ts'

const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 2_000
/** Replies of this RESP type, a bulk string, can come as bytes. */
const BULK_STRING = 36

export type ConnectionOptions = {
  url: string
  clock: Clock
  replyTimeoutMs: number
  /** Runs on each new connection before anybody else may use it; what it throws counts as not connected. */
  prepare?: (connection: Connection) => Promise<void>
  lost?: (error: Error) => void
  /** Only listens: its waiting keeps no process alive. */
  background?: boolean
}

export type CommandOptions = { bytes?: boolean; timeoutMs?: number }

type Client = RedisClientType<any, any, any, any, any>

export class Connection {
  private readonly options: ConnectionOptions
  /** For texts: without the password. */
  readonly address: string
  private client: Client | undefined
  private usable = false
  /** The client once it was prepared; the loss of any other is its opener's business. */
  private established: Client | undefined
  private opening: Promise<void> | undefined
  private retry: Timer | undefined
  private failures = 0
  private waiting = 0
  private closed = false
  /** Why there is no connection; null while there is one. */
  reason: string | null = 'not connected yet'
  /** Counts the connections made: whoever sees it grow knows that something may have been missed. */
  generation = 0

  constructor(options: ConnectionOptions) {
    this.options = options
    this.address = addressOf(options.url)
  }

  /** Connects once; later losses are made good by itself. Rejects as `Transport.open` does. */
  open(): Promise<void> {
    this.opening ??= this.connect().catch((error) => {
      this.opening = undefined
      throw error
    })
    return this.opening
  }

  private async connect(): Promise<void> {
    const { url, replyTimeoutMs, prepare } = this.options
    let client: Client
    try {
      client = createClient({
        url,
        RESP: 2,
        disableOfflineQueue: true, // N3
        socket: { connectTimeout: replyTimeoutMs, reconnectStrategy: false, ...serverName(url) },
      }) as Client
    } catch (error) {
      throw new BusError('invalid_argument', `${this.address} is no address of a Redis server: ${textOf(error)}`)
    }
    this.client = client
    client.on('error', (error: Error) => this.lose(client, error))
    client.on('end', () => this.lose(client, new Error('the server closed the connection')))
    try {
      const connecting = client.connect()
      // A client that is destroyed while its socket connects finishes connecting all the same.
      connecting.then(
        () => this.client === client || client.destroy(),
        () => {},
      )
      await this.within(client, connecting, replyTimeoutMs)
      if (this.client !== client) throw new Error('the connection was lost while it was made')
      client.unref()
      this.usable = true
      await prepare?.(this)
      if (this.client !== client) throw new Error('the connection was lost while it was made')
      this.established = client
      this.generation += 1
      this.failures = 0
      this.reason = null
    } catch (error) {
      const failure = translate(this.address, error, this.usable ? '' : portHint(url))
      this.reason = failure.message
      this.drop(client)
      throw failure
    }
  }

  /** N1. */
  private within<Answer>(client: Client, answer: Promise<Answer>, timeoutMs: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const timer = this.options.clock.after(timeoutMs, () => {
        const error = new Error(`no answer within ${timeoutMs} ms`)
        reject(error)
        this.lose(client, error)
      })
      answer.then(resolve, reject).finally(() => timer.cancel())
    })
  }

  async command(args: Argument[], { bytes = false, timeoutMs }: CommandOptions = {}): Promise<unknown> {
    const { client } = this
    if (!client || !this.usable) throw this.unavailable()
    this.hold(client, 1)
    try {
      const mapping = bytes ? { typeMapping: { [BULK_STRING]: Buffer } } : {}
      return await this.within(client, client.sendCommand(args, mapping), timeoutMs ?? this.options.replyTimeoutMs)
    } catch (error) {
      throw translate(this.address, error)
    } finally {
      this.hold(client, -1)
    }
  }

  /** A script by its digest; by its text where the server does not know it yet. */
  async run(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<unknown> {
    const rest = [`${keys.length}`, ...keys, ...args]
    try {
      return await this.command(['EVALSHA', script.sha, ...rest])
    } catch (error) {
      if (!textOf((error as Error).cause).startsWith('NOSCRIPT')) throw error
      return await this.command(['EVAL', script.text, ...rest])
    }
  }

  /** The process stays alive for an answer that somebody waits for, and for nothing else. */
  private hold(client: Client, change: 1 | -1): void {
    if (client !== this.client || this.options.background) return
    this.waiting += change
    if (this.waiting === 0) client.unref()
    else if (this.waiting === 1 && change === 1) client.ref()
  }

  private lose(client: Client, error: Error): void {
    if (client !== this.client) return
    const wasEstablished = this.established === client
    this.drop(client)
    if (!wasEstablished) return
    this.reason = `${this.address}: ${textOf(error)}; it is tried again`
    this.options.lost?.(error)
    this.connectLater()
  }

  private drop(client: Client): void {
    if (this.client !== client) return
    this.client = undefined
    this.established = undefined
    this.usable = false
    this.waiting = 0
    try {
      client.destroy()
    } catch {
      // it was closed already
    }
  }

  private connectLater(): void {
    if (this.closed) return
    const delayMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.failures++)
    this.retry = this.options.clock.after(delayMs, () => {
      this.connect().catch(() => this.connectLater())
    })
  }

  unavailable(): UnavailableError {
    return new UnavailableError('transport_unavailable', this.reason ?? `${this.address} is not connected`)
  }

  close(): void {
    this.closed = true
    this.retry?.cancel()
    this.reason = 'closed'
    if (this.client) this.drop(this.client)
  }
}

/** What Redis answers where waiting cannot help. */
const REFUSALS =
  /^(WRONGPASS|NOAUTH|NOPERM|WRONGTYPE|NOPROTO|ERR (invalid password|AUTH|Client sent AUTH|unknown command|DB index|invalid DB|Error registering|value is not an integer))/i
const FULL = /^(LOGFULL|OOM)/

/** Everything that the client throws, as an error of the bus. */
export function translate(address: string, error: unknown, hint = ''): BusError {
  if (error instanceof BusError) return error
  const encryption = refusedEncryption(address, error)
  if (encryption) return encryption
  const text = textOf(error)
  if (FULL.test(text))
    return new UnavailableError('log_full', `${address} is full (${text}): ${FULL_ADVICE}`, { cause: error })
  if (REFUSALS.test(text)) return new BusError('transport_refused', `${address}: ${adviceFor(text)}`, { cause: error })
  const advice = WITHOUT_A_WORD.test(text) ? hint : ''
  return new UnavailableError('transport_unavailable', `${address}: ${text}${advice}`, { cause: error })
}

/** A port of the other kind closes, or waits for more. */
const WITHOUT_A_WORD = /ECONNRESET|closed|no answer/

function portHint(url: string): string {
  return url.startsWith('rediss:')
    ? ' (if this port does not encrypt, write redis://)'
    : ' (if this port wants encryption, write rediss://)'
}

/** What the server is asked for by name, where several share an address; an IP address is no name. */
export function serverName(url: string): { servername?: string } {
  const host = URL.parse(url)?.hostname ?? ''
  return host === '' || host.startsWith('[') || isIP(host) !== 0 ? {} : { servername: host }
}

const FULL_ADVICE =
  'a subscription is far behind. Start its service, or remove the subscription; or give Redis more memory and raise logEntriesMax'

function adviceFor(reply: string): string {
  const text = reply.replace(/[.\s]+$/, '')
  if (/^(WRONGPASS|NOAUTH|ERR (invalid password|AUTH|Client sent AUTH))/i.test(text))
    return `${text}. Correct the user name and password in the address`
  if (text.startsWith('NOPERM')) return `${text}. Give this user the right to it (ACL SETUSER)`
  if (text.startsWith('WRONGTYPE')) return `${text}. Choose another prefix, or remove that key`
  if (/DB index|invalid DB|not an integer/i.test(text)) return `${text}. Correct the database's number in the address`
  return `${text}. It needs Redis 7.0 or later`
}

/** Errors of sockets to a name with several addresses say nothing themselves. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return textOf(error.errors[0])
  return error instanceof Error ? error.message || error.name : String(error)
}

function addressOf(url: string): string {
  const parsed = URL.parse(url)
  return parsed ? `${parsed.protocol}//${parsed.host}${parsed.pathname}` : 'redis'
}
