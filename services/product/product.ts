/** What a product is, who may edit it, and how it may change. Pure: no clock, no database. */
import type { Role } from '@shopsphere/contracts'
import { problem } from '@shopsphere/runtime/problem'

export type Product = {
  readonly sku: string
  readonly name: string
  readonly description: string | null
  readonly category: string | null
  readonly attributes: Readonly<Record<string, string>>
  readonly pricePence: number
  readonly discontinued: boolean
  readonly merchantId: string
  /** Grows by one with each change. */
  readonly version: number
  readonly createdAt: number
  readonly changedAt: number
}

/** What this service has heard of an account. */
export type Editor = { readonly userId: string; readonly roles: readonly Role[]; readonly deleted: boolean }

export type Description = Pick<Product, 'name' | 'description' | 'category' | 'attributes'>
export type Changes = Partial<Description & Pick<Product, 'pricePence'>>

/**
 * Lets in who may have products of their own. Throws the problem `forbidden`, which says why; for an account that has not
 * been heard of yet, with `Retry-After`.
 */
export function assertMaySell(editor: Editor | undefined): asserts editor is Editor {
  if (!editor) {
    throw problem(
      403,
      'forbidden',
      'The catalogue has not heard of your account yet: send the request again in a moment.',
      {},
      { 'retry-after': '1' },
    )
  }
  if (editor.deleted) throw problem(403, 'forbidden', 'Your account was deleted.')
  if (!has(editor, 'merchant') && !has(editor, 'operator')) {
    throw problem(403, 'forbidden', 'Only a merchant may edit the catalogue: ask an operator for the role merchant.')
  }
}

/** Lets in the product's merchant, and operators. Throws the problem `forbidden`. */
export function assertMayEdit(editor: Editor | undefined, product: Product): void {
  assertMaySell(editor)
  if (has(editor, 'operator') || product.merchantId === editor.userId) return
  throw problem(403, 'forbidden', `${product.sku} belongs to another merchant: only they or an operator may edit it.`)
}

const has = (editor: Editor, role: Role) => editor.roles.includes(role)

/** The product with the changes; the same one where nothing differs. Throws the problem `conflict` for one that is no longer sold. */
export function edited(product: Product, changes: Changes, changedAt: number): Product {
  if (product.discontinued) {
    throw problem(409, 'conflict', `${product.sku} is discontinued: create another product with a sku of its own.`)
  }
  const next = { ...product, ...changes }
  const tell = toTell(product, next)
  return tell.described || tell.repriced ? { ...next, version: product.version + 1, changedAt } : product
}

/** No longer for sale; the same product where it was not before. */
export function discontinued(product: Product, changedAt: number): Product {
  if (product.discontinued) return product
  return { ...product, discontinued: true, version: product.version + 1, changedAt }
}

/** What the others have to hear of a change. */
export function toTell(before: Product, after: Product) {
  return {
    described: JSON.stringify(descriptionOf(before)) !== JSON.stringify(descriptionOf(after)),
    repriced: before.pricePence !== after.pricePence,
    discontinued: !before.discontinued && after.discontinued,
  }
}

function descriptionOf({ name, description, category, attributes }: Product) {
  return [name, description, category, Object.entries(attributes).sort()]
}

/** The words of a search, or of what is searched: lower case, without accents. */
export function searchWords(text: string): string[] {
  return text
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '')
}

export function searchText({ sku, name, description, category }: Product): string {
  return [sku, name, category ?? '', description ?? ''].flatMap(searchWords).join(' ')
}
