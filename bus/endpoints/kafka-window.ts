/**
 * The records of a topic that are in hand.
 *
 * W1 Never more than `windowMax`: reading waits.
 * W2 An offset is committed only when every record before it in its partition is settled, whatever the order of settling.
 */
import type { Consumer, Message } from '@platformatic/kafka'

type Kafka = Consumer<Buffer, Buffer, Buffer, Buffer>
type KafkaRecord = Message<Buffer, Buffer, Buffer, Buffer>
type Entry = { readonly record: KafkaRecord; settled: boolean }

export type KafkaWindow = {
  /** Resolves when one more may be taken. */
  room(): Promise<void>
  take(record: KafkaRecord): void
  settle(record: KafkaRecord): void
  /** Commits what is settled. */
  close(): Promise<void>
}

/** Settled records are committed together after this long. A crash before it delivers them again. */
const COMMIT_MS = 200
const LAST_COMMIT_TIMEOUT_MS = 2_000

export function kafkaWindow(consumer: Kafka, windowMax: number): KafkaWindow {
  /** By partition, in the order of their offsets. */
  const inHand = new Map<number, Entry[]>()
  const settled = new Map<number, KafkaRecord>()
  let count = 0
  let free: (() => void) | undefined
  let timer: NodeJS.Timeout | undefined

  /** W2. */
  function advance(partition: number): void {
    const entries = inHand.get(partition)!
    const open = entries.findIndex((entry) => !entry.settled)
    const done = entries.splice(0, open < 0 ? entries.length : open)
    const last = done.at(-1)
    if (!last) return
    settled.set(partition, last.record)
    timer ??= setTimeout(() => void commit(), COMMIT_MS)
  }

  /** One that fails is made up for by the next, or the records come again and are recognised. */
  async function commit(): Promise<void> {
    clearTimeout(timer)
    timer = undefined
    const offsets = [...settled.values()].map(({ topic, partition, offset, leaderEpoch }) => ({
      topic,
      partition,
      offset: offset + 1n,
      leaderEpoch,
    }))
    settled.clear()
    if (offsets.length > 0) await consumer.commit({ offsets }).catch(() => {})
  }

  return {
    async room() {
      if (count < windowMax) return // W1
      await new Promise<void>((resolve) => {
        free = resolve
      })
    },
    take(record) {
      count += 1
      const entries = inHand.get(record.partition) ?? []
      entries.push({ record, settled: false })
      inHand.set(record.partition, entries)
    },
    settle(record) {
      const entry = inHand.get(record.partition)?.find((each) => each.record === record)
      if (!entry || entry.settled) return
      entry.settled = true
      count -= 1
      advance(record.partition)
      free?.()
      free = undefined
    },
    async close() {
      let late: NodeJS.Timeout | undefined
      const tooLate = new Promise<void>((resolve) => {
        late = setTimeout(resolve, LAST_COMMIT_TIMEOUT_MS)
      })
      await Promise.race([commit(), tooLate])
      clearTimeout(late)
    },
  }
}
