/** main.ts as a process of its own, as an operator starts it. */
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** Milliseconds until it has to answer. */
const ANSWER_TIMEOUT_MS = 60_000

export type MainProcess = AsyncDisposable & {
  readonly child: ChildProcessByStdio<null, Readable, Readable>
  /** What it has written so far. */
  readonly out: { stdout: string; stderr: string }
  /** Its exit status; null: a signal ended it. */
  readonly exited: Promise<number | null>
  /** Resolves with where it answers; rejects with what it wrote if it ends before, or is late. */
  answers(): Promise<string>
}

export type MainOptions = {
  parameters?: readonly string[]
  /** Where the files lie; this repository by default. */
  folder?: string
  /** In place of `node main.ts`. */
  command?: readonly [program: string, ...parameters: string[]]
}

/** `environment` is all that the process is told, beside PATH, where compiled modules are, any free port of 127.0.0.1 and warnings only. Disposal kills it. */
export function startMain(environment: Record<string, string>, options: MainOptions = {}): MainProcess {
  const { parameters = [], folder = root, command = [process.execPath, 'main.ts'] } = options
  const { PATH = '', NODE_COMPILE_CACHE } = process.env
  const [program, ...before] = command
  const child = spawn(program, [...before, ...parameters], {
    cwd: folder,
    env: { PATH, NODE_COMPILE_CACHE, PORT: '0', HOST: '127.0.0.1', LOG_LEVEL: 'warn', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const out = { stdout: '', stderr: '' }
  const changed = new EventTarget()
  child.stdout.on('data', (data) => {
    out.stdout += data
    changed.dispatchEvent(new Event('output'))
  })
  child.stderr.on('data', (data) => {
    out.stderr += data
  })
  const exited = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)))
  return {
    child,
    out,
    exited,
    answers: () =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no answer: ${out.stderr}`)), ANSWER_TIMEOUT_MS)
        const look = () => {
          const url = /answers at (\S+)/.exec(out.stdout)?.[1]
          if (!url) return
          clearTimeout(timer)
          resolve(url)
        }
        changed.addEventListener('output', look)
        void exited.then(() => {
          clearTimeout(timer)
          reject(new Error(out.stderr))
        })
        look()
      }),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await exited
    },
  }
}
