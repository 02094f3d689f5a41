/** The scribe of `faultSuite` in a process of its own. Arguments: its plan as JSON. */
import type { Log } from '../log.ts'
import { type FaultModule, type FaultPlace, openScribe, patiently } from './fault-services.ts'

export type ChildPlan = {
  module: string
  place: FaultPlace
  /** `wait`: each word is held before its transaction until the parent says so. `dawdle`: for some milliseconds, by chance. */
  pace: 'at once' | 'dawdle' | 'wait'
}

export type ChildReport =
  | { kind: 'ready' }
  | { kind: 'held'; n: number }
  | { kind: 'log'; level: keyof Log; fields: object; text: string }

const DAWDLE_MS = 15

const plan = JSON.parse(process.argv[2]!) as ChildPlan
const report = (message: ChildReport) => process.send?.(message)
const line = (level: keyof Log) => (fields: object, text: string) => void report({ kind: 'log', level, fields, text })
const log: Log = { info: () => {}, warn: line('warn'), error: line('error') }

let proceed = () => {}
const proceeding = new Promise<void>((resolve) => {
  proceed = resolve
})
const paces = {
  'at once': undefined,
  dawdle: () => new Promise<void>((resolve) => setTimeout(resolve, Math.random() * DAWDLE_MS)),
  wait: ({ n }: { n: number }) => {
    report({ kind: 'held', n })
    return proceeding
  },
}

const { open } = (await import(plan.module)) as FaultModule
const outside = paces[plan.pace]
const scribe = await openScribe(await open(plan.place, log), {
  log,
  directory: plan.place.directory,
  ...(outside && { outside }),
})
process.on('message', async (order: 'proceed' | 'leave') => {
  if (order === 'proceed') return proceed()
  await scribe.close()
  process.disconnect?.()
})
process.on('disconnect', () => process.exit())
await patiently(() => scribe.bus.declare())
await scribe.bus.start()
report({ kind: 'ready' })
