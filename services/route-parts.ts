/** Pieces of the services' OpenAPI routes. */
import type { z } from '@hono/zod-openapi'

type Security = Record<string, string[]>[]

/** For routes that read who asks; without a token they answer 401. */
export const signedIn: Security = [{ bearer: [] }]
/** For routes where a token is welcome and not needed. */
export const signedInOrNot: Security = [{ bearer: [] }, {}]

export const json = <Schema extends z.ZodType>(description: string, schema: Schema) => ({
  description,
  content: { 'application/json': { schema } },
})

export const body = <Schema extends z.ZodType>(schema: Schema) => ({
  required: true,
  content: { 'application/json': { schema } },
})
