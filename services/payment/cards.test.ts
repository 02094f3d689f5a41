import assert from 'node:assert/strict'
import { test } from 'node:test'
import { brandOf, fateOfNumber, fateOfToken, isCardNumber } from './cards.ts'

test('a number with a wrong digit, two swapped ones or a wrong length is no card number', () => {
  assert.ok(isCardNumber('4242424242424242'))
  for (const number of ['4242424242424241', '2442424242424242', '42424242424', '42424242424242424242', '42x4', '']) {
    assert.equal(isCardNumber(number), false, number)
  }
})

test('published test numbers are known with their brand; any other is declined and never charged', () => {
  assert.deepEqual(fateOfNumber('4242424242424242'), { kind: 'good' })
  assert.equal(brandOf('5555555555554444'), 'mastercard')
  assert.equal(brandOf('378282246310005'), 'amex')
  assert.equal(brandOf('4242424242424242'), 'visa')
  assert.deepEqual(fateOfNumber('4000000000009995'), {
    kind: 'declined',
    reason: 'insufficient_funds',
    retryable: true,
  })
  assert.deepEqual(fateOfNumber('4532015112830366'), {
    kind: 'declined',
    reason: 'not_a_test_card',
    retryable: false,
  })
})

test('tokens exist without a card having been saved', () => {
  assert.deepEqual(fateOfToken('pm_card_visa'), { kind: 'good' })
  assert.deepEqual(fateOfToken('pm_card_refund_fails'), { kind: 'special', habit: 'refund_fails' })
  assert.equal(fateOfToken('pm_unknown'), undefined)
})
