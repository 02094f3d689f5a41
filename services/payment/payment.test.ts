import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import { askOf } from './asks.ts'
import {
  type Command,
  captureOf,
  captureOfRest,
  decide,
  evolve,
  initial,
  PaymentContradiction,
  type PaymentEvent,
  type PaymentState,
  refundablePence,
  statusOf,
} from './payment.ts'

const HOLD_EXPIRES_AT = 1_000_000
const DECISION_DUE_AT = 600_000

const open: Command = {
  type: 'open',
  paymentId: 'pay_1',
  customerId: 'usr_1',
  totalPence: 3_564,
  paymentMethod: 'pm_card_visa',
  placedAt: 0,
  lines: [
    { lineNo: 1, quantity: 6, unitPence: 255 },
    { lineNo: 2, quantity: 6, unitPence: 339 },
  ],
}
const authorized = { status: 'authorized', chargeId: 'ch_1' } as const
const reserve = (answer: Extract<Command, { type: 'reserve' }>['answer'], at = 0): Command => ({
  type: 'reserve',
  holdExpiresAt: HOLD_EXPIRES_AT,
  answer,
  at,
  decisionDueAt: DECISION_DUE_AT,
})
const answer = (given: Extract<Command, { type: 'answer' }>['answer'], { attempt = 1, at = 0 } = {}): Command => ({
  type: 'answer',
  attempt,
  answer: given,
  at,
  decisionDueAt: DECISION_DUE_AT,
})
const callOff = (...voided: number[]): Command => ({
  type: 'call_off',
  reason: 'customer',
  voided,
  refundId: 'rfd_off',
})
const refund = (
  refundId: string,
  of: number | { lineNo: number; quantity: number }[],
  returnId: string | null = null,
) =>
  ({
    type: 'request_refund',
    refundId,
    returnId,
    reason: returnId === null ? 'goodwill' : 'return',
    requestedBy: null,
    of: typeof of === 'number' ? of : { lines: of },
  }) as const satisfies Command
const refundAnswered = (refundId: string, status: 'succeeded' | 'failed' | 'unanswered', attempt = 1): Command => ({
  type: 'answer_refund',
  refundId,
  attempt,
  answer:
    status === 'succeeded'
      ? { status, providerRefundId: 're_1' }
      : status === 'failed'
        ? { status, reason: 'account_closed' }
        : { status },
})
const dispute = (status: 'opened' | 'won' | 'lost', pence = 3_564): Command => ({
  type: 'dispute',
  disputeId: 'dp_1',
  status,
  pence,
  reason: 'unknown to the cardholder',
})

type Step = Command | ((state: PaymentState) => Command)
const captureAll: Step = (state) => ({ type: 'capture', shipmentId: 'shp_1', ...captureOfRest(state) })

/** Carries the commands out one after the other; I1 must hold after each. */
function given(...steps: Step[]): { state: PaymentState; events: PaymentEvent[] } {
  let state = initial
  let events: PaymentEvent[] = []
  for (const step of steps) {
    events = decide(state, typeof step === 'function' ? step(state) : step)
    for (const event of events) state = evolve(state, event)
    assertSound(state)
  }
  return { state, events }
}

function assertSound(state: PaymentState): void {
  const total = state.order?.totalPence ?? 0
  const net = state.capturedPence - state.refundedPence
  assert.ok(net >= 0 && net <= total, `I1: ${net} of ${total}`)
  assert.ok(refundablePence(state) >= 0, 'P1: more set aside than there is')
  for (const line of state.lines) {
    const lineNet = line.capturedPence - line.refundedPence
    assert.ok(lineNet >= 0 && lineNet <= line.pence, `I1: line ${line.lineNo}`)
  }
}

const types = (...steps: Step[]) => given(...steps).events.map(({ type }) => type)
const asked = (state: PaymentState, at = 0, attempt = 1) => askOf(state, attempt, at)?.do ?? null

test('an order that is held is authorised, captured parcel by parcel, and paid', () => {
  assert.deepEqual(types(open, reserve(authorized)), ['reserved', 'authorized'])
  const parcel: Step = (state) => ({
    type: 'capture',
    shipmentId: 'shp_1',
    ...captureOf(state, [{ lineNo: 1, quantity: 2 }]),
  })
  const { state } = given(open, reserve(authorized), parcel, parcel)
  assert.equal(state.capturedPence, 510)
  const rest: Step = (now) => ({ type: 'capture', shipmentId: 'shp_2', ...captureOfRest(now) })
  const paid = given(open, reserve(authorized), parcel, rest).state
  assert.deepEqual([paid.capturedPence, statusOf(paid)], [3_564, 'captured'])
  assert.deepEqual(captureOfRest(paid), { pence: 0, lines: [] })
})

