/** Order's own copies: of the catalogue, of how to reach customers, of what they were sent. */
import { type Bus, list, type Reader, sql, type Tx } from '@shopsphere/bus'
import {
  type Address,
  notificationSent,
  productCreated,
  productDiscontinued,
  productPriceUpdated,
  productUpdated,
  userDeleted,
  userRegistered,
  userUpdated,
} from '@shopsphere/contracts'

export type CatalogueProduct = { readonly name: string; readonly pricePence: number; readonly discontinued: boolean }

/** `deleted`: the account is gone. */
export type Customer = { readonly email: string | null; readonly address: Address | null; readonly deleted: boolean }

/** Subscribes to what the copies are made from. */
export function keepCopies(bus: Bus): void {
  // A code may be used again after its product was discontinued; anything else that comes twice changes nothing.
  bus.subscribe(productCreated, async ({ sku, name, pricePence }, { tx }) => {
    await tx.run(sql`
      insert into product (sku, name, price_pence, discontinued) values (${sku}, ${name}, ${pricePence}, 0)
      on conflict (sku) do update set name = excluded.name, price_pence = excluded.price_pence, discontinued = 0
      where product.discontinued = 1`)
  })
  bus.subscribe(productUpdated, async ({ sku, name }, { tx }) => {
    requireKnown(sku, await tx.run(sql`update product set name = ${name} where sku = ${sku}`))
  })
  bus.subscribe(productPriceUpdated, async ({ sku, pricePence }, { tx }) => {
    requireKnown(sku, await tx.run(sql`update product set price_pence = ${pricePence} where sku = ${sku}`))
  })
  bus.subscribe(productDiscontinued, async ({ sku }, { tx }) => {
    requireKnown(sku, await tx.run(sql`update product set discontinued = 1 where sku = ${sku}`))
  })

  bus.subscribe(userRegistered, async ({ userId, email }, { tx }) => {
    await tx.run(sql`
      insert into customer (user_id, email, address, deleted) values (${userId}, ${email}, null, 0)
      on conflict (user_id) do nothing`)
    // An order may be quicker than the news of the account that it was placed for.
    await tx.run(sql`
      update order_row set email = (select email from customer where user_id = ${userId})
      where customer_id = ${userId} and email is null and forgotten = 0`)
  })
  bus.subscribe(userUpdated, async ({ userId, email, address }, { tx }) => {
    await tx.run(sql`
      insert into customer (user_id, email, address, deleted)
      values (${userId}, ${email}, ${address && JSON.stringify(address)}, 0)
      on conflict (user_id) do update set email = excluded.email, address = excluded.address where customer.deleted = 0`)
  })
  bus.subscribe(userDeleted, ({ userId }, { tx }) => forgetCustomer(tx, userId))

  bus.subscribe(notificationSent, async (sent, { tx, message }) => {
    const { orderId, notificationId, step, channel, subject } = sent
    if (orderId === null) return
    await tx.run(sql`
      insert into order_notification (order_id, notification_id, step, channel, subject, sent_at)
      values (${orderId}, ${notificationId}, ${step}, ${channel}, ${subject}, ${message.time})
      on conflict (order_id, notification_id) do nothing`)
  })
}

/** Throws, so that the event is tried again: what makes the product known is on its way. */
function requireKnown(sku: string, changed: number): void {
  if (changed === 0) throw new Error(`product '${sku}' is not known here yet`)
}

/** Orders run on with the account's id alone; an open one keeps its address until its parcels have arrived. */
async function forgetCustomer(tx: Tx, userId: string): Promise<void> {
  await tx.run(sql`
    insert into customer (user_id, email, address, deleted) values (${userId}, null, null, 1)
    on conflict (user_id) do update set email = null, address = null, deleted = 1`)
  await tx.run(sql`
    update order_row set email = null, forgotten = 1, address = case when stage = 'open' then address else null end
    where customer_id = ${userId}`)
}

/** Those of `skus` that the catalogue has, discontinued ones included. */
export async function productsOf(reader: Reader, skus: readonly string[]): Promise<Map<string, CatalogueProduct>> {
  const rows = await reader.all<{ sku: string; name: string; price_pence: number; discontinued: number }>(
    sql`select sku, name, price_pence, discontinued from product where sku in ${list([...new Set(skus)])}`,
  )
  return new Map(
    rows.map(({ sku, name, price_pence, discontinued }) => [
      sku,
      { name, pricePence: Number(price_pence), discontinued: Number(discontinued) === 1 },
    ]),
  )
}

/** Undefined: nothing was heard of the account yet. */
export async function customerOf(reader: Reader, userId: string): Promise<Customer | undefined> {
  const row = await reader.get<{ email: string | null; address: string | null; deleted: number }>(
    sql`select email, address, deleted from customer where user_id = ${userId}`,
  )
  if (!row) return undefined
  return {
    email: row.email,
    address: row.address === null ? null : JSON.parse(row.address),
    deleted: Number(row.deleted) === 1,
  }
}
