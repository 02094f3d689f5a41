import type { ConsumeOptions, Consumer, Delivery, Transport } from '../transport.ts'

/** How long a fact may take, in real milliseconds: a limit for what never comes, not a measure. */
export const FACT_TIMEOUT_MS = 15_000

export type InboxOptions = Partial<ConsumeOptions> & {
  /** Acknowledge at once what arrives; true by default. */
  ack?: boolean
  /** An array that several inboxes share, to see the order over all of them. */
  into?: Delivery[]
  onReceive?: (deliveries: Delivery[]) => void
  /** Called as soon as `consume` has answered. */
  ready?: () => void
}

/** A consumer that keeps what arrived, and says when a fact about it came true. */
export type Inbox = {
  readonly consumer: Consumer
  readonly deliveries: readonly Delivery[]
  ids(): string[]
  /** So many deliveries have arrived, or the fact holds; looked at whenever something arrives. */
  until(fact: number | (() => boolean)): Promise<void>
  /** The same for a fact about the ids that have arrived, each counted once. */
  untilIds(fact: (seen: ReadonlySet<string>) => boolean): Promise<void>
  /** From now on, acknowledge at once. */
  acksItself(): void
  close(): Promise<void>
}

export async function consume(transport: Transport, name: string, options: InboxOptions = {}): Promise<Inbox> {
  const { windowMax = 1_000, windowBytesMax, into, onReceive, revoked, ready } = options
  let { ack = true } = options
  const deliveries: Delivery[] = []
  const seen = new Set<string>()
  let look = () => {}

  const receive = (arrived: Delivery[]) => {
    deliveries.push(...arrived)
    into?.push(...arrived)
    for (const { message } of arrived) seen.add(message.id)
    onReceive?.(arrived)
    if (ack) consumer.ack(arrived)
    look()
  }
  const consumer = await transport.consume(name, {
    ...{ windowMax, receive },
    ...(windowBytesMax !== undefined && { windowBytesMax }),
    ...(revoked && { revoked }),
  })
  ready?.()

  function until(fact: number | (() => boolean)): Promise<void> {
    const holds = typeof fact === 'number' ? () => deliveries.length >= fact : fact
    const expected = typeof fact === 'number' ? `${fact} deliveries` : `the fact ${fact}`
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const giveUp = () =>
      reject(
        new Error(`'${name}' got ${deliveries.length} deliveries, ${seen.size} different; ${expected} did not come`),
      )
    const timer = setTimeout(giveUp, FACT_TIMEOUT_MS)
    look = () => {
      if (!holds()) return
      clearTimeout(timer)
      look = () => {}
      resolve()
    }
    look()
    return promise
  }

  return {
    consumer,
    deliveries,
    ids: () => deliveries.map(({ message }) => message.id),
    until,
    untilIds: (fact) => until(() => fact(seen)),
    acksItself() {
      ack = true
    },
    close: () => consumer.close(),
  }
}
