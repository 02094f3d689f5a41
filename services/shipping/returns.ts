/**
 * What customers give back: which units still can be, at which price, and how far a return is. Pure.
 *
 * A unit can come back when its parcel was delivered and nobody asked it back before; a return that is refused sets its
 * units free again.
 */
import type { DataOf } from '@shopsphere/bus'
import type { PartLine, returnApproved, returnClosed, returnReceived, returnRequested } from '@shopsphere/contracts'
import { Contradiction, type Fulfilment } from './fulfilment.ts'
import { unitsOf } from './packing.ts'

export const returnStates = ['requested', 'approved', 'rejected', 'received', 'closed'] as const
export const dispositions = ['restock', 'write_off'] as const
export type Disposition = (typeof dispositions)[number]
export type Outcome = DataOf<typeof returnClosed>['outcome']

/** `disposition`: null until it is received; `reason`: the customer's own words. */
export type ReturnLine = PartLine & { readonly disposition: Disposition | null; readonly reason: string | null }

export type ReturnCase = {
  readonly returnId: string
  readonly orderId: string
  readonly customerId: string | null
  readonly state: (typeof returnStates)[number]
  readonly outcome: Outcome | null
  readonly lines: readonly ReturnLine[]
  /** At the prices paid. */
  readonly refundPence: number
  /** Why it was asked for; once refused, why it was refused. */
  readonly reason: string | null
  readonly requestedAt: number
  readonly requestedBy: string | null
  readonly changedAt: number
}

/** Names a line of the order, or a sku: then all of the order's lines with it, the first one first. */
export type AskedLine = {
  readonly lineNo?: number | undefined
  readonly sku?: string | undefined
  readonly quantity: number
  readonly reason?: string | null | undefined
}

export type Refusal = {
  readonly lineNo: number | null
  readonly sku: string | null
  readonly quantity: number
  /** Units that could be given back. */
  readonly returnable: number
  readonly why: 'not_in_order' | 'not_delivered' | 'window_over' | 'asked_already'
}

const REASON_CHARACTERS_MAX = 500

/** Units of each line of the order that its delivered parcels brought. */
function deliveredUnits({ parcels }: Fulfilment): Map<number, number> {
  const units = new Map<number, number>()
  for (const { status, lines } of parcels) {
    if (status !== 'delivered') continue
    for (const { lineNo, quantity } of lines) units.set(lineNo, (units.get(lineNo) ?? 0) + quantity)
  }
  return units
}

/** The order's lines, each with the units that still can be asked back. */
export function returnableLines(order: Fulfilment): PartLine[] {
  const delivered = deliveredUnits(order)
  return order.lines.map((line) => ({
    ...line,
    quantity: Math.max(0, (delivered.get(line.lineNo) ?? 0) - (order.askedBack[line.lineNo] ?? 0)),
  }))
}

/**
 * What a customer asks back of one order: all of it, or nothing and why. `windowMs`: T7, which begins when the whole
 * order has arrived; null: no window, a merchant takes back what they like.
 */
export function askBack(
  order: Fulfilment,
  asked: readonly AskedLine[],
  { at, windowMs }: { at: number; windowMs: number | null },
): { lines: ReturnLine[]; refusals: Refusal[] } {
  const windowIsOver = windowMs !== null && order.deliveredAt !== null && at > order.deliveredAt + windowMs
  const delivered = deliveredUnits(order)
  const left = returnableLines(order).map((line) => ({ ...line }))
  const lines = new Map<number, ReturnLine>()
  const refusals: Refusal[] = []
  for (const { lineNo, sku, quantity, reason = null } of asked) {
    const meant = left.filter((line) => (lineNo === undefined || line.lineNo === lineNo) && (!sku || line.sku === sku))
    const returnable = windowIsOver ? 0 : unitsOf(meant)
    if (quantity > returnable) {
      const arrived = meant.reduce((units, line) => units + (delivered.get(line.lineNo) ?? 0), 0)
      const why =
        meant.length === 0
          ? 'not_in_order'
          : windowIsOver
            ? 'window_over'
            : quantity > arrived
              ? 'not_delivered'
              : 'asked_already'
      refusals.push({ lineNo: lineNo ?? null, sku: sku ?? null, quantity, returnable, why })
      continue
    }
    for (const taken of take(meant, quantity)) addTo(lines, { ...taken, disposition: null, reason })
  }
  return { lines: refusals.length > 0 ? [] : [...lines.values()], refusals }
}

