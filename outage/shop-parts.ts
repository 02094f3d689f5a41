/** Parts of a shop as processes of their own, on one broker and one data folder. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { StartError } from '@shopsphere/runtime/start-error'

const CLOSE_MAX_MS = 20_000

export type ShopPart = {
  readonly url: string
  readonly pid: number
  /** Rejects when the process ends although nobody asked for it. */
  readonly died: Promise<never>
  /** `kill -9`: no handler is finished, nothing is closed. */
  kill(): Promise<void>
  /** Finishes what runs. Closing twice is fine. */
  close(): Promise<void>
}

/** What shop-part.ts says: what it waits for, and then where it answers, or why it cannot. */
type Said = { waits?: string; url?: string; refused?: string; exitCode?: 1 | 2 }

/**
 * @param environment of the process, as main.ts reads it. Throws StartError where that or the machine refuses.
 * @param options.onWait hears what it waits for, at each try; `signal` ends the waiting
 */
export async function startShopPart(
  environment: NodeJS.ProcessEnv,
  { signal, onWait }: { signal: AbortSignal; onWait: (reason: string) => void },
): Promise<ShopPart> {
  const child = fork(new URL('./shop-part.ts', import.meta.url), { env: environment })
  const ended = once(child, 'exit')
  let asked = false
  const died = ended.then(() => {
    if (asked) return new Promise<never>(() => {})
    throw new Error(`the process of ${environment.SERVICES} ended by itself (${child.exitCode ?? child.signalCode})`)
  })
  died.catch(() => {}) // whoever waits hears of it
  const aborted = once(signal, 'abort').then(() => Promise.reject(signal.reason))
  const { url, refused, exitCode } = await Promise.race([started(child, onWait), died, aborted]).catch(
    async (error) => {
      child.kill('SIGKILL')
      await ended
      throw error
    },
  )
  if (refused !== undefined) throw new StartError(refused, { exitCode: exitCode ?? 1 })
  return {
    url: url!,
    pid: child.pid!,
    died,
    async kill() {
      asked = true
      child.kill('SIGKILL')
      await ended
    },
    async close() {
      asked = true
      await closed(child, ended)
    },
  }
}

function started(child: ChildProcess, onWait: (reason: string) => void): Promise<Said> {
  return new Promise((resolve) => {
    child.on('message', (said: Said) => {
      if (said.waits === undefined) resolve(said)
      else onWait(said.waits)
    })
  })
}

async function closed(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
  if (child.connected) child.disconnect()
  const tooLong = setTimeout(() => child.kill('SIGKILL'), CLOSE_MAX_MS)
  await ended
  clearTimeout(tooLong)
}
