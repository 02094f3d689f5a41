/**
 * Services write one schema for both databases. What differs is put right here, in `create` and `alter` statements only:
 *
 *   text           → text collate "C", so that texts have the order of their bytes, as in SQLite
 *   integer, real  → bigint, double precision
 *   blob           → bytea
 *   without rowid  → nothing
 *
 * Quoted texts, quoted names and comments are left alone, and so is a column that has the name of a type.
 */
const PIECES = /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\bwithout\s+rowid\b|\b(text|integer|real|blob)\b/gi

const TYPES: Readonly<Record<string, string>> = {
  text: 'text collate "C"',
  integer: 'bigint',
  real: 'double precision',
  blob: 'bytea',
}

export function ddlForPostgres(ddl: string): string {
  return ddl.replace(PIECES, (piece, type: string | undefined, offset: number) => {
    if (type !== undefined) {
      const isName = /(^|[(,])\s*$/.test(withoutComments(ddl.slice(Math.max(0, offset - 200), offset)))
      return isName ? piece : TYPES[type.toLowerCase()]!
    }
    return /^without/i.test(piece) ? '' : piece
  })
}

export const isDdl = (text: string) => /^\s*(create|alter)\b/i.test(text)

const withoutComments = (text: string) => text.replace(/--[^\n]*(\n|$)/g, '\n')