test('the hold may be heard of before the order: it is asked for when the order is there', () => {
  const { state } = given(reserve(null), open)
  assert.equal(asked(state), 'authorize')
  assert.equal(statusOf(given(reserve(null), open, answer(authorized)).state), 'authorized')
})

test('an order that was called off before it was heard of is never asked for', () => {
  const { state } = given(callOff(), open, reserve(null))
  assert.equal(asked(state), null)
  assert.equal(statusOf(state), 'failed')
})

test('nothing is asked once the hold has run out', () => {
  const { state } = given(open, reserve(null))
  assert.deepEqual(askOf(state, 1, HOLD_EXPIRES_AT + 1), {
    do: 'nothing',
    answer: { status: 'declined', chargeId: null, reason: 'hold_expired', retryable: false },
  })
})

test('a free order needs no charge', () => {
  const free: Command = { ...open, totalPence: 0, lines: [{ lineNo: 1, quantity: 1, unitPence: 0 }] }
  const { state } = given(free, reserve(null))
  const ask = askOf(state, 1, 0)
  assert.deepEqual(ask, { do: 'nothing', answer: { status: 'authorized', chargeId: null } })
  const shipped = given(free, reserve({ status: 'authorized', chargeId: null }), captureAll)
  assert.deepEqual(shipped.events[0]?.data, {
    shipmentId: 'shp_1',
    pence: 0,
    lines: [{ lineNo: 1, quantity: 1, pence: 0 }],
  })
})

test('a refusal for now may be followed by another attempt, one for good may not', () => {
  const forNow = { status: 'declined', chargeId: 'ch_1', reason: 'insufficient_funds', retryable: true } as const
  const again: Command = { type: 'request_attempt', paymentMethod: 'pm_card_amex', at: 10 }
  const { state } = given(open, reserve(forNow), again)
  assert.equal(asked(state, 20, 2), 'authorize')
  assert.throws(() => given(open, reserve(forNow), again, again), /under way/)
  assert.throws(
    () => given(open, reserve(forNow), { ...again, at: HOLD_EXPIRES_AT + 1 } as Command),
    /not held for the order any longer/,
  )
  assert.throws(() => given(open, reserve({ ...forNow, retryable: false }), again), /refused for good/)
  assert.throws(() => given(open, reserve(authorized), again), /is paid/)
  assert.throws(() => given(open, again), /still to come/)
  assert.throws(() => given(open, reserve(forNow), callOff(), again), /is off/)
})

test('silence is asked again with the same request until T2, then the request is voided', () => {
  const silent = { status: 'unanswered' } as const
  const { state } = given(open, reserve(silent))
  assert.equal(asked(state, DECISION_DUE_AT - 1), 'authorize')
  assert.deepEqual(askOf(state, 1, DECISION_DUE_AT), { do: 'void', chargeId: null })
  const late = answer(silent, { at: DECISION_DUE_AT })
  assert.deepEqual(types(open, reserve(silent), late), ['attempt_unanswered', 'attempt_overdue'])
  const overdue = given(open, reserve(silent), late)
  assert.equal(asked(overdue.state, DECISION_DUE_AT + 1), 'void')
  assert.deepEqual(types(open, reserve(silent), late, answer({ status: 'voided', chargeId: null })), ['attempt_closed'])
  // It was authorised all the same: it stays given up, and is voided.
  assert.deepEqual(types(open, reserve(silent), late, answer(authorized)), [])
})

test('what the provider has not decided at T2 is given up', () => {
  const pending = { status: 'pending', chargeId: 'ch_1' } as const
  const { state } = given(open, reserve(pending))
  assert.equal(asked(state, DECISION_DUE_AT - 1), 'retrieve')
  assert.equal(asked(state, DECISION_DUE_AT), 'void')
  const end = answer({ status: 'voided', chargeId: 'ch_1' }, { at: DECISION_DUE_AT })
  const [failed] = given(open, reserve(pending), end).events
  assert.deepEqual(failed?.data, { attempt: 1, chargeId: 'ch_1', reason: 'decision_overdue', retryable: true })
})

