import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compareIds, idBefore, timeOf } from './redis-entry.ts'

test('entry ids are compared as numbers', () => {
  assert.ok(compareIds('9-0', '10-0') < 0)
  assert.ok(compareIds('10-9', '10-10') < 0)
  assert.equal(compareIds('10', '10-0'), 0)
})

test('idBefore is below the id, and above everything else that is', () => {
  assert.equal(idBefore('1795236038887-5'), '1795236038887-4')
  assert.ok(compareIds(idBefore('1795236038887-0'), '1795236038887-0') < 0)
  assert.ok(compareIds(idBefore('1795236038887-0'), '1795236038886-999999') > 0)
  assert.equal(idBefore('0-0'), '0-0')
})

test('an id says when', () => {
  assert.equal(timeOf('1795236038887-5'), 1_795_236_038_887)
})
