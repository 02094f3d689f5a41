import { type Reader, type Row, sql, type Tx } from '@shopsphere/bus'
import type { Role } from '@shopsphere/contracts'
import { type Editor, type Product, searchText } from './product.ts'

type ProductRow = {
  sku: string
  name: string
  description: string | null
  category: string | null
  attributes: string
  price_pence: number
  discontinued: number
  merchant_id: string
  version: number
  created_at: number
  changed_at: number
}

export async function findProduct(reader: Reader, sku: string): Promise<Product | undefined> {
  const row = await reader.get<ProductRow>(sql`
    select sku, name, description, category, attributes, price_pence, discontinued, merchant_id, version, created_at,
      changed_at from product where sku = ${sku}`)
  return row && toProduct(row)
}

/** Words that one search may have: the statement has a place for each. */
export const SEARCH_WORDS_MAX = 5

/** Products whose text holds every word, in the order of their sku. */
export async function searchProducts(
  reader: Reader,
  {
    words,
    category,
    afterSku,
    limit,
    all,
  }: { words: readonly string[]; category: string | null; afterSku: string; limit: number; all: boolean },
): Promise<Product[]> {
  const pattern = (place: number) => `%${(words[place] ?? '').replace(/[!%_]/g, '!$&')}%`
  const rows = await reader.all<ProductRow>(sql`
    select sku, name, description, category, attributes, price_pence, discontinued, merchant_id, version, created_at,
      changed_at from product
    where sku > ${afterSku} and discontinued <= ${all ? 1 : 0}
      and (cast(${category} as text) is null or category = ${category})
      and search_text like ${pattern(0)} escape '!' and search_text like ${pattern(1)} escape '!'
      and search_text like ${pattern(2)} escape '!' and search_text like ${pattern(3)} escape '!'
      and search_text like ${pattern(4)} escape '!'
    order by sku limit ${limit}`)
  return rows.map(toProduct)
}

/** Adds products; answers the positions of those whose sku was free. */
export async function addProducts(tx: Tx, products: readonly Product[]): Promise<number[]> {
  return tx.insert('product', products.map(toRow), { orIgnore: true })
}

/** Writes a changed product; false where somebody else has changed it since it was read. */
export async function saveProduct(tx: Tx, before: Product, after: Product): Promise<boolean> {
  const row = toRow(after)
  const changed = await tx.run(sql`
    update product set name = ${row.name!}, description = ${row.description!}, category = ${row.category!},
      attributes = ${row.attributes!}, price_pence = ${row.price_pence!}, discontinued = ${row.discontinued!},
      version = ${row.version!}, changed_at = ${row.changed_at!}, search_text = ${row.search_text!}
    where sku = ${after.sku} and version = ${before.version}`)
  return changed === 1
}

/** Undefined: no event has told of this account yet. */
export async function findEditor(reader: Reader, userId: string): Promise<Editor | undefined> {
  const row = await reader.get<{ roles: string; deleted: number }>(
    sql`select roles, deleted from editor where user_id = ${userId}`,
  )
  return row && { userId, roles: JSON.parse(row.roles) as Role[], deleted: Number(row.deleted) === 1 }
}

export async function keepRoles(tx: Tx, userId: string, roles: readonly Role[], at: number): Promise<void> {
  await tx.run(sql`
    insert into editor (user_id, roles, roles_at, deleted) values (${userId}, ${JSON.stringify(roles)}, ${at}, 0)
    on conflict (user_id) do update set roles = excluded.roles, roles_at = excluded.roles_at
    where editor.deleted = 0 and excluded.roles_at >= editor.roles_at`)
}

export async function forgetEditor(tx: Tx, userId: string, at: number): Promise<void> {
  await tx.run(sql`
    insert into editor (user_id, roles, roles_at, deleted) values (${userId}, '[]', ${at}, 1)
    on conflict (user_id) do update set roles = '[]', deleted = 1`)
}

function toProduct(row: ProductRow): Product {
  return {
    sku: row.sku,
    name: row.name,
    description: row.description,
    category: row.category,
    attributes: JSON.parse(row.attributes) as Record<string, string>,
    pricePence: Number(row.price_pence),
    discontinued: Number(row.discontinued) === 1,
    merchantId: row.merchant_id,
    version: Number(row.version),
    createdAt: Number(row.created_at),
    changedAt: Number(row.changed_at),
  }
}

function toRow(product: Product): Row {
  return {
    sku: product.sku,
    name: product.name,
    description: product.description,
    category: product.category,
    attributes: JSON.stringify(product.attributes),
    price_pence: product.pricePence,
    discontinued: product.discontinued ? 1 : 0,
    merchant_id: product.merchantId,
    version: product.version,
    created_at: product.createdAt,
    changed_at: product.changedAt,
    search_text: searchText(product),
  }
}
