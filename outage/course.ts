/**
 * The course of an outage: a shop in two processes, notification alone in one of them, which is killed and started again.
 *
 *   before   orders while everything runs: what becomes of them is what should become of all (O1, O2)
 *   kill     in the middle of its work, so that handlers die half done
 *   during   orders while notification is down; they go on to their end, and its backlog grows
 *   after    notification is started again and works the backlog off
 *   end      both processes are closed; a whole shop opens the same databases and broker, and is judged
 */
import { setTimeout as timeout } from 'node:timers/promises'
import { sentence } from '../auditor/violation.ts'
import type { Progress } from '../replay/progress.ts'
import { whole } from '../replay/summary.ts'
import { allServices, type Shop, startShop } from '../shop.ts'
import { type Account, Door, type Look } from './door.ts'
import { judge, type Placed, readFacts, shortened, type Verdict } from './facts.ts'
import type { Mark, Sample } from './picture.ts'
import { type ShopPart, startShopPart } from './shop-parts.ts'

/** The service that fails, which is also the name of its subscription. */
const FAILING = 'notification'
const OTHERS = allServices.map(({ name }) => name).filter((name) => name !== FAILING)
/** Enough for one of each kind. */
const ORDERS_BEFORE = 40
/** Half of them are placed when the process is killed, and their notifications are under way. */
const ORDERS_AT_THE_KILL = 60
const CALLERS = 32
const LOOK_EVERY_MS = 250
const ROW_EVERY_MS = 2_000
/** Nothing moves for so long: something is wrong. */
const STANDSTILL_MAX_MS = 60_000

export type Course = {
  /** How many orders are placed while notification is down. */
  readonly orders: number
  /** As `process.env`; DATA_DIR is the run's own. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly operator: Account
  readonly progress: Progress
  readonly signal: AbortSignal
}

export type Outcome = {
  readonly broker: string
  readonly orders: { readonly before: number; readonly during: number; readonly endedDuring: number }
  readonly outageSeconds: number
  readonly ordersPerSecond: number
  /** When every order had come to its end and notification was still down. */
  readonly backlog: { readonly api: number; readonly metric: number; readonly oldestAgeMs: number }
  readonly catchUp: { readonly seconds: number; readonly messagesPerSecond: number }
  readonly verdict: Verdict
  readonly samples: readonly Sample[]
  readonly marks: readonly Mark[]
}

/** Throws where the shop refuses or stands still; ends every process that it began. */
export async function runOutage(course: Course): Promise<Outcome> {
  const { environment, signal, progress } = course
  await using parts = new AsyncDisposableStack()
  const start = async (services: readonly string[]) => {
    signal.throwIfAborted()
    const part = await startShopPart(
      { ...environment, SERVICES: services.join(',') },
      { signal, onWait: progress.note },
    )
    parts.defer(() => part.kill())
    return part
  }
  progress.note(`starting ${OTHERS.join(', ')} in one process, ${FAILING} in another`)
  const shop = await start(OTHERS)
  const failing = await start([FAILING])
  const door = new Door(shop.url, signal)
  const seen = await Promise.race([shop.died, failing.died, watch({ course, door, failing, start })])
  await seen.failing.close()
  await shop.close()
  progress.note('verifying, in a whole shop on the same databases and broker')
  return { ...seen, ...(await inWholeShop(course, (shop) => judged(shop, seen))) }
}

type Watched = Omit<Outcome, 'verdict' | 'broker'> & {
  readonly failing: ShopPart
  readonly placed: {
    readonly normal: readonly Placed[]
    readonly during: readonly Placed[]
    readonly all: readonly Placed[]
  }
}

