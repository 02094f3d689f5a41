/**
 * A private server process of a test: its own free port, its own folder, its own data.
 *
 * S1 `start` resolves when the server answers its own protocol, and rejects with the last lines of its output if it ends
 *    before, or does not answer in time.
 * S2 Port and data are the same after `restart`, whether it was stopped or killed before.
 * S3 No process and no folder outlives the test process: disposal, then its 'exit', then (Linux) the kernel's own signal.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import {
  accessSync,
  chownSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { eventually } from '../eventually.ts'

/** Milliseconds until a server that was started has to answer. */
const START_TIMEOUT_MS = 60_000
/** Milliseconds for an orderly end; then it is killed. */
const STOP_TIMEOUT_MS = 20_000
const ANSWER_TIMEOUT_MS = 1_000
const PAUSE_TIMEOUT_MS = 1_000
/** A thread's state as /proc/…/stat has it behind the name: stopped, a zombie, or dead. */
const STANDING = /^\) [TtZXx]/
const GONE = ') X'
const LOG_LINES = 40

export type Server = AsyncDisposable & {
  readonly name: string
  readonly url: string
  readonly port: number
  start(): Promise<void>
  /** Orderly; killed if it does not end in time. */
  stop(): Promise<void>
  /** SIGKILL for it and its children. */
  kill(): Promise<void>
  /** Stops it if it runs; then starts it. */
  restart(): Promise<void>
  /** SIGSTOP for it and its children, until all stand still (Linux): connections stay and nothing answers. */
  pause(): void
  resume(): void
  /** The last lines that it wrote. */
  log(): string
}

/** A program cannot be had here; says what to install. */
export class ServerMissing extends Error {
  override readonly name = 'ServerMissing'
}

export type ServerPlan = {
  readonly name: string
  readonly url: string
  readonly port: number
  /** Belongs to the server; deleted with it. */
  readonly folder: string
  readonly command: string
  readonly args: readonly string[]
  readonly environment?: NodeJS.ProcessEnv
  readonly account?: Account | undefined
  readonly stopSignal?: NodeJS.Signals
  /** Whether it answers now. */
  answers(): Promise<boolean>
  /** What belongs to it and ends after it. */
  disposed?: (() => PromiseLike<void>) | undefined
}

/** Whom a process runs as; of no effect where we are not root. */
export type Account = { readonly uid: number; readonly gid: number }

export function createServerProcess(plan: ServerPlan): Server {
  const logFile = join(plan.folder, 'output.log')
  let child: ChildProcess | null = null
  let ended: Promise<void> = Promise.resolve()

  const running = () => child !== null && child.exitCode === null && child.signalCode === null
  const log = () => {
    try {
      return readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-LOG_LINES).join('\n')
    } catch {
      return ''
    }
  }
  const signal = (name: NodeJS.Signals) => {
    if (running()) for (const pid of familyOf(child!.pid!)) signalProcess(pid, name)
  }
  // S3
  const atExit = () => {
    signal('SIGKILL')
    rmSync(plan.folder, { recursive: true, force: true, maxRetries: 5 })
  }
  process.on('exit', atExit)

  const server: Server = {
    name: plan.name,
    url: plan.url,
    port: plan.port,
    log,
    async start() {
      if (running()) return
      const output = openSync(logFile, 'a')
      const [command, ...args] = boundToUs([plan.command, ...plan.args])
      const begun = spawn(command!, args, {
        cwd: plan.folder,
        detached: true,
        stdio: ['ignore', output, output],
        env: { ...process.env, ...plan.environment },
        ...plan.account,
      })
      closeSync(output)
      child = begun
      begun.unref()
      const end = Promise.withResolvers<void>()
      ended = end.promise
      begun.once('exit', () => end.resolve())
      begun.once('error', () => end.resolve())
      try {
        const up = eventually(async () => !running() || (await plan.answers()), {
          timeoutMs: START_TIMEOUT_MS,
          intervalMs: 50,
          message: `${plan.name} does not answer on port ${plan.port}`,
        })
        await up
        if (!running()) throw new Error(`${plan.name} ended at once`)
      } catch (error) {
        await server.kill()
        throw new Error(`${(error as Error).message}; its last lines:\n${log()}`, { cause: error })
      }
    },
    async stop() {
      if (!running()) return
      signal('SIGCONT')
      signalProcess(child!.pid!, plan.stopSignal ?? 'SIGTERM')
      const late = setTimeout(() => signal('SIGKILL'), STOP_TIMEOUT_MS)
      await kept(ended)
      clearTimeout(late)
    },
    async kill() {
      signal('SIGKILL')
      await kept(ended)
    },
    async restart() {
      await server.stop()
      await server.start()
    },
    pause() {
      if (!running()) return
      signal('SIGSTOP')
      untilStopped(familyOf(child!.pid!))
    },
    resume: () => signal('SIGCONT'),
    async [Symbol.asyncDispose]() {
      await server.kill()
      await plan.disposed?.()
      process.off('exit', atExit)
      rmSync(plan.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
    },
  }
  return server
}

