/** A process that shares a subscription with the test that starts it; see processes-suite.ts. Arguments: its plan as JSON. */
import { createBus } from '../bus.ts'
import { event, type Schema } from '../event.ts'
import { sql } from '../sql.ts'
import type { CrashWorld } from './crash-suite.ts'

/** `module` exports `open(directory, { leaseMs }): Promise<CrashWorld>`. */
export type SharePlan = { module: string; directory: string; leaseMs: number; holdOutside: boolean }
export type ShareReport =
  | { kind: 'ready' }
  | { kind: 'outside'; n: number }
  | { kind: 'cpu'; share: number }
  | { kind: 'log'; text: string }

export type Tick = { key: string; n: number }

const tickSchema = {
  '~standard': { version: 1, vendor: 'share-kit', validate: (value: unknown) => ({ value: value as Tick }) },
} satisfies Schema<Tick>

export const ticked = event('clock.ticked', {
  version: 1,
  owner: 'clock',
  schema: tickSchema,
  key: ({ key }: Tick) => key,
})

export async function openWorld({ module, directory, leaseMs }: SharePlan): Promise<CrashWorld> {
  const { open } = (await import(module)) as {
    open: (directory: string, options: { leaseMs: number }) => Promise<CrashWorld>
  }
  return open(directory, { leaseMs })
}

/** One process's share of the subscription `sink`: every tick becomes a row with the process that wrote it. */
export async function openSink(plan: SharePlan, onOutside: (n: number) => Promise<void>, log: (text: string) => void) {
  const { transport, openStore } = await openWorld(plan)
  const store = await openStore('sink')
  const say = (fields: object, text: string) => log(`${text} ${JSON.stringify(fields)}`)
  const bus = createBus({ service: 'sink', transport, store, log: { info: say, warn: say, error: say } })
  await store.open()
  await store.migrate('tick', 'create table tick (place bigint primary key, key text, n bigint, pid bigint)')
  bus.subscribe(ticked, {
    outside: ({ n }) => onOutside(n),
    handle: async ({ key, n }, { tx }) => {
      const last = await tx.get<{ place: number | null }>(sql`select max(place) as place from tick`)
      await tx.run(
        sql`insert into tick (place, key, n, pid) values (${Number(last?.place ?? 0) + 1}, ${key}, ${n}, ${process.pid})`,
      )
    },
  })
  await bus.start()
  return {
    bus,
    transport,
    async close() {
      await bus.close()
      await transport.close()
      await store.close()
    },
  }
}

if (process.send) {
  const plan = JSON.parse(process.argv[2]!) as SharePlan
  const report = (message: ShareReport) => process.send!(message)
  const sink = await openSink(
    plan,
    async (n) => {
      if (!plan.holdOutside) return
      report({ kind: 'outside', n })
      await new Promise((resolve) => process.once('message', resolve))
    },
    (text) => report({ kind: 'log', text }),
  )
  report({ kind: 'ready' })
  process.on('message', async (order: { measureMs?: number; stop?: boolean }) => {
    if (order.stop) {
      await sink.close()
      process.disconnect?.()
    }
    if (order.measureMs) {
      const before = process.cpuUsage()
      setTimeout(() => {
        const { user, system } = process.cpuUsage(before)
        report({ kind: 'cpu', share: (user + system) / 1_000 / order.measureMs! })
      }, order.measureMs)
    }
  })
}