test('an order that is called off: what is authorised is voided, what was captured goes back, what was not asked is not', () => {
  assert.deepEqual(types(open, reserve(authorized), callOff(1)), ['called_off', 'voided'])
  assert.deepEqual(types(open, reserve(authorized), captureAll, callOff()), ['called_off', 'refund_requested'])
  const parcel: Step = (state) => ({
    type: 'capture',
    shipmentId: 'shp_1',
    ...captureOf(state, [{ lineNo: 1, quantity: 2 }]),
  })
  const both = given(open, reserve(authorized), parcel, callOff(1))
  assert.deepEqual(
    both.events.map(({ type }) => type),
    ['called_off', 'voided', 'refund_requested'],
  )
  assert.deepEqual([both.state.voidedPence, both.state.setAsidePence], [3_054, 510])
  assert.deepEqual(types(open, callOff()), ['called_off', 'attempt_closed'])
  assert.deepEqual(types(open, reserve(authorized), callOff(1), callOff()), [])
})

test('a payment that comes for an order that is off is voided as late', () => {
  const required = { status: 'action_required', chargeId: 'ch_1', actionUrl: 'https://bank.example' } as const
  const { state } = given(open, reserve(required), callOff(), answer(authorized))
  assert.equal(asked(state), 'void')
  const voided = given(
    open,
    reserve(required),
    callOff(),
    answer(authorized),
    answer({ ...authorized, status: 'voided' }),
  )
  assert.deepEqual(voided.events, [{ type: 'voided', data: { attempt: 1, pence: 3_564, reason: 'payment_late' } }])
})

test('I1 refunds are set aside when they are asked for: together they never exceed what was captured', () => {
  const paid = [open, reserve(authorized), captureAll] as const
  assert.throws(() => given(...paid, refund('rfd_1', 3_565)), PaymentContradiction)
  const { state } = given(...paid, refund('rfd_1', 3_000))
  assert.deepEqual([state.refundedPence, refundablePence(state), statusOf(state)], [0, 564, 'captured'])
  assert.throws(() => given(...paid, refund('rfd_1', 3_000), refund('rfd_2', 565)), /more than the 564/)
  const done = given(...paid, refund('rfd_1', 3_000), refundAnswered('rfd_1', 'succeeded')).state
  assert.deepEqual([done.refundedPence, statusOf(done)], [3_000, 'partially_refunded'])
  assert.deepEqual(types(...paid, refund('rfd_1', 3_000), refundAnswered('rfd_1', 'succeeded'), refund('rfd_1', 1)), [])
})

test('I1 a return is refunded at the price paid, once, and never more than is left of it', () => {
  const paid = [open, reserve(authorized), captureAll] as const
  const back = refund('rfd_1', [{ lineNo: 1, quantity: 2 }], 'ret_1')
  assert.equal(given(...paid, back).state.setAsidePence, 510)
  assert.deepEqual(types(...paid, back, { ...back, refundId: 'rfd_2' }), [])
  // Two entries of one line, as when one unit is restocked and another thrown away.
  const twice = refund(
    'rfd_1',
    [
      { lineNo: 1, quantity: 1 },
      { lineNo: 1, quantity: 2 },
    ],
    'ret_1',
  )
  assert.deepEqual(given(...paid, twice).state.refunds[0]!.lines, [{ lineNo: 1, quantity: 3, pence: 765 }])
  assert.throws(() => given(...paid, back, refund('rfd_2', [{ lineNo: 1, quantity: 5 }], 'ret_2')), /2 came back/)
  assert.throws(() => given(open, reserve(authorized), back), /0 units were paid/)
  assert.throws(() => given(...paid, refund('rfd_1', [{ lineNo: 9, quantity: 1 }], 'ret_1')), /no line 9/)
  const afterGoodwill = given(
    ...paid,
    refund('rfd_0', 3_400),
    refund(
      'rfd_1',
      [
        { lineNo: 1, quantity: 6 },
        { lineNo: 2, quantity: 6 },
      ],
      'ret_1',
    ),
  )
  assert.equal(afterGoodwill.state.refunds[1]!.pence, 164)
})

test('P2 a refund that fails is tried again, then needs a person, and is never shown as refunded before it is', () => {
  const steps: Step[] = [open, reserve(authorized), captureAll, refund('rfd_1', 500)]
  for (let attempt = 1; attempt < 5; attempt++) steps.push(refundAnswered('rfd_1', 'failed', attempt))
  assert.equal(given(...steps).state.refunds[0]!.status, 'retrying')
  // An old answer that comes again changes nothing.
  assert.deepEqual(types(...steps, refundAnswered('rfd_1', 'failed', 1)), [])
  steps.push(refundAnswered('rfd_1', 'failed', 5))
  const { state } = given(...steps)
  assert.deepEqual([state.refunds[0]!.status, state.refundedPence, state.setAsidePence], ['needs_person', 0, 500])
  assert.deepEqual(given(...steps, { type: 'retry_refund', refundId: 'rfd_1' }).events, [
    { type: 'refund_retried', data: { refundId: 'rfd_1', attempt: 6 } },
  ])
  const settled: Command = { type: 'settle_refund', refundId: 'rfd_1', settledBy: 'usr_9', note: 'bank transfer' }
  assert.equal(given(...steps, settled).state.refundedPence, 500)
  assert.throws(() => given(...steps, settled, settled), PaymentContradiction)
})

