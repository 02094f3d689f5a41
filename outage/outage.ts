/**
 * `npm run outage [-- --orders N] [--json]`: kills notification while orders come in, lets the orders go on, starts it
 * again, and shows that everything is told, once.
 *
 * Exit status: 0 nothing was lost and nothing happened twice; 1 not so, or the shop failed; 2 the arguments are wrong;
 * 130 interrupted.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { eraseBroker, eraseDatabase } from '@shopsphere/bus/testing'
import { StartError } from '@shopsphere/runtime/start-error'
import { createProgress, type ProgressOutput } from '../replay/progress.ts'
import { whole } from '../replay/summary.ts'
import { type Outcome, runOutage } from './course.ts'
import type { Account } from './door.ts'
import { picture } from './picture.ts'

const ORDERS = 10_000
const ORDERS_MAX = 1_000_000

export const usage = `Usage: npm run outage [-- --orders N] [--json]

Starts a shop of its own with notification in a process by itself, kills that process (kill -9) in the middle of its work,
places orders through the HTTP API while it is down, shows its backlog growing, starts it again, and verifies that every
order came to its end and that every notification that should exist exists once. BROKER_URL and DATABASE_URL name the
servers, as for npm start.

  --orders N  how many orders are placed while notification is down (default: ${ORDERS})
  --json      print the figures as one JSON object, the last line of standard output; the rest goes to standard error
  --help      print this

Exit status: 0 none lost and none twice, 1 not so, 2 wrong arguments.
`

export type OutageIo = {
  readonly stdout: ProgressOutput
  readonly stderr: ProgressOutput
  /** As `process.env`. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly signal: AbortSignal
}

/** The whole command; answers its exit status and never throws. */
export async function outage(argv: readonly string[], io: OutageIo): Promise<number> {
  try {
    const { orders, json, help } = readArguments(argv)
    if (help) {
      io.stdout.write(usage)
      return 0
    }
    const outcome = await inFolder((folder) => run(orders, folder, io))
    const shown = json ? io.stderr : io.stdout
    shown.write(`${summary(outcome)}\n`)
    if (json) io.stdout.write(`${JSON.stringify(figuresOf(outcome))}\n`)
    return outcome.verdict.violations.length === 0 ? 0 : 1
  } catch (error) {
    return explain(error, io)
  }
}

class UsageError extends Error {
  override readonly name = 'UsageError'
}

function readArguments(argv: readonly string[]): { orders: number; json: boolean; help: boolean } {
  const options = {
    orders: { type: 'string', default: String(ORDERS) },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  } as const
  const { values } = parsed(() => parseArgs({ args: [...argv], options }))
  const orders = Number(values.orders)
  if (!/^\d+$/.test(values.orders) || orders < 1 || orders > ORDERS_MAX)
    throw new UsageError(`--orders takes a whole number from 1 to ${ORDERS_MAX}, not '${values.orders}'`)
  return { orders, json: values.json, help: values.help }
}

function parsed<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'shopsphere-outage-'))
  try {
    return await work(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function run(orders: number, folder: string, io: OutageIo): Promise<Outcome> {
  const { stderr, signal } = io
  const operator = { email: 'operator@shop.example', password: randomBytes(24).toString('base64url') }
  const environment = environmentOf(io, { folder, operator })
  const progress = createProgress(stderr)
  try {
    return await runOutage({ orders, operator, progress, signal, environment })
  } finally {
    progress.end()
    await erase(environment).catch((error: unknown) =>
      stderr.write(`outage: what the run made on the servers could not be removed: ${error}\n`),
    )
  }
}

type Environment = Readonly<Record<string, string | undefined>>

/** The servers that were named; everything else is the run's own. */
function environmentOf(
  { environment }: OutageIo,
  { folder, operator }: { folder: string; operator: Account },
): Environment {
  // Another shop on the same servers is not touched.
  const prefix = `outage${process.pid.toString(36)}${Date.now().toString(36)}_`
  return {
    LOG_LEVEL: 'error',
    ...environment,
    BROKER_PREFIX: prefix,
    DATABASE_PREFIX: prefix,
    PORT: '0',
    HOST: '127.0.0.1',
    DATA_DIR: folder,
    ADMIN_EMAIL: operator.email,
    ADMIN_PASSWORD: operator.password,
    ORDERS_PER_MINUTE: '0',
    SIGN_INS_PER_MINUTE: '0',
    PICKING_GRACE_MS: '0',
    CARRIER_DELAY_MS: '0',
  }
}

async function erase({ BROKER_URL = '', DATABASE_URL = '', ...named }: Environment): Promise<void> {
  await eraseBroker(BROKER_URL, named.BROKER_PREFIX!)
  await eraseDatabase(DATABASE_URL, named.DATABASE_PREFIX!)
}

/** The object of `--json`; its keys are fixed (they may grow). */
export function figuresOf({ samples: _, marks: __, verdict, ...outcome }: Outcome) {
  const { broker, orders, outageSeconds, ordersPerSecond, backlog, catchUp } = outcome
  const { violations, ...notifications } = verdict
  return { broker, orders, outageSeconds, ordersPerSecond, backlog, catchUp, notifications, violations }
}

function summary(outcome: Outcome): string {
  const { broker, orders, outageSeconds, ordersPerSecond, backlog, catchUp, verdict, samples, marks } = outcome
  const rows: [string, string][] = [
    ['broker', broker],
    ['before', `${whole(orders.before)} orders; the last of them were being told when notification was killed`],
    [
      'during',
      `${whole(orders.during)} orders in ${outageSeconds.toFixed(1)} s (${whole(Math.round(ordersPerSecond))} placed a second); ` +
        `all ${whole(orders.endedDuring)} came to their end`,
    ],
    [
      'backlog',
      `${whole(backlog.api)} messages by the API, ${whole(backlog.metric)} by /metrics; ` +
        `the oldest ${(backlog.oldestAgeMs / 1_000).toFixed(1)} s old`,
    ],
    [
      'after',
      `caught up in ${catchUp.seconds.toFixed(1)} s: ${whole(Math.round(catchUp.messagesPerSecond))} messages a second`,
    ],
    [
      'told',
      `${whole(verdict.told)} of ${whole(verdict.expected)} notifications: ${whole(verdict.lost)} lost, ${whole(verdict.twice)} twice`,
    ],
    ['violations', verdict.violations.length === 0 ? 'none' : whole(verdict.violations.length)],
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  return [
    '',
    'Messages that wait for notification:',
    ...picture(samples, marks),
    '',
    ...rows.map(([name, text]) => `${name.padEnd(width)}  ${text}`),
    ...verdict.violations.map((violation) => `  ✗ ${violation}`),
  ].join('\n')
}

function explain(error: unknown, { stderr, signal }: OutageIo): number {
  if (signal.aborted) {
    stderr.write('outage: interrupted\n')
    return 130
  }
  if (error instanceof UsageError) {
    stderr.write(`outage: ${error.message}\n\n${usage}`)
    return 2
  }
  if (error instanceof StartError) {
    stderr.write(`outage: ${error.message}\n`)
    return error.exitCode
  }
  stderr.write(`outage: ${error instanceof Error ? error.stack : String(error)}\n`)
  return 1
}

if (import.meta.main) {
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.once('SIGTERM', () => interrupted.abort())
  const { stdout, stderr, env: environment } = process
  process.exitCode = await outage(process.argv.slice(2), { stdout, stderr, environment, signal: interrupted.signal })
}
