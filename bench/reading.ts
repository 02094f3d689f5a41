/** What the benchmarks of the whole bus say: validated on both sides. */
import { event, type Schema } from '@shopsphere/bus'

type Reading = { sensor: string; n: number; note: string }

const readingSchema: Schema<Reading> = {
  '~standard': {
    version: 1,
    vendor: 'bench',
    validate(value) {
      const { sensor, n, note } = value as Reading
      if (typeof sensor === 'string' && Number.isSafeInteger(n) && typeof note === 'string')
        return { value: { sensor, n, note } }
      return { issues: [{ message: 'not a reading' }] }
    },
  },
}
export const readingTaken = event('reading.taken', {
  version: 1,
  owner: 'sensors',
  schema: readingSchema,
  key: ({ sensor }: Reading) => sensor,
})