test('P2 a refund without an answer is the same request again, also when a person asks', () => {
  const steps: Step[] = [open, reserve(authorized), captureAll, refund('rfd_1', 500)]
  for (let time = 0; time < 12; time++) steps.push(refundAnswered('rfd_1', 'unanswered'))
  const { state } = given(...steps)
  assert.equal(state.refunds[0]!.status, 'needs_person')
  assert.equal(given(...steps, { type: 'retry_refund', refundId: 'rfd_1' }).state.refunds[0]!.attempt, 1)
})

test('a dispute freezes goodwill; lost, it takes the money once, and drops refunds that nothing is left for', () => {
  const paid = [open, reserve(authorized), captureAll] as const
  assert.throws(() => given(...paid, dispute('opened'), refund('rfd_1', 100)), /dispute/)
  assert.equal(statusOf(given(...paid, dispute('opened')).state), 'disputed')
  assert.equal(statusOf(given(...paid, dispute('opened'), dispute('won')).state), 'captured')
  const lost = given(...paid, refund('rfd_1', 500), dispute('opened'), dispute('lost'))
  assert.deepEqual(
    lost.events.map(({ type }) => type),
    ['disputed', 'refund_dropped'],
  )
  assert.deepEqual([lost.state.disputeLostPence, refundablePence(lost.state)], [3_564, 0])
  assert.deepEqual(types(...paid, refund('rfd_1', 500), dispute('lost', 3_000)), ['disputed'])
})

test('a dispute that is told twice, or opened after its end, changes nothing', () => {
  const paid = [open, reserve(authorized), captureAll] as const
  assert.deepEqual(types(...paid, dispute('lost'), dispute('opened')), [])
  assert.deepEqual(types(...paid, dispute('lost'), dispute('lost')), [])
  assert.deepEqual(types(...paid, dispute('opened'), dispute('opened')), [])
})

test('everything twice has the same end', () => {
  const steps: Step[] = [
    open,
    reserve(authorized),
    captureAll,
    refund('rfd_1', 500),
    refundAnswered('rfd_1', 'succeeded'),
  ]
  const once = given(...steps).state
  assert.deepEqual(given(...steps.flatMap((step) => [step, step])).state, once)
})

test('I1 holds whatever comes, in whatever order', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = seededRandom(seed)
    const upTo = (max: number) => 1 + Math.floor(random() * max)
    const one = <T>(of: readonly T[]) => of[Math.floor(random() * of.length)]!
    const chance = (): Step => {
      const lines = [{ lineNo: upTo(2), quantity: upTo(6) }]
      return one<Step>([
        open,
        reserve(one([authorized, { status: 'unanswered' }, { status: 'pending', chargeId: 'ch_1' }, null])),
        answer(one([authorized, { status: 'voided', chargeId: 'ch_1' }]), { at: upTo(2 * DECISION_DUE_AT) }),
        (state) => ({ type: 'capture', shipmentId: `shp_${upTo(5)}`, ...captureOf(state, lines) }),
        (state) => ({ type: 'capture', shipmentId: null, ...captureOfRest(state) }),
        refund(`rfd_${upTo(9)}`, upTo(4_000)),
        refund(`rfd_${upTo(9)}`, lines),
        refund(`rfd_${upTo(9)}`, lines, `ret_${upTo(5)}`),
        refundAnswered(`rfd_${upTo(9)}`, one(['succeeded', 'failed', 'unanswered'] as const), upTo(3)),
        dispute(one(['opened', 'won', 'lost'] as const), upTo(4_000)),
        ...(random() < 0.1 ? [callOff(1)] : []),
      ])
    }
    let state = initial
    for (let step = 0; step < 60; step++) {
      const next = chance()
      try {
        for (const event of decide(state, typeof next === 'function' ? next(state) : next)) state = evolve(state, event)
      } catch (error) {
        assert.ok(error instanceof PaymentContradiction, `seed ${seed}: ${error}`)
      }
      assertSound(state)
    }
  }
})
