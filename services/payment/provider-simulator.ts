/**
 * A payment provider without money. Like real ones it knows a request again by its key, is away now and then, loses
 * answers after it has done what it was asked, and sends webhooks more than once.
 *
 * What becomes of an ordinary card is decided by its token alone, and its ids by the request's key: nothing has to be
 * remembered, and a repeat has the same answer, also in another process. Cards with a habit (cards.ts), saved cards and
 * webhooks that are still to be sent have tables of their own, beside the service's.
 */
import { hash, randomBytes } from 'node:crypto'
import { type Clock, type Random, type Store, sql, type Tx } from '@shopsphere/bus'
import { type SignedHeaders, verifyWebhook } from '@shopsphere/runtime/webhook-signature'
import { z } from 'zod'
import { brandOf, type CardFate, type CardHabit, fateOfNumber, fateOfToken } from './cards.ts'
import {
  type AuthorizeRequest,
  type CaptureAnswer,
  type Card,
  type ChargeAnswer,
  ForgedNotice,
  type PaymentMethod,
  type PaymentProvider,
  type ProviderNotice,
  ProviderUnreachable,
  type RefundAnswer,
} from './provider.ts'
import { createWebhookSender, type WebhookSender, webhookDdl } from './provider-webhooks.ts'

/** Money that moved, or was set aside; a repeat is told again, under the same key. */
export type Movement = {
  readonly kind: 'authorize' | 'capture' | 'refund' | 'void'
  readonly key: string
  readonly pence: number
}

export type ProviderSimulatorOptions = {
  store: Store
  clock: Clock
  /** Decides which calls fail. */
  random: Random
  newId: (prefix: string) => string
  /** Share of calls that fail, from 0 to 1. */
  failureRate: number
  /** How long each call takes. */
  delayMs: number
  /** Takes a webhook to the shop; true: the shop answered 2xx. Without it none is sent. */
  deliver?: (body: Uint8Array<ArrayBuffer>, headers: SignedHeaders) => Promise<boolean>
  /** For tests: the provider's own books. */
  onMovement?: (movement: Movement) => void
}

export type ProviderSimulator = PaymentProvider & {
  /** From now on this share of calls fails: 1 is an outage. */
  setFailureRate(rate: number): void
  /** Makes the tables and goes on sending webhooks that were not sent. */
  open(): Promise<void>
  close(): Promise<void>
  /** What a webhook with this content looks like, for tests that send their own. */
  sign(noticeId: string, content: unknown): Promise<{ body: Uint8Array<ArrayBuffer>; headers: SignedHeaders }>
}

const ddl = `
create table provider_secret (name text primary key, secret text not null);
create table provider_card (payment_method text primary key, fate text not null, expires_at bigint not null);
create table provider_charge (
  charge_id text primary key, order_id text not null, habit text not null, status text not null, pence bigint not null,
  decided_at bigint
);
create table provider_refund (provider_refund_id text primary key, decided_at bigint not null);
${webhookDdl}`

/** Bank and disputes department are not quicker than this. */
const LATER_MS = 1_000
const DISPUTE_MS = 7 * 24 * 3_600_000

type ChargeRow = {
  charge_id: string
  order_id: string
  habit: CardHabit
  status: 'authorized' | 'action_required' | 'pending' | 'declined' | 'voided'
  pence: number
  decided_at: number | null
}