async function watch(given: {
  course: Course
  door: Door
  failing: ShopPart
  start: (services: readonly string[]) => Promise<ShopPart>
}): Promise<Watched> {
  const { course, door, failing, start } = given
  const { progress, orders, operator } = course
  const watcher = new Watcher(door, course)
  await door.signIn(operator)
  await door.stock()

  progress.phase(`Before: ${FAILING} runs`, ORDERS_BEFORE, 'orders')
  const normal = await watcher.place(ORDERS_BEFORE)
  await watcher.untilQuiet(nothing)

  progress.phase('Before: the last orders', ORDERS_AT_THE_KILL, 'orders')
  let killing: Promise<void> | undefined
  const atTheKill = await watcher.place(ORDERS_AT_THE_KILL, (count) => {
    if (count === ORDERS_AT_THE_KILL / 2) killing = failing.kill()
  })
  await killing
  watcher.mark(`${FAILING} killed`)
  progress.end()
  progress.note(`kill -9 of process ${failing.pid}: ${FAILING} is down, in the middle of its work`)

  progress.phase(`Down: orders are placed`, orders, 'orders')
  const downMs = performance.now()
  const during = await watcher.place(orders)
  const ordersPerSecond = (orders * 1_000) / (performance.now() - downMs)
  const all = [...normal, ...atTheKill, ...during]
  progress.phase('Down: the orders go on to their end', all.length, 'orders')
  const last = await watcher.untilQuiet(anything)
  const metric = await door.measure(FAILING)
  if (metric === null) throw new Error(`GET /metrics does not say what waits for ${FAILING}`)

  const waited = last.waiting
  progress.end()
  progress.note(`${FAILING} is started again: ${whole(waited)} messages wait for it`)
  const outageSeconds = (performance.now() - downMs) / 1_000
  const again = await start([FAILING])
  watcher.mark('started again')
  const againMs = performance.now()
  progress.phase(`After: ${FAILING} catches up`, waited, 'messages')
  await Promise.race([again.died, watcher.untilQuiet(nothing, waited)])
  const seconds = (performance.now() - againMs) / 1_000
  progress.end()
  return {
    failing: again,
    placed: { normal, during, all },
    orders: { before: normal.length + atTheKill.length, during: during.length, endedDuring: last.ended },
    outageSeconds,
    ordersPerSecond,
    backlog: { api: waited, metric: metric.waiting, oldestAgeMs: metric.oldestAgeMs },
    catchUp: { seconds, messagesPerSecond: waited / seconds },
    samples: watcher.samples,
    marks: watcher.marks,
  }
}

const nothing = (waiting: number) => waiting === 0
const anything = () => true

type Seen = Look & { readonly ended: number }

/** Places orders, looks at the shop meanwhile, and keeps what it saw of the backlog. */
class Watcher {
  readonly samples: Sample[] = []
  readonly marks: Mark[] = []
  readonly #door: Door
  readonly #progress: Progress
  readonly #signal: AbortSignal
  #placed = 0
  #rowMs = Number.NEGATIVE_INFINITY
  readonly #startedMs = performance.now()

  constructor(door: Door, { progress, signal }: Course) {
    this.#door = door
    this.#progress = progress
    this.#signal = signal
  }

  mark(what: string): void {
    this.marks.push({ atMs: performance.now(), what })
  }

