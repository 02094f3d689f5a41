import assert from 'node:assert/strict'
import { test } from 'node:test'
import { validate } from '@shopsphere/bus'
import { notificationSent, orderCancelled, orderPlaced } from '@shopsphere/contracts'
import { steps } from './steps.ts'
import { orderIsCancelled, orderReceived, pounds } from './templates.ts'

test('pence are shown as pounds to the penny, however many', () => {
  for (const [pence, shown] of [
    [0, '£0.00'],
    [5, '£0.05'],
    [29, '£0.29'],
    [100, '£1.00'],
    [123_456, '£1,234.56'],
    [100_000_000, '£1,000,000.00'],
    [-255, '-£2.55'],
    [Number.MAX_SAFE_INTEGER, '£90,071,992,547,409.91'],
  ] as const)
    assert.equal(pounds(pence), shown)
})

for (const { event, step, occasion, write } of steps) {
  test(`${event.type}: its example makes a mail, and a step that fits the contract`, () => {
    const data = event.example
    const { subject, text } = write(data, { name: 'Ada' })
    assert.match(text, /^Hello Ada,\n\n/)
    assert.doesNotMatch(text, /undefined|null|NaN|\[object/)
    const { about, email: recipient, ...of } = occasion(data)
    assert.ok(about)
    const told = { notificationId: 'ntf_1', recipient, ...of, step: step(data), channel: 'email', subject }
    assert.deepEqual(validate(notificationSent, told), told)
    assert.ok(step(data).startsWith(event.type))
  })
}

test('a reader without a name is greeted without one; a long order is cut', () => {
  const lines = Array.from({ length: 30 }, (_, index) => ({ ...orderPlaced.example!.lines[0]!, lineNo: index + 1 }))
  const { text } = orderReceived({ ...orderPlaced.example!, lines }, { name: null })
  assert.match(text, /^Hello,\n\n/)
  assert.match(text, /\nand 10 more\n/)
  assert.match(text, /6 × White hanging heart T-light holder, £15\.30/)
})

test('a cancelled order says why, and what was missing', () => {
  const { text } = orderIsCancelled(orderCancelled.example!, { name: null })
  assert.match(text, /not everything that you ordered is in stock/i)
  assert.match(text, /71053: 6 ordered, 2 left/)
})
