/** Sums of money spread over lines and units so that no penny is lost or made. Pure. */

/** `part` of `whole` equal units that cost `totalPence` together, in whole pence; all of them cost exactly the total. */
function upTo(totalPence: number, part: number, whole: number): number {
  if (part >= whole) return totalPence
  if (totalPence % whole === 0) return (totalPence / whole) * part
  // The product may exceed what a number holds exactly.
  return Number((BigInt(totalPence) * BigInt(part)) / BigInt(whole))
}

/**
 * What `units` of a line cost, `before` of its `quantity` units having been counted already. However a line is taken
 * apart, its parts come to `linePence`.
 */
export function penceOfUnits(
  line: { readonly pence: number; readonly quantity: number },
  before: number,
  units: number,
): number {
  return upTo(line.pence, before + units, line.quantity) - upTo(line.pence, before, line.quantity)
}

/** Spreads `totalPence` over lines by what each is worth: discounts and fees fall on all of them alike. */
export function spread(totalPence: number, worth: readonly number[]): number[] {
  const sum = worth.reduce((total, pence) => total + pence, 0)
  if (sum === totalPence) return [...worth]
  if (sum === 0) return worth.map((_, index) => (index === 0 ? totalPence : 0))
  let counted = 0
  return worth.map((pence) => {
    const share = upTo(totalPence, counted + pence, sum) - upTo(totalPence, counted, sum)
    counted += pence
    return share
  })
}

/** Takes up to `pence` from places that hold so much each, the first first; answers what came from each. */
export function takeFrom(holds: readonly number[], pence: number): number[] {
  let left = pence
  return holds.map((held) => {
    const taken = Math.min(held, left)
    left -= taken
    return taken
  })
}
