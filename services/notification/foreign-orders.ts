/**
 * Orders that other programs take, and whose customers are told by us: each note on their queue is one confirmation. Their
 * orders are none of ours, so nothing else of the shop hears of them but that somebody was told.
 */
import { createHash } from 'node:crypto'
import type { Endpoint } from '@shopsphere/bus'
import { type BareOrderEvent, readBareOrderEvent } from '../bare-order-event.ts'
import { type NotificationParts, noteTold, settings, type Telling, tell } from './handlers.ts'
import type { Notification } from './queries.ts'
import { foreignOrderReceived } from './templates.ts'

/** One at a time, so that processes which share the queue share the work evenly, whoever is quicker. */
const PREFETCH = 1

const confirmation: Telling<BareOrderEvent> = {
  // The same order said again at another time is news; the same note again is not.
  step: ({ timestamp }) => `order_events:${timestamp}`,
  occasion: ({ order_id, customer_email }) => ({
    about: `foreign:${order_id}`,
    orderId: null,
    userId: null,
    email: customer_email,
  }),
  write: foreignOrderReceived,
  always: true,
}

/**
 * The same for the same note, and in the order of the times that they say: a UUID (RFC 9562, version 8) with the time first,
 * since what was told is listed by such ids.
 */
function idOf({ order_id, timestamp }: BareOrderEvent): string {
  const timeMs = Math.max(0, Date.parse(timestamp) || 0)
  const time = timeMs.toString(16).padStart(12, '0')
  const hash = createHash('sha256')
    .update(JSON.stringify([order_id, timestamp]))
    .digest('hex')
  return `${time.slice(0, 8)}-${time.slice(8)}-8${hash.slice(0, 3)}-8${hash.slice(3, 6)}-${hash.slice(6, 18)}`
}

export function confirmForeignOrders(
  { bus, ...parts }: NotificationParts,
  { name, endpoint, prefetch = PREFETCH }: { name: string; endpoint: Endpoint; prefetch?: number | undefined },
): void {
  bus.bridge<BareOrderEvent, Notification | null>({
    name,
    endpoint,
    receive: {
      ...settings,
      prefetch,
      read(note) {
        const order = readBareOrderEvent(note)
        return order && { data: order, id: idOf(order) }
      },
      handle: {
        outside: (order, asked) => tell(confirmation, order, { ...asked, ...parts }),
        handle: noteTold,
      },
    },
  })
}