/** What one line of a merchant's return asks, and what was found for it so far. */
export type Wanted = { readonly sku: string; readonly quantity: number; readonly units: number; readonly pence: number }

/**
 * Takes from one order what is wanted and not found yet, line by line of the wish, in the order of the order's lines.
 * Offer the newest order first, then older ones with the `wanted` of the answer, until nothing is wanted any more.
 */
export function takeFrom(order: Fulfilment, wanted: readonly Wanted[]): { lines: ReturnLine[]; wanted: Wanted[] } {
  const left = returnableLines(order).map((line) => ({ ...line }))
  const lines = new Map<number, ReturnLine>()
  const found = wanted.map((wish) => {
    const meant = left.filter(({ sku }) => sku === wish.sku)
    const taken = take(meant, wish.quantity - wish.units)
    for (const line of taken) addTo(lines, { ...line, disposition: null, reason: null })
    return { ...wish, units: wish.units + unitsOf(taken), pence: wish.pence + penceOf(taken) }
  })
  return { lines: [...lines.values()], wanted: found }
}

/** Up to `wanted` units of `lines`, which are left with so many fewer. */
function take(lines: readonly PartLine[], wanted: number): PartLine[] {
  const taken: PartLine[] = []
  let missing = wanted
  for (const line of lines) {
    const quantity = Math.min(line.quantity, missing)
    if (quantity <= 0) continue
    taken.push({ ...line, quantity })
    line.quantity -= quantity
    missing -= quantity
  }
  return taken
}

function addTo(lines: Map<number, ReturnLine>, line: ReturnLine): void {
  const known = lines.get(line.lineNo)
  lines.set(line.lineNo, known ? { ...known, quantity: known.quantity + line.quantity } : line)
}

export function penceOf(lines: readonly PartLine[]): number {
  return lines.reduce((sum, { quantity, unitPence }) => sum + quantity * unitPence, 0)
}

/** The order with these units asked back, or with `sign` −1 set free again. */
export function withAskedBack(order: Fulfilment, lines: readonly PartLine[], sign: 1 | -1): Fulfilment {
  const askedBack: Record<number, number> = { ...order.askedBack }
  for (const { lineNo, quantity } of lines) {
    const units = (askedBack[lineNo] ?? 0) + sign * quantity
    if (units > 0) askedBack[lineNo] = units
    else delete askedBack[lineNo]
  }
  return { ...order, askedBack }
}

export type ReturnRequest = {
  readonly returnId: string
  readonly order: Fulfilment
  readonly lines: readonly ReturnLine[]
  readonly reason: string | null
  readonly requestedBy: string | null
  readonly at: number
}

export type ReturnCommand =
  | { readonly type: 'approve'; readonly order: Fulfilment; readonly at: number }
  | {
      readonly type: 'receive'
      readonly disposition: Disposition
      /** What really came, where that is less than what was announced or not all alike. */
      readonly lines: readonly { lineNo: number; quantity: number; disposition: Disposition }[] | null
      readonly at: number
    }
  | {
      readonly type: 'close'
      readonly order: Fulfilment
      readonly outcome: Outcome
      readonly reason: string | null
      readonly at: number
    }

export type ReturnFact =
  | { readonly type: 'return.requested'; readonly data: DataOf<typeof returnRequested> }
  | { readonly type: 'return.approved'; readonly data: DataOf<typeof returnApproved> }
  | { readonly type: 'return.received'; readonly data: DataOf<typeof returnReceived> }
  | { readonly type: 'return.closed'; readonly data: DataOf<typeof returnClosed> }

export type Decided = {
  readonly goods: ReturnCase
  /** Null: nothing has changed, the command came a second time. */
  readonly fact: ReturnFact | null
}

