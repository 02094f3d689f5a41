/** What an account is and how it may change. Pure: no clock, no database; ids and times come in. */
import type { Address, Role } from '@shopsphere/contracts'
import { problem } from '@shopsphere/runtime/problem'

export const ADDRESSES_MAX = 20

export type SavedAddress = Address & { readonly addressId: string }

export type Account = {
  readonly userId: string
  /** Null: a merchant's customer without one. */
  readonly email: string | null
  /** False: made by a merchant; the e-mail is for letters only and says nothing about who may sign in. */
  readonly canSignIn: boolean
  readonly name: string | null
  readonly country: string | null
  readonly roles: readonly Role[]
  /** The default one first. */
  readonly addresses: readonly SavedAddress[]
  readonly passwordHash: string | null
  /** Grows by one with each change. */
  readonly version: number
  readonly registeredAt: number
  readonly registeredBy: string | null
  readonly externalReference: string | null
}

type NewAccount = Pick<Account, 'userId' | 'email' | 'name' | 'country' | 'registeredAt'>

/** Somebody's own account. */
export function selfRegistered(account: NewAccount & { passwordHash: string; roles?: readonly Role[] }): Account {
  const { roles = ['customer'], ...given } = account
  return {
    ...given,
    roles: inOrder(roles),
    canSignIn: true,
    addresses: [],
    version: 1,
    registeredBy: null,
    externalReference: null,
  }
}

/** A customer whom a merchant knows by a reference of its own. */
export function merchantsCustomer(account: NewAccount & { registeredBy: string; externalReference: string }): Account {
  return { ...account, roles: ['customer'], canSignIn: false, addresses: [], passwordHash: null, version: 1 }
}

export type Details = { name?: string | null; country?: string | null; email?: string; passwordHash?: string }

export function withDetails(account: Account, details: Details): Account {
  return { ...account, ...details }
}

/** Sets the roles to exactly these. Throws the problem `conflict` where operators would lose the role by their own hand. */
export function withRoles(account: Account, roles: readonly Role[], changedBy: string): Account {
  if (account.userId === changedBy && account.roles.includes('operator') && !roles.includes('operator')) {
    throw problem(409, 'conflict', 'You cannot take the role operator from yourself: another operator must do it.')
  }
  return { ...account, roles: inOrder(roles) }
}

/** Adds an address; the first one, and one that is added as such, is the default. Throws the problem `conflict` where there are too many. */
export function withAddress(account: Account, address: SavedAddress, asDefault: boolean): Account {
  if (account.addresses.length >= ADDRESSES_MAX) {
    throw problem(409, 'conflict', `An account keeps at most ${ADDRESSES_MAX} addresses: delete one first.`)
  }
  const addresses = asDefault ? [address, ...account.addresses] : [...account.addresses, address]
  return { ...account, addresses }
}

/** Without the address; the next one in line becomes the default. The same account where there is no such address. */
export function withoutAddress(account: Account, addressId: string): Account {
  const addresses = account.addresses.filter((address) => address.addressId !== addressId)
  return addresses.length === account.addresses.length ? account : { ...account, addresses }
}

/** Throws the problem `conflict` for an operator: the shop must not lose its last one by mistake. */
export function assertDeletable(account: Account): void {
  if (account.roles.includes('operator')) {
    throw problem(409, 'conflict', 'An operator cannot be deleted: another operator must take the role away first.')
  }
}

export type Told = {
  /** The payload of user.updated; null: nothing of it changed. */
  readonly updated: {
    userId: string
    email: string | null
    name: string | null
    country: string | null
    address: Address | null
  } | null
  /** The roles that user.role_changed tells; null: they are as before. */
  readonly roles: Role[] | null
}

/** What the others have to hear of a change. */
export function toTell(before: Account, after: Account): Told {
  const updated = detailsOf(after)
  const same = JSON.stringify(detailsOf(before)) === JSON.stringify(updated)
  return { updated: same ? null : updated, roles: sameRoles(before, after) ? null : [...after.roles] }
}

const sameRoles = (before: Account, after: Account) => before.roles.join() === after.roles.join()

function detailsOf({ userId, email, name, country, addresses }: Account) {
  return { userId, email, name, country, address: addresses[0] ? plainAddress(addresses[0]) : null }
}

function plainAddress({ name, line1, line2, city, region, postcode, country }: SavedAddress): Address {
  return { name, line1, line2, city, region, postcode, country }
}

const ROLES = ['customer', 'merchant', 'operator'] as const satisfies readonly Role[]

/** Each once, and always in the same order, so that equal sets are equal lists. */
function inOrder(roles: readonly Role[]): Role[] {
  return ROLES.filter((role) => roles.includes(role))
}
