import assert from 'node:assert/strict'
import { test } from 'node:test'
import { idMaker, seededRandom, sqliteStore } from '@shopsphere/bus'
import { virtualClock } from '@shopsphere/bus/testing'
import { type ChargeAnswer, ForgedNotice, ProviderUnreachable } from './provider.ts'
import { createProviderSimulator, type Movement } from './provider-simulator.ts'

/** A provider that keeps its own books, and a shop that takes webhooks as long as `isUp`. */
async function openProvider({
  failureRate = 0,
  delayMs = 0,
  store = sqliteStore(':memory:'),
  isUp = (): boolean => true,
} = {}) {
  const clock = virtualClock()
  const random = seededRandom(7)
  const makeId = idMaker(clock, random)
  const movements = new Map<string, Movement>()
  const webhooks: { noticeId: string; at: number }[] = []
  await store.open()
  const provider = createProviderSimulator({
    store,
    clock,
    random,
    newId: (prefix) => `${prefix}_${makeId()}`,
    failureRate,
    delayMs,
    onMovement: (movement) => movements.set(`${movement.kind} ${movement.key}`, movement),
    async deliver(body, headers) {
      const notice = await provider.readNotice(body, new Headers({ ...headers }))
      webhooks.push({ noticeId: notice!.noticeId, at: clock.now() })
      return isUp()
    },
  })
  await provider.open()
  return {
    provider,
    clock,
    store,
    movements,
    webhooks,
    authorize: (paymentMethod: string, key = 'ord_1:1') =>
      provider.authorize({ key, orderId: 'ord_1', paymentMethod, pence: 500, currency: 'GBP' }),
    async [Symbol.asyncDispose]() {
      await provider.close()
      await store.close()
    },
  }
}

const chargeIdOf = (answer: ChargeAnswer) => ('chargeId' in answer ? answer.chargeId! : '')

test('the same key has the same answer, also in a process that has seen nothing of it', async () => {
  await using one = await openProvider()
  await using other = await openProvider()
  const answer = await one.authorize('pm_card_visa')
  assert.equal(answer.status, 'authorized')
  assert.deepEqual(await one.authorize('pm_card_visa'), answer)
  assert.deepEqual(await other.authorize('pm_card_visa'), answer)
  assert.notDeepEqual(await one.authorize('pm_card_visa', 'ord_1:2'), answer)
  const refund = { key: 'rfd_1:1', orderId: 'ord_1', chargeId: chargeIdOf(answer), pence: 5 }
  assert.deepEqual(await one.provider.refund(refund), await other.provider.refund(refund))
})

test('cards are refused as their tokens say; a token that does not exist is refused as unknown', async () => {
  await using shop = await openProvider()
  const refusal = async (paymentMethod: string) => {
    const answer = await shop.authorize(paymentMethod)
    return answer.status === 'declined' ? `${answer.reason} ${answer.retryable}` : answer.status
  }
  assert.equal(await refusal('pm_card_declined'), 'card_declined false')
  assert.equal(await refusal('pm_card_insufficient_funds'), 'insufficient_funds true')
  assert.equal(await refusal('pm_card_expired'), 'expired_card false')
  assert.equal(await refusal('pm_nobody'), 'unknown_payment_method false')
  assert.equal(shop.movements.size, 0)
})

test('a saved card is charged as its number says until it expires; the number is nowhere', async () => {
  await using shop = await openProvider()
  const card = { number: '4000000000009995', expiryMonth: 1, expiryYear: 2025, cvc: '123' }
  const saved = await shop.provider.savePaymentMethod(card)
  assert.match(saved.paymentMethod, /^pm_[\da-f-]{36}$/)
  assert.deepEqual([saved.brand, saved.last4], ['visa', '9995'])
  const answer = await shop.authorize(saved.paymentMethod)
  assert.equal(answer.status === 'declined' && answer.reason, 'insufficient_funds')
  await shop.clock.advance(31 * 24 * 3_600_000)
  const later = await shop.authorize(saved.paymentMethod)
  assert.equal(later.status === 'declined' && later.reason, 'expired_card')
  const everything = await shop.store.read((reader) =>
    reader.all({ strings: Object.assign(['select * from provider_card'], { raw: [] }) as never, values: [] }),
  )
  assert.ok(!JSON.stringify(everything).includes('000000009995'))
})

test('an answer that is lost: the charge was made once, and the same request finds it', async () => {
  await using shop = await openProvider()
  await assert.rejects(shop.authorize('pm_card_answer_lost'), ProviderUnreachable)
  assert.equal((await shop.authorize('pm_card_answer_lost')).status, 'authorized')
  assert.equal(shop.movements.size, 1)
})

