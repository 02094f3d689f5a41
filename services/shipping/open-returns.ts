/** Makes returns of orders: the units are taken from what can still come back, and the first steps are told. */
import type { Reader, TransactionContext } from '@shopsphere/bus'
import { problem } from '@shopsphere/runtime/problem'
import { tellReturn } from './changes.ts'
import type { Fulfilment } from './fulfilment.ts'
import { addReturn, deliveredFulfilments, findFulfilment, type Stored, saveFulfilment } from './queries.ts'
import {
  type AskedLine,
  askBack,
  type Disposition,
  decideReturn,
  type Refusal,
  type ReturnCase,
  type ReturnLine,
  requestReturn,
  takeFrom,
  type Wanted,
  withAskedBack,
} from './returns.ts'

type Context = Pick<TransactionContext, 'tx' | 'publish'>

export type NewReturn = {
  returnId: string
  lines: readonly ReturnLine[]
  reason: string | null
  requestedBy: string | null
  at: number
  /** Not null: the goods are here, so it goes through approval and receipt at once. */
  received: Disposition | null
}

const PAGE_ORDERS = 50

/** Writes a return of `order` and tells its steps. */
export async function openReturn({ tx, publish }: Context, order: Fulfilment, request: NewReturn): Promise<ReturnCase> {
  const { received, at } = request
  let { goods, fact } = requestReturn({ ...request, order })
  tellReturn({ publish }, fact)
  if (received !== null) {
    for (const step of [
      { type: 'approve', order, at },
      { type: 'receive', disposition: received, lines: null, at },
    ] as const) {
      const next = decideReturn(goods, step)
      goods = next.goods
      if (next.fact) tellReturn({ publish }, next.fact)
    }
  }
  await addReturn(tx, goods)
  return goods
}

export type CustomerReturn = Omit<NewReturn, 'lines' | 'received'> & {
  orderId: string
  asked: readonly AskedLine[]
  windowMs: number | null
}

/** What a customer asks back of one order, whole or not at all. Throws the problem `nothing_to_return`. */
export async function returnOfOrder(context: Context, request: CustomerReturn): Promise<ReturnCase> {
  const { orderId, asked, at, windowMs } = request
  for (;;) {
    const stored = await findFulfilment(context.tx, orderId)
    if (!stored) throw new Error(`${orderId} has gone`)
    const { lines, refusals } = askBack(stored.state, asked, { at, windowMs })
    if (refusals.length > 0) throw notReturnable(refusals)
    if (await takeBack(context, stored, lines))
      return openReturn(context, stored.state, { ...request, lines, received: null })
  }
}

/** The row says from now on that the units were asked back; false: it was changed meanwhile. */
async function takeBack({ tx }: Context, { state, version }: Stored, lines: readonly ReturnLine[]): Promise<boolean> {
  return saveFulfilment(tx, withAskedBack(state, lines, 1), version)
}

export type MerchantReturn = Omit<NewReturn, 'lines' | 'returnId'> & {
  customerId: string
  asked: readonly { sku: string; quantity: number }[]
  newReturnId: () => string
}

/**
 * What a customer gives back to a merchant: up to so many units of each sku, of the newest order first, at the prices
 * paid. One return for each order that gives something; `lines`: what was found for each line asked, perhaps nothing.
 */
export async function returnOfCustomer(
  context: Context,
  request: MerchantReturn,
): Promise<{ returns: ReturnCase[]; lines: Wanted[] }> {
  let wanted: Wanted[] = request.asked.map(({ sku, quantity }) => ({ sku, quantity, units: 0, pence: 0 }))
  const returns: ReturnCase[] = []
  for await (const offered of newestFirst(context.tx, request.customerId)) {
    let stored: Stored | undefined = offered
    while (stored) {
      const taken = takeFrom(stored.state, wanted)
      if (taken.lines.length === 0) break
      if (await takeBack(context, stored, taken.lines)) {
        wanted = taken.wanted
        returns.push(
          await openReturn(context, stored.state, {
            ...request,
            returnId: request.newReturnId(),
            lines: taken.lines,
          }),
        )
        break
      }
      stored = await findFulfilment(context.tx, stored.state.orderId)
    }
    if (wanted.every(({ units, quantity }) => units === quantity)) break
  }
  return { returns, lines: wanted }
}

async function* newestFirst(reader: Reader, customerId: string): AsyncGenerator<Stored> {
  let beforeOrderId: string | null = null
  for (;;) {
    const page: Stored[] = await deliveredFulfilments(reader, customerId, { beforeOrderId, limit: PAGE_ORDERS })
    yield* page
    if (page.length < PAGE_ORDERS) return
    beforeOrderId = page.at(-1)!.state.orderId
  }
}

const why: Readonly<Record<Refusal['why'], string>> = {
  not_in_order: 'it is not part of the order',
  not_delivered: 'it has not been delivered',
  window_over: 'the time for returns is over',
  asked_already: 'it was given back before',
}

function notReturnable(refusals: readonly Refusal[]) {
  const first = refusals[0]!
  const what = first.lineNo === null ? `'${first.sku}'` : `line ${first.lineNo}`
  return problem(
    422,
    'nothing_to_return',
    `Of ${what} ${first.returnable} can still be given back, not ${first.quantity}: ${why[first.why]}.`,
    { lines: refusals },
  )
}
