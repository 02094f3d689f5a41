/**
 * A bridge lets the notes of foreign programs in as if they were messages, or lets events of ours out as such notes.
 *
 * G1 Inbound, the endpoint is the broker of a subscription: inbox mark, effects and publications commit together, a failure
 *    is tried again, and only then is the note settled. So everything the consumer promises holds from the note on.
 * G2 A repeat is known by the id that its reading or its author gives. Without one it is handled again: at least once.
 * G3 A note that the bridge does not understand is a dead letter with its bytes, and is then refused: its broker does with
 *    it what its own people want done. Edited or read by a newer release, it can be redriven.
 * G4 Outbound, an event is acknowledged only after the foreign broker has confirmed its note; while that is away, it waits.
 *    A process that dies between the two sends it again, under the same id.
 */
import type { Topic } from './bus.ts'
import type { Clock } from './clock.ts'
import type { ConsumerOptions, Handler, SubscribeOptions } from './consumer.ts'
import type { Arrival, Endpoint, Note } from './endpoint.ts'
import { PermanentError } from './errors.ts'
import type { Limits } from './limits.ts'
import type { Message, WireMessage } from './message.ts'
import type { Delivery, Lease } from './transport.ts'

/** A note that was understood. */
export type Reading<Data> = {
  readonly data: Data
  /** By which a repeat is known, where the note itself says it; by default its author's id, if it has one. */
  readonly id?: string
  /** Notes of one key are handled in order; by default the broker's key. */
  readonly key?: string | null
}

export type Bridge<Data = unknown, Answer = void> = {
  /** Unique among the service's subscriptions; its dead letters stand under it. */
  readonly name: string
  readonly endpoint: Endpoint
  readonly receive?: Omit<SubscribeOptions, 'name' | 'from' | 'ephemeral'> & {
    /** What a note means; null: it is not understood (G3). Pure: it may be asked more than once. */
    readonly read: (note: Note) => Reading<Data> | null
    /** As any handler; what it publishes is caused by nobody here. */
    readonly handle: Handler<Data, Answer>
    /** Notes in hand at the same time; by default windowMax. */
    readonly prefetch?: number
  }
  readonly send?: Omit<SubscribeOptions, 'name'> & {
    readonly topic: Topic
    /** What an event is to the foreign program; null: nothing. */
    readonly write: (message: Message<any>) => Outgoing | null
  }
}

export type Outgoing = {
  readonly body: string | Uint8Array
  readonly headers?: Readonly<Record<string, string>>
  readonly key?: string | null
}

/** What the broker takes back when a connection is lost is dropped with its lease, since it comes again (G1). */
const CONNECTIONS_MAX = 1_024

/** The endpoint as the broker of one subscription, and how its notes become messages. */
export function bridgeSource<Data>(given: {
  name: string
  endpoint: Endpoint
  receive: NonNullable<Bridge<Data, any>['receive']>
  newId: () => string
  clock: Clock
  limits: Limits
}): Required<Pick<ConsumerOptions, 'transport' | 'decodeForeign'>> {
  const { name, endpoint, receive, newId, clock, limits } = given
  // Nobody is fenced off, so the epoch never grows: the foreign broker deals out its notes one by one, to whoever is there.
  let lease: Lease = { shard: 0, epoch: 0 }
  const arrivals = new WeakMap<Delivery, { arrival: Arrival; understood: boolean }>()

  function toDelivery(arrival: Arrival): Delivery {
    const reading = readSafely(receive.read, arrival)
    const { headers, body } = arrival
    const key = reading?.key === undefined ? arrival.key : reading.key
    const message: WireMessage = { id: reading?.id ?? arrival.id ?? newId(), type: name, key, headers, body }
    const delivery = { message, lease, redelivered: arrival.redelivered }
    arrivals.set(delivery, { arrival, understood: reading !== null })
    return delivery
  }

  return {
    transport: {
      name: endpoint.name,
      declare: async () => {}, // the endpoint did when it was opened
      async consume(_, { windowMax, receive: take, revoked }) {
        await endpoint.receive({
          name,
          windowMax,
          receive: (arrived) => take(arrived.map(toDelivery)),
          lost() {
            revoked?.(lease)
            lease = { shard: (lease.shard + 1) % CONNECTIONS_MAX, epoch: 0 }
          },
        })
        return {
          ack(deliveries) {
            for (const delivery of deliveries) {
              const { arrival, understood } = arrivals.get(delivery)!
              endpoint.settle(arrival, understood ? 'taken' : 'refused') // G1, G3
            }
          },
          close: async () => {}, // the bus closes the endpoint when everything that leads over it has ended
        }
      },
      backlog: async () => ({ waiting: await endpoint.waiting(), oldestAt: null }),
    },
    decodeForeign({ id, key, headers, body }) {
      const bytes = asBuffer(body)
      if (bytes.length > limits.messageBytesMax) {
        const why = `${bytes.length} bytes came from ${endpoint.name}; messageBytesMax is ${limits.messageBytesMax}`
        throw new PermanentError(why, { code: 'message_too_large' })
      }
      const reading = receive.read({ body: bytes, headers, id, key })
      if (reading === null) {
        // Without its text: what is not understood for one reason is one group of dead letters.
        throw new PermanentError(`'${name}' does not understand what came from ${endpoint.name}`, {
          code: 'undecodable',
        })
      }
      const { traceparent = null } = headers
      const origin = { source: endpoint.name, time: clock.now(), correlationId: id, causationId: null, traceparent }
      return { id, type: name, version: 1, key, headers, data: reading.data, ...origin }
    },
  }
}

/** G4. */
export function sendOver(endpoint: Endpoint, write: NonNullable<Bridge['send']>['write']): Handler<unknown, void> {
  return {
    async outside(_, { message }) {
      const outgoing = write(message)
      if (outgoing === null) return
      const { body, headers = {}, key = message.key } = outgoing
      await endpoint.send({ body: asBuffer(body), headers, key, id: message.id })
    },
    handle: () => {},
  }
}

const asBuffer = (body: string | Uint8Array) => Buffer.from(body as Uint8Array)

/** A reading that throws is found again, with its reason, when the note is decoded. */
function readSafely<Data>(read: (note: Note) => Reading<Data> | null, note: Note): Reading<Data> | null {
  try {
    return read(note)
  } catch {
    return null
  }
}