export function createProviderSimulator(options: ProviderSimulatorOptions): ProviderSimulator {
  const { store, clock, random, newId, delayMs, deliver, onMovement = () => {} } = options
  let { failureRate } = options
  let secret: Promise<Uint8Array> | undefined
  const webhookSecret = () => {
    secret ??= readSecret(store)
    return secret
  }
  const laterMs = Math.max(LATER_MS, delayMs)

  const sender: WebhookSender = createWebhookSender({
    store,
    clock,
    deliver,
    secret: webhookSecret,
    isSentTwice: () => random() < failureRate,
  })

  /** One call over the network. */
  async function called<T>(signal: AbortSignal | undefined, work: () => T | Promise<T>): Promise<T> {
    if (delayMs > 0) await pause(clock, delayMs, signal)
    const isAway = failureRate > 0 && random() < failureRate
    // Half of the failures are answers that get lost on the way back.
    if (isAway && random() < 0.5) throw unreachable()
    const answer = await work()
    if (isAway) throw unreachable()
    return answer
  }

  async function fateOf(paymentMethod: string): Promise<CardFate | undefined> {
    const known = fateOfToken(paymentMethod)
    if (known) return known
    const row = await store.read((reader) =>
      reader.get<{ fate: string; expires_at: number }>(
        sql`select fate, expires_at from provider_card where payment_method = ${paymentMethod}`,
      ),
    )
    if (!row) return undefined
    const hasExpired = Number(row.expires_at) <= clock.now()
    return hasExpired ? { kind: 'declined', reason: 'expired_card', retryable: false } : JSON.parse(row.fate)
  }

  async function savePaymentMethod({ number, expiryMonth, expiryYear }: Card): Promise<PaymentMethod> {
    const paymentMethod = newId('pm')
    const expiresAt = Date.UTC(expiryYear, expiryMonth) // the month after
    const fate = JSON.stringify(fateOfNumber(number))
    await store.transaction((tx) =>
      tx.run(sql`
        insert into provider_card (payment_method, fate, expires_at) values (${paymentMethod}, ${fate}, ${expiresAt})`),
    )
    return { paymentMethod, brand: brandOf(number), last4: number.slice(-4) }
  }

  async function authorize(request: AuthorizeRequest): Promise<ChargeAnswer> {
    const { key, paymentMethod, pence } = request
    const fate = await fateOf(paymentMethod)
    if (!fate) return { status: 'declined', chargeId: null, reason: 'unknown_payment_method', retryable: false }
    if (fate.kind === 'special') return authorizeSpecial(request, fate.habit)
    const chargeId = chargeIdOf(key)
    if (fate.kind === 'declined') {
      const { reason, retryable } = fate
      return { status: 'declined', chargeId, reason, retryable }
    }
    onMovement({ kind: 'authorize', key, pence })
    return { status: 'authorized', chargeId }
  }

  async function authorizeSpecial({ key, orderId, pence }: AuthorizeRequest, habit: CardHabit): Promise<ChargeAnswer> {
    const chargeId = rememberedChargeIdOf(key)
    const status = statusAtFirst(habit)
    const isDecidedLater = habit === 'decided_later' || habit === 'declined_later'
    const decidedAt = isDecidedLater ? clock.now() + laterMs : null
    const { isNew, row } = await store.transaction(async (tx) => {
      const added = await tx.run(sql`
        insert into provider_charge (charge_id, order_id, habit, status, pence, decided_at)
        values (${chargeId}, ${orderId}, ${habit}, ${status}, ${pence}, ${decidedAt}) on conflict (charge_id) do nothing`)
      if (added === 1 && decidedAt !== null) await noticeOfCharge(tx, chargeId, orderId, 'decided', decidedAt)
      return { isNew: added === 1, row: (await chargeIn(tx, chargeId))! }
    })
    sender.plan()
    const answer = answerOf(row, clock.now())
    if (answer.status === 'authorized') onMovement({ kind: 'authorize', key, pence })
    if (habit === 'answer_lost' && isNew) throw unreachable()
    return answer
  }

  function noticeOfCharge(tx: Tx, chargeId: string, orderId: string, what: string, at: number): Promise<void> {
    return sender.add(tx, `evt_${what}_${chargeId}`, { type: 'charge.updated', orderId, chargeId }, at)
  }

  /** Changes a remembered charge; answers what is so then. */
  async function change(
    chargeId: string,
    work: (row: ChargeRow, tx: Tx) => Promise<ChargeRow['status']>,
  ): Promise<ChargeAnswer> {
    const row = await store.transaction(async (tx) => {
      const found = await chargeIn(tx, chargeId)
      if (!found) return undefined
      const before = { ...found, status: statusNow(found, clock.now()) }
      const status = await work(before, tx)
      if (status !== found.status)
        await tx.run(sql`update provider_charge set status = ${status} where charge_id = ${chargeId}`)
      return { ...before, status }
    })
    sender.plan()
    return row
      ? answerOf(row, clock.now())
      : { status: 'declined', chargeId, reason: 'unknown_charge', retryable: false }
  }

  async function confirm(chargeId: string): Promise<ChargeAnswer> {
    if (!isRemembered(chargeId)) return { status: 'authorized', chargeId }
    return change(chargeId, async ({ status, habit, order_id, pence }, tx) => {
      if (status !== 'action_required') return status
      await noticeOfCharge(tx, chargeId, order_id, 'confirmed', clock.now() + laterMs)
      if (habit === 'authentication_fails') return 'declined'
      onMovement({ kind: 'authorize', key: chargeId, pence })
      return 'authorized'
    })
  }

  async function voidCharge(chargeId: string): Promise<ChargeAnswer> {
    onMovement({ kind: 'void', key: chargeId, pence: 0 })
    if (!isRemembered(chargeId)) return { status: 'voided', chargeId }
    const answer = await change(chargeId, async () => 'voided')
    return answer.status === 'voided' ? answer : { status: 'voided', chargeId }
  }

  async function capture({ key, chargeId, pence }: Parameters<PaymentProvider['capture']>[0]): Promise<CaptureAnswer> {
    const row = isRemembered(chargeId) ? await store.read((reader) => chargeIn(reader, chargeId)) : undefined
    if (row?.habit === 'capture_fails') return { status: 'refused', reason: 'authorization_expired' }
    if (row?.status === 'voided') return { status: 'refused', reason: 'charge_voided' }
    onMovement({ kind: 'capture', key, pence })
    if (row && isDisputed(row.habit)) await dispute(row, pence)
    return { status: 'captured' }
  }

  async function dispute({ charge_id, order_id, habit }: ChargeRow, pence: number): Promise<void> {
    const disputeId = `dp_${charge_id}`
    const reason = 'The cardholder does not recognise the payment.'
    const openedAt = clock.now() + laterMs
    const content = { orderId: order_id, disputeId, pence, reason }
    await store.transaction(async (tx) => {
      await sender.add(tx, `evt_opened_${disputeId}`, { type: 'dispute.opened', ...content }, openedAt)
      const end = habit === 'dispute_won' ? 'won' : habit === 'dispute_lost' ? 'lost' : null
      if (!end) return
      await sender.add(tx, `evt_${end}_${disputeId}`, { type: `dispute.${end}`, ...content }, openedAt + DISPUTE_MS)
    })
    sender.plan()
  }

  async function refund(request: Parameters<PaymentProvider['refund']>[0]): Promise<RefundAnswer> {
    const { key, orderId, chargeId, pence } = request
    const row = isRemembered(chargeId) ? await store.read((reader) => chargeIn(reader, chargeId)) : undefined
    if (row?.habit === 'refund_fails') return { status: 'failed', reason: 'account_closed' }
    onMovement({ kind: 'refund', key, pence })
    if (row?.habit !== 'refund_pending') return { status: 'succeeded', providerRefundId: `re_${digest(key)}` }
    const providerRefundId = `rer_${digest(key)}`
    const decidedAt = clock.now() + laterMs
    await store.transaction(async (tx) => {
      const added = await tx.run(sql`
        insert into provider_refund (provider_refund_id, decided_at) values (${providerRefundId}, ${decidedAt})
        on conflict (provider_refund_id) do nothing`)
      if (added === 0) return
      const content = { type: 'refund.updated', orderId, providerRefundId }
      await sender.add(tx, `evt_${providerRefundId}`, content, decidedAt)
    })
    sender.plan()
    return retrieveRefund(providerRefundId)
  }

  async function retrieveRefund(providerRefundId: string): Promise<RefundAnswer> {
    if (!providerRefundId.startsWith('rer_')) return { status: 'succeeded', providerRefundId }
    const row = await store.read((reader) =>
      reader.get<{ decided_at: number }>(
        sql`select decided_at from provider_refund where provider_refund_id = ${providerRefundId}`,
      ),
    )
    if (!row) return { status: 'failed', reason: 'unknown_refund' }
    return { status: Number(row.decided_at) <= clock.now() ? 'succeeded' : 'pending', providerRefundId }
  }

  return {
    savePaymentMethod: (card, signal) => called(signal, () => savePaymentMethod(card)),
    hasPaymentMethod: (paymentMethod, signal) =>
      called(signal, async () => (await fateOf(paymentMethod)) !== undefined),
    authorize: (request, signal) => called(signal, () => authorize(request)),
    confirm: ({ chargeId }, signal) => called(signal, () => confirm(chargeId)),
    retrieve: ({ chargeId }, signal) =>
      called(signal, async () => {
        if (!isRemembered(chargeId)) return { status: 'authorized', chargeId }
        return change(chargeId, async ({ status }) => status)
      }),
    // A request cannot be late here: once its caller has given up, nothing of it is on its way.
    void: (charge, signal) =>
      called(signal, async () => {
        if ('chargeId' in charge) return voidCharge(charge.chargeId)
        const special = rememberedChargeIdOf(charge.requestKey)
        const isSpecial = (await store.read((reader) => chargeIn(reader, special))) !== undefined
        return voidCharge(isSpecial ? special : chargeIdOf(charge.requestKey))
      }),
    capture: (request, signal) => called(signal, () => capture(request)),
    refund: (request, signal) => called(signal, () => refund(request)),
    retrieveRefund: ({ providerRefundId }, signal) => called(signal, () => retrieveRefund(providerRefundId)),
    async readNotice(body, headers) {
      const noticeId = verifyWebhook(await webhookSecret(), { headers, body, nowMs: clock.now() })
      if (noticeId === null) throw new ForgedNotice('the signature does not hold over these bytes at this time')
      return noticeOf(noticeId, body)
    },
    setFailureRate(rate) {
      failureRate = rate
    },
    async open() {
      await store.migrate('provider_simulator', ddl)
      sender.plan()
    },
    close: () => sender.close(),
    sign: (noticeId, content) => sender.sign(noticeId, content),
  }
}

