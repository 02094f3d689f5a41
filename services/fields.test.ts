import assert from 'node:assert/strict'
import { test } from 'node:test'
import { emailAddress, lineOf, paragraphOf, postalAddress, productCode } from './fields.ts'

const takes = (schema: { safeParse(value: unknown): { success: boolean } }, value: unknown) =>
  schema.safeParse(value).success

test('a line is trimmed, has letters of any script and no control characters', () => {
  assert.equal(lineOf(10).parse('  Zoë 茶 '), 'Zoë 茶')
  for (const bad of ['', '   ', 'x'.repeat(11), 'a\nb', 'a\rb', 'a\0b', 'a\u0085b', 7, null]) {
    assert.equal(takes(lineOf(10), bad), false, JSON.stringify(bad))
  }
})

test('a paragraph may have line ends and tabs besides', () => {
  assert.equal(takes(paragraphOf(20), 'one\n\ttwo'), true)
  for (const bad of ['a\rb', 'a\0b', 'a\u001bb', 'x'.repeat(21)]) assert.equal(takes(paragraphOf(20), bad), false)
})

test('an e-mail address is one, and short enough to be told', () => {
  assert.equal(takes(emailAddress, 'ada@example.org'), true)
  for (const bad of [
    'ada',
    'ada@',
    'a b@example.org',
    'a@example.org\nBcc: b@example.org',
    `${'x'.repeat(250)}@a.org`,
  ]) {
    assert.equal(takes(emailAddress, bad), false, bad)
  }
})

test('a sku is a line that an address can hold', () => {
  for (const good of ['85123A', 'A/B 1%', '...']) assert.equal(takes(productCode, good), true)
  for (const bad of ['.', '..', 'x'.repeat(65)]) assert.equal(takes(productCode, bad), false)
})

test('what an address leaves out is null', () => {
  const given = { name: 'Ada', line1: '1', city: 'London', postcode: 'SW1Y', country: 'GB' }
  assert.deepEqual(postalAddress.parse(given), { ...given, line2: null, region: null })
  assert.equal(takes(postalAddress, { ...given, planet: 'Mars' }), false)
})
