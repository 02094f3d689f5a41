/** Bugs that a transport could have; the fault suite must catch each (fault-suite.test.ts). */
import type { Delivery, Transport } from '../transport.ts'
import { through } from './fault-stage.ts'

/** Milliseconds after which an acknowledgement stands on the broker. */
const WRITTEN_DOWN_MS = 150

export const bugs = {
  /** The broker forgets what is only handed over. */
  'ack before commit': (transport) =>
    through(transport, {
      async consume(name, options) {
        const consumer = await transport.consume(name, {
          ...options,
          receive(deliveries) {
            consumer.ack(deliveries)
            setTimeout(() => options.receive(deliveries), WRITTEN_DOWN_MS)
          },
        })
        return { ack() {}, close: () => consumer.close() }
      },
    }),

  /** Who lost a share is not told, and cannot be told from who has it. */
  'no fencing': (transport) =>
    through(transport, {
      async consume(name, { windowMax, receive }) {
        const originals = new WeakMap<Delivery, Delivery>()
        const consumer = await transport.consume(name, {
          windowMax,
          receive: (deliveries) =>
            receive(
              deliveries.map((delivery) => {
                const unfenced = { ...delivery, lease: { ...delivery.lease, epoch: 1 } }
                originals.set(unfenced, delivery)
                return unfenced
              }),
            ),
        })
        return {
          ack: (deliveries) => consumer.ack(deliveries.map((delivery) => originals.get(delivery)!)),
          close: () => consumer.close(),
        }
      },
    }),

  /** A message that its process died of looks like any other. */
  'no suspicion': (transport) =>
    through(transport, {
      async consume(name, options) {
        const originals = new WeakMap<Delivery, Delivery>()
        const consumer = await transport.consume(name, {
          ...options,
          receive: (deliveries) =>
            options.receive(
              deliveries.map((delivery) => {
                const innocent = { ...delivery, redelivered: false }
                originals.set(innocent, delivery)
                return innocent
              }),
            ),
        })
        return {
          ack: (deliveries) => consumer.ack(deliveries.map((delivery) => originals.get(delivery)!)),
          close: () => consumer.close(),
        }
      },
    }),

  /** Published means sent. */
  'no confirmation': (transport) =>
    through(transport, {
      publish: async (messages) => {
        await Promise.race([transport.publish(messages).catch(() => {}), Promise.resolve()])
      },
    }),
} satisfies Record<string, (transport: Transport) => Transport>

export type Bug = keyof typeof bugs

export const planted = (transport: Transport, bug: string | undefined): Transport =>
  bug === undefined ? transport : bugs[bug as Bug](transport)
