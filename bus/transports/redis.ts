/**
 * Redis Streams as a broker: one log of N streams, a shard of the keys each, and for every subscription a consumer group on
 * each stream, whose last-delivered-id is the subscription's cursor. Nothing is ever pending in these groups: the owner of
 * a shard reads with XREAD from where it is, and moves the cursor over what is finished. So reading writes nothing, and what
 * was not finished cannot be lost from a pending list.
 *
 * S1 A batch is appended by one script, whole or not at all; what is too large for one goes in pieces, one after another.
 * S2 A shard of a subscription is read by the one member whose name stands beside it; its epoch grows with each owner.
 * S3 A cursor never passes a delivery that is not acknowledged; what lies behind it may be delivered again.
 * S4 A shard that must be given back is given back once nothing of it is in flight.
 * S5 Memory: at most windowMax deliveries handed over and about a quarter of that held, for each subscription.
 * S6 An idle reader waits in XREAD on its shards and on the control stream, where every change of members is told. One connection
 *    for each subscription that is consumed here, and one more for everything else.
 * S7 Streams are trimmed only behind the slowest group, and after retentionMs or where they hold half of what the log may; if somebody else trims what was not read, it is
 *    said how much was lost, and where.
 * S8 The server knows before a delivery that it may happen: how many matching entries behind the cursor the owner may hand
 *    over. If it dies, that many may have been begun, and are marked as redelivered; not all that came since.
 *
 * Time is the server's (leases, retention) and the network's (deadlines).
 */
import { randomUUID } from 'node:crypto'
import { type Clock, systemClock, type Timer } from '../clock.ts'
import { BusError, UnavailableError } from '../errors.ts'
import { type Log, silentLog } from '../log.ts'
import type { WireMessage } from '../message.ts'
import { matcher } from '../routing.ts'
import type {
  Backlog,
  Binding,
  ConsumeOptions,
  Consumer,
  SubscriptionSpec,
  Transport,
  TransportCapabilities,
  TransportState,
} from '../transport.ts'
import { countBacklog } from './redis-backlog.ts'
import { Connection } from './redis-connection.ts'
import { type Argument, pushArguments } from './redis-entry.ts'
import { keysOf, type RedisKeys } from './redis-keys.ts'
import { Reader } from './redis-reader.ts'
import { append, declare, prepare, remove, tidy } from './redis-scripts.ts'
import { inspect, warnOf } from './redis-server.ts'
import { isLarge, SizeGuard } from './redis-size.ts'

export type RedisTransportOptions = {
  clock?: Clock
  log?: Log
  /** Everything that is kept stands below it, so that several systems can share a server. */
  prefix?: string
  /** Into how many parts a subscription's keys are dealt out: no more processes than this can share it. Fixed by whoever opens first. */
  shards?: number
  /** A process that has not been heard of for so long loses its shards. */
  leaseMs?: number
  /**
   * How long the log keeps what every subscription has acknowledged, as far as half of logEntriesMax has room for it; audits
   * and new subscriptions can still read it.
   */
  retentionMs?: number
  /** Beyond so many messages in the log publishing is refused (`log_full`), and the outboxes keep what is said. */
  logEntriesMax?: number
  /** A server that is silent for longer is taken to be gone. */
  replyTimeoutMs?: number
  /** Refuses a server that may lose what it confirmed: the append-only file must be on and flushed with every write. */
  requireDurable?: boolean
  /** Confirms only what so many replicas have too. */
  waitReplicas?: number
}

const PREFIX = 'shopsphere'
const SHARDS = 8
const SHARDS_MAX = 256
const LEASE_MS = 5_000
const RETENTION_MS = 24 * 3_600_000
const LOG_ENTRIES_MAX = 10_000_000
const REPLY_TIMEOUT_MS = 5_000
/** Batches that the server has at the same time: while it appends one, the next is written to the socket. */
const BATCHES_MAX = 2
const BATCH_MESSAGES_MAX = 1_000
const BATCH_BYTES_MAX = 4 * 2 ** 20

type Job = { messages: readonly WireMessage[]; resolve: () => void; reject: (error: unknown) => void }

/** A broker at `redis://user:password@host:port/database`, or `rediss://` for TLS. Redis 7.0 or later, not in cluster mode. */
export function redisTransport(url: string, options: RedisTransportOptions = {}): Transport {
  return new RedisTransport(url, options)
}

