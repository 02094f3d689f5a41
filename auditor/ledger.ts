/**
 * The money of one order, added up anew from the events of its payment: not from the state beside them, and not with
 * the service's own arithmetic.
 */
import type { StoredEvent } from '@shopsphere/bus'

export type LedgerLine = {
  readonly lineNo: number
  readonly pence: number
  readonly quantity: number
  capturedPence: number
  capturedUnits: number
  refundedPence: number
}

export type Ledger = {
  totalPence: number
  authorizedPence: number
  capturedPence: number
  voidedPence: number
  refundedPence: number
  /** Taken back by the bank in a dispute. */
  lostPence: number
  readonly lines: Map<number, LedgerLine>
}

type Part = { readonly lineNo: number; readonly quantity: number; readonly pence: number }
/** Stored data of many shapes, of which few fields are looked at. */
type Data = any

export function addUp(events: readonly StoredEvent[]): Ledger {
  const ledger: Ledger = {
    totalPence: 0,
    authorizedPence: 0,
    capturedPence: 0,
    voidedPence: 0,
    refundedPence: 0,
    lostPence: 0,
    lines: new Map(),
  }
  const refunds = new Map<string, { pence: number; lines: readonly Part[] }>()
  for (const event of events) enter(ledger, refunds, event.type, event.data)
  return ledger
}

function enter(
  ledger: Ledger,
  refunds: Map<string, { pence: number; lines: readonly Part[] }>,
  type: string,
  data: Data,
): void {
  switch (type) {
    case 'opened':
      ledger.totalPence = data.totalPence
      for (const { lineNo, quantity, pence } of data.lines as Part[])
        ledger.lines.set(lineNo, { lineNo, quantity, pence, capturedPence: 0, capturedUnits: 0, refundedPence: 0 })
      return
    case 'authorized':
      ledger.authorizedPence += data.pence
      return
    case 'voided':
      ledger.voidedPence += data.pence
      return
    case 'captured':
      ledger.capturedPence += data.pence
      for (const part of data.lines as Part[]) {
        const line = lineOf(ledger, part.lineNo)
        line.capturedPence += part.pence
        line.capturedUnits += part.quantity
      }
      return
    case 'refund_requested':
      refunds.set(data.refundId, data)
      return
    case 'refunded': {
      const refund = refunds.get(data.refundId) ?? { pence: 0, lines: [] }
      ledger.refundedPence += refund.pence
      for (const part of refund.lines) lineOf(ledger, part.lineNo).refundedPence += part.pence
      return
    }
    case 'disputed':
      ledger.lostPence += data.lostPence
  }
}

/** A line that the order does not have costs nothing, so that any money of it shows. */
function lineOf(ledger: Ledger, lineNo: number): LedgerLine {
  const known = ledger.lines.get(lineNo)
  if (known) return known
  const unknown = { lineNo, quantity: 0, pence: 0, capturedPence: 0, capturedUnits: 0, refundedPence: 0 }
  ledger.lines.set(lineNo, unknown)
  return unknown
}
