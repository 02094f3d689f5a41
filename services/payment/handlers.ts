/**
 * What payment hears. Whatever reaches the provider does so before the transaction, under a key that a repeat shares;
 * its answer, silence included, is then a command like any other.
 *
 * Where the provider cannot be reached a payment waits on timers of its own, so that T2 holds; parcels that left, voids
 * and returns are tried again by the bus.
 */
import {
  type Bus,
  type Clock,
  type DataOf,
  type HandlerContext,
  type OutsideContext,
  PermanentError,
} from '@shopsphere/bus'
import {
  inventoryReserved,
  orderCancelled,
  orderPlaced,
  paymentAttemptDue,
  paymentCaptureDue,
  paymentDecisionDue,
  paymentNoticeDue,
  paymentRefundDue,
  paymentRefundRequested,
  returnReceived,
  shipmentDispatched,
  userDeleted,
} from '@shopsphere/contracts'
import type { Log } from '@shopsphere/runtime/log'
import { askOf, carryOut, orUnanswered } from './asks.ts'
import type { Books } from './books.ts'
import {
  type Answered,
  type Command,
  captureOf,
  captureOfRest,
  chargeOf,
  findRefund,
  isAuthorized,
  isFrozen,
  isRefundEnded,
  type Part,
  PaymentContradiction,
  type PaymentState,
} from './payment.ts'
import type { ChargeAnswer, PaymentProvider, ProviderNotice, RefundAnswer } from './provider.ts'
import { findNotice, forget, keepEmail, noticeIsWorked, payments } from './queries.ts'

export type HandlerOptions = {
  bus: Bus
  books: Books
  provider: PaymentProvider
  clock: Clock
  newId: (prefix: string) => string
  log: Log
}

/**
 * Every order reaches outside twice, and one call must not hold up the next. A provider that is away for half an hour
 * makes no dead letters. Given with the first handler, they hold for the whole subscription.
 */
const settings = { concurrency: 64, attemptsMax: 16 }

