/** A disk that fills up while the shop runs: a real one, a small tmpfs of the test's own, under the program as it is started. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { skippableClock, sql } from '@shopsphere/bus'
import { createWorld, eventually, inWorld, type World } from '@shopsphere/bus/testing'
import { createLog } from '@shopsphere/runtime/log'
import { startShop } from '../shop.ts'
import { startMain } from './main-process.ts'
import { customerOf, operator } from './shop-customer.ts'

/** Twice what the shop wants to find free when it starts. */
const DISK_BYTES = 128 * 1024 * 1024
const ORDERS_BEFORE = 20
/** Requests until the files have used up the room that they had in themselves. */
const ORDERS_UNTIL_FULL_MAX = 20_000
const AT_ONCE = 16
const environment = {
  ADMIN_EMAIL: operator.email,
  ADMIN_PASSWORD: operator.password,
  ORDERS_PER_MINUTE: '0',
  PICKING_GRACE_MS: '0',
  CARRIER_DELAY_MS: '0',
}

/** False: this machine lets us mount one. */
async function whyNoDisk(): Promise<string | false> {
  try {
    await inWorld(async (world) => void mountDisk(world))
    return false
  } catch (error) {
    return `mounting a small disk takes root on Linux (${(error as Error).message.split('\n')[0]})`
  }
}

function mountDisk(world: World): string {
  const folder = join(world.directory, 'disk')
  mkdirSync(folder)
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'tmpfs', folder], { stdio: 'pipe' })
  world.defer(() => execFileSync('umount', ['--lazy', folder]))
  return folder
}

/** Takes every byte that is left. */
function fillUp(file: string): void {
  const descriptor = openSync(file, 'a')
  try {
    for (let bytes = 1024 * 1024; bytes >= 1; ) {
      try {
        writeSync(descriptor, Buffer.alloc(bytes))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        bytes = Math.floor(bytes / 2)
      }
    }
  } finally {
    closeSync(descriptor)
  }
}

test('a disk that fills while the shop runs: 503 and what to do, and once there is room it goes on by itself with every order it had accepted', {
  skip: await whyNoDisk(),
  timeout: 180_000,
}, async () => {
  await using world = await createWorld()
  const disk = mountDisk(world)
  const DATA_DIR = join(disk, 'data')
  const filler = join(disk, 'filler')
  const accepted = new Map<string, string>() // key → order
  const refused = new Set<string>()
  {
    await using main = startMain({ ...environment, DATA_DIR })
    const url = await main.answers()
    const { send, place, stock } = customerOf(url)
    const statusOf = async (path: string) => (await send('GET', path)).status
    await stock()

    let keys = 0
    async function placeSome(count: number) {
      const made = Array.from({ length: count }, () => `order-${++keys}`)
      await Promise.all(
        made.map(async (key) => {
          const { status, type, body } = await place(key)
          if (status === 202) return void accepted.set(key, body.orderId)
          assert.equal(status, 503, JSON.stringify(body))
          assert.match(type, /^application\/problem\+json/)
          assert.deepEqual(
            [body.code, /nothing was changed: send the same request again/.test(body.detail)],
            ['unavailable', true],
          )
          refused.add(key)
        }),
      )
    }
    await placeSome(ORDERS_BEFORE)
    assert.deepEqual([accepted.size, refused.size], [ORDERS_BEFORE, 0])

    fillUp(filler)
    while (refused.size === 0 && keys < ORDERS_UNTIL_FULL_MAX) {
      await placeSome(AT_ONCE)
      fillUp(filler) // what a log folded back into its file gave free
    }
    assert.ok(refused.size > 0, `${keys} orders, and the disk was never full`)
    await eventually(async () => (await statusOf('/health/ready')) === 503, { timeoutMs: 30_000, message: 'not ready' })
    assert.equal(await statusOf('/health/live'), 200)
    await placeSome(1)
    assert.equal(main.child.exitCode, null)
    assert.ok(refused.has(`order-${keys}`))
    assert.match(main.out.stdout + main.out.stderr, /the disk of \S+\.db is full: free some room/) // in the log, for the operator

    rmSync(filler)
    await eventually(async () => (await statusOf('/health/ready')) === 200, {
      timeoutMs: 30_000,
      message: 'ready again',
    })
    for (const key of refused) {
      const { status, body } = await place(key)
      assert.equal(status, 202, JSON.stringify(body))
      accepted.set(key, body.orderId)
    }
    for (const orderId of accepted.values()) {
      const delivered = async () => (await send('GET', `/api/orders/${orderId}`)).body.status === 'delivered'
      await eventually(delivered, { timeoutMs: 60_000, message: `${orderId} is delivered` })
    }
    main.child.kill('SIGTERM')
    assert.equal(await main.exited, 0, main.out.stderr)
  }
  assert.equal(new Set(accepted.values()).size, accepted.size)

  const clock = skippableClock()
  await using shop = await startShop({
    environment: { ...environment, DATA_DIR },
    headless: true,
    clock,
    log: createLog('silent'),
  })
  await shop.idle()
  clock.skip(31 * 86_400_000)
  await shop.idle()
  assert.deepEqual(await shop.auditor.finish('ended'), [])
  const { store } = shop.services.get('order')!.bus
  const rows = await store.read((reader) => reader.all<{ order_id: string }>(sql`select order_id from order_row`))
  assert.deepEqual(rows.map(({ order_id }) => order_id).sort(), [...accepted.values()].sort())
})