export function requestReturn(request: ReturnRequest): Decided & { readonly fact: ReturnFact } {
  const { returnId, order, lines, reason, requestedBy, at } = request
  const { orderId, customerId } = order
  const reasons = reason === null ? [] : [reason]
  for (const line of lines) if (line.reason !== null && !reasons.includes(line.reason)) reasons.push(line.reason)
  const told = reasons.join('; ').slice(0, REASON_CHARACTERS_MAX) || null
  const goods: ReturnCase = {
    returnId,
    orderId,
    customerId,
    state: 'requested',
    outcome: null,
    lines,
    refundPence: penceOf(lines),
    reason: told,
    requestedAt: at,
    requestedBy,
    changedAt: at,
  }
  const data = {
    returnId,
    orderId,
    customerId,
    lines: lines.map(partOf),
    reason: told,
    requestedBy,
    requestedAt: at,
  }
  return { goods, fact: { type: 'return.requested', data } }
}

/** The next step of a return. A repeat changes nothing; throws Contradiction for a step that cannot follow. */
export function decideReturn(goods: ReturnCase, command: ReturnCommand): Decided {
  switch (command.type) {
    case 'approve':
      return approve(goods, command)
    case 'receive':
      return receive(goods, command)
    case 'close':
      return close(goods, command)
  }
}

type CommandOf<Type extends ReturnCommand['type']> = Extract<ReturnCommand, { type: Type }>

const partOf = ({ lineNo, sku, quantity, unitPence }: PartLine): PartLine => ({ lineNo, sku, quantity, unitPence })

function approve(goods: ReturnCase, { order, at }: CommandOf<'approve'>): Decided {
  if (goods.state === 'rejected' || goods.outcome === 'not_received')
    throw new Contradiction('The return was refused: the customer may ask for a new one.')
  if (goods.state !== 'requested') return { goods, fact: null }
  const { returnId, orderId, customerId, lines } = goods
  return {
    goods: { ...goods, state: 'approved', changedAt: at },
    fact: {
      type: 'return.approved',
      data: { returnId, orderId, customerId, email: order.email, lines: lines.map(partOf) },
    },
  }
}

function receive(goods: ReturnCase, { disposition, lines: came, at }: CommandOf<'receive'>): Decided {
  if (goods.state === 'received' || goods.outcome === 'refunded') return { goods, fact: null }
  if (goods.state !== 'approved')
    throw new Contradiction(`The return is ${goods.state}: approve it before goods come in.`)
  const lines = came === null ? goods.lines.map((line) => ({ ...line, disposition })) : whatCame(goods, came)
  const { returnId, orderId, customerId } = goods
  const refundPence = penceOf(lines)
  return {
    goods: { ...goods, state: 'received', lines, refundPence, changedAt: at },
    fact: {
      type: 'return.received',
      data: {
        returnId,
        orderId,
        customerId,
        lines: lines.map((line) => ({ ...partOf(line), restock: line.disposition === 'restock' })),
        currency: 'GBP',
        refundPence,
        receivedAt: at,
      },
    },
  }
}

function whatCame(goods: ReturnCase, came: NonNullable<CommandOf<'receive'>['lines']>): ReturnLine[] {
  const seen = new Set<number>()
  return came.map(({ lineNo, quantity, disposition }) => {
    const line = goods.lines.find((candidate) => candidate.lineNo === lineNo)
    if (!line) throw new Contradiction(`Line ${lineNo} is not part of the return.`)
    if (seen.has(lineNo)) throw new Contradiction(`Line ${lineNo} is named twice: name each line once.`)
    if (quantity > line.quantity) throw new Contradiction(`Of line ${lineNo} only ${line.quantity} were to come back.`)
    seen.add(lineNo)
    return { ...line, quantity, disposition }
  })
}

function close(goods: ReturnCase, { order, outcome, reason, at }: CommandOf<'close'>): Decided {
  if (goods.outcome === outcome) return { goods, fact: null }
  const expected = outcome === 'refunded' ? ['received'] : ['requested', 'approved']
  if (!expected.includes(goods.state)) {
    throw new Contradiction(
      outcome === 'refunded'
        ? `The return is ${goods.state}: its goods have not come in.`
        : `The return is ${goods.state}: its money is on its way and it cannot be refused any more.`,
    )
  }
  const { returnId, orderId, customerId } = goods
  return {
    goods: {
      ...goods,
      state: outcome === 'rejected' ? 'rejected' : 'closed',
      outcome,
      reason: reason ?? goods.reason,
      changedAt: at,
    },
    fact: { type: 'return.closed', data: { returnId, orderId, customerId, email: order.email, outcome, reason } },
  }
}
