/** Forgets what the inbox has known for longer than inboxWindowMs, a little at a time. */
import type { Clock, Timer } from './clock.ts'
import type { Limits } from './limits.ts'
import type { Log } from './log.ts'
import { sql } from './sql.ts'
import type { Store } from './store.ts'

const CHUNK = 2_000
const PAUSE_MS = 50
const ROUND_MS = 3_600_000

type Place = { subscription: string; id: string }
const START: Place = { subscription: '', id: '' }

export class InboxSweeper {
  private readonly options: { store: Store; clock: Clock; limits: Limits; log: Log }
  private place = START
  private timer: Timer | undefined
  private running: Promise<void> | undefined
  private stopped = false

  constructor(options: { store: Store; clock: Clock; limits: Limits; log: Log }) {
    this.options = options
  }

  start(): void {
    this.plan(ROUND_MS)
  }

  private plan(delayMs: number): void {
    this.timer = this.options.clock.after(delayMs, () => {
      this.running = this.sweepChunk()
        .then((more) => this.stopped || this.plan(more ? PAUSE_MS : ROUND_MS))
        .catch((error) => {
          this.options.log.warn({ err: error }, 'the inbox could not be swept; tried again in an hour')
          if (!this.stopped) this.plan(ROUND_MS)
        })
        .then(() => {})
    })
  }

  /** Walks the key in order, so that the table needs no second index. True where more lies ahead. */
  async sweepChunk(): Promise<boolean> {
    const { store, clock, limits } = this.options
    const from = this.place
    const end = await store.read((reader) =>
      reader.get<Place>(sql`
        select subscription, id from bus_inbox where (subscription, id) > (${from.subscription}, ${from.id})
        order by subscription, id limit 1 offset ${CHUNK - 1}`),
    )
    const before = clock.now() - limits.inboxWindowMs
    await store.transaction((tx) =>
      end
        ? tx.run(sql`
            delete from bus_inbox where (subscription, id) > (${from.subscription}, ${from.id})
              and (subscription, id) <= (${end.subscription}, ${end.id}) and at < ${before}`)
        : tx.run(
            sql`delete from bus_inbox where (subscription, id) > (${from.subscription}, ${from.id}) and at < ${before}`,
          ),
    )
    this.place = end ?? START
    return end !== undefined
  }

  async stop(): Promise<void> {
    this.stopped = true
    this.timer?.cancel()
    await this.running
  }
}
