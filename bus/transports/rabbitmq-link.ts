/**
 * One connection to RabbitMQ that is made again by itself whenever it is lost.
 *
 * L1 Every question to the server has a time limit. One that gets no answer is a half-open connection: it is torn down,
 *    and whoever waits on it gets an UnavailableError.
 * L2 While it is down, it is tried again with back-off and jitter until `close`; who asks meanwhile is refused at once.
 * L3 `up` is called for every connection that was made, before anybody else is given it; `down` once for each that was lost.
 * L4 What is written in one turn of the event loop leaves together, as much at a time as the socket buffers; amqplib alone
 *    makes a system call for each message.
 *
 * Limits here are real time, whatever clock the bus runs on: the server's time is nobody's to move.
 */
import type { Writable } from 'node:stream'
import { type Channel, type ChannelModel, type ConfirmChannel, connect, type SocketOptions } from 'amqplib'
import { refusedEncryption } from '../encryption.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { TransportState } from '../transport.ts'
import { replyOf, saidBy } from './rabbitmq-reasons.ts'

export type LinkOptions = {
  /** Shown in the server's list of connections. */
  readonly name: string
  /** The server drops us, and we it, after two to three such intervals without a sign of life. */
  readonly heartbeatSeconds: number
  /** L1 */
  readonly answerMaxMs: number
  /** L3 */
  readonly up: (link: Link) => Promise<void>
  readonly down: (error: Error) => void
}

/** For the end of a channel or of the connection: a process that is asked to end has little time. */
const CLOSE_MAX_MS = 5_000
/** A port that wants encryption closes what is not encrypted. */
const CLOSED = /ECONNRESET|closed/
const PORT_HINT = ' (if this port wants encryption, write amqps://)'
const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 3_000
/** At least this version: `all-with-x` bindings and at-least-once dead letters of quorum queues came with it. */
const VERSION_MIN = [3, 10] as const

export class Link {
  private readonly url: string
  private readonly options: LinkOptions
  private model: ChannelModel | undefined
  /** `up` is done with it (L3). */
  private isUp = false
  private opening: Promise<void> | undefined
  private dialling: AbortController | undefined
  private retrying = false
  private blocked: string | null = null
  private failure: Error | undefined
  private closed = false
  private wake = () => {}

  constructor(url: string, options: LinkOptions) {
    this.url = withHeartbeat(url, options.heartbeatSeconds)
    this.options = options
  }

  /** Of the server that it is connected to now; [0, 0]: none. */
  get version(): readonly [major: number, minor: number] {
    return versionOf(this.model?.connection.serverProperties.version)
  }

  state(): TransportState {
    if (this.blocked !== null)
      return { ready: false, reason: `RabbitMQ takes no more messages (${this.blocked}): give it memory or disk` }
    if (this.isUp) return { ready: true, reason: null }
    const why = this.failure ? `: ${this.failure.message}` : ''
    return { ready: false, reason: `no connection to RabbitMQ${why}; it is tried again until it is there` }
  }

  /** The first connection. Rejects with UnavailableError or `transport_refused`; then open again. */
  open(): Promise<void> {
    if (this.isUp) return Promise.resolve()
    this.opening ??= this.connect().finally(() => {
      this.opening = undefined
    })
    return this.opening
  }

  /** A channel of the caller's own; it closes it. */
  channel(): Promise<Channel> {
    const { model } = this
    if (!model) return Promise.reject(this.away())
    return this.answer('a channel', model.createChannel()).then(quiet)
  }

  confirmChannel(): Promise<ConfirmChannel> {
    const { model } = this
    if (!model) return Promise.reject(this.away())
    return this.answer('a channel', model.createConfirmChannel()).then(quiet)
  }