export function hear(options: HandlerOptions): void {
  const { bus, books, provider, clock, newId, log } = options
  const now = () => clock.now()
  const apply = applying(books)

  /** Null: there is nothing to ask. */
  async function ask(
    state: PaymentState,
    { orderId, attempt, signal }: { orderId: string; attempt: number; signal: AbortSignal },
  ): Promise<Answered<ChargeAnswer> | null> {
    const wanted = askOf(state, attempt, now())
    return wanted && orUnanswered(carryOut(provider, wanted, { orderId, attempt, signal }))
  }

  bus.subscribe(
    orderPlaced,
    async (order, context) => {
      const { orderId, customerId, email, totalPence, lines, paymentMethod, placedAt } = order
      if (email !== null) await keepEmail(context.tx, { orderId, customerId, email })
      const paymentId = newId('pay')
      const command = { type: 'open', paymentId, customerId, totalPence, lines, paymentMethod, placedAt } as const
      await apply(context, orderId, command)
    },
    settings,
  )

  bus.subscribe(inventoryReserved, {
    async outside({ orderId, holdExpiresAt }, context) {
      const state = await load(context, orderId)
      if (state.attempts[0]?.status !== 'due') return null
      return ask({ ...state, holdExpiresAt }, { orderId, attempt: 1, signal: context.signal })
    },
    async handle({ orderId, holdExpiresAt }, context, answer) {
      const decisionDueAt = books.decisionDueAt()
      const command = { type: 'reserve', holdExpiresAt, answer, at: now(), decisionDueAt } as const
      await apply(context, orderId, command)
    },
  })

  /** Asks about one attempt, for the first time or again, and acts on the answer. */
  const settle = {
    async outside({ orderId, attempt }: { orderId: string; attempt: number }, context: OutsideContext) {
      return ask(await load(context, orderId), { orderId, attempt, signal: context.signal })
    },
    async handle(
      { orderId, attempt }: { orderId: string; attempt: number },
      context: HandlerContext,
      answer: Answered<ChargeAnswer> | null,
    ) {
      if (!answer) return
      const decisionDueAt = books.decisionDueAt()
      const command = { type: 'answer', attempt, answer, at: now(), decisionDueAt } as const
      await apply(context, orderId, command)
    },
  }
  bus.subscribe(paymentAttemptDue, settle)
  bus.subscribe(paymentDecisionDue, settle)

  subscribeToCaptures(options, apply)

  bus.subscribe(orderCancelled, {
    async outside({ orderId }, context) {
      const state = await load(context, orderId)
      const voided: number[] = []
      for (const { attempt } of state.attempts) {
        const wanted = askOf({ ...state, off: 'order_cancelled' }, attempt, now())
        if (!wanted) continue
        const answer = await carryOut(provider, wanted, { orderId, attempt, signal: context.signal })
        if (answer.status === 'voided') voided.push(attempt)
      }
      return voided
    },
    async handle({ orderId, reason }, context, voided) {
      const command = { type: 'call_off', reason, voided, refundId: newId('rfd') } as const
      const { state } = await apply(context, orderId, command)
      // What was asked for or confirmed over the API at this very moment.
      for (const { attempt } of state.attempts) {
        if (!askOf(state, attempt, now())) continue
        context.publish(paymentDecisionDue, { orderId, paymentId: state.order!.paymentId, attempt })
      }
    },
  })

  bus.subscribe(returnReceived, async ({ orderId, returnId, lines }, context) => {
    const request = { refundId: newId('rfd'), returnId, reason: 'return', requestedBy: null, of: { lines } } as const
    await apply(context, orderId, { type: 'request_refund', ...request })
  })

  const settleRefund = refunding(options, apply)
  bus.subscribe(paymentRefundRequested, settleRefund)
  bus.subscribe(paymentRefundDue, settleRefund)

  bus.subscribe(paymentNoticeDue, {
    async outside({ orderId, noticeId }, context) {
      const notice = await context.read((reader) => findNotice(reader, noticeId))
      const state = await load(context, orderId)
      return notice && state.order ? workOn(notice, state, context.signal) : null
    },
    async handle({ orderId, noticeId }, context, work) {
      await noticeIsWorked(context.tx, noticeId, now())
      if (!work) return void log.warn({ orderId, noticeId }, 'a webhook is about nothing that is known here')
      await apply(context, orderId, work)
    },
  })

  /** What follows from a webhook; about charges and refunds the provider is asked what is so now. */
  async function workOn(notice: ProviderNotice, state: PaymentState, signal: AbortSignal) {
    const { orderId } = notice
    switch (notice.about) {
      case 'charge': {
        const attempt = state.attempts.find(({ chargeId }) => chargeId === notice.chargeId)?.attempt
        const answer = attempt && (await ask(state, { orderId, attempt, signal }))
        if (!attempt || !answer) return null
        const decisionDueAt = books.decisionDueAt()
        return { type: 'answer', attempt, answer, at: now(), decisionDueAt } as const
      }
      case 'refund': {
        const refund = state.refunds.find(({ providerRefundId }) => providerRefundId === notice.providerRefundId)
        if (!refund) return null
        const { refundId, attempt } = refund
        const answer = await orUnanswered(provider.retrieveRefund(notice, signal))
        return { type: 'answer_refund', refundId, attempt, answer } as const
      }
      case 'dispute': {
        const { disputeId, status, pence, reason } = notice
        return { type: 'dispute', disputeId, status, pence, reason } as const
      }
    }
  }

  bus.subscribe(userDeleted, ({ userId }, { tx }) => forget(tx, userId))
}

async function load({ read }: Pick<OutsideContext, 'read'>, orderId: string): Promise<PaymentState> {
  return (await read((reader) => payments.load(reader, orderId))).state
}