class RedisTransport implements Transport {
  readonly name = 'redis'
  private readonly url: string
  private readonly options: Required<RedisTransportOptions>
  private readonly process = randomUUID()
  private readonly commands: Connection
  private readonly size: SizeGuard
  private readonly readers = new Map<string, Reader>()
  /** What this process declared, to be made again should the server lose it. */
  private readonly declared = new Map<string, SubscriptionSpec>()
  private keys: RedisKeys
  private instance = ''
  private durable: boolean
  private warned = false
  private isBackToBeSaid = false
  private jobs: Job[] = []
  private appendsRunning = 0
  private appendScheduled = false
  private settledAppends: (() => void) | undefined
  private heartbeat: Timer | undefined
  private opened = false
  private closing: Promise<void> | undefined

  constructor(url: string, options: RedisTransportOptions) {
    const { clock = systemClock, log = silentLog, prefix = PREFIX, shards = SHARDS } = options
    if (prefix === '' || /[{}\s]/.test(prefix))
      throw new BusError('invalid_argument', `prefix '${prefix}': give a name without braces and white space`)
    if (!Number.isSafeInteger(shards) || shards < 1 || shards > SHARDS_MAX)
      throw new BusError('invalid_argument', `shards ${shards}: give a whole number from 1 to ${SHARDS_MAX}`)
    this.url = url
    this.options = {
      clock,
      log,
      prefix,
      shards,
      leaseMs: options.leaseMs ?? LEASE_MS,
      retentionMs: options.retentionMs ?? RETENTION_MS,
      logEntriesMax: options.logEntriesMax ?? LOG_ENTRIES_MAX,
      replyTimeoutMs: options.replyTimeoutMs ?? REPLY_TIMEOUT_MS,
      requireDurable: options.requireDurable ?? false,
      waitReplicas: options.waitReplicas ?? 0,
    }
    this.durable = this.options.requireDurable
    this.keys = keysOf(prefix, shards)
    this.commands = new Connection({
      url,
      clock,
      replyTimeoutMs: this.options.replyTimeoutMs,
      prepare: (connection) => this.prepare(connection),
      lost: (error) => {
        this.isBackToBeSaid = true
        log.warn({ address: this.commands.address, error: error.message }, 'the connection is lost')
      },
    })
    this.size = new SizeGuard(this.commands, clock)
  }

  /** `durable` is known once it is open. */
  get capabilities(): TransportCapabilities {
    return { keepsHistory: true, acrossProcesses: true, durable: this.durable }
  }

  state(): TransportState {
    const reasons = [this.commands.reason, ...[...this.readers.values()].map((reader) => reader.reason)]
    const reason = reasons.find((one) => one !== null) ?? null
    return { ready: reason === null, reason }
  }

  async open(): Promise<void> {
    if (this.closing) throw this.closedError()
    await this.commands.open()
    if (this.closing) throw this.closedError()
    if (this.opened) return
    this.opened = true
    this.beat()
  }

  /** On each new connection: the server may be another one, or may have lost what it held. */
  private async prepare(connection: Connection): Promise<void> {
    const { log, requireDurable, prefix, shards } = this.options
    const facts = await inspect(connection)
    this.durable = facts.durable
    this.size.tell(facts.sizeLimit)
    if (requireDurable && !facts.durable)
      throw new BusError(
        'transport_refused',
        `${connection.address} may lose what it confirmed (${facts.crashCosts}), and requireDurable is set: set appendonly yes, appendfsync always`,
      )
    if (!this.warned) warnOf(facts, connection.address, log)
    this.warned = true
    await this.agree(connection, keysOf(prefix, this.instance === '' ? shards : this.keys.streams.length))
    if (this.isBackToBeSaid) log.info({ address: connection.address }, 'connected again')
    this.isBackToBeSaid = false
  }

  /** Takes over what the first to open decided. */
  private async agree(connection: Connection, keys: RedisKeys): Promise<void> {
    const { settings, subscriptions, processes, control, streams } = keys
    const wanted = [`${streams.length}`, randomUUID()]
    const [shards, instance] = (await connection.run(
      prepare,
      [settings, subscriptions, processes, control, ...streams],
      wanted,
    )) as [string, string]
    if (this.instance !== '' && Number(shards) !== streams.length)
      throw new BusError(
        'transport_refused',
        `${connection.address}: the log has ${shards} shards now instead of ${streams.length}: start this process again`,
      )
    const lost = this.instance !== '' && this.instance !== instance
    this.keys = keysOf(this.options.prefix, Number(shards))
    this.instance = instance
    if (!lost) return
    for (const { name, bindings } of this.declared.values())
      await this.makeAgain(name, bindings, 'the server lost what it held')
  }

  async declare(spec: SubscriptionSpec): Promise<void> {
    matcher(spec.bindings) // refuses a bad pattern before anything is written
    this.live()
    this.declared.set(spec.name, spec)
    await this.makeSubscription(spec)
  }

