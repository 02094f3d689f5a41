/**
 * What other programs and this one tell each other of new orders, in their words: one line of plain text on a queue, a topic
 * or a channel, or bare JSON on a queue.
 */
import type { Bus, DataOf, Endpoint, Message, Note } from '@shopsphere/bus'
import { foreignOrderCreated, orderPlaced } from '@shopsphere/contracts'
import { writeBareOrderEvent } from '../bare-order-event.ts'

type Place = { name: string; endpoint: Endpoint; prefetch?: number | undefined }
type Placed = Message<DataOf<typeof orderPlaced>>

/** `Order #123 created`, and nothing else. */
const CREATED = /^order #([\w.-]{1,64}) created[.!]?$/i
const TEXT_BYTES_MAX = 200

function readCreated({ body }: Note): { text: string; orderNumber: string } | null {
  if (body.length > TEXT_BYTES_MAX) return null
  const text = new TextDecoder().decode(body).trim()
  const orderNumber = CREATED.exec(text)?.[1]
  return orderNumber === undefined ? null : { text, orderNumber }
}

/** Their orders, as an event of ours that says where it came from. */
export function hearForeignOrders(bus: Bus, { name, endpoint, prefetch }: Place): void {
  bus.bridge<{ text: string; orderNumber: string }>({
    name,
    endpoint,
    receive: {
      ...(prefetch === undefined ? {} : { prefetch }),
      read(note) {
        const data = readCreated(note)
        return data && { data }
      },
      handle: (created, { publish }) => void publish(foreignOrderCreated, { ...created, from: endpoint.name }),
    },
  })
}

/** Our orders, as their line of text. */
export function tellOrdersAsText(bus: Bus, { name, endpoint }: Place): void {
  const write = ({ data }: Placed) => ({
    body: `Order #${data.orderId} created`,
    headers: { 'content-type': 'text/plain' },
  })
  bus.bridge({ name, endpoint, send: { topic: orderPlaced, write } })
}

/** Our orders, as their bare JSON; of an order without an e-mail address there is nothing to say. */
export function tellOrdersAsJson(bus: Bus, { name, endpoint }: Place): void {
  const write = ({ data: { orderId, email, placedAt } }: Placed) =>
    email === null ? null : writeBareOrderEvent({ orderId, email, placedAt })
  bus.bridge({ name, endpoint, send: { topic: orderPlaced, write } })
}
