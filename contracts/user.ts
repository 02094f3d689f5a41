/** Owned by user: who there is, and what they may do. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import { address, country, email, id, name, roles, timeMs } from './values.ts'

const userId = 'usr_01939c1e-7000-7000-8000-000000000001'

export const userRegistered = event('user.registered', {
  version: 1,
  owner: 'user',
  summary: 'An account was made, by its holder or by a merchant for a customer (then perhaps without e-mail).',
  schema: z.object({
    userId: id,
    email: email.nullable(),
    name: name.nullable(),
    country: country.nullable(),
    roles,
    registeredAt: timeMs,
    /** The merchant or operator who made it; null: the holder. */
    registeredBy: id.nullable(),
  }),
  key: (user) => user.userId,
  example: {
    userId,
    email: 'ada@example.org',
    name: 'Ada Lovelace',
    country: 'GB',
    roles: ['customer'],
    registeredAt: 1_291_190_400_000,
    registeredBy: null,
  },
})

export const userUpdated = event('user.updated', {
  version: 1,
  owner: 'user',
  summary: 'An account has other details now; all of them are told, changed or not.',
  schema: z.object({
    userId: id,
    email: email.nullable(),
    name: name.nullable(),
    country: country.nullable(),
    address: address.nullable(),
  }),
  key: (user) => user.userId,
  example: {
    userId,
    email: 'ada@example.org',
    name: 'Ada King',
    country: 'GB',
    address: {
      name: 'Ada King',
      line1: '12 St James’s Square',
      line2: null,
      city: 'London',
      region: null,
      postcode: 'SW1Y 4JH',
      country: 'GB',
    },
  },
})

export const userRoleChanged = event('user.role_changed', {
  version: 1,
  owner: 'user',
  summary: 'An account has exactly these roles from now on.',
  schema: z.object({ userId: id, roles, changedBy: id.nullable() }),
  key: (user) => user.userId,
  example: { userId, roles: ['customer', 'merchant'], changedBy: 'usr_01939c1e-7000-7000-8000-000000000009' },
})

export const userDeleted = event('user.deleted', {
  version: 1,
  owner: 'user',
  summary: 'An account is gone; whoever keeps personal data of it makes that unreadable.',
  schema: z.object({ userId: id, deletedAt: timeMs }),
  key: (user) => user.userId,
  example: { userId, deletedAt: 1_293_782_400_000 },
})

export const userEvents = [userRegistered, userUpdated, userRoleChanged, userDeleted]
