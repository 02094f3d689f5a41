import { list, type Reader, type Row, sql, type Tx } from '@shopsphere/bus'
import type { Availability } from '@shopsphere/contracts'
import type { Cart, CartLine, Ware, Wares } from './cart.ts'

type CartRow = {
  cart_id: string
  customer_id: string | null
  email: string | null
  lines: string
  state: Cart['state']
  order_id: string | null
  merged_into: string | null
  version: number
  reminded_at: number | null
  changed_at: number
}

export async function findCart(reader: Reader, cartId: string): Promise<Cart | undefined> {
  const row = await reader.get<CartRow>(sql`select * from cart where cart_id = ${cartId}`)
  return row && toCart(row)
}

export async function findOpenCartOf(reader: Reader, customerId: string): Promise<Cart | undefined> {
  const row = await reader.get<CartRow>(sql`select * from cart where open_customer_id = ${customerId}`)
  return row && toCart(row)
}

/** Adds a cart; false where the customer has an open one already. */
export async function addCart(tx: Tx, cart: Cart): Promise<boolean> {
  return (await tx.insert('cart', [toRow(cart)], { orIgnore: true })).length === 1
}

/** Writes a changed cart; false where somebody else has changed it since it was read. */
export async function saveCart(tx: Tx, before: Cart, after: Cart): Promise<boolean> {
  const row = toRow(after)
  const changed = await tx.run(sql`
    update cart set customer_id = ${row.customer_id!}, open_customer_id = ${row.open_customer_id!},
      email = ${row.email!}, lines = ${row.lines!}, state = ${row.state!}, order_id = ${row.order_id!},
      merged_into = ${row.merged_into!}, version = ${row.version!}, reminded_at = ${row.reminded_at!},
      changed_at = ${row.changed_at!}
    where cart_id = ${after.cartId} and version = ${before.version}`)
  return changed === 1
}

export async function deleteCart(tx: Tx, cartId: string): Promise<void> {
  await tx.run(sql`delete from cart where cart_id = ${cartId}`)
}

/** Deletes what a customer has or had; answers the ids. */
export async function deleteCartsOf(tx: Tx, customerId: string): Promise<string[]> {
  const rows = await tx.all<{ cart_id: string }>(
    sql`delete from cart where customer_id = ${customerId} returning cart_id`,
  )
  return rows.map((row) => row.cart_id)
}

type WareRow = {
  sku: string
  name: string | null
  unit_pence: number | null
  discontinued: number
  availability: Availability | null
  available: number | null
}

/** Those products whose name and price are known. */
export async function findWares(reader: Reader, skus: readonly string[]): Promise<Wares> {
  const rows = await reader.all<WareRow>(
    sql`select sku, name, unit_pence, discontinued, availability, available from ware where sku in ${list(skus)}`,
  )
  return new Map(rows.flatMap((row) => toWare(row) ?? []).map((ware) => [ware.sku, ware]))
}

export const findWaresOf = (reader: Reader, { lines }: Cart) =>
  findWares(
    reader,
    lines.map(({ sku }) => sku),
  )

/** A product is created once, so this fills in what later messages have not told already. */
export async function keepCreated(tx: Tx, sku: string, name: string, unitPence: number, at: number): Promise<void> {
  await tx.run(sql`
    insert into ware (sku, name, name_at, unit_pence, unit_pence_at, discontinued)
    values (${sku}, ${name}, ${at}, ${unitPence}, ${at}, 0)
    on conflict (sku) do update set
      name = coalesce(ware.name, excluded.name), name_at = coalesce(ware.name_at, excluded.name_at),
      unit_pence = coalesce(ware.unit_pence, excluded.unit_pence),
      unit_pence_at = coalesce(ware.unit_pence_at, excluded.unit_pence_at)`)
}

export async function keepName(tx: Tx, sku: string, name: string, at: number): Promise<void> {
  await tx.run(sql`
    insert into ware (sku, name, name_at, discontinued) values (${sku}, ${name}, ${at}, 0)
    on conflict (sku) do update set name = excluded.name, name_at = excluded.name_at
    where ware.name_at is null or excluded.name_at >= ware.name_at`)
}

export async function keepPrice(tx: Tx, sku: string, unitPence: number, at: number): Promise<void> {
  await tx.run(sql`
    insert into ware (sku, unit_pence, unit_pence_at, discontinued) values (${sku}, ${unitPence}, ${at}, 0)
    on conflict (sku) do update set unit_pence = excluded.unit_pence, unit_pence_at = excluded.unit_pence_at
    where ware.unit_pence_at is null or excluded.unit_pence_at >= ware.unit_pence_at`)
}

export async function keepDiscontinued(tx: Tx, sku: string): Promise<void> {
  await tx.run(sql`
    insert into ware (sku, discontinued) values (${sku}, 1)
    on conflict (sku) do update set discontinued = 1`)
}

type Level = { readonly sku: string; readonly availability: string; readonly available: number }

export async function keepLevel(tx: Tx, { sku, availability, available }: Level, at: number): Promise<void> {
  await tx.run(sql`
    insert into ware (sku, discontinued, availability, available, availability_at)
    values (${sku}, 0, ${availability}, ${available}, ${at})
    on conflict (sku) do update set availability = excluded.availability, available = excluded.available,
      availability_at = excluded.availability_at
    where ware.availability_at is null or excluded.availability_at >= ware.availability_at`)
}

function toWare(row: WareRow): Ware | undefined {
  if (row.name === null || row.unit_pence === null) return undefined
  return {
    sku: row.sku,
    name: row.name,
    unitPence: Number(row.unit_pence),
    discontinued: Number(row.discontinued) === 1,
    availability: row.availability,
    available: row.available === null ? null : Number(row.available),
  }
}

function toCart(row: CartRow): Cart {
  return {
    cartId: row.cart_id,
    customerId: row.customer_id,
    email: row.email,
    lines: JSON.parse(row.lines) as CartLine[],
    state: row.state,
    orderId: row.order_id,
    mergedInto: row.merged_into,
    version: Number(row.version),
    remindedAt: row.reminded_at === null ? null : Number(row.reminded_at),
    changedAt: Number(row.changed_at),
  }
}

function toRow(cart: Cart): Row {
  return {
    cart_id: cart.cartId,
    customer_id: cart.customerId,
    open_customer_id: cart.state === 'open' ? cart.customerId : null,
    email: cart.email,
    lines: JSON.stringify(cart.lines),
    state: cart.state,
    order_id: cart.orderId,
    merged_into: cart.mergedInto,
    version: cart.version,
    reminded_at: cart.remindedAt,
    changed_at: cart.changedAt,
  }
}
