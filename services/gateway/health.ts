import type { Transport, TransportState } from '@shopsphere/bus'
import type { Service } from '@shopsphere/runtime/service'

export type Readiness = {
  readonly ready: boolean
  readonly broker: { readonly name: string } & TransportState
  readonly services: readonly { readonly name: string; readonly ready: boolean }[]
  /** To programs of others: one that is away is no reason to take this process out of use, since its own work goes on. */
  readonly bridges: readonly { readonly name: string; readonly ready: boolean; readonly reason: string | null }[]
  /** Answered for elsewhere: no reason to take this process out of use. */
  readonly elsewhere: readonly string[]
}

/**
 * Ready: the broker is there, and every service of this process has its database, its outbox and its subscriptions. Nobody is
 * asked for it: a probe must not wait for a broker's answer, and the transport knows by itself how it stands.
 */
export function readinessOf(
  services: readonly Service[],
  transport: Transport,
  elsewhere: readonly string[],
): Readiness {
  const broker = { name: transport.name, ...transport.state() }
  const states = services.map(({ name, bus }) => ({ name, ready: bus.ready() }))
  const bridges = services.flatMap(({ bus }) => bus.bridges())
  return { ready: broker.ready && states.every(({ ready }) => ready), broker, services: states, bridges, elsewhere }
}
