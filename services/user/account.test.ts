import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Account,
  ADDRESSES_MAX,
  assertDeletable,
  type SavedAddress,
  selfRegistered,
  toTell,
  withAddress,
  withDetails,
  withoutAddress,
  withRoles,
} from './account.ts'

const ada = selfRegistered({
  userId: 'usr_ada',
  email: 'ada@example.org',
  name: 'Ada',
  country: 'GB',
  registeredAt: 1,
  passwordHash: 'hash',
})
const addressOf = (addressId: string): SavedAddress => ({
  addressId,
  name: 'Ada',
  line1: '12 St James’s Square',
  line2: null,
  city: 'London',
  region: null,
  postcode: 'SW1Y 4JH',
  country: 'GB',
})
const ids = (account: Account) => account.addresses.map(({ addressId }) => addressId)

test('the first address is the default until another is added as such, or it is deleted', () => {
  const two = withAddress(withAddress(ada, addressOf('adr_1'), false), addressOf('adr_2'), false)
  assert.deepEqual(ids(two), ['adr_1', 'adr_2'])
  const three = withAddress(two, addressOf('adr_3'), true)
  assert.deepEqual(ids(three), ['adr_3', 'adr_1', 'adr_2'])
  assert.deepEqual(ids(withoutAddress(three, 'adr_3')), ['adr_1', 'adr_2'])
  assert.equal(withoutAddress(three, 'adr_9'), three)
})

test('an account keeps so many addresses and no more', () => {
  let full = ada
  for (let number = 0; number < ADDRESSES_MAX; number++) full = withAddress(full, addressOf(`adr_${number}`), false)
  assert.throws(() => withAddress(full, addressOf('adr_x'), false), { code: 'conflict' })
})

test('only what changed is told, the address without the id that others do not need', () => {
  assert.deepEqual(toTell(ada, withDetails(ada, { passwordHash: 'other' })), { updated: null, roles: null })
  const { updated } = toTell(ada, withAddress(ada, addressOf('adr_1'), false))
  assert.equal(updated?.address?.city, 'London')
  assert.equal('addressId' in updated!.address!, false)
  const withSecond = withAddress(withAddress(ada, addressOf('adr_1'), false), addressOf('adr_2'), false)
  assert.equal(toTell(withAddress(ada, addressOf('adr_1'), false), withSecond).updated, null)
})

test('roles are a set', () => {
  const merchant = withRoles(ada, ['merchant', 'customer', 'merchant'], 'usr_operator')
  assert.deepEqual(merchant.roles, ['customer', 'merchant'])
  assert.deepEqual(toTell(ada, merchant).roles, ['customer', 'merchant'])
  assert.equal(toTell(merchant, withRoles(merchant, ['customer', 'merchant'], 'usr_operator')).roles, null)
})

test('an operator keeps the role until another one takes it, and cannot be deleted meanwhile', () => {
  const operator = withRoles(ada, ['operator'], 'usr_operator')
  assert.throws(() => withRoles(operator, ['customer'], operator.userId), { code: 'conflict' })
  assert.throws(() => assertDeletable(operator), { code: 'conflict' })
  assertDeletable(withRoles(operator, ['customer'], 'usr_operator'))
})
