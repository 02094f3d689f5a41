/**
 * Card numbers, and what the simulated provider does with them. Numbers and tokens are those that big providers publish
 * for tests, so that a demonstration can be typed by heart. Source: https://docs.stripe.com/testing
 */

/** Length and check digit (Luhn, ISO/IEC 7812-1). */
export function isCardNumber(number: string): boolean {
  if (!/^\d{12,19}$/.test(number)) return false
  let sum = 0
  for (let index = 0; index < number.length; index++) {
    const digit = Number(number[number.length - 1 - index])
    const counted = index % 2 === 0 ? digit : digit * 2
    sum += counted > 9 ? counted - 9 : counted
  }
  return sum % 10 === 0
}

export function brandOf(number: string): string {
  if (number.startsWith('4')) return 'visa'
  if (/^(5[1-5]|2[2-7])/.test(number)) return 'mastercard'
  if (/^3[47]/.test(number)) return 'amex'
  if (/^(6011|65|64[4-9])/.test(number)) return 'discover'
  return 'unknown'
}

/** What becomes of a card's charges, beside being declined. */
export const cardHabits = [
  'authentication_required',
  'authentication_fails',
  'answer_lost',
  'decided_later',
  'declined_later',
  'never_decided',
  'capture_fails',
  'refund_fails',
  'refund_pending',
  'dispute_won',
  'dispute_lost',
  'dispute_open',
] as const
export type CardHabit = (typeof cardHabits)[number]

export type CardFate =
  | { readonly kind: 'good' }
  | { readonly kind: 'declined'; readonly reason: string; readonly retryable: boolean }
  | { readonly kind: 'special'; readonly habit: CardHabit }

const good: CardFate = { kind: 'good' }
const declined = (reason: string): CardFate => ({ kind: 'declined', reason, retryable: false })
const declinedForNow = (reason: string): CardFate => ({ kind: 'declined', reason, retryable: true })
const special = (habit: CardHabit): CardFate => ({ kind: 'special', habit })

/** Tokens that exist without a card having been saved. */
const byToken: ReadonlyMap<string, CardFate> = new Map([
  ['pm_card_visa', good],
  ['pm_card_mastercard', good],
  ['pm_card_amex', good],
  ['pm_card_declined', declined('card_declined')],
  ['pm_card_insufficient_funds', declinedForNow('insufficient_funds')],
  ['pm_card_expired', declined('expired_card')],
  ['pm_card_lost', declined('lost_card')],
  ['pm_card_stolen', declined('stolen_card')],
  ['pm_card_fraudulent', declined('fraudulent')],
  ['pm_card_incorrect_cvc', declinedForNow('incorrect_cvc')],
  ['pm_card_processing_error', declinedForNow('processing_error')],
  ...cardHabits.map((habit) => [`pm_card_${habit}`, special(habit)] as const),
])

const byNumber: ReadonlyMap<string, CardFate> = new Map([
  ['4242424242424242', good],
  ['4000056655665556', good],
  ['4000008260000000', good],
  ['5555555555554444', good],
  ['2223003122003222', good],
  ['5105105105105100', good],
  ['378282246310005', good],
  ['6011111111111117', good],
  ['4000000000000002', declined('card_declined')],
  ['4000000000009995', declinedForNow('insufficient_funds')],
  ['4000000000009987', declined('lost_card')],
  ['4000000000009979', declined('stolen_card')],
  ['4100000000000019', declined('fraudulent')],
  ['4000000000000069', declined('expired_card')],
  ['4000000000000127', declinedForNow('incorrect_cvc')],
  ['4000000000000119', declinedForNow('processing_error')],
  ['4000002500003155', special('authentication_required')],
  ['4000002760003184', special('authentication_required')],
  ['4000000000003220', special('authentication_required')],
  ['4000008400001629', special('authentication_fails')],
  ['4000000000005126', special('refund_fails')],
  ['4000000000007726', special('refund_pending')],
  ['4000000000000259', special('dispute_open')],
])

export function fateOfToken(paymentMethod: string): CardFate | undefined {
  return byToken.get(paymentMethod)
}

/** A number that nobody published for tests may be somebody's real card: it is never charged, not even in play. */
export function fateOfNumber(number: string): CardFate {
  return byNumber.get(number) ?? declined('not_a_test_card')
}
