/** Customers whom a merchant brings along, known by a reference of the merchant's own. Nobody signs in to them. */
import { createRoute, z } from '@hono/zod-openapi'
import type { TransactionContext } from '@shopsphere/bus'
import { userRegistered } from '@shopsphere/contracts'
import type { Api } from '@shopsphere/runtime/http'
import { problemAnswers } from '@shopsphere/runtime/problem'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { countryName, displayName, emailAddress, lineOf, reasonOf } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import { requireAccount } from './access.ts'
import { merchantsCustomer } from './account.ts'
import { addAccounts, findReferences } from './queries.ts'

const CUSTOMERS_MAX = 1_000

const newCustomer = z
  .strictObject({
    externalReference: lineOf(128).openapi({ description: 'Under which the merchant knows the customer' }),
    name: displayName.nullable().optional(),
    email: emailAddress.nullable().optional(),
    country: countryName.nullable().optional(),
  })
  .openapi('NewCustomer')
type NewCustomer = z.infer<typeof newCustomer>

const customer = z
  .object({
    userId: z.string(),
    customerId: z.string().openapi({ description: 'The same id, by the name under which orders and returns take it' }),
    externalReference: z.string(),
  })
  .openapi('Customer')

const importedLine = z
  .object({
    line: z.int().openapi({ description: 'Its place in the request, from 1' }),
    outcome: z.enum(['created', 'exists', 'refused']),
    userId: z.string().nullable(),
    externalReference: z.string().nullable(),
    reason: z.string().nullable(),
  })
  .openapi('ImportedCustomer')
type ImportedLine = z.infer<typeof importedLine>

const tags = ['customers']

const createCustomer = createRoute({
  method: 'post',
  path: '/api/customers',
  summary: 'Makes a customer of a merchant; the same reference again answers with the same customer',
  tags,
  security: signedIn,
  request: { body: body(newCustomer) },
  responses: {
    200: json('It was there already', customer),
    201: json('It was made', customer),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

const importCustomers = createRoute({
  method: 'post',
  path: '/api/customers/bulk',
  summary: `Makes up to ${CUSTOMERS_MAX} customers; each line has its own outcome`,
  tags,
  security: signedIn,
  request: {
    body: body(
      z.strictObject({
        customers: z
          .array(z.unknown())
          .min(1)
          .max(CUSTOMERS_MAX)
          .openapi({ type: 'array', items: { $ref: '#/components/schemas/NewCustomer' } }),
      }),
    ),
  },
  responses: {
    200: json('One outcome for each line', z.object({ customers: z.array(importedLine) })),
    ...problemAnswers(400, 401, 403, 409, 422),
  },
})

type Context = Pick<ServiceContext, 'store' | 'clock' | 'newId' | 'idempotency'>

export function addCustomerRoutes(api: Api, { store, clock, newId, idempotency }: Context): void {
  /** Adds those whose reference is new; answers the ids of all, and which references were added. */
  async function add({ tx, publish }: TransactionContext, merchantId: string, customers: readonly NewCustomer[]) {
    const registeredAt = clock.now()
    const accounts = customers.map(({ externalReference, name = null, email = null, country = null }) =>
      merchantsCustomer({
        userId: newId('usr'),
        name,
        email,
        country,
        registeredAt,
        registeredBy: merchantId,
        externalReference,
      }),
    )
    const added = new Set<string>()
    for (const position of await addAccounts(tx, accounts)) {
      const { userId, email, name, country, roles, registeredBy, externalReference } = accounts[position]!
      publish(userRegistered, { userId, email, name, country, roles: [...roles], registeredAt, registeredBy })
      added.add(externalReference!)
    }
    const references = customers.map(({ externalReference }) => externalReference)
    return { ids: await findReferences(tx, merchantId, references), added }
  }

  api.openapi(createCustomer, async (c) => {
    const merchant = await requireAccount(c, store, 'merchant', 'operator')
    const asked = c.req.valid('json')
    return idempotency.run(c, async (transaction) => {
      const { externalReference } = asked
      const { ids, added } = await add(transaction, merchant.userId, [asked])
      const userId = ids.get(externalReference)!
      const status = added.has(externalReference) ? 201 : 200
      return { status, body: { userId, customerId: userId, externalReference } }
    })
  })

  api.openapi(importCustomers, async (c) => {
    const merchant = await requireAccount(c, store, 'merchant', 'operator')
    const lines = c.req.valid('json').customers.map((line) => newCustomer.safeParse(line))
    return idempotency.run(c, async (transaction) => {
      const good = lines.flatMap((line) => line.data ?? [])
      const { ids, added } = await add(transaction, merchant.userId, good)
      const outcomes = lines.map((line, index): ImportedLine => {
        if (!line.success) return { ...nothing, line: index + 1, outcome: 'refused', reason: reasonOf(line.error) }
        const { externalReference } = line.data
        // Of a reference that stands here twice, the first line made the customer.
        const outcome = added.delete(externalReference) ? 'created' : 'exists'
        return { ...nothing, line: index + 1, outcome, userId: ids.get(externalReference)!, externalReference }
      })
      return { status: 200, body: { customers: outcomes } }
    })
  })
}

const nothing = { userId: null, externalReference: null, reason: null }
