/** A schema for each service of a test's world on a PostgreSQL server that others use too, dropped when the world ends. */
import { Client } from 'pg'
import type { Store } from '../store.ts'
import { type PostgresStoreOptions, postgresStore } from '../stores/postgres.ts'
import type { World } from './world.ts'

/** Another store on the schema that belongs to `name` in this world. */
export function postgresIn(world: World, url: string, name = 'store', options: PostgresStoreOptions = {}): Store {
  const schema = `${world.name}_${name}`
  world.share(`schema ${schema}`, () => world.defer(() => dropSchemas([schema], url)))
  return postgresStore(url, { schema, ...options })
}

export async function dropSchemas(schemas: readonly string[], url: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    for (const schema of schemas) await client.query(`drop schema if exists "${schema}" cascade`)
  } finally {
    await client.end()
  }
}

/** Names of the schemas that begin so. */
export async function schemasBehind(prefix: string, url: string): Promise<string[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    const { rows } = await client.query('select nspname from pg_namespace where starts_with(nspname, $1)', [prefix])
    return rows.map(({ nspname }) => nspname)
  } finally {
    await client.end()
  }
}
