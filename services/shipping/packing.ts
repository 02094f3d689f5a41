/** How the lines of an order become parcels. Pure. */
import type { PartLine } from '@shopsphere/contracts'
import type { ParcelLimits } from './carrier.ts'

/** Of one order. One that would need more goes as freight: in this many parcels at most, each as large as it must be. */
export const parcelsMax = 100

/**
 * The lines of each parcel, filled in the order of the lines; a line that does not fit is divided.
 * Nothing is left out, and each parcel holds something.
 */
export function pack(lines: readonly PartLine[], limits: ParcelLimits): PartLine[][] {
  const units = unitsOf(lines)
  const { linesPerParcelMax, unitsPerParcelMax } = limits
  if (lines.length <= linesPerParcelMax && units <= unitsPerParcelMax) return [[...lines]]
  return (
    fill(lines, linesPerParcelMax, unitsPerParcelMax) ??
    fill(lines, Math.max(linesPerParcelMax, third(lines.length)), Math.max(unitsPerParcelMax, third(units)))!
  )
}

/** A third of the parcels may be full of lines, a third full of units, and the last third is for lines that were divided. */
const third = (amount: number) => Math.ceil((3 * amount) / parcelsMax)

export function unitsOf(lines: readonly { quantity: number }[]): number {
  let units = 0
  for (const { quantity } of lines) units += quantity
  return units
}

/** Every parcel but the last is full of lines or full of units. Null: there would be too many. */
function fill(lines: readonly PartLine[], linesMax: number, unitsMax: number): PartLine[][] | null {
  const parcels: PartLine[][] = []
  let parcel: PartLine[] = []
  let room = unitsMax
  const close = () => {
    parcels.push(parcel)
    parcel = []
    room = unitsMax
  }
  for (const line of lines) {
    for (let left = line.quantity; left > 0; ) {
      if (parcels.length === parcelsMax) return null
      const quantity = Math.min(left, room)
      parcel.push({ ...line, quantity })
      left -= quantity
      room -= quantity
      if (room === 0 || parcel.length === linesMax) close()
    }
  }
  if (parcel.length > 0) close()
  return parcels
}