/** The child holds no event loop open; whoever waits for its end does. */
async function kept(end: Promise<void>): Promise<void> {
  const hold = setInterval(() => {}, 1_000)
  await end.finally(() => clearInterval(hold))
}

/** S3: the kernel kills it when we die, however we die. */
function boundToUs(command: readonly string[]): readonly string[] {
  const binder = process.platform === 'linux' ? find('setpriv') : null
  return binder ? [binder, '--pdeathsig', 'KILL', ...command] : command
}

function signalProcess(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** A signal is under way for a moment, and threads on other processors go on until it is there. */
function untilStopped(pids: readonly number[]): void {
  const pause = new Int32Array(new SharedArrayBuffer(4))
  for (let waitedMs = 0; waitedMs < PAUSE_TIMEOUT_MS && pids.some(isMoving); waitedMs++) Atomics.wait(pause, 0, 0, 1)
}

/** False where there is no /proc. */
function isMoving(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).some((thread) => !STANDING.test(stateOf(`/proc/${pid}/task/${thread}`)))
  } catch {
    return false
  }
}

function stateOf(thread: string): string {
  try {
    const stat = readFileSync(`${thread}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')'))
  } catch {
    return GONE // while we looked; the others may go on
  }
}

/** Processes that this one started and that live; none where there is no /proc. */
export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

/** The process and all below it, parents first: PostgreSQL's and Erlang's children leave the group of their parent. */
export function familyOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(familyOf)]
}

/** A new folder below the system's temporary one, owned by `account`. */
export function serverFolder(name: string, account?: Account): string {
  const folder = mkdtempSync(join(tmpdir(), `shopsphere-${name}-`))
  if (account) chownSync(folder, account.uid, account.gid)
  return folder
}

const FIRST_PORT = 10_000
const LAST_PORT = 65_535
const PORTS_MIN = 1_000
const PORTS_TRIED_MAX = 100

/**
 * A port that was free a moment ago, by chance, so that two who ask hardly get the same. Where there is room, none that the
 * system gives to outgoing connections: one of those could have it while its server is down.
 */
export async function freePort(): Promise<number> {
  const [first, last] = portsNotGiven()
  for (let tried = 1; tried < PORTS_TRIED_MAX && last - first >= PORTS_MIN; tried++) {
    const port = await listenOnce(randomInt(first, last + 1)).catch(() => null)
    if (port !== null) return port
  }
  return listenOnce(0)
}

/** The larger range beside those that the system gives. */
function portsNotGiven(): readonly [first: number, last: number] {
  let given = [32_768, 60_999] // Linux's own
  try {
    given = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').trim().split(/\s+/).map(Number)
  } catch {}
  const [low, high] = given as [number, number]
  return low - FIRST_PORT > LAST_PORT - high ? [FIRST_PORT, low - 1] : [high + 1, LAST_PORT]
}

function listenOnce(wanted: number): Promise<number> {
  return new Promise((done, failed) => {
    const probe = createServer()
    probe.once('error', failed)
    probe.listen(wanted, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number }
      probe.close(() => done(port))
    })
  })
}

function find(program: string, folders: readonly string[] = []): string | null {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), ...folders]) {
    const path = join(folder, program)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {}
  }
  return null
}

/** The path of a program, from PATH or else `folders`. Throws ServerMissing, which names the Debian package. */
export function findProgram(program: string, debianPackage: string, folders: readonly string[] = []): string {
  const path = find(program, folders)
  if (path) return path
  throw new ServerMissing(`${program} is not installed: apt-get install ${debianPackage}`)
}

/** The account of a system user; undefined where we are not root, and so cannot become it. */
export function accountOf(user: string): Account | undefined {
  if (process.getuid?.() !== 0) return undefined
  const id = (flag: string) => Number(execFileSync('id', [flag, user], { encoding: 'utf8' }))
  return { uid: id('-u'), gid: id('-g') }
}

/** What a server on `port` says first after `request`; null if nothing comes in time. */
export function ask(port: number, request: Uint8Array | string, host = '127.0.0.1'): Promise<Buffer | null> {
  return new Promise((done) => {
    const socket = connect({ port, host })
    const end = (answer: Buffer | null) => {
      socket.destroy()
      done(answer)
    }
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => end(null))
    socket.once('connect', () => socket.write(request))
    socket.once('data', end)
    socket.once('error', () => end(null))
    socket.once('close', () => done(null))
  })
}
