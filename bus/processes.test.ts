/** Several operating-system processes on one embedded broker and one database. */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { createBus } from './bus.ts'
import { sql } from './sql.ts'
import { sqliteStore } from './stores/sqlite.ts'
import { eventually } from './testing/eventually.ts'
import { openSink, type SharePlan, type ShareReport, ticked } from './testing/share-child.ts'
import { createWorld, type World } from './testing/world.ts'
import { sqliteTransport } from './transports/sqlite.ts'

const KEYS = 48
const LEASE_MS = 1_000
/** An idle process may use this share of one core: its heartbeat, and nothing that polls. */
const IDLE_CPU_MAX = 0.05
const IDLE_MEASURE_MS = 1_500

type Row = { key: string; n: number; pid: number }

class Child {
  readonly process: ChildProcess
  readonly reports: ShareReport[] = []

  constructor(world: World, plan: SharePlan) {
    this.process = fork(new URL('./testing/share-child.ts', import.meta.url), [JSON.stringify(plan)])
    this.process.on('message', (report: ShareReport) => this.reports.push(report))
    world.defer(() => this.process.kill('SIGKILL'))
  }

  get pid(): number {
    return this.process.pid!
  }

  async heard<K extends ShareReport['kind']>(kind: K): Promise<Extract<ShareReport, { kind: K }>> {
    const find = () => this.reports.find((report) => report.kind === kind)
    await eventually(() => find() !== undefined, { message: `the child never reported '${kind}'` })
    return find() as Extract<ShareReport, { kind: K }>
  }
}

async function stage(world: World) {
  const plan = { directory: world.directory, leaseMs: LEASE_MS, holdOutside: false }
  const transport = sqliteTransport(join(world.directory, 'broker.db'), { leaseMs: LEASE_MS })
  const clock = createBus({
    service: 'clock',
    transport,
    store: sqliteStore(join(world.directory, 'clock.db')),
    events: [ticked],
  })
  await clock.start()
  let n = 0
  world.defer(async () => {
    await clock.close()
    await transport.close()
    await clock.store.close()
  })
  return {
    plan,
    async publish(count: number) {
      await Promise.all(Array.from({ length: count }, () => clock.publish(ticked, { key: `k${n % KEYS}`, n: ++n })))
    },
    async openSinkHere() {
      const sink = await openSink(
        plan,
        async () => {},
        () => {},
      )
      world.defer(() => sink.close())
      return sink
    },
  }
}

async function rowsOf(sink: Awaited<ReturnType<typeof openSink>>): Promise<Row[]> {
  return sink.bus.store.read((reader) => reader.all<Row>(sql`select key, n, pid from tick order by place`))
}

function assertOnceInOrder(rows: Row[], count: number): void {
  assert.equal(rows.length, count, 'each tick has exactly one effect')
  assert.equal(new Set(rows.map((row) => row.n)).size, count)
  for (let key = 0; key < KEYS; key++) {
    const ofKey = rows.filter((row) => row.key === `k${key}`).map((row) => Number(row.n))
    assert.deepEqual(
      ofKey,
      [...ofKey].sort((a, b) => a - b),
      `order of key k${key}`,
    )
  }
}

/** Publishes until both processes have written something, which is when both hold shards. */
async function untilShared(
  here: Awaited<ReturnType<typeof openSink>>,
  pid: number,
  publish: (count: number) => Promise<void>,
) {
  let published = 0
  await eventually(
    async () => {
      await publish(KEYS)
      published += KEYS
      const pids = new Set((await rowsOf(here)).map((row) => Number(row.pid)))
      return pids.has(pid) && pids.has(process.pid)
    },
    { message: 'the two processes never shared the work' },
  )
  return published
}

test('B8 B3 two processes share a subscription: once each, in order by key', async () => {
  await using world = await createWorld()
  const { plan, publish, openSinkHere } = await stage(world)
  const child = new Child(world, plan)
  await child.heard('ready')
  const here = await openSinkHere()
  const published = await untilShared(here, child.pid, publish)
  await eventually(async () => (await rowsOf(here)).length === published, { message: 'not everything was handled' })
  assertOnceInOrder(await rowsOf(here), published)
})

test('B15 an idle process is woken by another one, and uses next to no processor meanwhile', async () => {
  await using world = await createWorld()
  const { plan, publish } = await stage(world)
  const child = new Child(world, { ...plan, leaseMs: 60_000 })
  await child.heard('ready')
  child.process.send({ measureMs: IDLE_MEASURE_MS })
  const { share } = await child.heard('cpu')
  assert.ok(share < IDLE_CPU_MAX, `an idle process used ${(share * 100).toFixed(1)} % of a core`)
  // Its heartbeat is 20 s away: only the wake-up can bring it the message.
  await publish(1)
  const reader = sqliteStore(join(world.directory, 'sink.db'))
  await reader.open()
  world.defer(() => reader.close())
  const handled = () => reader.read((rows) => rows.get<{ count: number }>(sql`select count(*) as count from tick`))
  await eventually(async () => Number((await handled())?.count) === 1, {
    timeoutMs: 5_000,
    message: 'nobody woke the idle process',
  })
})

test('B8 B12 a process that is killed hands its share over within seconds; nothing is lost or doubled', async () => {
  await using world = await createWorld()
  const { plan, publish, openSinkHere } = await stage(world)
  const child = new Child(world, plan)
  await child.heard('ready')
  const here = await openSinkHere()
  let published = await untilShared(here, child.pid, publish)
  const more = publish(20 * KEYS)
  child.process.kill('SIGKILL')
  await more
  published += 20 * KEYS
  await eventually(async () => (await rowsOf(here)).length >= published, {
    timeoutMs: 10_000,
    message: 'the share of the dead was not taken over',
  })
  assertOnceInOrder(await rowsOf(here), published)
})

test('B8 a frozen process that wakes after it lost its lease is fenced off', async () => {
  await using world = await createWorld()
  const { plan, publish, openSinkHere } = await stage(world)
  const child = new Child(world, { ...plan, holdOutside: true })
  await child.heard('ready')
  await publish(1)
  await child.heard('outside') // it is in the middle of its work, before its transaction
  child.process.kill('SIGSTOP')
  const here = await openSinkHere()
  await eventually(async () => (await rowsOf(here)).length === 1, {
    timeoutMs: 10_000,
    message: 'nobody took over from the frozen process',
  })
  child.process.send({ proceed: true })
  child.process.kill('SIGCONT')
  await eventually(
    () => child.reports.some((report) => report.kind === 'log' && report.text.includes('lost its lease')),
    {
      timeoutMs: 10_000,
      message: 'the frozen process was not told that it is fenced off',
    },
  )
  const rows = await rowsOf(here)
  assertOnceInOrder(rows, 1)
  assert.equal(Number(rows[0]!.pid), process.pid)
})
