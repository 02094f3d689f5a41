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

/** What shop-part.ts says: where it answers, or why it cannot. */
type Said = { url?: string; refused?: string; exitCode?: 1 | 2 }

/** @param environment of the process, as main.ts reads it. Throws StartError where that or the machine refuses. */
export async function startShopPart(environment: NodeJS.ProcessEnv): Promise<ShopPart> {
  const child = fork(new URL('./shop-part.ts', import.meta.url), { env: environment })
  const ended = once(child, 'exit')
  let asked = false
  const died = ended.then(() => {
    if (asked) return new Promise<never>(() => {})
    throw new Error(`the process of ${environment.SERVICES} ended by itself (${child.exitCode ?? child.signalCode})`)
  })
  died.catch(() => {}) // whoever waits hears of it
  const [{ url, refused, exitCode }] = (await Promise.race([once(child, 'message'), died])) as [Said]
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

async function closed(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
  if (child.connected) child.disconnect()
  const tooLong = setTimeout(() => child.kill('SIGKILL'), CLOSE_MAX_MS)
  await ended
  clearTimeout(tooLong)
}
