/** What is to be asked of the provider about an attempt: decided from the state alone, then carried out. */
import { type Answered, type Attempt, findAttempt, type PaymentState, uncapturedPence } from './payment.ts'
import { type ChargeAnswer, type PaymentProvider, ProviderUnreachable } from './provider.ts'

export type Ask =
  | { readonly do: 'authorize'; readonly paymentMethod: string; readonly pence: number }
  | { readonly do: 'retrieve'; readonly chargeId: string }
  | { readonly do: 'void'; readonly chargeId: string | null }
  /** It is clear without the provider. */
  | { readonly do: 'nothing'; readonly answer: ChargeAnswer }

/** Null: there is nothing to ask. `at`: now, milliseconds since the epoch. Pure. */
export function askOf(state: PaymentState, attempt: number, at: number): Ask | null {
  const one = findAttempt(state, attempt)
  if (!one || !state.order) return null
  const isDue = one.decisionDueAt !== null && at >= one.decisionDueAt
  const isGivenUp = state.off !== null || isDue
  switch (one.status) {
    case 'due':
      return firstAskOf(state, one, at)
    case 'unanswered':
      return isGivenUp ? { do: 'void', chargeId: null } : authorizing(state, one)
    case 'pending':
    case 'action_required':
      return { do: isGivenUp ? 'void' : 'retrieve', chargeId: one.chargeId! }
    case 'overdue':
      return { do: 'void', chargeId: one.chargeId }
    case 'authorized':
      return state.off === null ? null : voidOf(state, one)
    default:
      return null
  }
}

function firstAskOf(state: PaymentState, attempt: Attempt, at: number): Ask | null {
  if (state.off !== null || state.holdExpiresAt === null) return null
  if (at > state.holdExpiresAt) {
    const answer = { status: 'declined', chargeId: null, reason: 'hold_expired', retryable: false } as const
    return { do: 'nothing', answer }
  }
  // Nothing to pay: there is no charge.
  if (state.order!.totalPence === 0) return { do: 'nothing', answer: { status: 'authorized', chargeId: null } }
  return authorizing(state, attempt)
}

const authorizing = ({ order }: PaymentState, { paymentMethod }: Attempt): Ask => ({
  do: 'authorize',
  paymentMethod,
  pence: order!.totalPence,
})

function voidOf(state: PaymentState, { chargeId }: Attempt): Ask | null {
  if (chargeId === null) return { do: 'nothing', answer: { status: 'voided', chargeId } }
  return uncapturedPence(state) > 0 ? { do: 'void', chargeId } : null
}

/** The key of the request for an attempt: a new attempt is a new request. */
const keyOf = (orderId: string, attempt: number) => `${orderId}:${attempt}`

export async function carryOut(
  provider: PaymentProvider,
  ask: Ask,
  { orderId, attempt, signal }: { orderId: string; attempt: number; signal: AbortSignal },
): Promise<ChargeAnswer> {
  const key = keyOf(orderId, attempt)
  switch (ask.do) {
    case 'nothing':
      return ask.answer
    case 'authorize': {
      const { paymentMethod, pence } = ask
      return provider.authorize({ key, orderId, paymentMethod, pence, currency: 'GBP' }, signal)
    }
    case 'retrieve':
      return provider.retrieve({ chargeId: ask.chargeId }, signal)
    case 'void':
      return provider.void(ask.chargeId === null ? { requestKey: key } : { chargeId: ask.chargeId }, signal)
  }
}

/** Silence is an answer, too: what follows from it is decided like any other. */
export async function orUnanswered<Answer>(asking: Promise<Answer>): Promise<Answered<Answer>> {
  try {
    return await asking
  } catch (error) {
    if (error instanceof ProviderUnreachable) return { status: 'unanswered' }
    throw error
  }
}
