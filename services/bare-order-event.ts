/** What small programs say of an order, as bare JSON: `{"order_id", "customer_email", "timestamp"}`. */
import type { Note, Outgoing } from '@shopsphere/bus'
import { z } from 'zod'

/** Theirs, not ours: they spell it so, and may count orders by numbers and time by seconds. */
const bareOrderEvent = z.object({
  order_id: z.union([z.string().min(1).max(64), z.int()]).transform(String),
  customer_email: z.email().max(254),
  timestamp: z.union([z.string().min(1).max(40), z.number()]).transform(String),
})

export type BareOrderEvent = z.infer<typeof bareOrderEvent>

/** Null: it is no JSON, or no such event. */
export function readBareOrderEvent({ body }: Note): BareOrderEvent | null {
  try {
    return bareOrderEvent.parse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body)))
  } catch {
    return null
  }
}

export function writeBareOrderEvent(order: { orderId: string; email: string; placedAt: number }): Outgoing {
  const timestamp = new Date(order.placedAt).toISOString()
  const body = JSON.stringify({ order_id: order.orderId, customer_email: order.email, timestamp })
  return { body, headers: { 'content-type': 'application/json' } }
}