  /** Work on a channel that is closed afterwards. */
  async onChannel<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
    const channel = await this.channel()
    try {
      return await this.answer('an answer', work(channel))
    } finally {
      await this.closeChannel(channel)
    }
  }

  /** Resolves when the server has worked off all that was sent on the channel before, or the channel is gone. */
  async closeChannel(channel: Channel): Promise<void> {
    try {
      await this.answer('the end of a channel', channel.close(), CLOSE_MAX_MS)
    } catch {
      // it was closed already, or the connection with it
    }
  }

  /** L1: rejects with UnavailableError where the answer is not there in time; the server's refusals come as BusErrors. */
  answer<T>(what: string, promise: Promise<T>, answerMaxMs = this.options.answerMaxMs): Promise<T> {
    const { model } = this
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const error = new UnavailableError('transport_unavailable', `RabbitMQ gave no ${what} within ${answerMaxMs} ms`)
        if (model && this.model === model) this.tearDown(error)
        reject(error)
      }, answerMaxMs)
      promise.then(resolve, (error) => reject(translate(error))).finally(() => clearTimeout(timer))
    })
  }

  /** The connection answers no more: it is dropped, and made again (L2). */
  tearDown(error: Error): void {
    // Only an error ends a stream that amqplib waits on; its `close` would ask the server first.
    if (this.model) streamOf(this.model).destroy(error)
  }

  /** What whoever asks is told while there is no connection, or no room. */
  away(): BusError {
    return new UnavailableError('transport_unavailable', this.state().reason ?? 'RabbitMQ has just gone away')
  }

  async close(): Promise<void> {
    this.closed = true
    this.wake()
    this.dialling?.abort()
    await this.opening?.catch(() => {})
    const { model } = this
    if (!model) return
    const gone = new Promise<void>((resolve) => model.once('close', () => resolve()))
    const timer = setTimeout(() => this.tearDown(new Error('closing')), CLOSE_MAX_MS)
    model.close().catch(() => {}) // it may be closing already
    if (this.model === model) await gone
    clearTimeout(timer)
  }

  private async connect(): Promise<void> {
    const { name, answerMaxMs, up } = this.options
    let model: ChannelModel | undefined
    const dialling = new AbortController()
    this.dialling = dialling
    try {
      const options: SocketOptions & { signal: AbortSignal } = {
        noDelay: true,
        signal: dialling.signal,
        timeout: answerMaxMs,
        clientProperties: { connection_name: name },
      }
      model = await connect(this.url, options)
      this.dialling = undefined
      refuseVersion(model)
      if (this.closed) throw closedError()
      this.adopt(model)
      await up(this)
      if (this.model !== model) throw this.away() // it went meanwhile
      this.isUp = true
      this.failure = undefined
    } catch (cause) {
      const hint = model === undefined && this.url.startsWith('amqp:') ? PORT_HINT : ''
      const error = translate(cause, { url: this.url, hint })
      this.failure = error
      if (this.model === model) this.model = undefined
      await model?.close().catch(() => {})
      throw error
    }
  }

  private adopt(model: ChannelModel): void {
    this.model = model
    this.blocked = null
    gatherWrites(streamOf(model))
    model.on('error', () => {}) // `close` follows, with the same error
    model.on('blocked', (reason) => {
      this.blocked = reason
    })
    model.on('unblocked', () => {
      this.blocked = null
    })
    model.on('close', (error?: Error) => {
      if (this.model !== model) return
      this.model = undefined
      this.isUp = false
      this.blocked = null
      this.failure = error ?? new Error('the connection was closed')
      this.options.down(this.failure) // L3
      if (!this.closed) void this.retry()
    })
  }

  /** L2 */
  private async retry(): Promise<void> {
    if (this.retrying) return
    this.retrying = true
    for (let failures = 0; !this.closed && !this.isUp; failures++) {
      await this.pause(Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** failures) * (0.5 + Math.random() / 2))
      if (!this.closed) await this.open().catch(() => {})
    }
    this.retrying = false
  }

  private pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs)
      this.wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

/** The socket, which amqplib has but does not hand out. */
function streamOf({ connection }: ChannelModel): Writable {
  return (connection as unknown as { readonly stream: Writable }).stream
}

/** L4 */
export function gatherWrites(stream: Writable): void {
  const write = stream.write.bind(stream)
  let gathering = false
  stream.write = (...chunk: unknown[]) => {
    if (!gathering) {
      gathering = true
      stream.cork()
      process.nextTick(() => {
        gathering = false
        stream.uncork()
      })
    }
    return write(...(chunk as [Buffer]))
  }
}

/** amqplib throws what nobody listens to; that a channel died, its owner hears by `close` and by what it asks next. */
function quiet<C extends Channel>(channel: C): C {
  channel.on('error', () => {})
  return channel
}

export function closedError(): BusError {
  return new BusError('bus_closed', 'this RabbitMQ transport is closed; make another one')
}

/**
 * What the server or the socket said, as one of ours: what waiting cannot mend is `transport_refused`.
 *
 * @param url where the connection was being opened
 * @param hint for a connection that was closed
 */
export function translate(cause: unknown, { url, hint = '' }: { url?: string; hint?: string } = {}): BusError {
  if (cause instanceof BusError) return cause
  const encryption = refusedEncryption('RabbitMQ', cause)
  if (encryption) return encryption
  const { message, code } = cause as Error & { code?: unknown }
  const advice = advices[replyOf(cause) ?? 0]
  if (advice) return new BusError('transport_refused', `RabbitMQ refuses: ${saidBy(cause, url)}; ${advice}`, { cause })
  const text = message || String(code)
  return new UnavailableError('transport_unavailable', `RabbitMQ: ${text}${CLOSED.test(text) ? hint : ''}`, { cause })
}

const advices: Readonly<Record<number, string>> = {
  403: 'give the user of the URL the right password and the rights to configure, write and read',
  406: 'remove what was made otherwise, or use another prefix',
  530: 'name a virtual host that exists and that the user may enter',
}

/** True where the server said that the queue or exchange does not exist. */
export function isMissing(error: unknown): boolean {
  return replyOf(error) === 404
}

function refuseVersion(model: ChannelModel): void {
  const { product, version } = model.connection.serverProperties
  const [major, minor] = versionOf(version)
  if (product === 'RabbitMQ' && (major > VERSION_MIN[0] || (major === VERSION_MIN[0] && minor >= VERSION_MIN[1])))
    return
  throw new BusError(
    'transport_refused',
    `the server is ${product} ${version}: use RabbitMQ ${VERSION_MIN.join('.')} or later, for its quorum queues`,
  )
}

function versionOf(text = ''): readonly [number, number] {
  const [, major = 0, minor = 0] = /^(\d+)\.(\d+)/.exec(text) ?? []
  return [Number(major), Number(minor)]
}

function withHeartbeat(url: string, seconds: number): string {
  const parsed = URL.parse(url)
  if (!parsed || !/^amqps?:$/.test(parsed.protocol))
    throw new BusError('invalid_argument', 'the URL of RabbitMQ must be as amqp://user:password@host:5672/virtual-host')
  if (!parsed.searchParams.has('heartbeat')) parsed.searchParams.set('heartbeat', String(seconds))
  return parsed.href
}
