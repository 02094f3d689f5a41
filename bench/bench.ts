/** `npm run bench -- NAME [--json] [--runs N]`: measures, and says what each figure is compared with. */
import { parseArgs } from 'node:util'
import type { Bench } from './result.ts'
import { report } from './result.ts'

const benches: Record<string, { about: string; load: () => Promise<{ run: Bench }> }> = {
  bus: {
    about: 'the embedded bus: publish, publish-to-handled, a long backlog; against a raw loop of one-row commits',
    load: () => import('./bus.ts'),
  },
  kafka: {
    about: 'the Kafka transport: publish, consume, latency; against the raw client on the same server',
    load: () => import('./kafka.ts'),
  },
  postgres: {
    about: 'exactly-once handling on PostgreSQL: batched against one by one, and against pg-boss',
    load: () => import('./postgres.ts'),
  },
  rabbitmq: {
    about: 'the RabbitMQ transport: publish, consume; against raw amqplib on the same server',
    load: () => import('./rabbitmq.ts'),
  },
  latency: {
    about: 'each broker at 500 messages a second: the transport and a whole bus beside the raw client; an idle bus',
    load: () => import('./latency.ts'),
  },
  saga: {
    about: 'whole orders through all services, from placed to delivered; against the same raw loop',
    load: () => import('./saga.ts'),
  },
  redis: {
    about: 'the Redis transport: publish, consume, publish to handled; against the raw client and BullMQ',
    load: () => import('./redis.ts'),
  },
  start: {
    about: '`npm start`: time to the first order, memory; against the limits that we set ourselves',
    load: () => import('./start.ts'),
  },
}

const usage = `usage: npm run bench -- NAME [--json] [--runs N]

${Object.entries(benches)
  .map(([name, { about }]) => `  ${name.padEnd(8)} ${about}`)
  .join('\n')}

  --json    print the results as one JSON object in the last line
  --runs N  repetitions after the warm-up, 5 by default; the median counts
`

function fail(text: string): never {
  process.stderr.write(`${text}\n\n${usage}`)
  process.exit(2)
}

function options() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { json: { type: 'boolean' }, runs: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    })
  } catch (error) {
    fail((error as Error).message)
  }
}

const { values, positionals } = options()
if (values.help) {
  process.stdout.write(usage)
  process.exit(0)
}
const [name] = positionals
if (!name) fail('which benchmark?')
const bench = benches[name]
if (!bench || positionals.length > 1) fail(`no benchmark '${positionals.join(' ')}'`)
const runs = Number(values.runs ?? 5)
if (!Number.isSafeInteger(runs) || runs < 1 || runs > 100)
  fail(`--runs takes a whole number from 1 to 100, not '${values.runs}'`)

const { run } = await bench.load()
const results = await run({ runs, note: (text) => process.stderr.write(`${text}\n`) })
report(name, results, values.json ?? false)
