/**
 * `npm test`: runs the test files of the whole repository, or those that are named.
 *
 * Exit status: 0 every test passed or was skipped; 1 one failed; 2 wrong arguments or a wrong REQUIRE.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync, readFileSync, statSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { childrenOf, familyOf, needs } from '@shopsphere/bus/testing'
import { requiredServers, type Server, servers, serversWithSuites } from './servers.ts'

const usage = `Usage: npm test -- [FILE | FOLDER | PATTERN]… [--name WORDS]

Runs every test of the repository, or of the files that are named:
  npm test -- bus/routing.test.ts     one file
  npm test -- services/order runtime  what lies below two folders
  npm test -- 'bus/**/sqlite*'        what a pattern finds
  npm test -- bus --name B5           only tests whose title has these words (a regular expression)

  REQUIRE=…  a suite that needs a server is skipped where the server cannot be had, and fails if REQUIRE names it:
             ${servers.join(', ')}, separated by commas
  --help     print this

Exit status: 0 all passed, 1 a test failed, 2 wrong arguments or a wrong REQUIRE.
`

/**
 * How many test files run at the same time, one kind after the other: the first whose pattern fits. Most wait more than they
 * work. Those that stop and kill servers hold what comes then to a time; a cluster is three servers.
 */
const KINDS: readonly { readonly concurrency: number; readonly files: RegExp }[] = [
  { concurrency: 1, files: /(?:^|\/)fault-cluster-[^/]*\.test\.ts$/ },
  { concurrency: 2, files: /(?:^|\/)(?:fault-|disk-full|outage|processes)[^/]*\.test\.ts$|-faults\.test\.ts$/ },
  { concurrency: 3, files: /./ },
]
/** For one test: a limit for what hangs, not a measure. */
const TIMEOUT_MS = 300_000
/** For one file: where one runs in a circle, or waits for something before its first test, no timeout of a test is heard. */
const FILE_TIMEOUT_MS = 600_000
const LOOK_MS = 1_000

/** A file that does not end after its tests fails. */
export const OPEN_HANDLES = new URL('open-handles.ts', import.meta.url).href

const NOT_OURS = ['node_modules', 'dist']

export type Plan = {
  /** What node is told, one time after the other. */
  readonly passes: readonly (readonly string[])[]
  readonly notes: readonly string[]
  /** A file asks for a Kafka that others may use too. It has no standard port, and each file would start its own. */
  readonly kafka: boolean
}

class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** What to run; null: show the usage. Throws UsageError. */
export function plan(argv: string[], environment: { REQUIRE?: string | undefined }, root: string): Plan | null {
  const { values, positionals } = refused(() =>
    parseArgs({
      args: argv,
      allowPositionals: true,
      options: { name: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    }),
  )
  if (values.help) return null
  const required = refused(() => requiredServers(environment.REQUIRE))
  const files = positionals.length === 0 ? below(root, root) : positionals.flatMap((wanted) => filesOf(wanted, root))
  const sorted = [...new Set(files)].sort()
  const pass = (chosen: readonly string[], concurrency: number) => [
    '--test',
    `--test-concurrency=${concurrency}`,
    `--test-timeout=${TIMEOUT_MS}`,
    `--import=${OPEN_HANDLES}`,
    ...(values.name === undefined ? [] : [`--test-name-pattern=${values.name}`]),
    ...chosen,
  ]
  const byKind = Map.groupBy(sorted, (file) => KINDS.find(({ files }) => files.test(file))!)
  return {
    passes: KINDS.toReversed().flatMap((kind) => (byKind.has(kind) ? [pass(byKind.get(kind)!, kind.concurrency)] : [])),
    notes: notesOn(required),
    kafka: sorted.some((file) => asksForKafka(readFileSync(resolve(root, file), 'utf8'))),
  }
}

const asksForKafka = (text: string) =>
  /\bkafkaServer\(/.test(text) || (/\bneeds\(/.test(text) && text.includes("'kafka'"))

function notesOn(required: readonly Server[]): string[] {
  const unused = required.filter((server) => !serversWithSuites.includes(server))
  return unused.length === 0 ? [] : [`No suite needs ${unused.join(', ')} yet, so REQUIRE changes nothing about it.`]
}

function filesOf(wanted: string, root: string): string[] {
  const path = resolve(root, wanted)
  const found = statSync(path, { throwIfNoEntry: false })
  const files = found?.isDirectory()
    ? below(path, root)
    : found
      ? [relative(root, path)]
      : globSync(wanted, { cwd: root, exclude: NOT_OURS.map((folder) => `**/${folder}/**`) })
  const tests = files.filter((file) => file.endsWith('.test.ts'))
  if (tests.length === 0) throw new UsageError(`there is no test file at '${wanted}': their names end in .test.ts`)
  return tests
}

/** Paths from `root`. The data folder of a running shop is not looked into. */
function below(folder: string, root: string): string[] {
  const exclude = [...NOT_OURS.map((name) => `**/${name}/**`), ...(folder === root ? ['data/**'] : [])]
  return globSync('**/*.test.ts', { cwd: folder, exclude }).map((file) => relative(root, join(folder, file)))
}