test('a charge that must be confirmed is authorised when it is, and told of in a webhook', async () => {
  await using shop = await openProvider()
  const asked = await shop.authorize('pm_card_authentication_required')
  assert.equal(asked.status, 'action_required')
  const chargeId = chargeIdOf(asked)
  assert.equal((await shop.provider.retrieve({ chargeId })).status, 'action_required')
  assert.equal((await shop.provider.confirm({ chargeId })).status, 'authorized')
  assert.equal((await shop.provider.retrieve({ chargeId })).status, 'authorized')
  assert.equal((await shop.authorize('pm_card_authentication_required')).status, 'authorized')
  await shop.clock.advance(1_000)
  assert.deepEqual(
    shop.webhooks.map(({ noticeId }) => noticeId),
    [`evt_confirmed_${chargeId}`],
  )
})

test('a charge that is decided later is voided instead when it is given up first', async () => {
  await using shop = await openProvider()
  const chargeId = chargeIdOf(await shop.authorize('pm_card_decided_later'))
  assert.equal((await shop.provider.void({ requestKey: 'ord_1:1' })).status, 'voided')
  await shop.clock.advance(60_000)
  assert.equal((await shop.provider.retrieve({ chargeId })).status, 'voided')
  const other = chargeIdOf(await shop.authorize('pm_card_decided_later', 'ord_2:1'))
  assert.equal((await shop.provider.retrieve({ chargeId: other })).status, 'pending')
  await shop.clock.advance(60_000)
  assert.equal((await shop.provider.retrieve({ chargeId: other })).status, 'authorized')
})

test('webhooks are sent again until they are taken, also by the next process', async () => {
  let isUp = false
  const store = sqliteStore(':memory:')
  {
    const shop = await openProvider({ store, isUp: () => isUp })
    await shop.authorize('pm_card_decided_later')
    await shop.clock.advance(10_000)
    assert.equal(shop.webhooks.length, 3)
    await shop.provider.close()
  }
  isUp = true
  await using shop = await openProvider({ store, isUp: () => isUp })
  await shop.clock.advance(24 * 3_600_000)
  assert.equal(shop.webhooks.length, 1)
})

test('calls fail at the rate that was set, some after they were carried out; a repeat does not charge again', async () => {
  await using shop = await openProvider({ failureRate: 0.5 })
  const outcomes: string[] = []
  for (let order = 0; order < 100; order++) {
    for (;;) {
      const status = await shop.authorize('pm_card_visa', `ord_${order}:1`).then(
        (answer) => answer.status,
        (error) => (error instanceof ProviderUnreachable ? 'unreachable' : 'broken'),
      )
      outcomes.push(status)
      if (status !== 'unreachable') break
    }
  }
  const failed = outcomes.filter((status) => status === 'unreachable').length
  assert.ok(failed > 60 && failed < 150, `${failed} of ${outcomes.length}`)
  assert.equal(outcomes.length - failed, 100)
  assert.equal(shop.movements.size, 100)
  shop.provider.setFailureRate(1)
  await assert.rejects(shop.authorize('pm_card_visa'), ProviderUnreachable)
})

test('a call takes its time, and ends at once when its caller gives up', async () => {
  await using shop = await openProvider({ delayMs: 5_000 })
  const answer = shop.authorize('pm_card_visa')
  await shop.clock.advance(5_000)
  assert.equal((await answer).status, 'authorized')
  const gaveUp = new AbortController()
  const abandoned = shop.provider.retrieve({ chargeId: 'ch_1' }, gaveUp.signal)
  gaveUp.abort(new Error('given up'))
  await assert.rejects(abandoned, /given up/)
  assert.equal(shop.movements.size, 1)
})

test('a webhook is read only where it was signed by the provider; one of another kind is of no interest', async () => {
  await using shop = await openProvider()
  const { provider } = shop
  const { body, headers } = await provider.sign('evt_1', { type: 'charge.updated', orderId: 'ord_1', chargeId: 'ch_1' })
  const given = new Headers({ ...headers })
  assert.deepEqual(await provider.readNotice(body, given), {
    noticeId: 'evt_1',
    about: 'charge',
    orderId: 'ord_1',
    chargeId: 'ch_1',
  })
  await assert.rejects(provider.readNotice(body.slice(1), given), ForgedNotice)
  await assert.rejects(provider.readNotice(body, new Headers()), ForgedNotice)
  await using other = await openProvider()
  await assert.rejects(other.provider.readNotice(body, given), ForgedNotice)
  for (const content of ['not json', { type: 'payout.paid' }, { type: 'charge.updated' }]) {
    const strange = await provider.sign('evt_2', content)
    assert.equal(await provider.readNotice(strange.body, new Headers({ ...strange.headers })), null)
  }
})