const unreachable = () => new ProviderUnreachable('the simulated payment provider does not answer')

const digest = (key: string) => hash('sha256', key, 'hex').slice(0, 32)
const chargeIdOf = (key: string) => `ch_${digest(key)}`
/** Of a charge that stands in the table. */
const rememberedChargeIdOf = (key: string) => `chr_${digest(key)}`
const isRemembered = (chargeId: string) => chargeId.startsWith('chr_')
const isDisputed = (habit: CardHabit) => habit.startsWith('dispute_')

function statusAtFirst(habit: CardHabit): ChargeRow['status'] {
  if (habit === 'authentication_required' || habit === 'authentication_fails') return 'action_required'
  return habit === 'decided_later' || habit === 'declined_later' || habit === 'never_decided' ? 'pending' : 'authorized'
}

function statusNow({ status, habit, decided_at }: ChargeRow, now: number): ChargeRow['status'] {
  if (status !== 'pending' || decided_at === null || Number(decided_at) > now) return status
  return habit === 'declined_later' ? 'declined' : 'authorized'
}

function answerOf(row: ChargeRow, now: number): ChargeAnswer {
  const { charge_id: chargeId, habit } = row
  const status = statusNow(row, now)
  if (status === 'action_required')
    return { status, chargeId, actionUrl: `https://bank.example/confirm/${encodeURIComponent(chargeId)}` }
  if (status !== 'declined') return { status, chargeId }
  const isUnconfirmed = habit === 'authentication_fails'
  return {
    status,
    chargeId,
    reason: isUnconfirmed ? 'authentication_failed' : 'card_declined',
    retryable: isUnconfirmed,
  }
}

