/**
 * The process that `crashSuite` kills: two services, of which one says numbers by key and the other writes each down and
 * echoes it, and the first writes down the echo. Arguments: the world as JSON.
 */
import { createBus } from '../bus.ts'
import type { Step } from '../consumer.ts'
import { event, type Schema } from '../event.ts'
import { sql } from '../sql.ts'
import type { Store } from '../store.ts'
import type { CrashPlan, CrashWorld } from './crash-suite.ts'

type Count = { key: string; n: number }

const anyCount = {
  '~standard': { version: 1, vendor: 'crash-kit', validate: (value: unknown) => ({ value: value as Count }) },
} satisfies Schema<Count>

const said = event('counter.said', { version: 1, schema: anyCount, key: ({ key }: Count) => key })
const echoed = event('echo.said', { version: 1, schema: anyCount, key: ({ key }: Count) => key })

const plan = JSON.parse(process.argv[2]!) as CrashPlan
const { open } = (await import(plan.module)) as { open: (directory: string) => Promise<CrashWorld> }

let seen = 0
function onStep(step: Step): void {
  if (step === plan.step && ++seen === plan.occurrence) process.kill(process.pid, 'SIGKILL')
}

const world = await open(plan.directory)
const counter = createBus({ service: 'counter', ...world, store: await world.openStore('counter'), onStep })
const echo = createBus({ service: 'echo', ...world, store: await world.openStore('echo'), onStep })

for (const { store } of [counter, echo]) {
  await store.open()
  await store.migrate('heard', 'create table heard (place bigint primary key, source text, said text, n bigint)')
}
await counter.store.migrate('said', 'create table said (n bigint primary key)')

/** No unique key guards this table: a doubled effect would stand there twice. */
async function writeDown(tx: Parameters<Parameters<Store['transaction']>[0]>[0], { key, n }: Count, source: string) {
  const last = await tx.get<{ place: number | null }>(sql`select max(place) as place from heard`)
  const place = Number(last?.place ?? 0) + 1
  await tx.run(sql`insert into heard (place, source, said, n) values (${place}, ${source}, ${key}, ${n})`)
}

echo.subscribe(said, async (count, { tx, publish, message }) => {
  await writeDown(tx, count, message.source)
  publish(echoed, count)
})
counter.subscribe(echoed, async (count, { tx, message }) => writeDown(tx, count, message.source))

await counter.declare()
await echo.declare()
await counter.start()
await echo.start()

const row = await counter.store.read((reader) => reader.get<{ n: number | null }>(sql`select max(n) as n from said`))
const from = Number(row?.n ?? 0)
for (let n = from + 1; n <= from + plan.messages; n++) {
  await counter.transaction(async ({ tx, publish }) => {
    await tx.run(sql`insert into said (n) values (${n})`)
    publish(said, { key: `k${n % plan.keys}`, n })
  })
}
while (!((await counter.isIdle()) && (await echo.isIdle()) && (await counter.isIdle()))) {
  await new Promise((resolve) => setTimeout(resolve, 5))
}
await counter.close()
await echo.close()
await world.transport.close()
await counter.store.close()
await echo.store.close()
process.stdout.write('done\n')
