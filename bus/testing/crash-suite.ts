/**
 * F4: a process is killed with SIGKILL at each durable step of the path from a publication to its effect, several times
 * over; then it runs to its end. Nothing may be lost, no effect doubled, and the order of each key must stand. For a
 * transport and a store of your own, write a module that exports `open(directory): Promise<CrashWorld>`:
 *
 *   crashSuite('my broker', { module: new URL('./my-crash-world.ts', import.meta.url) })
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type Step, steps } from '../consumer.ts'
import { sql } from '../sql.ts'
import type { MaybePromise, Reader, Store } from '../store.ts'
import type { Transport } from '../transport.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import { createWorld } from './world.ts'

export type CrashWorld = {
  readonly transport: Transport
  /** A durable store by this name, in `directory` or wherever the world keeps it. */
  openStore(name: string): MaybePromise<Store>
}

export type CrashSuiteOptions = {
  /** Exports `open(directory)`; loaded in every child process, and here. */
  module: URL
  /** At which occurrences of a step the process dies, one process after another. */
  occurrences?: readonly number[]
}

export type CrashPlan = {
  module: string
  directory: string
  step: Step | null
  occurrence: number
  /** So many more are said; the process is expected to die before. */
  messages: number
  keys: number
}

const MESSAGES_LAST = 60
/** A bound for a life that should end by itself. */
const MESSAGES_BEFORE_DEATH_MAX = 20_000
const KEYS = 7
const CHILD_TIMEOUT_MS = 60_000

export function crashSuite(
  name: string,
  { module, occurrences = [1, 3, 12] }: CrashSuiteOptions,
  runner: SuiteRunner = {},
): void {
  const register = caseRegistrar(name, runner)
  for (const step of steps) {
    register(`F4 B12 kill -9 at '${step}': nothing lost, no effect doubled, order per key kept`, async () => {
      await using world = await createWorld()
      const plan = { module: module.href, directory: world.directory, keys: KEYS }
      for (const occurrence of occurrences) {
        const { signal } = await live({ ...plan, step, occurrence, messages: MESSAGES_BEFORE_DEATH_MAX })
        assert.equal(signal, 'SIGKILL', `the process must die at ${step}, occurrence ${occurrence}`)
      }
      const last = await live({ ...plan, step: null, occurrence: 0, messages: MESSAGES_LAST })
      assert.deepEqual(last, { signal: null, code: 0, output: 'done\n' })
      await verify(module, world.directory)
    })
  }
}

type End = { signal: string | null; code: number | null; output: string }

function live(plan: CrashPlan): Promise<End> {
  const program = fileURLToPath(
    new URL(import.meta.url.endsWith('.ts') ? './crash-child.ts' : './crash-child.js', import.meta.url),
  )
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, JSON.stringify(plan)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: CHILD_TIMEOUT_MS,
    })
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ signal, code, output }))
  })
}

/** Reads what the last process left: each number once in both services, each key in order, no dead letter. */
async function verify(module: URL, directory: string): Promise<void> {
  const { open } = (await import(module.href)) as { open: (directory: string) => Promise<CrashWorld> }
  const world = await open(directory)
  let expected: number[] = []
  for (const service of ['counter', 'echo']) {
    const store = await world.openStore(service)
    await store.open()
    if (service === 'counter') expected = await store.read(saidNumbers)
    const heard = await store.read((reader) =>
      reader.all<{ said: string; n: number }>(sql`select said, n from heard order by place`),
    )
    const numbers = heard.map((row) => Number(row.n))
    assert.deepEqual(
      [...numbers].sort((a, b) => a - b),
      expected,
      `${service} must have each number exactly once`,
    )
    for (let key = 0; key < KEYS; key++) {
      const ofKey = heard.filter((row) => row.said === `k${key}`).map((row) => Number(row.n))
      assert.deepEqual(
        ofKey,
        [...ofKey].sort((a, b) => a - b),
        `${service}: order of key k${key}`,
      )
    }
    const dead = await store.read((reader) =>
      reader.get<{ count: number }>(sql`select count(*) as count from bus_dead_letter`),
    )
    assert.equal(Number(dead?.count), 0, `${service} must have no dead letter`)
    await store.close()
  }
  await world.transport.close()
}

async function saidNumbers(reader: Reader): Promise<number[]> {
  const rows = await reader.all<{ n: number }>(sql`select n from said order by n`)
  assert.ok(rows.length > MESSAGES_LAST, 'something must have been said before the process died')
  return rows.map((row) => Number(row.n))
}
