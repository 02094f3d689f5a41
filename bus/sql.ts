/** What a column can hold, in and out. Times are milliseconds since the epoch, booleans are 0 and 1. */
export type SqlValue = string | number | bigint | null | Uint8Array

/** A statement and its parameters. `strings` keeps its identity from call to call, so a store prepares it once. */
export type Sql = { readonly strings: TemplateStringsArray; readonly values: readonly (SqlValue | SqlList)[] }

/** The parameters of an `in (…)`; never empty strings of SQL, always parameters. */
export class SqlList {
  readonly values: readonly SqlValue[]
  constructor(values: readonly SqlValue[]) {
    this.values = values
  }
}

/**
 * Tags a statement: every `${value}` becomes a parameter, so nothing can be injected.
 * Write the SQL that SQLite and PostgreSQL share (`on conflict`, `returning`, `limit`).
 */
export function sql(strings: TemplateStringsArray, ...values: (SqlValue | SqlList)[]): Sql {
  return { strings, values }
}

/** `where id in ${list(ids)}`; an empty list matches nothing. */
export function list(values: readonly SqlValue[]): SqlList {
  return new SqlList(values)
}
