import { BusError } from './errors.ts'
import { type Sql, type SqlList, type SqlValue, sql } from './sql.ts'

/** The name of a table, made from names in code; the only thing besides parameters that `tableSql` takes. */
export class TableName {
  readonly name: string

  constructor(name: string) {
    if (!/^[a-z][a-z0-9_]{0,62}$/.test(name)) {
      throw new BusError('invalid_argument', `table '${name}': write lower-case letters, digits and _, 63 at most`)
    }
    this.name = name
  }
}

/** Names of generations come and go; the statements of older ones are forgotten. */
const NAMES_PER_TEMPLATE_MAX = 16
const written = new WeakMap<TemplateStringsArray, Map<string, TemplateStringsArray>>()

/**
 * As `sql`, and takes table names that are known only when it runs: tableSql`select day from ${table('sales')}`.
 * The same template with the same names keeps its identity, so a store prepares it once.
 */
export function tableSql(strings: TemplateStringsArray, ...values: (SqlValue | SqlList | TableName)[]): Sql {
  const names: string[] = []
  const parameters: (SqlValue | SqlList)[] = []
  for (const value of values) {
    if (value instanceof TableName) names.push(value.name)
    else parameters.push(value)
  }
  return sql(templateFor(strings, values, names.join(' ')), ...parameters)
}

/** A statement of code without parameters, such as DDL. */
export function statement(text: string): Sql {
  return sql(templateOf([text]))
}

function templateFor(strings: TemplateStringsArray, values: readonly unknown[], names: string): TemplateStringsArray {
  const byNames = written.get(strings) ?? new Map<string, TemplateStringsArray>()
  written.set(strings, byNames)
  const known = byNames.get(names)
  if (known) return known
  if (byNames.size >= NAMES_PER_TEMPLATE_MAX) byNames.clear()
  const template = writeNames(strings, values)
  byNames.set(names, template)
  return template
}

function writeNames(strings: TemplateStringsArray, values: readonly unknown[]): TemplateStringsArray {
  const parts = [strings[0]!]
  values.forEach((value, index) => {
    const next = strings[index + 1]!
    if (value instanceof TableName) parts[parts.length - 1] += value.name + next
    else parts.push(next)
  })
  return templateOf(parts)
}

function templateOf(parts: string[]): TemplateStringsArray {
  return Object.freeze(Object.assign([...parts], { raw: Object.freeze(parts) }))
}
