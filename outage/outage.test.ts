import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createWorld, type Needed, needs } from '@shopsphere/bus/testing'
import { type Facts, judge } from './facts.ts'
import { outage } from './outage.ts'
import { picture } from './picture.ts'

const ORDERS = 300
const TIMEOUT_MS = 180_000

async function run(argv: string[], environment: Record<string, string> = {}) {
  const out = { stdout: '', stderr: '' }
  const status = await outage(argv, {
    stdout: { write: (text: string) => (out.stdout += text) },
    stderr: { write: (text: string) => (out.stderr += text) },
    environment: { PATH: process.env.PATH, ...environment },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  })
  return { status, ...out }
}

/** The whole story, with a real kill, through the command that people run. */
async function survives(environment: Record<string, string> = {}): Promise<void> {
  const { status, stdout, stderr } = await run(['--orders', String(ORDERS), '--json'], environment)
  assert.equal(status, 0, stderr)
  const { orders, backlog, notifications, violations } = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
  assert.deepEqual(violations, [])
  assert.equal(orders.during, ORDERS)
  assert.equal(orders.endedDuring, orders.before + ORDERS, 'the orders go on while notification is down')
  // One order in twenty is refused by the bank and told two steps; the others are told four.
  assert.ok(backlog.api >= ORDERS * 3, `${backlog.api} by the API`)
  assert.ok(backlog.metric >= ORDERS * 3, `${backlog.metric} by /metrics`)
  assert.ok(backlog.oldestAgeMs > 0)
  assert.ok(notifications.expected >= (orders.before + ORDERS) * 3)
  assert.deepEqual(notifications, { ...notifications, told: notifications.expected, lost: 0, twice: 0 })
}

test(
  'embedded: notification is killed, the orders go on, its backlog is seen; then all is told, once',
  {
    timeout: TIMEOUT_MS,
  },
  () => survives(),
)
