import { BusError } from './errors.ts'

/** Everything has a limit; the unit stands last in the name. Pass some of them to `createBus({ limits })`. */
export const defaultLimits = {
  /** One encoded message. */
  messageBytesMax: 1_048_576,
  /** A message's id, its key, and its headers as JSON: brokers carry them beside the message, and take no more of them. */
  idBytesMax: 255,
  keyBytesMax: 4_096,
  headersBytesMax: 32_768,
  /** Deliveries of one subscription in this process that are not acknowledged yet. */
  windowMax: 2_000,
  /** The bytes of their bodies, 32 MiB; one message that is larger comes alone. */
  windowBytesMax: 33_554_432,
  /** Deliveries that one transaction carries. */
  batchMax: 256,
  /** Deliveries of one subscription whose outside work runs at the same time. */
  concurrency: 16,
  /** Tries of one message before it becomes a dead letter. */
  attemptsMax: 8,
  backoffFirstMs: 200,
  backoffMaxMs: 300_000,
  /** One try, outside work and transaction together. */
  handlerTimeoutMs: 30_000,
  /** How long an inbox knows a message again: 7 days. A repeat that comes later is handled as new. */
  inboxWindowMs: 7 * 24 * 3_600_000,
  /** Messages that wait in the outbox while the broker is away; beyond it, publishing is refused. */
  outboxMessagesMax: 1_000_000,
  /** Messages of one subscription that wait behind retries and dead letters; beyond it, the subscription pauses. */
  deferredMessagesMax: 1_000_000,
  /** Messages in one batch to the broker. */
  relayBatchMax: 1_000,
  /** The bytes of its bodies, 8 MiB; one message that is larger goes alone. */
  relayBatchBytesMax: 8_388_608,
  /** How often a process looks for work that another one left behind: outbox rows, due retries, due timers. */
  sweepMs: 5_000,
  /** How long `close` waits for what runs. */
  closeTimeoutMs: 30_000,
}

export type Limits = typeof defaultLimits

/** The defaults with `overrides`, their relations asserted. Throws `invalid_argument`. */
export function limitsWith(overrides: Partial<Limits> = {}): Limits {
  const limits = { ...defaultLimits, ...overrides }
  for (const [name, value] of Object.entries(limits)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new BusError('invalid_argument', `limit ${name} must be a whole number from 1, not ${value}`)
    }
  }
  const relations: [boolean, string][] = [
    [limits.batchMax <= limits.windowMax, 'batchMax must not exceed windowMax'],
    [limits.concurrency <= limits.windowMax, 'concurrency must not exceed windowMax'],
    [limits.backoffFirstMs <= limits.backoffMaxMs, 'backoffFirstMs must not exceed backoffMaxMs'],
  ]
  for (const [holds, text] of relations) if (!holds) throw new BusError('invalid_argument', `limits: ${text}`)
  return limits
}
