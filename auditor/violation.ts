/** The invariants of the shop, as its design numbers them. */
export const invariants = {
  I1: '0 ≤ captured − refunded ≤ order total, and the same per line',
  I2: 'cancelled ⇒ net money 0, no hold, no allocation (in the end)',
  I3: 'on hand = available + held + allocated, none below 0, equal to the ledger’s sum',
  I4: 'shipped ⇒ paid and allocated',
  I5: 'every order reaches a terminal state',
  I6: 'one notification per order, step and channel',
  I7: 'replaying the log gives the same read models',
  I8: 'every committed change has its event, every event its committed change',
} as const

export type Invariant = keyof typeof invariants

export type Violation = {
  readonly invariant: Invariant
  /** Missing: it is about no single order. */
  readonly orderId?: string
  /** What is wrong, in a sentence. */
  readonly text: string
}

/** `I1 ord_…: captured 10 pence …`. */
export function sentence({ invariant, orderId, text }: Violation): string {
  return `${invariant}${orderId === undefined ? '' : ` ${orderId}`}: ${text}`
}