  /** As fast as the shop takes them. One in twenty is paid with a card that is refused. */
  async place(count: number, onPlaced: (count: number) => void = () => {}): Promise<Placed[]> {
    const from = this.#placed
    const placed: Placed[] = []
    let next = from
    const buyer = async () => {
      while (next < from + count) {
        const n = next++
        const kind = n % 20 === 7 ? 'pm_card_declined' : 'pm_card_visa'
        placed.push({ orderId: await this.#door.placeOrder(n, kind), kind })
        this.#placed += 1
        this.#progress.set(placed.length)
        onPlaced(placed.length)
      }
    }
    const done = new AbortController()
    const looking = this.#lookUntil(done.signal)
    await Promise.all(Array.from({ length: Math.min(CALLERS, count) }, buyer)).finally(() => done.abort())
    await looking
    return placed
  }

  /**
   * Looks until every order has ended, the other services rest, and what has been counted since then is enough.
   * @param left what has to be worked off; without it, progress is counted in orders
   */
  async untilQuiet(isEnough: (waiting: number) => boolean, left?: number): Promise<{ ended: number; waiting: number }> {
    let quietSince = Number.POSITIVE_INFINITY
    let moved = ''
    let movedMs = performance.now()
    for (;;) {
      const { ended, waiting, othersRest, countedAt } = await this.#look()
      this.#progress.set(left === undefined ? ended : Math.max(0, left - (waiting ?? left)))
      quietSince = ended === this.#placed && othersRest ? Math.min(quietSince, Date.now()) : Number.POSITIVE_INFINITY
      if (waiting !== null && countedAt >= quietSince && isEnough(waiting)) return { ended, waiting }
      const now = `${ended} ${waiting} ${othersRest}`
      if (now !== moved) movedMs = performance.now()
      moved = now
      if (performance.now() - movedMs > STANDSTILL_MAX_MS)
        throw new Error(`the shop stands still: ${ended} of ${this.#placed} orders ended, ${waiting} messages wait`)
      await timeout(LOOK_EVERY_MS, undefined, { signal: this.#signal })
    }
  }

  async #lookUntil(done: AbortSignal): Promise<void> {
    while (!done.aborted) {
      await this.#look()
      await timeout(LOOK_EVERY_MS, undefined, { signal: done }).catch(() => {})
    }
  }

  async #look(): Promise<Seen> {
    const [look, ended] = await Promise.all([this.#door.look(FAILING), this.#door.ended()])
    if (look.waiting !== null) this.samples.push({ atMs: performance.now(), waiting: look.waiting })
    if (performance.now() - this.#rowMs >= ROW_EVERY_MS) await this.#row({ ...look, ended })
    return { ...look, ended }
  }

  async #row({ ended, waiting }: Seen): Promise<void> {
    if (this.#rowMs === Number.NEGATIVE_INFINITY) this.#progress.note(rowOf(COLUMN_NAMES))
    this.#rowMs = performance.now()
    const metric = await this.#door.measure(FAILING)
    const seconds = ((performance.now() - this.#startedMs) / 1_000).toFixed(0)
    const oldest = metric === null ? '?' : `${(metric.oldestAgeMs / 1_000).toFixed(1)} s`
    const counts = [this.#placed, ended, waiting, metric?.waiting].map((count) => (count == null ? '?' : whole(count)))
    this.#progress.note(rowOf([`${seconds} s`, ...counts, oldest]))
  }
}

const COLUMN_NAMES = ['time', 'orders placed', 'ended', 'waiting (API)', '(/metrics)', 'oldest']
const rowOf = (cells: readonly string[]) => cells.map((cell) => cell.padStart(14)).join('')

/** Opens the same databases and the same broker with every service. */
async function inWholeShop<T>({ environment, progress }: Course, work: (shop: Shop) => Promise<T>): Promise<T> {
  await using shop = await startShop({ environment, headless: true, onWait: progress.note })
  return await work(shop)
}

async function judged(shop: Shop, { placed, backlog }: Watched): Promise<Pick<Outcome, 'broker' | 'verdict'>> {
  const idle = shop.idle().then(() => true)
  if (!(await Promise.race([idle, timeout(STANDSTILL_MAX_MS, false, { ref: false })])))
    throw new Error(`the shop does not come to rest within ${STANDSTILL_MAX_MS} ms`)
  const facts = await readFacts(shop)
  const verdict = judge(facts, placed)
  const missed = judge(facts, { ...placed, all: placed.during }).expected
  const unseen = Object.entries({ 'the API': backlog.api, '/metrics': backlog.metric })
    .filter(([, waiting]) => waiting < missed)
    .map(([where, waiting]) => `O5 ${missed} messages were missed during the outage, and ${where} showed ${waiting}`)
  const audited = (await shop.auditor.finish('open')).map(sentence)
  const violations = shortened([...verdict.violations, ...unseen, ...audited])
  return { broker: shop.transport.name, verdict: { ...verdict, violations } }
}