  private async makeSubscription({ name, bindings, from, ephemeral }: SubscriptionSpec): Promise<void> {
    const { subscriptions, processes, members, control, streams } = this.keys
    await this.commands.run(
      declare,
      [subscriptions, processes, ...members(name), control, ...streams],
      [name, JSON.stringify(bindings), from, ephemeral ? this.process : ''],
    )
  }

  /** A reader misses its subscription, or a part of it. Answers the instance. */
  private async declareAgain(name: string, bindings: readonly Binding[], what: string): Promise<string> {
    const before = this.instance
    await this.agree(this.commands, this.keys)
    if (this.instance === before || !this.declared.has(name)) await this.makeAgain(name, bindings, what)
    return this.instance
  }

  /** From the beginning of what there is: after a loss all of it is new. An ephemeral one promises no history. */
  private async makeAgain(name: string, bindings: readonly Binding[], what: string): Promise<void> {
    const { address } = this.commands
    this.options.log.error(
      { subscription: name, address },
      `${address}: ${what}. '${name}' is made anew; messages that it had not handled may be lost`,
    )
    const ephemeral = this.isEphemeral(name)
    await this.makeSubscription({ name, bindings, from: ephemeral ? 'now' : 'beginning', ephemeral })
  }

  private isEphemeral(name: string): boolean {
    return this.declared.get(name)?.ephemeral ?? false
  }

  // --- publishing ---

  publish(messages: readonly WireMessage[]): Promise<void> {
    if (this.closing) return Promise.reject(this.closedError())
    if (!this.opened) return Promise.reject(this.notOpenError())
    if (messages.length === 0) return Promise.resolve()
    if (!this.size.isDoubtful(messages)) return this.enqueue(messages)
    return this.size.check(messages).then(() => this.enqueue(messages))
  }