async function chargeIn(reader: Pick<Tx, 'get'>, chargeId: string): Promise<ChargeRow | undefined> {
  return reader.get<ChargeRow>(
    sql`select charge_id, order_id, habit, status, pence, decided_at from provider_charge where charge_id = ${chargeId}`,
  )
}

const SECRET_BYTES = 32

/** What the shop got when it registered its webhook address: made once, kept, and never shown. */
async function readSecret(store: Store): Promise<Uint8Array> {
  const made = randomBytes(SECRET_BYTES).toString('hex')
  const row = await store.transaction(async (tx) => {
    await tx.run(
      sql`insert into provider_secret (name, secret) values ('webhook', ${made}) on conflict (name) do nothing`,
    )
    return tx.get<{ secret: string }>(sql`select secret from provider_secret where name = 'webhook'`)
  })
  return Buffer.from(row!.secret, 'hex')
}

const orderId = z.string().min(1).max(64)
const reference = z.string().min(1).max(128)
const disputeFields = { orderId, disputeId: z.string().min(1).max(64), pence: z.int().min(0), reason: z.string() }
const content = z.discriminatedUnion('type', [
  z.object({ type: z.literal('charge.updated'), orderId, chargeId: reference }),
  z.object({ type: z.literal('refund.updated'), orderId, providerRefundId: reference }),
  z.object({ type: z.literal('dispute.opened'), ...disputeFields }),
  z.object({ type: z.literal('dispute.won'), ...disputeFields }),
  z.object({ type: z.literal('dispute.lost'), ...disputeFields }),
])

function noticeOf(noticeId: string, body: Uint8Array): ProviderNotice | null {
  const read = content.safeParse(parse(body))
  if (!read.success) return null
  const { data } = read
  switch (data.type) {
    case 'charge.updated':
      return { noticeId, about: 'charge', orderId: data.orderId, chargeId: data.chargeId }
    case 'refund.updated':
      return { noticeId, about: 'refund', orderId: data.orderId, providerRefundId: data.providerRefundId }
    default: {
      const { type, ...fields } = data
      const status = type === 'dispute.opened' ? 'opened' : type === 'dispute.won' ? 'won' : 'lost'
      return { noticeId, about: 'dispute', status, ...fields }
    }
  }
}

function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    return undefined
  }
}

/** Rejects with the signal's reason where the caller gives up first. */
function pause(clock: Clock, delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted()
    const giveUp = () => {
      timer.cancel()
      reject(signal!.reason)
    }
    const timer = clock.after(delayMs, () => {
      signal?.removeEventListener('abort', giveUp)
      resolve()
    })
    signal?.addEventListener('abort', giveUp, { once: true })
  })
}
