/**
 * ShopSphere: every service in one process, behind one door.
 *
 *   people, programs ──HTTP──▶ gateway ──▶ user product cart order payment inventory shipping notification analytics audit
 *                                             │ each with its own database: transaction, inbox, outbox
 *                                             ▼
 *                                          broker: every event to everyone who subscribed, in order by key
 *
 * With SERVICES the same program runs some of them; the broker is what they share. Exit status: 0 closed when asked to,
 * 1 the machine refuses (port, folder, disk), 2 the environment is wrong.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Address, withoutCredentials } from '@shopsphere/runtime/config'
import { exitWhenAsked, onShutdown, surviveClosedOutput } from '@shopsphere/runtime/shutdown'
import { StartError } from '@shopsphere/runtime/start-error'
import { PASSWORD_FILE } from './services/user/operator.ts'
import { allServices, type Shop, startShop } from './shop.ts'

const usage = `Usage: npm start [-- --help]

Starts the shop: every service in one process, on the embedded broker and database, which keep everything in ./data, or
on the servers that are named.
What it listens to comes from the environment:

  PORT=3000            where HTTP is answered; 0: any free port      HOST=           every interface
  METRICS_PORT=        where /metrics is answered; none: on PORT
  DATA_DIR=./data      databases, the key of the tokens, the operator's first password
  BROKER_URL=sqlite:   the broker: sqlite:PATH, amqp://…, kafka://…, redis://…
  DATABASE_URL=sqlite: the databases: sqlite:FOLDER, postgres://…
  SERVICES=            some of ${allServices.map(({ name }) => name).join(',')}
  SERVICE_URLS=        where the others answer: order=http://host:port,…
  ADMIN_EMAIL, ADMIN_PASSWORD   the first operator               TOKEN_SECRET=   the same in every process
  LOG_LEVEL=info       fatal, error, warn, info, debug, trace or silent

  NODE_ENV=development production refuses credentials that everybody knows
  ORDER_EVENTS_FROM, …_TO, ORDER_CREATED_FROM, …_TO   programs of others: docs/foreign-programs.md
  DEAD_LETTER_WEBHOOK= is told of dead letters                   OTEL_EXPORTER_OTLP_ENDPOINT=   gets traces

All of them, with the durations of the shop (HOLD_MS, RETURN_WINDOW_MS, …) and the simulated outside world
(PROVIDER_DELAY_MS, CARRIER_FAILURE_RATE, …): README.md, Settings. Secrets may be in files: docs/running.md.
`

function nextSteps({ url, config, services }: Shop): string {
  const { email, password } = config.operator
  const file = join(config.dataDir, PASSWORD_FILE)
  const kept = existsSync(file)
    ? `the password is in ${file}`
    : 'made at an earlier start: ADMIN_PASSWORD gives a new one'
  const from = password === null ? kept : 'ADMIN_PASSWORD'
  const signIn = services.has('user') ? `  sign in as ${email} (${from}): POST ${url}/api/sessions\n` : ''
  const some = services.size < allServices.length ? ` (${[...services.keys()].join(', ')})` : ''
  return `
ShopSphere answers at ${url}${some}
  broker: ${placeOf(config.broker)}, databases: ${placeOf(config.database)}
  where things are: ${url}/
  the HTTP API: ${url}/openapi.json, the events: ${url}/asyncapi.json
${signIn}  stop with Ctrl+C, or by ending process ${process.pid}: nothing is lost

`
}

function placeOf({ scheme, url, path }: Address): string {
  return scheme === 'sqlite' ? path : withoutCredentials(url)
}

async function main(parameters: readonly string[]): Promise<number | undefined> {
  if (parameters.includes('--help') || parameters.includes('-h')) {
    process.stdout.write(usage)
    return 0
  }
  if (parameters.length > 0) {
    process.stderr.write(`${parameters[0]} is not understood.\n\n${usage}`)
    return 2
  }
  surviveClosedOutput([process.stdout, process.stderr])
  const leaveIt = exitWhenAsked()
  try {
    const shop = await startShop()
    leaveIt()
    onShutdown(shop.close, { log: shop.log })
    process.stdout.write(nextSteps(shop))
    return undefined // runs until a signal comes
  } catch (error) {
    if (!(error instanceof StartError)) throw error
    process.stderr.write(`ShopSphere cannot start:\n${error.message.replaceAll(/^/gm, '  ')}\n`)
    return error.exitCode
  }
}

const exitStatus = await main(process.argv.slice(2))
if (exitStatus !== undefined) process.exitCode = exitStatus