  private enqueue(messages: readonly WireMessage[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.jobs.push({ messages, resolve, reject })
      this.appendSoon()
    })
  }

  /** Whoever publishes in the same turn of the event loop shares a script (S1). */
  private appendSoon(): void {
    if (this.appendScheduled || this.appendsRunning >= BATCHES_MAX) return
    this.appendScheduled = true
    setImmediate(() => {
      this.appendScheduled = false
      if (this.jobs.length > 0) void this.append()
    })
  }

  private async append(): Promise<void> {
    this.appendsRunning += 1
    const jobs = this.takeJobs()
    if (this.jobs.length > 0) this.appendSoon()
    try {
      await this.appendPieces(jobs.length === 1 ? jobs[0]!.messages : jobs.flatMap(({ messages }) => messages))
      for (const { resolve } of jobs) resolve()
    } catch (error) {
      for (const { reject } of jobs) reject(error)
    } finally {
      this.appendsRunning -= 1
      if (this.jobs.length > 0) this.appendSoon()
      else if (this.appendsRunning === 0) this.settledAppends?.()
    }
  }

  private takeJobs(): Job[] {
    let messages = 0
    let count = 0
    while (count < this.jobs.length) {
      messages += this.jobs[count]!.messages.length
      if (count > 0 && messages > BATCH_MESSAGES_MAX) break
      count += 1
    }
    return this.jobs.splice(0, count)
  }

  private async appendPieces(messages: readonly WireMessage[]): Promise<void> {
    let next = 0
    while (next < messages.length) {
      const first = next
      const args: Argument[] = []
      for (let bytes = 0; next < messages.length && next - first < BATCH_MESSAGES_MAX; next++) {
        const message = messages[next]!
        bytes += message.body.length
        if (next > first && (bytes > BATCH_BYTES_MAX || isLarge(message) || isLarge(messages[first]!))) break
        pushArguments(args, message, this.keys.streams.length)
      }
      try {
        await this.appendPiece(next - first, args)
      } catch (error) {
        const isAlone = next - first === 1 && this.appendsRunning === 1
        if (isAlone && isLarge(messages[first]!)) this.size.failed(messages[first]!, error as Error)
        throw error
      }
    }
  }

  private async appendPiece(count: number, args: Argument[]): Promise<void> {
    const { logEntriesMax, waitReplicas, replyTimeoutMs } = this.options
    const appended = this.commands.run(append, this.keys.streams, [`${logEntriesMax}`, `${count}`, ...args])
    if (waitReplicas === 0) return void (await appended)
    await appended
    const waitMs = Math.ceil(replyTimeoutMs / 2)
    const replicas = (await this.commands.command(['WAIT', `${waitReplicas}`, `${waitMs}`])) as number
    if (replicas < waitReplicas)
      throw new UnavailableError(
        'transport_unavailable',
        `${this.commands.address}: ${replicas} of ${waitReplicas} replicas confirmed within ${waitMs} ms; it is tried again`,
      )
  }

  // --- subscriptions ---

  async consume(name: string, options: ConsumeOptions): Promise<Consumer> {
    this.live()
    const taken = () =>
      new BusError('invalid_argument', `${name} is consumed here already: one consumer per subscription and transport`)
    if (this.readers.has(name)) throw taken()
    const record = await this.commands.command(['HGET', this.keys.subscriptions, name])
    if (typeof record !== 'string') throw new BusError('not_found', `no subscription '${name}': declare() it first`)
    if (this.closing) throw this.closedError()
    if (this.readers.has(name)) throw taken()
    const { clock, log, leaseMs, replyTimeoutMs } = this.options
    const reader = new Reader({
      name,
      record,
      instance: this.instance,
      consume: options,
      commands: this.commands,
      listener: new Connection({ url: this.url, clock, replyTimeoutMs, background: true }),
      keys: this.keys,
      clock,
      log,
      leaseMs,
      replyTimeoutMs,
      declareAgain: (again, bindings, what) => this.declareAgain(again, bindings, what),
    })
    this.readers.set(name, reader)
    reader.start()
    let closing: Promise<void> | undefined
    const close = async () => {
      await reader.close()
      if (this.readers.get(name) === reader) this.readers.delete(name)
    }
    return {
      ack: (deliveries) => reader.ack(deliveries),
      close: () => {
        closing ??= close()
        return closing
      },
    }
  }

  async backlog(name: string): Promise<Backlog> {
    this.live()
    const backlog = await countBacklog(name, this.commands, this.keys, this.readers.get(name))
    if (!backlog) throw new BusError('not_found', `no subscription '${name}'`)
    return backlog
  }

  async subscriptions(): Promise<string[]> {
    this.live()
    const flat = (await this.commands.command(['HGETALL', this.keys.subscriptions])) as string[]
    const isDurable = (record: string) => (JSON.parse(record) as { ephemeralOf: string }).ephemeralOf === ''
    return flat.filter((_, at) => at % 2 === 0 && isDurable(flat[at + 1]!)).sort()
  }

  async remove(name: string): Promise<void> {
    this.live()
    const reader = this.readers.get(name)
    this.readers.delete(name)
    await reader?.close()
    this.declared.delete(name)
    await this.forget(name)
  }

  private async forget(name: string): Promise<void> {
    const { subscriptions, members, control, streams } = this.keys
    await this.commands.run(remove, [subscriptions, ...members(name), control, ...streams], [name])
  }

  /** The process's heartbeat; trims the log, and forgets subscriptions of processes that died (S7). */
  private beat(): void {
    if (this.closing) return
    const { clock, leaseMs } = this.options
    this.heartbeat = clock.after(leaseMs / 3, () => this.beat())
    void this.tidy().catch(() => {}) // with the next one, then
  }

  private async tidy(): Promise<void> {
    const { leaseMs, retentionMs, logEntriesMax } = this.options
    const { subscriptions, processes, streams } = this.keys
    const keptMax = Math.floor(logEntriesMax / 2 / streams.length)
    const orphans = (await this.commands.run(
      tidy,
      [subscriptions, processes, ...streams],
      [this.process, `${leaseMs}`, `${retentionMs}`, `${keptMax}`],
    )) as string[]
    for (const name of orphans) if (!this.isEphemeral(name)) await this.forget(name)
  }

  // --- the end ---

  close(): Promise<void> {
    this.closing ??= this.closeAll()
    return this.closing
  }

  private async closeAll(): Promise<void> {
    if (this.jobs.length > 0 || this.appendsRunning > 0) {
      await new Promise<void>((resolve) => {
        this.settledAppends = resolve
      })
    }
    this.heartbeat?.cancel()
    await Promise.all([...this.readers.values()].map((reader) => reader.close()))
    this.readers.clear()
    if (this.opened) {
      const passing = [...this.declared.keys()].filter((name) => this.isEphemeral(name))
      const goodbyes = passing.map((name) => this.forget(name))
      goodbyes.push(this.commands.command(['ZREM', this.keys.processes, this.process]).then(() => {}))
      await Promise.allSettled(goodbyes) // unreachable: what is left ends with its lease
    }
    this.commands.close()
  }

  private live(): void {
    if (this.closing) throw this.closedError()
    if (!this.opened) throw this.notOpenError()
  }

  private closedError(): BusError {
    return new BusError('bus_closed', `${this.commands.address} is closed`)
  }

  private notOpenError(): BusError {
    return new BusError('invalid_argument', `${this.commands.address}: open() the transport first`)
  }
}
