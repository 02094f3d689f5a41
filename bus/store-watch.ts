/**
 * Whether the database takes what is written.
 *
 * W1 One write that found the database away (a full disk, a server that is gone) is enough: `healthy` is false from then.
 * W2 Then a write of its own is tried again and again until one commits, so a service that nobody asks anything comes
 *    back by itself too.
 */
import type { Clock, Timer } from './clock.ts'
import { BusError } from './errors.ts'
import { sql } from './sql.ts'
import type { Store } from './store.ts'

const CHECK_EVERY_MS = 1_000
const CHECKED_NAME = 'write-check'

export class StoreWatch {
  private readonly store: Store
  private readonly clock: Clock
  private timer: Timer | undefined
  private checking: Promise<void> | undefined
  private stopped = false

  constructor(options: { store: Store; clock: Clock }) {
    this.store = options.store
    this.clock = options.clock
  }

  get healthy(): boolean {
    return this.timer === undefined && this.checking === undefined
  }

  /** To be told of whatever a write failed with; says nothing about other failures. */
  failed(error: unknown): void {
    const away = error instanceof BusError && error.code === 'store_unavailable'
    if (away && this.healthy && !this.stopped) this.checkLater() // W1
  }

  private checkLater(): void {
    this.timer = this.clock.after(CHECK_EVERY_MS, () => {
      this.timer = undefined
      this.checking = this.check()
    })
  }

  /** Pages are written even where nothing of it stays. */
  private async check(): Promise<void> {
    try {
      await this.store.transaction(async (tx) => {
        await tx.run(sql`insert into bus_migration (name, hash) values (${CHECKED_NAME}, '')`)
        await tx.run(sql`delete from bus_migration where name = ${CHECKED_NAME}`)
      })
    } catch {
      if (!this.stopped) this.checkLater() // W2
    } finally {
      this.checking = undefined
    }
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.timer?.cancel()
    this.timer = undefined
    await this.checking
  }
}
