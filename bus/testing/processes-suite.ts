/**
 * Several operating-system processes that share a subscription: on one broker and one database, each killed, frozen and woken.
 * For a transport and a store of your own, write a module that exports `open(directory, { leaseMs }): Promise<CrashWorld>`:
 *
 *   processesSuite('my broker', { module: new URL('./my-crash-world.ts', import.meta.url) })
 */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { createBus } from '../bus.ts'
import { sql } from '../sql.ts'
import { eventually } from './eventually.ts'
import { openSink, openWorld, type SharePlan, type ShareReport, ticked } from './share-child.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'
import type { World } from './world.ts'

const KEYS = 48
const LEASE_MS = 1_000
/** What a dead process may have begun on is handled one by one, so it takes a while on a busy machine: a limit for what hangs. */
const HANDED_OVER_MAX_MS = 30_000
/** An idle process may use this share of one core: its heartbeat, and nothing that polls. */
const IDLE_CPU_MAX = 0.05
const IDLE_MEASURE_MS = 1_500

type Row = { key: string; n: number; pid: number }

class Child {
  readonly process: ChildProcess
  readonly reports: ShareReport[] = []

  constructor(world: World, plan: SharePlan) {
    this.process = fork(
      new URL(import.meta.url.endsWith('.ts') ? './share-child.ts' : './share-child.js', import.meta.url),
      [JSON.stringify(plan)],
    )
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

async function stage(world: World, module: URL) {
  const plan = { module: module.href, directory: world.directory, leaseMs: LEASE_MS, holdOutside: false }
  const { transport, openStore } = await openWorld(plan)
  const clock = createBus({ service: 'clock', transport, store: await openStore('clock'), events: [ticked] })
  await clock.start()
  let n = 0
  world.defer(async () => {
    await clock.close()
    await transport.close()
    await clock.store.close()
  })
  return {
    plan,
    openStore,
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

export function processesSuite(name: string, { module }: { module: URL }, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)

  register('B8 B3 two processes share a subscription: once each, in order by key', async (world) => {
    const { plan, publish, openSinkHere } = await stage(world, module)
    const child = new Child(world, plan)
    await child.heard('ready')
    const here = await openSinkHere()
    const published = await untilShared(here, child.pid, publish)
    await eventually(async () => (await rowsOf(here)).length === published, { message: 'not everything was handled' })
    assertOnceInOrder(await rowsOf(here), published)
  })

  register('B15 an idle process is woken by another one, and uses next to no processor meanwhile', async (world) => {
    const { plan, publish, openStore } = await stage(world, module)
    const child = new Child(world, { ...plan, leaseMs: 60_000 })
    await child.heard('ready')
    child.process.send({ measureMs: IDLE_MEASURE_MS })
    const { share } = await child.heard('cpu')
    assert.ok(share < IDLE_CPU_MAX, `an idle process used ${(share * 100).toFixed(1)} % of a core`)
    // Its heartbeat is 20 s away: only the wake-up can bring it the message.
    await publish(1)
    const reader = await openStore('sink')
    await reader.open()
    world.defer(() => reader.close())
    const handled = () => reader.read((rows) => rows.get<{ count: number }>(sql`select count(*) as count from tick`))
    await eventually(async () => Number((await handled())?.count) === 1, {
      timeoutMs: 5_000,
      message: 'nobody woke the idle process',
    })
  })

  register(
    'B8 B12 a process that is killed hands its share over within seconds; nothing is lost or doubled',
    async (world) => {
      const { plan, publish, openSinkHere } = await stage(world, module)
      const child = new Child(world, plan)
      await child.heard('ready')
      const here = await openSinkHere()
      let published = await untilShared(here, child.pid, publish)
      const more = publish(20 * KEYS)
      child.process.kill('SIGKILL')
      await more
      published += 20 * KEYS
      await eventually(async () => (await rowsOf(here)).length >= published, {
        timeoutMs: HANDED_OVER_MAX_MS,
        message: 'the share of the dead was not taken over',
      })
      assertOnceInOrder(await rowsOf(here), published)
    },
  )

  register('B8 a frozen process that wakes after it lost its lease is fenced off', async (world) => {
    const { plan, publish, openSinkHere } = await stage(world, module)
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
}
