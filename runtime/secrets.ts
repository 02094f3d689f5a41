/**
 * Where secrets come from, and which are none.
 *
 * X1 A secret is in the environment, or in a file that the environment names (`TOKEN_SECRET_FILE=/run/secrets/…`), never in both.
 * X2 With NODE_ENV=production nothing starts on credentials that everybody knows, nor on secrets that one process alone
 *    would make up and the next would not know.
 */
import { readFileSync } from 'node:fs'
import { StartError } from './start-error.ts'

/** Each may be given as `…_FILE`, the path of a file that holds it. */
export const fileSecrets = [
  'TOKEN_SECRET',
  'ADMIN_PASSWORD',
  'BROKER_URL',
  'DATABASE_URL',
  'ORDER_EVENTS_FROM',
  'ORDER_EVENTS_TO',
  'ORDER_CREATED_FROM',
  'ORDER_CREATED_TO',
  'DEAD_LETTER_WEBHOOK',
  'DEAD_LETTER_WEBHOOK_SECRET',
] as const

const SECRET_BYTES_MAX = 64 * 1024
/** Fewer different characters than this in 32 are no chance. */
const DIFFERENT_CHARACTERS_MIN = 8

type Environment = Readonly<Record<string, string | undefined>>

/** The same environment with what the files hold (X1), without space at the ends. Throws StartError with exit code 2. */
export function withMountedSecrets(environment: Environment): Record<string, string | undefined> {
  const read: Record<string, string | undefined> = { ...environment }
  const wrong: string[] = []
  for (const name of fileSecrets) {
    const file = environment[`${name}_FILE`]?.trim()
    if (!file) continue
    if (environment[name]?.trim()) wrong.push(`${name} and ${name}_FILE are both set: leave one of them out`)
    else {
      const text = readSecret(file)
      if ('why' in text) wrong.push(`${name}_FILE is '${file}': ${text.why}`)
      else read[name] = text.secret
    }
  }
  if (wrong.length > 0) throw new StartError(wrong.join('\n'), { exitCode: 2 })
  return read
}

function readSecret(file: string): { secret: string } | { why: string } {
  try {
    const secret = readFileSync(file, 'utf8').trim()
    if (secret === '') return { why: 'the file is empty; write the secret into it' }
    if (secret.length > SECRET_BYTES_MAX) return { why: 'the file is too large for a secret' }
    return { secret }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return { why: `the file cannot be read (${code}); mount it where this user may read it` }
  }
}

export type SecretsGiven = {
  readonly brokerUrl: string
  readonly databaseUrl: string
  /** The brokers of foreign programs, and the variable that names each. */
  readonly foreignUrls: readonly { readonly setting: string; readonly url: string }[]
  readonly tokenSecret: string | undefined
  readonly adminPassword: string | undefined
  /** This process makes the operator's account. */
  readonly makesOperator: boolean
}

/** X2. Throws StartError with exit code 2, a line for each secret that has to be set. */
export function refuseUnsafeInProduction(given: SecretsGiven): void {
  const { brokerUrl, databaseUrl, foreignUrls, tokenSecret, adminPassword, makesOperator } = given
  const wrong = [
    unsafeCredentials('BROKER_URL', brokerUrl),
    unsafeCredentials('DATABASE_URL', databaseUrl),
    ...foreignUrls.map(({ setting, url }) => unsafeCredentials(setting, url)),
    tokenSecret === undefined || new Set(tokenSecret).size < DIFFERENT_CHARACTERS_MIN
      ? 'TOKEN_SECRET has to be set to 32 characters of chance or more, the same in every process: openssl rand -hex 32'
      : null,
    makesOperator && adminPassword === undefined ? "ADMIN_PASSWORD has to be set: the first operator's password" : null,
  ].filter((line) => line !== null)
  if (wrong.length === 0) return
  throw new StartError(
    `With NODE_ENV=production:\n${wrong.join('\n')}\nEach may be in a file instead: ${fileSecrets.map((name) => `${name}_FILE`).join(', ')}`,
    { exitCode: 2 },
  )
}

/** User and password that a server has when nobody changed them. Clients of RabbitMQ take them where none are given. */
function unsafeCredentials(name: string, text: string): string | null {
  const url = URL.parse(text)
  if (!url || !/^(amqps?|rediss?|kafka|postgres(ql)?):$/.test(url.protocol)) return null
  const isRabbit = /^amqps?:$/.test(url.protocol)
  const nobody = url.username === '' && url.password === ''
  const known = url.username !== '' && (url.password === url.username || url.username === 'guest')
  if (!known && !(isRabbit && nobody)) return null
  return `${name} signs in as ${url.username || 'guest'} with a password that everybody knows: make an account of the shop's own on that server, and set ${name} to it`
}
