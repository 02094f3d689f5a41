/**
 * The embedded bus beside a raw loop of one-row commits in the same run. 64 publishers, each waiting for its confirmation
 * before it publishes again; 1,000 keys; a payload of about 400 bytes, validated on both sides.
 */
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type Bus, createBus, type Step, sqliteStore, sqliteTransport } from '@shopsphere/bus'
import { inFolder } from './folder.ts'
import { fullDurability, rawCommitsPerSecond, rawLoop } from './raw-sqlite.ts'
import { readingTaken } from './reading.ts'
import { type Bench, compare, type Pair, type Result } from './result.ts'

const PUBLISHERS = 64
const MESSAGES = 60_000
const KEYS = 1_000
const BACKLOG_LONG = 200_000
const BACKLOG_SHORT = 2_000

const NOTE = 'n'.repeat(300)

export const run: Bench = async ({ runs, note }) => {
  const publish: Pair[] = []
  const endToEnd: Pair[] = []
  const backlog: Pair[] = []
  const memory: Pair[] = []
  for (let round = 0; round <= runs; round++) {
    note(round === 0 ? 'warm-up' : `run ${round} of ${runs}`)
    await inFolder(async (directory) => {
      const raw = rawCommitsPerSecond(directory)
      const ours = await publishOnly(join(directory, 'publish'))
      const rawAgain = rawCommitsPerSecond(directory)
      const handled = await publishToHandled(join(directory, 'handled'))
      if (round === 0) return
      publish.push({ ours, peer: raw })
      endToEnd.push({ ours: handled, peer: rawAgain })
    })
    if (round > 0) await measureBacklog(backlog, memory)
  }
  return [
    compare(publish, { what: 'publish', unit: 'messages/s', against: rawLoop, durability: fullDurability }),
    compare(endToEnd, { what: 'end-to-end', unit: 'messages/s', against: rawLoop, durability: fullDurability }),
    compare(backlog, {
      what: 'backlog',
      unit: 'messages/s',
      against: `${BACKLOG_SHORT} waiting instead of ${BACKLOG_LONG}`,
      durability: fullDurability,
    }),
    compare(
      memory,
      {
        what: 'backlog memory',
        unit: 'MB live',
        against: `${BACKLOG_SHORT} waiting instead of ${BACKLOG_LONG}`,
        durability: fullDurability,
      },
      true,
    ),
  ] satisfies Result[]
}

async function measureBacklog(backlog: Pair[], memory: Pair[]): Promise<void> {
  const rate = (waiting: number) => inFolder((directory) => drain(join(directory, 'drain'), waiting))
  const megabytes = (waiting: number) => inFolder((directory) => memoryAtHalf(join(directory, 'memory'), waiting))
  const peer = await rate(BACKLOG_SHORT)
  backlog.push({ ours: await rate(BACKLOG_LONG), peer })
  memory.push({ ours: await megabytes(BACKLOG_LONG), peer: await megabytes(BACKLOG_SHORT) })
}

async function withBuses<T>(
  prefix: string,
  work: (publisher: Bus, makeConsumer: (handle: () => void, received?: () => void) => Bus) => Promise<T>,
): Promise<T> {
  const transport = sqliteTransport(`${prefix}-broker.db`)
  const opened: Bus[] = []
  const make = (service: string, received = () => {}): Bus => {
    const store = sqliteStore(`${prefix}-${service}.db`)
    const onStep = (step: Step) => {
      if (step === 'receive') received()
    }
    const bus = createBus({ service, transport, store, events: [readingTaken], onStep })
    opened.push(bus)
    return bus
  }
  try {
    return await work(make('sensors'), (handle, received) => {
      const consumer = make('archive', received)
      consumer.subscribe(readingTaken, handle)
      return consumer
    })
  } finally {
    for (const bus of opened) await bus.close()
    await transport.close()
    for (const bus of opened) await bus.store.close()
  }
}

async function publishAll(bus: Bus, count: number): Promise<void> {
  let next = 0
  const publisher = async () => {
    while (next < count) {
      const n = next++
      await bus.publish(readingTaken, { sensor: `s${n % KEYS}`, n, note: NOTE })
    }
  }
  await Promise.all(Array.from({ length: PUBLISHERS }, publisher))
}

const perSecond = (count: number, begin: number) => count / ((performance.now() - begin) / 1_000)

/** Confirmed publications a second; the relay to the log runs meanwhile. */
function publishOnly(prefix: string): Promise<number> {
  return withBuses(prefix, async (publisher) => {
    await publisher.start()
    const begin = performance.now()
    await publishAll(publisher, MESSAGES)
    const rate = perSecond(MESSAGES, begin)
    await publisher.idle()
    return rate
  })
}

/** Messages a second from `publish` to a committed handler of another service. */
function publishToHandled(prefix: string): Promise<number> {
  return withBuses(prefix, async (publisher, makeConsumer) => {
    const all = Promise.withResolvers<void>()
    let handled = 0
    const consumer = makeConsumer(() => {
      if (++handled === MESSAGES) all.resolve()
    })
    await publisher.start()
    await consumer.start()
    const begin = performance.now()
    await publishAll(publisher, MESSAGES)
    await all.promise
    await consumer.idle()
    return perSecond(MESSAGES, begin)
  })
}

/**
 * BACKLOG_LONG messages handled in all, `waiting` of them waiting each time that the consumer starts: from the first that is
 * received to the last that is handled.
 */
async function drain(prefix: string, waiting: number): Promise<number> {
  let busyMs = 0
  for (let round = 0; round < BACKLOG_LONG / waiting; round++) {
    await drainOnce(prefix, waiting, (begin) => {
      busyMs += performance.now() - begin
    })
  }
  return BACKLOG_LONG / (busyMs / 1_000)
}

/** Megabytes of live objects when half of what waits has been handled. */
async function memoryAtHalf(prefix: string, waiting: number): Promise<number> {
  let bytes = 0
  await drainOnce(
    prefix,
    waiting,
    () => {},
    (handled) => {
      if (handled !== waiting / 2) return
      collectGarbage()
      bytes = process.memoryUsage().heapUsed
    },
  )
  return bytes / 2 ** 20
}

/** Fills the log while nobody consumes; then the consumer's process starts anew and works it off. */
async function drainOnce(
  prefix: string,
  waiting: number,
  finished: (beginMs: number) => void,
  onHandled = (_handled: number) => {},
): Promise<void> {
  await withBuses(prefix, async (publisher, makeConsumer) => {
    await makeConsumer(() => {}).declare()
    await publisher.start()
    await publishAll(publisher, waiting)
    await publisher.idle()
  })
  await withBuses(prefix, async (_, makeConsumer) => {
    const done = Promise.withResolvers<void>()
    let handled = 0
    let begin = 0
    const handle = () => {
      handled += 1
      onHandled(handled)
      if (handled === waiting) done.resolve()
    }
    const consumer = makeConsumer(handle, () => {
      begin ||= performance.now()
    })
    await consumer.start()
    await done.promise
    await consumer.idle()
    finished(begin)
  })
}

function collectGarbage(): void {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  gc()
}
