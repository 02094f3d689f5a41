/** Carries out what fulfilment.ts and returns.ts decide: the row, the timers, what is told, what a person has to see. */
import type { Clock, EventType, TransactionContext } from '@shopsphere/bus'
import {
  orderDelivered,
  orderPartiallyShipped,
  orderShipped,
  returnApproved,
  returnClosed,
  returnReceived,
  returnRequested,
  shipmentCancellationRefused,
  shipmentCancelled,
  shipmentCreated,
  shipmentDelivered,
  shipmentDispatchDue,
  shipmentDispatched,
  shipmentException,
  shipmentInvestigationDue,
  shipmentPickingDue,
  shipmentReturned,
  shipmentTrackingDue,
  shipmentTrackingUpdated,
} from '@shopsphere/contracts'
import type { Log } from '@shopsphere/runtime/log'
import { type Command, decide, evolve, type Fact, type Fulfilment } from './fulfilment.ts'
import {
  addFulfilment,
  findFulfilment,
  type Stored,
  saveAddress,
  saveFulfilment,
  saveProblem,
  solveProblem,
} from './queries.ts'
import type { ReturnFact } from './returns.ts'

type Context = Pick<TransactionContext, 'tx' | 'publish' | 'cancel'>

export type Changes = {
  /** Decides, saves and tells; decides anew where somebody else was faster. Throws what `decide` throws. */
  change(context: Context, stored: Stored, command: Command): Promise<Stored>
  /** For an order without a row: false where it has one after all, and then nothing is told. */
  begin(context: Context, state: Fulfilment, command: Command): Promise<boolean>
}

const TRIES_MAX = 5

/** The durable timers of shipping, by name; the same name replaces. */
export const pickingTimer = (orderId: string) => `T4:${orderId}`
export const dispatchTimer = (shipmentId: string) => `T5:${shipmentId}`
export const silenceTimer = (shipmentId: string) => `T6:${shipmentId}`
export const newsTimer = (shipmentId: string) => `news:${shipmentId}`

const contracts: Readonly<Partial<Record<Fact['type'], EventType>>> = {
  'shipment.created': shipmentCreated,
  'shipment.dispatched': shipmentDispatched,
  'shipment.tracking_updated': shipmentTrackingUpdated,
  'shipment.delivered': shipmentDelivered,
  'shipment.exception': shipmentException,
  'shipment.returned': shipmentReturned,
  'shipment.cancelled': shipmentCancelled,
  'shipment.cancellation_refused': shipmentCancellationRefused,
  'order.partially_shipped': orderPartiallyShipped,
  'order.shipped': orderShipped,
  'order.delivered': orderDelivered,
}

const returnContracts: Readonly<Record<ReturnFact['type'], EventType>> = {
  'return.requested': returnRequested,
  'return.approved': returnApproved,
  'return.received': returnReceived,
  'return.closed': returnClosed,
}

export function tellReturn({ publish }: Pick<Context, 'publish'>, { type, data }: ReturnFact): void {
  publish(returnContracts[type], data)
}

export function createChanges(options: { clock: Clock; log: Log; carrierSilenceMs: number }): Changes {
  const { clock, log, carrierSilenceMs } = options

  async function follow(
    context: Context,
    before: Fulfilment,
    after: Fulfilment,
    facts: readonly Fact[],
  ): Promise<void> {
    for (const fact of facts) {
      const contract = contracts[fact.type]
      if (contract) context.publish(contract, fact.data)
      await arrange(context, before, fact)
    }
    await keepProblems(context, before, after)
    const isOver = after.status === 'delivered' || after.status === 'cancelled'
    if (after.forget && isOver && after.address !== null) await saveAddress(context.tx, { ...after, address: null })
    else if (after.address !== before.address) await saveAddress(context.tx, after)
  }

  /** Sets and calls off the timers that follow from a fact. */
  async function arrange({ publish, cancel }: Context, before: Fulfilment, fact: Fact): Promise<void> {
    const { orderId } = before
    switch (fact.type) {
      case 'news_expected': {
        const { shipmentId, at } = fact.data
        const later = at > clock.now() ? { at, id: newsTimer(shipmentId) } : {}
        publish(shipmentTrackingDue, { shipmentId, orderId }, later)
        return
      }
      case 'silence_watched': {
        const { shipmentId } = fact.data
        const silence = { delayMs: carrierSilenceMs, id: silenceTimer(shipmentId) }
        publish(shipmentInvestigationDue, { shipmentId, orderId }, silence)
        return
      }
      case 'silence_over':
        return cancel(silenceTimer(fact.data.shipmentId))
      case 'booking_postponed': {
        const { shipmentId, againAt, deadlineAt } = fact.data
        publish(shipmentPickingDue, { orderId }, { at: againAt, id: pickingTimer(orderId) })
        if (deadlineAt !== null)
          publish(shipmentDispatchDue, { shipmentId, orderId }, { at: deadlineAt, id: dispatchTimer(shipmentId) })
        return
      }
      case 'shipment.dispatched': {
        const { shipmentId } = fact.data
        const wasPostponed = before.parcels.some((parcel) => parcel.shipmentId === shipmentId && parcel.failures > 0)
        if (wasPostponed) await cancel(dispatchTimer(shipmentId))
        return
      }
      case 'parcel_repacked':
        publish(shipmentPickingDue, { orderId }, {})
        return
      case 'shipment.cancelled':
      case 'order_called_off':
        if (before.status === 'unknown' || before.status === 'cancelled') return
        await cancel(pickingTimer(orderId))
        for (const { shipmentId } of before.parcels) await cancel(dispatchTimer(shipmentId))
    }
  }

  /** The list of what a person has to look at. */
  async function keepProblems({ tx }: Context, before: Fulfilment, after: Fulfilment): Promise<void> {
    for (const parcel of after.parcels) {
      const { shipmentId } = parcel
      const known = before.parcels.find((other) => other.shipmentId === shipmentId)?.problem ?? null
      const problem = after.status === 'cancelled' ? null : parcel.problem
      if (problem === known) continue
      if (problem === null) await solveProblem(tx, shipmentId)
      else {
        const { orderId } = after
        log.warn({ orderId, shipmentId, problem }, 'a parcel waits for a person’s decision')
        await saveProblem(tx, { shipmentId, orderId, kind: problem, since: clock.now() })
      }
    }
  }

  return {
    async change(context, stored, command) {
      for (let tries = 1; ; tries++) {
        const { state, version } = stored
        const facts = decide(state, command)
        const after = facts.reduce(evolve, state)
        if (after === state || (await save(context, after, version))) {
          await follow(context, state, after, facts)
          return { state: after, version: after === state ? version : version + 1 }
        }
        const fresh = await findFulfilment(context.tx, state.orderId)
        if (!fresh || tries === TRIES_MAX) throw new Error(`${state.orderId} was changed ${tries} times meanwhile`)
        stored = fresh
      }
    },
    async begin(context, state, command) {
      const facts = decide(state, command)
      const after = facts.reduce(evolve, state)
      if (!(await addFulfilment(context.tx, after))) return false
      await follow(context, state, after, facts)
      return true
    },
  }
}

const save = ({ tx }: Context, state: Fulfilment, version: number) =>
  version === 0 ? addFulfilment(tx, state) : saveFulfilment(tx, state, version)
