/**
 * What waits on the broker for subscriptions of services that do not run here: stopped ones, and those of other
 * processes. Nobody else would say that a service which is down is being waited for.
 */
import type { Backlog, Clock, Transport } from '@shopsphere/bus'

/** Where the broker takes longer to count, the count before is shown. */
const ANSWER_MAX_MS = 2_000
/** Counting may take this share of the time: where a broker counts message by message, a long backlog is counted more rarely. */
const COUNTING_SHARE = 0.2
/** More are not looked at. */
const SUBSCRIPTIONS_MAX = 200

export type WaitingElsewhere = {
  /** As the broker knows it. */
  readonly name: string
  /** Messages. */
  readonly waiting: number
  /** Milliseconds since the epoch; null: none waits. */
  readonly oldestAt: number | null
  readonly oldestAgeMs: number
  /** When it was counted, milliseconds since the epoch. */
  readonly countedAt: number
}

export type BrokerBacklog = {
  /** By name. */
  readonly subscriptions: readonly WaitingElsewhere[]
  /** Those that the broker has not answered for, and those that were too many. */
  readonly unknown: readonly string[]
}

/**
 * Answers what looks at the broker. Who asks while a look is under way shares it; where the broker does not answer, it
 * shows what was counted last.
 * @param here the subscriptions of this process, which speak for themselves
 */
export function createBrokerBacklog(options: {
  transport: Transport
  here: ReadonlySet<string>
  clock: Clock
}): () => Promise<BrokerBacklog> {
  const { transport, here, clock } = options
  const counts = new Map<string, Count>()
  let names: readonly string[] = []
  let looking: Promise<BrokerBacklog> | undefined

  async function look(): Promise<BrokerBacklog> {
    names = (await inTime(transport.subscriptions())) ?? names
    const others = names.filter((name) => !here.has(name)).sort()
    for (const name of counts.keys()) if (!others.includes(name)) counts.delete(name)
    const asked = others.slice(0, SUBSCRIPTIONS_MAX)
    const found = await Promise.all(asked.map((name) => countOf(name).latest()))
    const subscriptions = asked.flatMap((name, index) => shown(name, found[index]!, clock.now()))
    const unknown = others.filter((name) => !subscriptions.some((known) => known.name === name))
    return { subscriptions, unknown }
  }

  function countOf(name: string): Count {
    const known = counts.get(name)
    if (known) return known
    const made = new Count(async () => ({ ...(await transport.backlog(name)), countedAt: clock.now() }))
    counts.set(name, made)
    return made
  }

  return () => (looking ??= look().finally(() => (looking = undefined)))
}

type Counted = Backlog & { readonly countedAt: number }

function shown(name: string, counted: Counted | null, now: number): WaitingElsewhere[] {
  if (counted === null) return []
  const { oldestAt } = counted
  return [{ name, ...counted, oldestAgeMs: oldestAt === null ? 0 : Math.max(0, now - oldestAt) }]
}

/** The count of one subscription. */
class Count {
  readonly #ask: () => Promise<Counted>
  #asking: Promise<unknown> | undefined
  #last: Counted | null = null
  #restsUntilMs = 0

  constructor(ask: () => Promise<Counted>) {
    this.#ask = ask
  }

  /** A new count, or the last one where that cannot be had yet; null: there is none. */
  async latest(): Promise<Counted | null> {
    if (performance.now() >= this.#restsUntilMs) {
      this.#asking ??= this.#count()
      await inTime(this.#asking)
    }
    return this.#last
  }

  async #count(): Promise<void> {
    const startedMs = performance.now()
    try {
      this.#last = await this.#ask()
    } finally {
      const tookMs = performance.now() - startedMs
      this.#restsUntilMs = startedMs + tookMs / COUNTING_SHARE
      this.#asking = undefined
    }
  }
}

/** Null: not in time, or not at all; /health/ready says why. */
export async function inTime<T>(asked: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, ANSWER_MAX_MS, null)
  })
  const answered = asked.catch(() => null)
  return Promise.race([answered, late]).finally(() => clearTimeout(timer))
}
