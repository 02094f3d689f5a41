import type { Transport } from '@shopsphere/bus'
import type { Service } from '@shopsphere/runtime/service'

const BROKER_TIMEOUT_MS = 1_000

export type Readiness = {
  readonly ready: boolean
  readonly broker: { readonly name: string; readonly ready: boolean }
  readonly services: readonly { readonly name: string; readonly ready: boolean }[]
  /** To programs of others: one that is away is no reason to take this process out of use, since its own work goes on. */
  readonly bridges: readonly { readonly name: string; readonly ready: boolean; readonly reason: string | null }[]
  /** Answered for elsewhere: no reason to take this process out of use. */
  readonly elsewhere: readonly string[]
}

/** Ready: the broker answers, and every service of this process has its database, its outbox and its subscriptions. */
export async function readinessOf(
  services: readonly Service[],
  transport: Transport,
  elsewhere: readonly string[],
): Promise<Readiness> {
  const broker = { name: transport.name, ready: await answers(transport) }
  const states = services.map(({ name, bus }) => ({ name, ready: bus.ready() }))
  const bridges = services.flatMap(({ bus }) => bus.bridges())
  return { ready: broker.ready && states.every(({ ready }) => ready), broker, services: states, bridges, elsewhere }
}

async function answers(transport: Transport): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, BROKER_TIMEOUT_MS, false)
  })
  const asked = transport.subscriptions().then(
    () => true,
    () => false,
  )
  const answer = await Promise.race([asked, late])
  clearTimeout(timer)
  return answer
}
