import assert from 'node:assert/strict'
import { test } from 'node:test'
import { needs, type ServerName } from '@shopsphere/bus/testing'
import { type Facts, judge } from './facts.ts'
import { outage } from './outage.ts'
import { picture } from './picture.ts'

// With as many as `npm run outage` places by itself it takes minutes, so that runs when it is asked for, one at a time:
//   OUTAGE_ORDERS=10000 npm test -- outage --name '^rabbitmq: notification'
const ORDERS = Number(process.env.OUTAGE_ORDERS ?? 200)
if (!Number.isSafeInteger(ORDERS) || ORDERS < 200)
  throw new Error(`OUTAGE_ORDERS is '${process.env.OUTAGE_ORDERS}': write a whole number from 200, as 10000`)
const TIMEOUT_MS = 180_000 + ORDERS * 30

async function run(
  argv: string[],
  environment: Record<string, string> = {},
  { onError = () => {}, signal }: { onError?: (written: string) => void; signal?: AbortSignal } = {},
) {
  const out = { stdout: '', stderr: '' }
  const status = await outage(argv, {
    stdout: { write: (text: string) => (out.stdout += text) },
    stderr: {
      write(text: string) {
        out.stderr += text
        onError(out.stderr)
      },
    },
    environment: { PATH: process.env.PATH, ...environment },
    signal: signal ?? AbortSignal.timeout(TIMEOUT_MS),
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

const title = 'notification is killed, the orders go on, its backlog is seen; then all is told, once'

test(`embedded: ${title}`, { timeout: TIMEOUT_MS }, () => survives())

for (const broker of ['rabbitmq', 'kafka', 'redis'] satisfies ServerName[]) {
  const { url, skip } = await needs(broker)
  test(`${broker}: ${title}`, { skip, timeout: TIMEOUT_MS }, () => survives({ BROKER_URL: url }))
}

const { url: database, skip: withoutDatabase } = await needs('postgres')
test(`embedded, PostgreSQL: ${title}`, { skip: withoutDatabase, timeout: TIMEOUT_MS }, () =>
  survives({ DATABASE_URL: database }),
)

test('arguments that are wrong are said, with what is right', async () => {
  for (const argv of [['--orders', 'many'], ['--orders', '0'], ['--fast'], ['12']]) {
    const { status, stdout, stderr } = await run(argv)
    assert.deepEqual([status, stdout], [2, ''], argv.join(' '))
    assert.match(stderr, /^outage: .+\n\nUsage: npm run outage/)
  }
  const { status, stdout } = await run(['--help'])
  assert.equal(status, 0)
  assert.match(stdout, /^Usage: npm run outage/)
})

test('an environment that is wrong is said as the shop says it', async () => {
  const { status, stderr } = await run([], { BROKER_URL: 'carrier-pigeon:' })
  assert.equal(status, 2, stderr)
  assert.match(stderr, /outage: BROKER_URL is 'carrier-pigeon:'/)
})

test('a broker that is not there: it is said what is waited for, and the waiting can be ended', async () => {
  const waiting = new AbortController()
  const onError = (written: string) => {
    if (/broker \(BROKER_URL\) is not there yet and is waited for: .*ECONNREFUSED/.test(written)) waiting.abort()
  }
  const { status, stderr } = await run(
    [],
    { BROKER_URL: 'redis://127.0.0.1:1' },
    {
      onError,
      signal: AbortSignal.any([waiting.signal, AbortSignal.timeout(TIMEOUT_MS)]),
    },
  )
  assert.equal(waiting.signal.aborted, true, stderr)
  assert.equal(status, 130, stderr)
})

const normal = [
  { orderId: 'ord_1', kind: 'good' },
  { orderId: 'ord_2', kind: 'refused' },
]
const later = [
  { orderId: 'ord_3', kind: 'good' },
  { orderId: 'ord_4', kind: 'refused' },
]
const good = ['order.confirmed', 'order.delivered', 'order.placed', 'order.shipped']
const refused = ['order.cancelled', 'order.placed']
const told = { ord_1: good, ord_2: refused, ord_3: good, ord_4: refused }
const ends = { ord_1: 'delivered', ord_2: 'cancelled', ord_3: 'delivered', ord_4: 'cancelled' }

type Change = { told?: Record<string, string[]>; ends?: Record<string, string>; facts?: Partial<Facts> }

function judged(change: Change = {}) {
  const steps = Object.entries({ ...told, ...change.told })
  const count = steps.reduce((sum, [, each]) => sum + each.length, 0)
  const facts: Facts = {
    ends: new Map(Object.entries({ ...ends, ...change.ends })),
    told: new Map(steps),
    mails: { sent: count, strange: 0 },
    said: { audit: count, timelines: count },
    ...change.facts,
  }
  return judge(facts, { normal, all: [...normal, ...later] })
}

const only = (change: Change) => {
  const { violations } = judged(change)
  assert.equal(violations.length, 1, violations.join('\n'))
  return violations[0]!
}

test('O1–O4 when all is as it should be, nothing is violated', () => {
  assert.deepEqual(judged(), { expected: 12, told: 12, lost: 0, twice: 0, violations: [] })
})

test('O1 an order that ends otherwise, or is nowhere, is found', () => {
  assert.match(only({ ends: { ord_3: 'open' } }), /^O1 ord_3 .* open, without an outage at delivered$/)
  assert.match(only({ ends: { ord_4: 'nowhere' } }), /^O1 ord_4/)
})

test('O2 a step that was lost, told twice, or told to the wrong one is found', () => {
  const lost = judged({ told: { ord_3: good.slice(1) } })
  assert.deepEqual([lost.lost, lost.violations], [1, ['O2 ord_3 (good) was not told order.confirmed']])
  const twice = judged({ told: { ord_3: [...good, 'order.placed'] } })
  assert.deepEqual([twice.twice, twice.violations], [1, ['O2 ord_3 (good) was told too much: order.placed']])
  const wrong = judged({ told: { ord_4: [...refused, 'order.shipped'] } })
  assert.deepEqual([wrong.twice, wrong.told], [1, 13])
  assert.equal(judged({ told: { ord_3: [] } }).lost, 4)
})

test('O3 mails that are not as many as the notifications are found', () => {
  assert.match(only({ facts: { mails: { sent: 11, strange: 0 } } }), /^O3 12 notifications .* 11 mails$/)
  assert.match(only({ facts: { mails: { sent: 12, strange: 1 } } }), /^O3 1 mails belong to no notification$/)
})

test('O4 a notification that others heard of too often, or not at all, is found', () => {
  assert.match(only({ facts: { said: { audit: 13, timelines: 12 } } }), /^O4 12 notifications, but 13 in audit$/)
  assert.match(only({ facts: { said: { audit: 12, timelines: 11 } } }), /^O4 12 notifications, but 11 in timelines$/)
})

test('a kind of order that was not seen before the outage has no norm', () => {
  const facts = { ends: new Map(), told: new Map(), mails: { sent: 0, strange: 0 }, said: { audit: 0, timelines: 0 } }
  assert.throws(() => judge(facts, { normal, all: [{ orderId: 'ord_9', kind: 'new' }] }), /no order of the kind new/)
})

test('the picture: columns over time, its highest column full, marks where they belong', () => {
  const samples = [0, 1_000, 2_000, 4_000].map((waiting, index) => ({ atMs: index * 1_000, waiting }))
  assert.deepEqual(picture(samples, [{ atMs: 1_000, what: 'down' }], { columns: 4, rows: 2 }), [
    '4,000 │   █',
    '    0 │ ▄██',
    '      └──── 3 s',
    '        ▲ down',
  ])
  assert.deepEqual(picture([]), [])
})

test('the picture: a column without a look shows the one before, and a single message is seen', () => {
  const samples = [
    { atMs: 0, waiting: 1 },
    { atMs: 10_000, waiting: 1_000 },
  ]
  assert.equal(picture(samples, [], { columns: 4, rows: 1 })[0], '1,000 │▁▁▁█')
})
