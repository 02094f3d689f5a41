/**
 * What a consumer has in hand, over all of its leases: handed over and not acknowledged, never more than the window (B10).
 * Every transport's reader asks here.
 */
import type { WireMessage } from '../message.ts'
import type { ConsumeOptions } from '../transport.ts'

/** What is in hand of one lease. */
export type Hand = { messages: number; bytes: number }

export class Window {
  private readonly messagesMax: number
  private readonly bytesMax: number
  private readonly all = emptyHand()

  constructor({ windowMax, windowBytesMax = Number.POSITIVE_INFINITY }: ConsumeOptions) {
    this.messagesMax = windowMax
    this.bytesMax = windowBytesMax
  }

  /** How many more of no size there is room for. */
  get room(): number {
    return this.all.bytes >= this.bytesMax ? 0 : this.messagesMax - this.all.messages
  }

  /** One that is larger than the whole window has room alone. */
  hasRoomFor(message: WireMessage): boolean {
    const { messages, bytes } = this.all
    return messages === 0 || (messages < this.messagesMax && bytes + sizeOf(message) <= this.bytesMax)
  }

  take(hand: Hand, message: WireMessage): void {
    this.add(hand, 1, sizeOf(message))
  }

  release(hand: Hand, message: WireMessage): void {
    this.add(hand, -1, -sizeOf(message))
  }

  /** The lease is over. */
  drop(hand: Hand): void {
    this.add(hand, -hand.messages, -hand.bytes)
  }

  private add(hand: Hand, messages: number, bytes: number): void {
    hand.messages += messages
    hand.bytes += bytes
    this.all.messages += messages
    this.all.bytes += bytes
  }
}

export function emptyHand(): Hand {
  return { messages: 0, bytes: 0 }
}

/** A text counts as its length: measuring each would cost more than the few that have more bytes. */
const sizeOf = ({ body }: WireMessage) => body.length
