/** Where the cases of fault-suite.ts play, and the oracle that all of them end with. */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { type Log, silentLog } from '../log.ts'
import { sql } from '../sql.ts'
import type { Store } from '../store.ts'
import type { Transport } from '../transport.ts'
import { eventually } from './eventually.ts'
import type { ChildPlan, ChildReport } from './fault-child.ts'
import {
  type Act,
  attemptsFile,
  type FaultModule,
  type FaultPlace,
  openScribe,
  openTeller,
  patiently,
  type Word,
} from './fault-services.ts'
import type { FaultBounds, FaultSuiteOptions } from './fault-suite.ts'
import type { World } from './world.ts'

/** Enough that every shard has some. */
const KEYS = 40
const LINES_SHOWN = 15
const WORDS_IN_TRANSACTION = 20
/** Said between two looks at how much is heard. */
const WORDS_BETWEEN_LOOKS = 100
const CHILD_READY_WITHIN_MS = 20_000

export type Heard = { n: number; message_key: string; pid: number }
export type Line = { level: keyof Log; fields: object; text: string }

export type TellerOptions = {
  /** By which the broker is reached. */
  url?: string
  /** Stands before the transport. */
  over?: (transport: Transport) => Transport
  /** Another teller's. */
  store?: Store
}

/** One way to go over a transport; the rest goes straight. */
export function through(transport: Transport, over: Partial<Transport>): Transport {
  return {
    name: transport.name,
    get capabilities() {
      return transport.capabilities
    },
    open: () => transport.open(),
    state: () => transport.state(),
    declare: (subscription) => transport.declare(subscription),
    publish: (messages) => transport.publish(messages),
    consume: (name, options) => transport.consume(name, options),
    backlog: (name) => transport.backlog(name),
    subscriptions: () => transport.subscriptions(),
    remove: (name) => transport.remove(name),
    close: () => transport.close(),
    ...over,
  }
}

export class FaultStage {
  readonly world: World
  readonly options: FaultSuiteOptions
  readonly bounds: FaultBounds
  readonly place: FaultPlace
  /** What was logged here and in child processes. */
  readonly lines: Line[] = []
  /** The last number that was said. */
  said = 0
  #teller: Awaited<ReturnType<typeof openTeller>> | undefined
  #module: FaultModule | undefined

  constructor(world: World, options: FaultSuiteOptions, bounds: FaultBounds) {
    this.bounds = bounds
    this.world = world
    this.options = options
    this.place = {
      url: options.broker?.server.url ?? '',
      directory: world.directory,
      name: world.name,
      settings: options.settings ?? {},
    }
  }

  get log(): Log {
    const line = (level: keyof Log) => (fields: object, text: string) => void this.lines.push({ level, fields, text })
    return { info: line('info'), warn: line('warn'), error: line('error') }
  }

  outOfOrderMax(): number {
    return this.lines.reduce((sum, { fields }) => sum + ((fields as { outOfOrderMax?: number }).outOfOrderMax ?? 0), 0)
  }

  /** What was logged last, for whoever has to find out why a case failed. */
  lastLines(): string[] {
    return this.lines.slice(-LINES_SHOWN).map(({ level, fields, text }) => `${level} ${text} ${inspect(fields)}`)
  }

  async module(): Promise<FaultModule> {
    if (!this.#module) {
      const module = (await import(this.options.module.href)) as FaultModule
      this.#module = module
      this.world.defer(() => module.erase?.(this.place))
    }
    return this.#module
  }

  /** Another process of the teller, not started yet. */
  async openTeller({ url = this.place.url, over = (transport: Transport) => transport, store }: TellerOptions = {}) {
    const { open } = await this.module()
    const { transport, openStore } = await open({ ...this.place, url }, this.log)
    const world = { transport: over(transport), openStore: store ? () => store : openStore }
    const teller = await openTeller(world, this.log)
    this.world.defer(() => teller.close())
    return teller
  }

  /** The teller that `say` speaks through, in this process. */
  async startTeller(options: TellerOptions = {}) {
    const teller = await this.openTeller(options)
    await patiently(() => teller.bus.declare())
    await teller.bus.start()
    this.#teller = teller
    return teller
  }

