import { kafkaAnswers, startKafka } from './kafka.ts'
import { postgresAnswers, startPostgres } from './postgres.ts'
import { rabbitmqAnswers, startRabbitmq } from './rabbitmq.ts'
import { redisAnswers, startRedis } from './redis.ts'
import { type Server, ServerMissing } from './server.ts'

type Known = {
  /** The variable that names a server to use, and nothing else then. */
  readonly variable: string
  /** Where a server that everybody may use stands on this machine; null: always a private one. */
  readonly standard: string | null
  answers(port: number, host?: string): Promise<boolean>
  start(): Promise<Server>
}

const known = {
  rabbitmq: {
    variable: 'RABBITMQ_URL',
    standard: 'amqp://guest:guest@127.0.0.1:5672',
    answers: rabbitmqAnswers,
    start: () => startRabbitmq(),
  },
  kafka: { variable: 'KAFKA_URL', standard: null, answers: kafkaAnswers, start: () => startKafka() },
  redis: {
    variable: 'REDIS_URL',
    standard: 'redis://127.0.0.1:6379',
    answers: redisAnswers,
    start: () => startRedis(),
  },
  postgres: {
    variable: 'POSTGRES_URL',
    standard: 'postgres://postgres@127.0.0.1:5432/postgres',
    answers: postgresAnswers,
    start: () => startPostgres(),
  },
} satisfies Record<string, Known>

export type ServerName = keyof typeof known
/** `skip` is for node:test: false, or why the suite cannot run here. */
export type Needed = { readonly url: string; readonly skip: false } | { readonly url: ''; readonly skip: string }

const found = new Map<ServerName, Promise<Needed>>()

/**
 * The URL of a server to test against: what its variable names (RABBITMQ_URL, KAFKA_URL, REDIS_URL, POSTGRES_URL), else
 * the one on its standard port, else a private one that lives as long as this process. Others may use it too, so names
 * must be unique. Where there is none, `skip` says why; throws ServerMissing if REQUIRE names it.
 */
export function needs(name: ServerName): Promise<Needed> {
  const before = found.get(name)
  if (before) return before
  const now = find(name)
  found.set(name, now)
  return now
}

async function find(name: ServerName): Promise<Needed> {
  const { variable, standard, answers, start }: Known = known[name]
  const named = process.env[variable]
  if (named) return { url: named, skip: false }
  if (standard && (await answers(Number(new URL(standard).port)))) return { url: standard, skip: false }
  try {
    return { url: (await start()).url, skip: false }
  } catch (error) {
    if (!(error instanceof ServerMissing) || isRequired(name)) throw error
    return { url: '', skip: `needs ${name}: ${error.message}` }
  }
}

/** Whether REQUIRE names it: then its suites may not be skipped. */
export const isRequired = (name: ServerName) =>
  (process.env.REQUIRE ?? '').split(',').some((required) => required.trim() === name)
