/**
 * What waits on the broker for subscriptions of services that do not run here: stopped ones, and those of other
 * processes. Nobody else would say that a service which is down is being waited for.
 */
import type { Clock, Transport } from '@shopsphere/bus'

/** One that a broker answers more slowly for is left out of this look. */
const ANSWER_MAX_MS = 2_000
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
}

export type BrokerBacklog = {
  /** By name. */
  readonly subscriptions: readonly WaitingElsewhere[]
  /** Those that the broker did not answer for in time, and those that were too many. */
  readonly unknown: readonly string[]
}

/**
 * Makes a look at the broker. Who asks while one is under way shares it; one where the broker does not answer shows nothing.
 * @param here the subscriptions of this process, which speak for themselves
 */
export function createBrokerBacklog(options: {
  transport: Transport
  here: ReadonlySet<string>
  clock: Clock
}): () => Promise<BrokerBacklog> {
  const { transport, here, clock } = options
  let looking: Promise<BrokerBacklog> | undefined

  async function look(): Promise<BrokerBacklog> {
    const names = await inTime(transport.subscriptions())
    if (names === null) return { subscriptions: [], unknown: [] }
    const others = names.filter((name) => !here.has(name)).sort()
    const asked = others.slice(0, SUBSCRIPTIONS_MAX)
    const answers = await Promise.all(asked.map((name) => inTime(transport.backlog(name))))
    const now = clock.now()
    return {
      subscriptions: asked.flatMap((name, index) => {
        const answer = answers[index]
        if (!answer) return []
        const { waiting, oldestAt } = answer
        return [{ name, waiting, oldestAt, oldestAgeMs: oldestAt === null ? 0 : Math.max(0, now - oldestAt) }]
      }),
      unknown: others.filter((_, index) => !answers[index]),
    }
  }

  return () => (looking ??= look().finally(() => (looking = undefined)))
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
