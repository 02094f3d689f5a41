/** The two services of the fault suite: a teller says numbered words by key, a scribe writes each down. */
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { createBus, type HandlerContext, type TransactionContext } from '../bus.ts'
import { UnavailableError } from '../errors.ts'
import { event, type Schema } from '../event.ts'
import type { Log } from '../log.ts'
import { sql } from '../sql.ts'
import type { Store } from '../store.ts'
import type { Transport } from '../transport.ts'
import type { CrashWorld } from './crash-suite.ts'
import { eventually } from './eventually.ts'

/** Where one case plays. Given to a suite's module, here and in every child process. */
export type FaultPlace = {
  /** Of the broker; empty where it has no server. */
  readonly url: string
  /** An empty folder. */
  readonly directory: string
  /** Unique: a prefix for what stands on servers. */
  readonly name: string
  /** What the suite was given for its module. */
  readonly settings: Readonly<Record<string, string>>
}

/** What a suite's module exports. */
export type FaultModule = {
  /** One process's transport and stores; not open yet. Times short: leases about a second, publishing gives up in seconds. */
  open(place: FaultPlace, log: Log): CrashWorld | Promise<CrashWorld>
  /** Takes away what a case left on servers that others use too. */
  erase?(place: FaultPlace): Promise<void>
}

/** What the scribe does with a word: writes it, fails, or dies of it. */
export type Act = 'write' | 'throw' | 'kill'
export type Word = { key: string; n: number; act: Act }

const anyWord = {
  '~standard': { version: 1, vendor: 'fault-kit', validate: (value: unknown) => ({ value: value as Word }) },
} satisfies Schema<Word>

export const said = event('teller.said', { version: 1, owner: 'teller', schema: anyWord, key: ({ key }: Word) => key })

/** Tries of a poisonous word. */
export const ATTEMPTS_MAX = 3
const STARTS_WITHIN_MS = 20_000

const limits = { handlerTimeoutMs: 5_000, sweepMs: 250, closeTimeoutMs: 5_000, windowMax: 400 }
const backoff = { firstMs: 50, factor: 2, maxMs: 200, jitter: false }

export async function openTeller({ transport, openStore }: CrashWorld, log: Log) {
  const bus = createBus({ service: 'teller', transport, store: await openStore('teller'), events: [said], log, limits })
  await bus.store.open()
  await bus.store.migrate('said', 'create table said (n bigint primary key, message_key text)')
  /** Within a transaction of the teller's bus. */
  async function sayIn({ tx, publish }: Pick<TransactionContext, 'tx' | 'publish'>, words: readonly Word[]) {
    await tx.insert(
      'said',
      words.map(({ key, n }) => ({ n, message_key: key })),
    )
    for (const word of words) publish(said, word)
  }
  return {
    bus,
    sayIn,
    /** In one transaction. */
    say: (words: readonly Word[]) => bus.transaction((context) => sayIn(context, words)),
    close: () => closeAll(bus, transport, bus.store),
  }
}

export type ScribeOptions = {
  log: Log
  directory: string
  /** Awaited before a word's transaction. */
  outside?: (word: Word) => Promise<void>
}

export async function openScribe({ transport, openStore }: CrashWorld, { log, directory, outside }: ScribeOptions) {
  const bus = createBus({ service: 'scribe', transport, store: await openStore('scribe'), log, limits })
  await bus.store.open()
  await bus.store.migrate('heard', heardDdl(bus.store))
  /** No unique key guards this table: a doubled effect would stand there twice. */
  const handle = async ({ key, n, act }: Word, { tx, attempt }: HandlerContext) => {
    if (act !== 'write') appendFileSync(attemptsFile(directory), `${attempt}\n`)
    if (act === 'kill') process.kill(process.pid, 'SIGKILL')
    if (act === 'throw') throw new Error(`word ${n} cannot be written`)
    await tx.run(sql`insert into heard (n, message_key, pid) values (${n}, ${key}, ${process.pid})`)
  }
  const settings = { attemptsMax: ATTEMPTS_MAX, backoff }
  if (outside) bus.subscribe(said, { outside: (word: Word) => outside(word), handle }, settings)
  else bus.subscribe(said, handle, settings)
  return { bus, close: () => closeAll(bus, transport, bus.store) }
}

/** A line with its number for every attempt of a poisonous word, written whatever becomes of the transaction. */
export const attemptsFile = (directory: string) => join(directory, 'attempts')

function heardDdl({ dialect }: Store): string {
  const place = dialect === 'sqlite' ? 'integer primary key autoincrement' : 'bigserial primary key'
  return `create table heard (place ${place}, n bigint, message_key text, pid bigint)`
}

/** On a busy machine a question may take longer than a fault suite's short times allow. */
export function patiently(open: () => Promise<void>): Promise<unknown> {
  return eventually(
    () =>
      open().then(
        () => true,
        (error) => {
          if (!(error instanceof UnavailableError)) throw error
          return false
        },
      ),
    { timeoutMs: STARTS_WITHIN_MS, message: 'the bus did not start' },
  )
}

async function closeAll(bus: { close(): Promise<void> }, transport: Transport, store: Store): Promise<void> {
  await bus.close()
  await transport.close()
  await store.close()
}