type Apply = (context: HandlerContext, orderId: string, command: Command) => Promise<{ state: PaymentState }>

/** A contradiction stays one, however often it is tried: a person has to look. */
function applying(books: Books): Apply {
  return async (context, orderId, command) => {
    try {
      return await books.apply(context, orderId, command, context.message.id)
    } catch (error) {
      if (error instanceof PaymentContradiction)
        throw new PermanentError(`${orderId}: ${error.message}`, { cause: error })
      throw error
    }
  }
}

/** T3, and the price of each parcel that leaves. */
function subscribeToCaptures({ bus, provider }: HandlerOptions, apply: Apply): void {
  async function capture(state: PaymentState, part: Part, key: string, signal: AbortSignal): Promise<Part> {
    const chargeId = chargeOf(state)
    if (part.pence === 0 || chargeId === null) return part
    const answer = await provider.capture({ key, chargeId, pence: part.pence }, signal)
    if (answer.status === 'captured') return part
    throw new PermanentError(`the provider refused to capture ${part.pence} pence under ${key}: ${answer.reason}`)
  }

  const captureShipment = {
    async outside(
      { orderId, shipmentId, lines }: DataOf<typeof shipmentDispatched>,
      context: OutsideContext,
    ): Promise<Part | null> {
      const state = await load(context, orderId)
      if (state.captures.includes(shipmentId)) return null
      if (!state.attempts.some(isAuthorized))
        throw new PermanentError(`${shipmentId} left, but ${orderId} is not paid: find out why it could`)
      return capture(state, captureOf(state, lines), shipmentId, context.signal)
    },
    async handle(
      { orderId, shipmentId }: DataOf<typeof shipmentDispatched>,
      context: HandlerContext,
      part: Part | null,
    ) {
      if (part) await apply(context, orderId, { type: 'capture', shipmentId, ...part })
    },
  }
  bus.subscribe(shipmentDispatched, captureShipment)

  bus.subscribe(paymentCaptureDue, {
    async outside({ orderId }, context): Promise<Part | null> {
      const state = await load(context, orderId)
      if (state.off !== null || !state.attempts.some(isAuthorized)) return null
      return capture(state, captureOfRest(state), `${orderId}:rest`, context.signal)
    },
    async handle({ orderId }, context, part) {
      if (part) await apply(context, orderId, { type: 'capture', shipmentId: null, ...part })
    },
  })
}

/** Asks the provider for one refund, for the first time or again, and acts on the answer. */
function refunding({ provider }: HandlerOptions, apply: Apply) {
  type Asked = { orderId: string; refundId: string; attempt?: number }

  return {
    async outside({ orderId, refundId, attempt }: Asked, context: OutsideContext) {
      const state = await load(context, orderId)
      const refund = findRefund(state, refundId)
      if (!refund || isRefundEnded(refund) || refund.status === 'needs_person' || isFrozen(state)) return null
      if (attempt !== undefined && attempt !== refund.attempt) return null
      const { pence, chargeId, providerRefundId } = refund
      const answered = (answer: Answered<RefundAnswer>) => ({ attempt: refund.attempt, answer })
      // Nothing goes back, and that is done.
      if (pence === 0 || chargeId === null) return answered({ status: 'succeeded', providerRefundId: '' })
      if (providerRefundId !== null)
        return answered(await orUnanswered(provider.retrieveRefund({ providerRefundId }, context.signal)))
      const key = `${refundId}:${refund.attempt}`
      return answered(await orUnanswered(provider.refund({ key, orderId, chargeId, pence }, context.signal)))
    },
    async handle(
      { orderId, refundId }: Asked,
      context: HandlerContext,
      asked: { attempt: number; answer: Answered<RefundAnswer> } | null,
    ) {
      if (!asked) return
      await apply(context, orderId, { type: 'answer_refund', refundId, ...asked })
    },
  }
}
