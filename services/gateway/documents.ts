/** /openapi.json and /asyncapi.json: one document each, whatever runs where. */
import type { Clock } from '@shopsphere/bus'
import type { Api } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'

export const API_VERSION = '1.0.0'
const REMOTE_KEPT_MS = 60_000
const REMOTE_TIMEOUT_MS = 2_000

type Json = { readonly [name: string]: unknown }
export type Openapi = Json & { readonly paths?: Json; readonly components?: Json & { readonly schemas?: Json } }
export type NamedDocument = { readonly name: string; readonly document: Openapi }

export function documentOf(routes: Api): Openapi {
  const info = { title: 'ShopSphere', version: API_VERSION }
  return routes.getOpenAPI31Document({ openapi: '3.1.0', info }) as unknown as Openapi
}

/**
 * All paths in one document. Two services may give a schema the same name: where they mean the same, one is kept; where
 * not, the later one gets its service's name in front.
 */
export function mergeOpenapi(documents: readonly NamedDocument[]): Openapi {
  const paths: Record<string, Json> = {}
  const schemas: Record<string, unknown> = {}
  for (const { name, document } of documents) {
    const renamed = mergeSchemas(schemas, name, document.components?.schemas ?? {})
    for (const [path, operations] of Object.entries(withRefs(document.paths ?? {}, renamed) as Json)) {
      paths[path] = { ...paths[path], ...(operations as Json) }
    }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'ShopSphere',
      version: API_VERSION,
      description:
        'The shop’s HTTP API. Orders are taken at once (202) and move on by events: see /asyncapi.json. Money is in whole pence. Errors are RFC 9457 problem+json; programs branch on `code`.',
    },
    paths: Object.fromEntries(Object.entries(paths).sort(([one], [other]) => (one < other ? -1 : 1))),
    components: {
      schemas,
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'From POST /api/sessions' },
      },
    },
  }
}

/** Adds to `schemas`; answers which names had to become others. */
function mergeSchemas(schemas: Record<string, unknown>, service: string, added: Json): Map<string, string> {
  const clashing = Object.keys(added).filter(
    (name) => name in schemas && JSON.stringify(schemas[name]) !== JSON.stringify(added[name]),
  )
  const renamed = new Map(clashing.map((name) => [name, `${service}.${name}`]))
  for (const [name, schema] of Object.entries(added)) schemas[renamed.get(name) ?? name] = withRefs(schema, renamed)
  return renamed
}

const SCHEMA_REF = '#/components/schemas/'

function withRefs(value: unknown, renamed: ReadonlyMap<string, string>): unknown {
  if (renamed.size === 0 || typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((item) => withRefs(item, renamed))
  return Object.fromEntries(
    Object.entries(value).map(([name, inside]) => {
      if (name !== '$ref' || typeof inside !== 'string' || !inside.startsWith(SCHEMA_REF))
        return [name, withRefs(inside, renamed)]
      const target = inside.slice(SCHEMA_REF.length)
      return [name, SCHEMA_REF + (renamed.get(target) ?? target)]
    }),
  )
}

/**
 * The documents of processes elsewhere. One that cannot be had is left out, or stays as it was: a description is no
 * reason to fail.
 */
export function createRemoteDocuments({
  origins,
  clock,
  log,
}: {
  origins: ReadonlyMap<string, string>
  clock: Clock
  log: Log
}): () => Promise<NamedDocument[]> {
  const kept = new Map<string, { document: Openapi; until: number }>()

  async function read(name: string, origin: string): Promise<NamedDocument[]> {
    const known = kept.get(origin)
    if (known && known.until > clock.now()) return [{ name, document: known.document }]
    try {
      const url = `${origin}/openapi.json?scope=local`
      const response = await fetch(url, { signal: AbortSignal.timeout(REMOTE_TIMEOUT_MS) })
      if (!response.ok) throw new Error(`${url} answered ${response.status}`)
      const document = (await response.json()) as Openapi
      kept.set(origin, { document, until: clock.now() + REMOTE_KEPT_MS })
      return [{ name, document }]
    } catch (error) {
      log.warn({ err: error, service: name }, 'the API description of a service elsewhere cannot be had now')
      return known ? [{ name, document: known.document }] : []
    }
  }

  return async () => {
    // Several services may run in one process: its document is asked for once.
    const byOrigin = new Map([...origins].map(([name, origin]) => [origin, name]))
    return (await Promise.all([...byOrigin].map(([origin, name]) => read(name, origin)))).flat()
  }
}
