/** What a replay came to, for people and for programs. */

/** The object of `--json`; its keys are fixed (they may grow). */
export type ReplayFigures = {
  /** Different invoice numbers in the book, refused ones included. */
  invoices: number
  /** `completed`: fully shipped and delivered. */
  orders: { placed: number; completed: number; cancelled: number }
  /** `refused` by reason; a line that cannot be read counts here, whatever its invoice. */
  lines: { accepted: number; refused: Record<string, number> }
  /** `sold`: units of orders that were not cancelled. */
  units: { sold: number; returned: number }
  /** What the payment service's ledger says. */
  pence: { charged: number; refunded: number }
  /** Lines of returns. */
  returns: { accepted: number; refused: Record<string, number> }
  /** Events that the services published. */
  events: number
  seconds: number
  /** What the auditor found; empty when all is well. */
  violations: string[]
}

/** One line, without its line end. */
export function summaryJson({
  invoices,
  orders,
  lines,
  units,
  pence,
  returns,
  events,
  seconds,
  violations,
}: ReplayFigures): string {
  return JSON.stringify({ invoices, orders, lines, units, pence, returns, events, seconds, violations })
}

/** A table of a few lines, ending with a line end. */
export function summaryTable(figures: ReplayFigures): string {
  const { orders, lines, units, pence, returns } = figures
  const rows: [string, string][] = [
    ['invoices', whole(figures.invoices)],
    [
      'orders',
      `${whole(orders.placed)} placed, ${whole(orders.completed)} completed, ${whole(orders.cancelled)} cancelled`,
    ],
    ['lines', `${whole(lines.accepted)} accepted, ${refused(lines.refused)}`],
    ['return lines', `${whole(returns.accepted)} accepted, ${refused(returns.refused)}`],
    ['units', `${whole(units.sold)} sold, ${whole(units.returned)} returned`],
    ['money', `${pounds(pence.charged)} charged, ${pounds(pence.refunded)} refunded`],
    ['events', `${whole(figures.events)} in ${figures.seconds.toFixed(1)} s`],
    ['violations', figures.violations.length === 0 ? 'none' : whole(figures.violations.length)],
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  const table = rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`)
  return [...table, ...figures.violations.map((violation) => `  ✗ ${violation}`), ''].join('\n')
}

function refused(reasons: Record<string, number>): string {
  const total = Object.values(reasons).reduce((sum, count) => sum + count, 0)
  const each = Object.entries(reasons).map(([reason, count]) => `${whole(count)} ${reason}`)
  return total === 0 ? '0 refused' : `${whole(total)} refused (${each.join(', ')})`
}

/** 1234567 → 1,234,567 */
export function whole(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',')
}

/** Pence as pounds, from the digits: 18493135 → £184,931.35 */
export function pounds(pence: number): string {
  const digits = String(Math.abs(pence)).padStart(3, '0')
  return `${pence < 0 ? '-' : ''}£${whole(Number(digits.slice(0, -2)))}.${digits.slice(-2)}`
}