function refused<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

/** Runs one pass after the other; answers the exit status. */
export async function run({ passes, kafka }: Plan, root: string, fileTimeoutMs = FILE_TIMEOUT_MS): Promise<number> {
  let child: ChildProcess | null = null
  let interrupted = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      interrupted = true
      if (child) child.kill(signal)
      else process.exit(1)
    })
  }
  // A process that a test starts takes half as long where its modules need not be compiled anew.
  const environment: NodeJS.ProcessEnv = {
    NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/compiled'),
    ...process.env,
  }
  if (kafka) {
    // It ends with this process. Where it cannot be had, the files that want it say why.
    const { url } = await needs('kafka').catch((error: Error) => ({ url: '', error }))
    if (url) environment.KAFKA_URL = url
  }
  let status = 0
  for (const nodeArguments of passes) {
    if (interrupted) break
    child = spawn(process.execPath, nodeArguments, { cwd: root, stdio: 'inherit', env: environment })
    const looking = endLateFiles(child.pid!, fileTimeoutMs)
    const [code] = (await once(child, 'exit')) as [number | null]
    clearInterval(looking)
    if (code !== 0) status = 1
  }
  return status
}

/** Kills test files that take too long, with all that they started; they fail, and the run goes on. On Linux only. */
function endLateFiles(runner: number, timeoutMs: number): NodeJS.Timeout {
  let began = new Map<number, number>()
  return setInterval(() => {
    const now = performance.now()
    began = new Map(childrenOf(runner).map((pid) => [pid, began.get(pid) ?? now]))
    for (const [pid, at] of began) {
      if (now - at < timeoutMs) continue
      const file = read(`/proc/${pid}/cmdline`).split('\0').at(-2)
      // The fields behind the name: user time is the 12th, system time the 13th, in hundredths of a second.
      const times = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ').slice(11, 13).map(Number) ?? []
      const workedS = times.reduce((sum, each) => sum + each, 0) / 100
      process.stderr.write(
        `${file}: has not ended after ${timeoutMs / 1_000} s, of which it worked ${workedS} s; it is killed\n`,
      )
      // A child that has its file's output would hold the run up as well.
      for (const one of familyOf(pid)) {
        try {
          process.kill(one, 'SIGKILL')
        } catch {} // it has just ended
      }
    }
  }, LOOK_MS)
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

if (import.meta.main) {
  const root = fileURLToPath(new URL('..', import.meta.url))
  try {
    const planned = plan(process.argv.slice(2), process.env, root)
    if (planned === null) process.stdout.write(usage)
    else {
      for (const note of planned.notes) process.stdout.write(`${note}\n`)
      process.exitCode = await run(planned, root)
    }
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`npm test: ${error.message}\n\n${usage}`)
    process.exitCode = 2
  }
}