  /** A scribe in this process. */
  async openScribe() {
    const { open } = await this.module()
    const scribe = await openScribe(await open(this.place, this.log), {
      log: this.log,
      directory: this.place.directory,
    })
    this.world.defer(() => scribe.close())
    return scribe
  }

  async startScribe() {
    const scribe = await this.openScribe()
    await patiently(() => scribe.bus.declare())
    await scribe.bus.start()
    return scribe
  }

  /** A scribe in a process of its own, that holds its share. */
  async forkScribe(pace: ChildPlan['pace']): Promise<ScribeProcess> {
    await this.module()
    const child = new ScribeProcess({ module: this.options.module.href, place: this.place, pace }, this.lines)
    this.world.defer(() => child.kill())
    await child.ready
    return child
  }

  /** Says so many words, a few in each transaction; resolves when they are committed. */
  async say(count: number, act: Act = 'write'): Promise<void> {
    for (let left = count; left > 0; left -= WORDS_IN_TRANSACTION) {
      const words = Array.from({ length: Math.min(left, WORDS_IN_TRANSACTION) }, (): Word => {
        const n = ++this.said
        return { n, key: act === 'write' ? `k${n % KEYS}` : 'poison', act }
      })
      // One after another: the order of commits is that of the numbers.
      await this.#teller!.say(words)
    }
  }

  /** Says words all the while that `work` runs, but never more than `aheadMax` that are not heard. */
  async whileSaying(work: () => Promise<void>, aheadMax = 500): Promise<void> {
    let done = false
    const saying = async () => {
      while (!done) {
        if (this.said - (await this.heardCount()) < aheadMax) await this.say(WORDS_BETWEEN_LOOKS)
        else await new Promise((resolve) => setTimeout(resolve, 5))
      }
    }
    await together([
      saying(),
      work().finally(() => {
        done = true
      }),
    ])
  }

