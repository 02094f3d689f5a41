/**
 * How much a message may have: Redis cuts the connection of whoever sends it a text over proto-max-bulk-len or
 * client-query-buffer-limit.
 *
 * Z1 What the server says it takes is read with each connection, and again before anything is refused: it may have been
 *    raised. What is larger is never sent.
 * Z2 Where it may not be read, a connection that is cut CUTS_MAX times with one large message alone on its way says the
 *    same: for LEARNED_MS what is as large is refused.
 */
import type { Clock } from '../clock.ts'
import { BusError } from '../errors.ts'
import type { WireMessage } from '../message.ts'
import type { Connection } from './redis-connection.ts'
import { readSizeLimit, SIZE_LIMIT_MIN, type SizeLimit } from './redis-server.ts'

const CUTS_MAX = 3
const LEARNED_MS = 60_000
/** What the client says of a connection that the server closed, and the server of a text that is too long. */
const CUT = /closed|ECONNRESET|EPIPE|invalid bulk length/

/** Some server might not take it. */
export function isLarge({ body }: WireMessage): boolean {
  return exceeds(body, SIZE_LIMIT_MIN)
}

/** A text has up to three bytes for each of its units. */
function exceeds(body: string | Uint8Array, bytesMax: number): boolean {
  return body.length * 3 > bytesMax && Buffer.byteLength(body) > bytesMax
}

export class SizeGuard {
  private readonly connection: Connection
  private readonly clock: Clock
  private told: SizeLimit | null = null
  private learned: { readonly bytesMax: number; readonly until: number } | undefined
  private suspect = { id: '', cuts: 0 }

  constructor(connection: Connection, clock: Clock) {
    this.connection = connection
    this.clock = clock
  }

  tell(limit: SizeLimit | null): void {
    this.told = limit
  }

  /** True: `check` has to come first. */
  isDoubtful(messages: readonly WireMessage[]): boolean {
    return this.tooLargeAmong(messages) !== undefined
  }

  /** Z1. Throws `message_too_large`. */
  async check(messages: readonly WireMessage[]): Promise<void> {
    this.told = await readSizeLimit(this.connection)
    const culprit = this.tooLargeAmong(messages)
    if (culprit) throw this.refusal(culprit)
  }

  private tooLargeAmong(messages: readonly WireMessage[]): WireMessage | undefined {
    const bytesMax = this.bytesMax()
    return messages.find(({ body }) => exceeds(body, bytesMax))
  }

  private bytesMax(): number {
    if (this.told) return this.told.bytesMax
    return this.learned && this.clock.now() < this.learned.until ? this.learned.bytesMax : Number.POSITIVE_INFINITY
  }

  /** Z2: a large message was alone on its way. */
  failed({ id, body }: WireMessage, { cause }: Error): void {
    if (this.told || !(cause instanceof Error) || !CUT.test(cause.message)) return
    this.suspect = { id, cuts: id === this.suspect.id ? this.suspect.cuts + 1 : 1 }
    if (this.suspect.cuts < CUTS_MAX) return
    this.suspect = { id: '', cuts: 0 }
    this.learned = { bytesMax: Buffer.byteLength(body) - 1, until: this.clock.now() + LEARNED_MS }
  }

  private refusal({ id, type, body }: WireMessage): BusError {
    const { address } = this.connection
    const why = this.told
      ? `${address} takes ${this.told.bytesMax}: raise its ${this.told.setting}`
      : `${address} cuts the connection over it: raise its proto-max-bulk-len and client-query-buffer-limit`
    return new BusError(
      'message_too_large',
      `message ${id} (${type}) has ${Buffer.byteLength(body)} bytes and ${why}, or lower messageBytesMax so that it is refused where it is published`,
    )
  }
}
