import type { Clock, Store } from '@shopsphere/bus'
import type { Log } from '@shopsphere/runtime/log'
import { figures } from './figures.ts'

export type RebuildProgress = {
  readonly state: 'none' | 'running' | 'done' | 'failed'
  /** Milliseconds since the epoch. */
  readonly startedAt: number | null
  readonly finishedAt: number | null
  /** Facts read so far, and the newest there is; positions grow, but are no count. */
  readonly position: number
  readonly headPosition: number
  /** Facts applied since the start. */
  readonly applied: number
}

const NONE: RebuildProgress = {
  state: 'none',
  startedAt: null,
  finishedAt: null,
  position: 0,
  headPosition: 0,
  applied: 0,
}

export type Rebuild = {
  /** Begins in the background, unless one runs; the live figures stay and are kept up until the new ones take over. */
  start(): RebuildProgress
  /** Goes on with what a process left behind that ended in the middle. */
  resume(): Promise<void>
  progress(): RebuildProgress
  /** Stops after the running batch; what is done stays, and `resume` goes on from there. Closing twice is fine. */
  close(): Promise<void>
}

export function createRebuild({ store, clock, log }: { store: Store; clock: Clock; log: Log }): Rebuild {
  const closing = new AbortController()
  let now = NONE
  let running: Promise<void> | undefined

  async function run(restart: boolean): Promise<void> {
    now = { ...NONE, state: 'running', startedAt: clock.now() }
    try {
      const { complete } = await figures.rebuild(store, {
        restart,
        signal: closing.signal,
        progress: ({ position, headPosition, applied }) => {
          now = { ...now, position, headPosition, applied }
        },
      })
      if (closing.signal.aborted) return
      now = { ...now, state: complete ? 'done' : 'failed', finishedAt: clock.now() }
      log.info({ applied: now.applied }, 'the figures were made anew')
    } catch (error) {
      now = { ...now, state: 'failed', finishedAt: clock.now() }
      if (!closing.signal.aborted) log.error({ err: error }, 'the figures could not be made anew; the old ones stay')
    }
  }

  function begin(restart: boolean): void {
    running ??= run(restart).finally(() => {
      running = undefined
    })
  }

  return {
    start() {
      begin(true)
      return now
    },
    async resume() {
      const { building } = await store.read((reader) => figures.status(reader))
      if (building) begin(false)
    },
    progress: () => now,
    async close() {
      closing.abort()
      await running
    },
  }
}
