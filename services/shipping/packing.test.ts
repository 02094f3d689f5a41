import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '@shopsphere/bus'
import type { PartLine } from '@shopsphere/contracts'
import { pack, parcelsMax, unitsOf } from './packing.ts'

const line = (lineNo: number, quantity: number): PartLine => ({ lineNo, sku: `S${lineNo}`, quantity, unitPence: 1 })

/** Units by line number. */
function contents(lines: readonly PartLine[]): Map<number, number> {
  const units = new Map<number, number>()
  for (const { lineNo, quantity } of lines) units.set(lineNo, (units.get(lineNo) ?? 0) + quantity)
  return units
}

test('an order within the limits is one parcel', () => {
  const lines = [line(1, 3), line(2, 2)]
  assert.deepEqual(pack(lines, { linesPerParcelMax: 2, unitsPerParcelMax: 5 }), [lines])
})

test('lines beyond the limit begin another parcel', () => {
  const parcels = pack([line(1, 1), line(2, 1), line(3, 1)], { linesPerParcelMax: 2, unitsPerParcelMax: 100 })
  assert.deepEqual(
    parcels.map((lines) => lines.map(({ lineNo }) => lineNo)),
    [[1, 2], [3]],
  )
})

test('any order is packed whole, within the limits while they allow it, and never into too many parcels', () => {
  const random = seededRandom(7)
  const draw = (max: number) => 1 + Math.floor(random() * max)
  for (let round = 0; round < 500; round++) {
    const limits = { linesPerParcelMax: draw(20), unitsPerParcelMax: draw(200) }
    const quantityMax = random() < 0.1 ? 1_000_000 : 60
    const lines = Array.from({ length: draw(80) }, (_, index) => line(index + 1, draw(quantityMax)))
    const parcels = pack(lines, limits)
    assert.deepEqual(contents(parcels.flat()), contents(lines))
    assert.ok(parcels.length <= parcelsMax, `${parcels.length} parcels`)
    for (const parcel of parcels) {
      assert.ok(parcel.length > 0)
      assert.equal(new Set(parcel.map(({ lineNo }) => lineNo)).size, parcel.length, 'a line stands in a parcel once')
    }
    const fits = parcels.every(
      (parcel) => parcel.length <= limits.linesPerParcelMax && unitsOf(parcel) <= limits.unitsPerParcelMax,
    )
    assert.ok(fits || parcels.length > parcelsMax / 4, 'only freight may exceed the limits')
  }
})
