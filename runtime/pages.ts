import { z } from '@hono/zod-openapi'
import { problem } from './problem.ts'

/**
 * Lists are read by cursor: `?cursor=&limit=`. A cursor is opaque to the caller; inside is the position of the last item
 * given, so that what is added or removed meanwhile neither repeats nor hides an item.
 */

export const PAGE_LIMIT_MAX = 200
const PAGE_LIMIT_DEFAULT = 50
const CURSOR_LENGTH_MAX = 1024

/** For `request: { query: pageQuery }`; extend it with the list's own filters. */
export const pageQuery = z.object({
  cursor: z.string().max(CURSOR_LENGTH_MAX).optional().openapi({ description: 'nextCursor of the page before' }),
  limit: z.coerce.number().int().min(1).max(PAGE_LIMIT_MAX).default(PAGE_LIMIT_DEFAULT),
})

/** The answer's schema: items, and the cursor of the next page or null. */
export const pageOf = <Item extends z.ZodType>(item: Item) =>
  z.object({ items: z.array(item), nextCursor: z.string().nullable() })

export type Page<Item> = { items: Item[]; nextCursor: string | null }

export function encodeCursor(position: unknown): string {
  return Buffer.from(JSON.stringify(position)).toString('base64url')
}

/** The position inside, or undefined without a cursor. Throws the problem `invalid_cursor` where it does not match `schema`. */
export function decodeCursor<Position>(schema: z.ZodType<Position>, cursor: string | undefined): Position | undefined {
  if (cursor === undefined) return undefined
  const read = schema.safeParse(parse(Buffer.from(cursor, 'base64url').toString()))
  if (read.success) return read.data
  throw problem(400, 'invalid_cursor', 'Send the nextCursor of the page before as it was, or none for the first page.')
}

/** Makes a page of `limit` rows out of up to `limit + 1` that were read; the one too many says that there is a next page. */
export function page<Row, Item>(
  rows: readonly Row[],
  limit: number,
  { item, position }: { item: (row: Row) => Item; position: (row: Row) => unknown },
): Page<Item> {
  const shown = rows.slice(0, limit)
  return { items: shown.map(item), nextCursor: rows.length > limit ? encodeCursor(position(shown.at(-1)!)) : null }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
