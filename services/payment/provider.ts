/**
 * What the shop asks of a payment provider. The simulator implements it; an adapter for a real one would be a file like
 * that. Every request that moves money has a key: the same key is the same request, however often it is sent, so after
 * silence it is simply sent again.
 */

/** Nothing was heard: the provider may or may not have done what it was asked. */
export class ProviderUnreachable extends Error {
  override readonly name = 'ProviderUnreachable'
}

/** A webhook that is not the provider's, is damaged, or comes from another time. */
export class ForgedNotice extends Error {
  override readonly name = 'ForgedNotice'
}

export type ChargeAnswer =
  | { readonly status: 'authorized'; readonly chargeId: string | null }
  /** `retryable`: another attempt, perhaps with another card, may succeed. */
  | {
      readonly status: 'declined'
      readonly chargeId: string | null
      readonly reason: string
      readonly retryable: boolean
    }
  | { readonly status: 'action_required'; readonly chargeId: string; readonly actionUrl: string }
  /** The provider will decide later. */
  | { readonly status: 'pending'; readonly chargeId: string }
  | { readonly status: 'voided'; readonly chargeId: string | null }

export type CaptureAnswer = { readonly status: 'captured' } | { readonly status: 'refused'; readonly reason: string }

export type RefundAnswer =
  | { readonly status: 'succeeded'; readonly providerRefundId: string }
  | { readonly status: 'pending'; readonly providerRefundId: string }
  | { readonly status: 'failed'; readonly reason: string }

export type Card = {
  readonly number: string
  /** 1 to 12. */
  readonly expiryMonth: number
  /** Four digits. */
  readonly expiryYear: number
  readonly cvc: string
}

export type PaymentMethod = { readonly paymentMethod: string; readonly brand: string; readonly last4: string }

export type AuthorizeRequest = {
  readonly key: string
  /** Carried along and told again in webhooks. */
  readonly orderId: string
  readonly paymentMethod: string
  readonly pence: number
  readonly currency: 'GBP'
}

/** A charge by the provider's name for it or, where that was never heard, by the key of the request for it. */
export type ChargeName = { readonly chargeId: string } | { readonly requestKey: string }

/** What a webhook says. `charge` and `refund` only say that something is new: the provider is then asked what. */
export type ProviderNotice = {
  /** The provider's, unique: a repeat has the same one. */
  readonly noticeId: string
  readonly orderId: string
} & (
  | { readonly about: 'charge'; readonly chargeId: string }
  | { readonly about: 'refund'; readonly providerRefundId: string }
  | {
      readonly about: 'dispute'
      readonly disputeId: string
      readonly status: 'opened' | 'won' | 'lost'
      readonly pence: number
      readonly reason: string
    }
)

/** Each call throws ProviderUnreachable where there is no answer. */
export type PaymentProvider = {
  /** Keeps the card, so that the shop need not. */
  savePaymentMethod(card: Card, signal?: AbortSignal): Promise<PaymentMethod>
  hasPaymentMethod(paymentMethod: string, signal?: AbortSignal): Promise<boolean>
  authorize(request: AuthorizeRequest, signal?: AbortSignal): Promise<ChargeAnswer>
  /** The customer has said yes at the bank. */
  confirm(charge: { readonly chargeId: string }, signal?: AbortSignal): Promise<ChargeAnswer>
  retrieve(charge: { readonly chargeId: string }, signal?: AbortSignal): Promise<ChargeAnswer>
  /** Gives up what was not captured, also of a charge that is not decided; a request that comes later under its key makes none. */
  void(charge: ChargeName, signal?: AbortSignal): Promise<ChargeAnswer>
  capture(
    request: { readonly key: string; readonly chargeId: string; readonly pence: number },
    signal?: AbortSignal,
  ): Promise<CaptureAnswer>
  refund(
    request: { readonly key: string; readonly orderId: string; readonly chargeId: string; readonly pence: number },
    signal?: AbortSignal,
  ): Promise<RefundAnswer>
  retrieveRefund(refund: { readonly providerRefundId: string }, signal?: AbortSignal): Promise<RefundAnswer>
  /** Reads a webhook. Throws ForgedNotice where the signature over these very bytes does not hold; null: of no interest. */
  readNotice(body: Uint8Array, headers: Headers): Promise<ProviderNotice | null>
}