  async heard(): Promise<Heard[]> {
    const rows = await this.#read((store) =>
      store.read((reader) => reader.all<Heard>(sql`select n, message_key, pid from heard order by place`)),
    )
    return rows.map(({ n, message_key, pid }) => ({ n: Number(n), message_key, pid: Number(pid) }))
  }

  async heardCount(): Promise<number> {
    const row = await this.#read((store) =>
      store.read((reader) => reader.get<{ count: number }>(sql`select count(*) as count from heard`)),
    )
    return Number(row!.count)
  }

  /** Answers how many milliseconds it took. */
  async untilHeardCount(count: number, withinMs = this.bounds.arrivesWithinMs): Promise<number> {
    const begun = performance.now()
    await eventually(async () => (await this.heardCount()) >= count, {
      timeoutMs: withinMs,
      message: `${count} words were not heard`,
    })
    return performance.now() - begun
  }

  /** How often the poisonous word was begun, as the number of the attempt each time. */
  attempts(): number[] {
    try {
      return readFileSync(attemptsFile(this.place.directory), 'utf8').trim().split('\n').map(Number)
    } catch {
      return []
    }
  }

  async untilAcknowledged(): Promise<void> {
    const { transport } = await this.watcher()
    const acknowledged = async () => (await transport.backlog('scribe')).waiting === 0
    await eventually(acknowledged, { timeoutMs: this.bounds.arrivesWithinMs, message: 'something still waits' })
  }

  async #read<T>(work: (store: Store) => Promise<T>): Promise<T> {
    return work((await this.watcher()).store)
  }

  /** Another process's transport, and its store of the scribe: to look at what is durable. */
  watcher(): Promise<{ transport: Transport; store: Store }> {
    return this.world.share('watcher', async () => {
      const { open } = await this.module()
      const { transport, openStore } = await open(this.place, silentLog)
      const store = await openStore('scribe')
      await store.open()
      this.world.defer(async () => {
        await store.close()
        await transport.close()
      })
      await patiently(() => transport.open())
      return { transport, store }
    })
  }

  /**
   * Lost = 0, doubled effects = 0, order per key kept, every message done or a dead letter with its cause. `mayLackTo`: up to
   * this number words may be lost with what somebody deleted. `dead`: numbers and the code of their cause. A transport that
   * must put messages behind later ones of their keys says how many at most in a line with a field `outOfOrderMax`.
   */
  async assertOracle({ mayLackTo = 0, dead = new Map<number, string>() } = {}): Promise<Heard[]> {
    const isAll = async () => {
      const numbers = new Set((await this.heard()).map(({ n }) => n))
      for (let n = mayLackTo + 1; n <= this.said; n++) {
        if (!numbers.has(n) && !dead.has(n)) assert.fail(`word ${n} of ${this.said} was not heard`)
      }
      return true
    }
    await eventually(isAll, { timeoutMs: this.bounds.arrivesWithinMs, message: 'words are lost' })
    await eventually(async () => (await this.deadLetters()).size === dead.size, { message: 'dead letters are lacking' })
    const heard = await this.heard()
    const counts = new Map<number, number>()
    const last = new Map<string, number>()
    const outOfOrder: string[] = []
    for (const { n, message_key } of heard) {
      counts.set(n, (counts.get(n) ?? 0) + 1)
      const before = last.get(message_key) ?? 0
      if (n < before) outOfOrder.push(`${n} after ${before} of key ${message_key}`)
      else last.set(message_key, n)
    }
    assert.ok(outOfOrder.length <= this.outOfOrderMax(), `the order of keys: ${outOfOrder.join(', ')}`)
    const doubled = [...counts].filter(([, count]) => count > 1).map(([n]) => n)
    assert.deepEqual(doubled, [], 'words with more than one effect')
    assert.deepEqual(
      [...counts.keys()].filter((n) => dead.has(n)),
      [],
      'dead letters that were done all the same',
    )
    assert.deepEqual(await this.deadLetters(), dead, 'dead letters and their causes')
    return heard
  }

  /** Number → code of the cause. */
  async deadLetters(): Promise<Map<number, string>> {
    const rows = await this.#read((store) =>
      store.read((reader) =>
        reader.all<{ body: Uint8Array; code: string }>(sql`select body, code from bus_dead_letter`),
      ),
    )
    return new Map(rows.map(({ body, code }) => [JSON.parse(Buffer.from(body).toString()).data.n as number, code]))
  }
}

/** Waits for all of them, also where one fails; the first failure comes out. */
export async function together(works: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(works)
  await Promise.all(works)
}

export class ScribeProcess {
  readonly process: ChildProcess
  readonly reports: ChildReport[] = []
  readonly ended: Promise<void>

  constructor(plan: ChildPlan, lines: Line[]) {
    const program = import.meta.url.endsWith('.ts') ? './fault-child.ts' : './fault-child.js'
    this.process = fork(fileURLToPath(new URL(program, import.meta.url)), [JSON.stringify(plan)])
    this.process.on('message', (report: ChildReport) => {
      this.reports.push(report)
      if (report.kind === 'log') lines.push(report)
    })
    this.ended = new Promise((resolve) => this.process.once('close', () => resolve()))
  }

  get pid(): number {
    return this.process.pid!
  }

  get isAlive(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null
  }

  get ready(): Promise<void> {
    return this.reported('ready').then(() => {})
  }

  async reported<K extends ChildReport['kind']>(kind: K): Promise<Extract<ChildReport, { kind: K }>> {
    const find = () => this.reports.find((report) => report.kind === kind)
    await eventually(() => find() !== undefined || !this.isAlive, {
      timeoutMs: CHILD_READY_WITHIN_MS,
      message: `the scribe's process never reported '${kind}'`,
    })
    assert.ok(
      find(),
      `the scribe's process ended (${this.process.signalCode ?? this.process.exitCode}) before '${kind}'`,
    )
    return find() as Extract<ChildReport, { kind: K }>
  }

  async leave(): Promise<void> {
    this.process.send('leave')
    await eventually(() => !this.isAlive, { timeoutMs: CHILD_READY_WITHIN_MS, message: 'the scribe did not leave' })
  }

  async kill(): Promise<void> {
    if (this.isAlive) this.process.kill('SIGKILL')
    await this.ended
  }
}
