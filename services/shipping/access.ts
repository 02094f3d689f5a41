import { hasRole } from '@shopsphere/runtime/auth'
import { problem } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Context } from 'hono'
import { Contradiction } from './fulfilment.ts'

/** A merchant, an operator, or the buyer; a guest's order belongs to whoever knows its id, which cannot be guessed. */
export function mayRead(c: Context<ApiEnv>, { customerId }: { customerId: string | null }): boolean {
  return customerId === null || c.var.caller?.userId === customerId || hasRole(c, 'merchant', 'operator')
}

/** Runs a person's command: one that does not fit what has happened is answered 409. */
export async function answering<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof Contradiction) throw problem(409, 'conflict', error.message)
    throw error
  }
}
