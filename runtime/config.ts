import { join, resolve } from 'node:path'
import { foreignEnvelopeCodec, jsonCodec, messagePackCodec } from '@shopsphere/bus'
import { z } from 'zod'
import { type ForeignPlace, foreignPlacesExpected, isSamePlace, parseForeignPlaces } from './foreign-places.ts'
import { PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN } from './passwords.ts'
import { refuseUnsafeInProduction, withMountedSecrets } from './secrets.ts'
import { StartError } from './start-error.ts'

/**
 * Everything that the environment decides, read once at the start. Every variable has a default; an empty one counts as
 * not given. Durations are milliseconds.
 */

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS
const DURATION_MAX_MS = 10 * 365 * DAY_MS
const TOKEN_SECRET_LENGTH_MIN = 32

/** What BROKER_URL and DATABASE_URL may begin with. */
const brokerSchemes = ['sqlite', 'amqp', 'amqps', 'kafka', 'redis', 'rediss']
const databaseSchemes = ['sqlite', 'postgres', 'postgresql']

/** Where a broker or a database is. `path`: for `sqlite:`, the absolute file (broker) or folder (databases). */
export type Address = { readonly scheme: string; readonly url: string; readonly path: string }

export type Config = ReturnType<typeof readConfig>

const wholeNumber = (min: number, max: number, unit = '') => {
  const expected = `a whole number from ${min} to ${max}${unit}`
  return z
    .string()
    .regex(/^\d+$/, expected)
    .transform(Number)
    .refine((value) => value >= min && value <= max, expected)
}
const whole = (fallback: number, min: number, max: number, unit = '') => wholeNumber(min, max, unit).default(fallback)
const duration = (fallback: number) => whole(fallback, 0, DURATION_MAX_MS, ' (milliseconds)')
const share = (fallback: number) => {
  const expected = 'a number from 0 to 1'
  return z
    .string()
    .regex(/^(\d+(\.\d*)?|\.\d+)$/, expected)
    .transform(Number)
    .refine((value) => value <= 1, expected)
    .default(fallback)
}
const oneOf = <const Values extends readonly [string, ...string[]]>(values: Values, fallback: Values[number]) =>
  z.enum(values, `one of ${values.join(', ')}`).default(fallback as never)

function variables(services: readonly string[]) {
  return z.object({
    PORT: whole(3000, 0, 65_535, ' (0: any free port)'),
    METRICS_PORT: wholeNumber(1, 65_535).optional(),
    HOST: z.string().optional(),
    DATA_DIR: z.string().default('./data'),
    BROKER_URL: url(brokerSchemes),
    BROKER_PREFIX: namePrefix(''),
    DATABASE_URL: url(databaseSchemes),
    DATABASE_PREFIX: namePrefix('shopsphere_'),
    SERVICES: serviceNames(services),
    SERVICE_URLS: serviceUrls(services),
    LOG_LEVEL: oneOf(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], 'info'),
    NODE_ENV: oneOf(['development', 'production', 'test'], 'development'),
    TOKEN_SECRET: z
      .string()
      .min(TOKEN_SECRET_LENGTH_MIN, `at least ${TOKEN_SECRET_LENGTH_MIN} characters of chance`)
      .optional(),
    SEED: wholeNumber(0, 2 ** 32 - 1).optional(),
    ADMIN_EMAIL: z.email('an e-mail address').max(254, 'an e-mail address').default('operator@shop.example'),
    ADMIN_PASSWORD: z
      .string()
      .min(PASSWORD_LENGTH_MIN, `${PASSWORD_LENGTH_MIN} to ${PASSWORD_LENGTH_MAX} characters`)
      .max(PASSWORD_LENGTH_MAX, `${PASSWORD_LENGTH_MIN} to ${PASSWORD_LENGTH_MAX} characters`)
      .optional(),

    SIGN_INS_PER_MINUTE: whole(60, 0, 1_000_000, ' (0: no limit)'),
    ORDERS_PER_MINUTE: whole(600, 0, 1_000_000, ' (0: no limit)'),
    TRUST_PROXY: oneOf(['no', 'yes'], 'no'),
    CORS_ORIGINS: origins(),

    WIRE_FORMAT: oneOf(['json', 'message-pack', 'envelope'], 'json'),
    ORDER_EVENTS_FROM: foreignPlaces(() => 'order_events', ['amqp']),
    ORDER_EVENTS_TO: foreignPlaces(() => 'order_events', ['amqp']),
    ORDER_CREATED_FROM: foreignPlaces(createdPlace),
    ORDER_CREATED_TO: foreignPlaces(createdPlace),

    DEAD_LETTER_WEBHOOK: webhookUrl(),
    DEAD_LETTER_WEBHOOK_SECRET: webhookSecret(),
    DEAD_LETTER_ALERT_MIN: whole(1, 1, 1_000_000),

    HOLD_MS: duration(15 * MINUTE_MS),
    PAYMENT_DECISION_MS: duration(10 * MINUTE_MS),
    CAPTURE_DEADLINE_MS: duration(6 * DAY_MS),
    PICKING_GRACE_MS: duration(1 * MINUTE_MS),
    SHIPPING_DEADLINE_MS: duration(48 * HOUR_MS),
    CARRIER_SILENCE_MS: duration(30 * DAY_MS),
    RETURN_WINDOW_MS: duration(30 * DAY_MS),
    CART_ABANDONED_MS: duration(24 * HOUR_MS),
    ORDER_STALLED_MS: duration(72 * HOUR_MS),

    PROVIDER_FAILURE_RATE: share(0),
    PROVIDER_DELAY_MS: duration(0),
    CARRIER_FAILURE_RATE: share(0),
    CARRIER_DELAY_MS: duration(1000),
    MAILER_FAILURE_RATE: share(0),
    MAILER_DELAY_MS: duration(0),
  })
}

/**
 * @param environment as `process.env`
 * @param services the names that SERVICES and SERVICE_URLS may use
 * @throws StartError with exit code 2, one line for each variable that is wrong
 */
export function readConfig(environment: Readonly<Record<string, string | undefined>>, services: readonly string[]) {
  const given = Object.fromEntries(Object.entries(withMountedSecrets(environment)).filter(([, value]) => value?.trim()))
  const parsed = variables(services).safeParse(given)
  if (!parsed.success) throw refuse(given, parsed.error.issues)
  const read = parsed.data
  if (read.NODE_ENV === 'production') {
    refuseUnsafeInProduction({
      brokerUrl: read.BROKER_URL,
      databaseUrl: read.DATABASE_URL,
      foreignUrls: (
        ['ORDER_EVENTS_FROM', 'ORDER_EVENTS_TO', 'ORDER_CREATED_FROM', 'ORDER_CREATED_TO'] as const
      ).flatMap((setting) => read[setting].map(({ url }) => ({ setting, url }))),
      tokenSecret: read.TOKEN_SECRET,
      adminPassword: read.ADMIN_PASSWORD,
      makesOperator: read.SERVICES.includes('user'),
    })
  }
  const dataDir = resolve(read.DATA_DIR)
  refuseEchoes(read)
  if (read.METRICS_PORT !== undefined && read.METRICS_PORT === read.PORT)
    throw new StartError(`METRICS_PORT is '${read.PORT}': expected another port than PORT`, { exitCode: 2 })
  return {
    port: read.PORT,
    /** Where /metrics answers; null: on `port`. */
    metricsPort: read.METRICS_PORT ?? null,
    /** Undefined: every interface. */
    host: read.HOST,
    dataDir,
    broker: locate(read.BROKER_URL, join(dataDir, 'broker.db')),
    /** For the names of queues, topics or streams. */
    brokerPrefix: read.BROKER_PREFIX,
    database: locate(read.DATABASE_URL, dataDir),
    /** For the names of the services' schemas in a PostgreSQL database. */
    databasePrefix: read.DATABASE_PREFIX,
    /** Services that this process runs. */
    services: read.SERVICES,
    /** Where services of other processes answer: name → origin without a slash at its end. */
    serviceUrls: read.SERVICE_URLS,
    logLevel: read.LOG_LEVEL,
    mode: read.NODE_ENV,
    /** Null: tokenSecret() keeps a random one in the data folder. */
    tokenSecret: read.TOKEN_SECRET ?? null,
    /** Null: chance. */
    seed: read.SEED ?? null,
    /** The first operator's account. Password null: user makes a random one and keeps it in the data folder. */
    operator: { email: read.ADMIN_EMAIL, password: read.ADMIN_PASSWORD ?? null },
    /** Requests of one caller, or of one address where nobody signed in; 0: no limit. */
    rateLimits: { signInsPerMinute: read.SIGN_INS_PER_MINUTE, ordersPerMinute: read.ORDERS_PER_MINUTE },
    /** The last entry of X-Forwarded-For is the caller's address: only behind a proxy that writes it. */
    trustProxy: read.TRUST_PROXY === 'yes',
    /** Pages of these origins may call the API from a browser; none by default. */
    corsOrigins: read.CORS_ORIGINS,
    /** How events are written on the broker; whatever the others wrote is read all the same. */
    codec: { json: jsonCodec, 'message-pack': messagePackCodec, envelope: foreignEnvelopeCodec }[read.WIRE_FORMAT],
    /** Where programs of others are spoken with; nowhere by default. See docs/foreign-programs.md. */
    foreign: {
      orderEventsFrom: read.ORDER_EVENTS_FROM,
      orderEventsTo: read.ORDER_EVENTS_TO,
      orderCreatedFrom: read.ORDER_CREATED_FROM,
      orderCreatedTo: read.ORDER_CREATED_TO,
    },
    /** Who is told of dead letters beside the log, and from how many of a subscription on. Secret null: unsigned. */
    deadLetterAlerts: {
      webhook:
        read.DEAD_LETTER_WEBHOOK === undefined
          ? null
          : { url: read.DEAD_LETTER_WEBHOOK, secret: read.DEAD_LETTER_WEBHOOK_SECRET ?? null },
      alertMin: read.DEAD_LETTER_ALERT_MIN,
    },
    timers: {
      /** T1 */ holdMs: read.HOLD_MS,
      /** T2 */ paymentDecisionMs: read.PAYMENT_DECISION_MS,
      /** T3 */ captureDeadlineMs: read.CAPTURE_DEADLINE_MS,
      /** T4 */ pickingGraceMs: read.PICKING_GRACE_MS,
      /** T5 */ shippingDeadlineMs: read.SHIPPING_DEADLINE_MS,
      /** T6 */ carrierSilenceMs: read.CARRIER_SILENCE_MS,
      /** T7 */ returnWindowMs: read.RETURN_WINDOW_MS,
      /** T8 */ cartAbandonedMs: read.CART_ABANDONED_MS,
      /** T9 */ orderStalledMs: read.ORDER_STALLED_MS,
    },
    /** The simulated outside world. Rates are shares from 0 to 1. */
    provider: { failureRate: read.PROVIDER_FAILURE_RATE, delayMs: read.PROVIDER_DELAY_MS },
    carrier: { failureRate: read.CARRIER_FAILURE_RATE, delayMs: read.CARRIER_DELAY_MS },
    mailer: { failureRate: read.MAILER_FAILURE_RATE, delayMs: read.MAILER_DELAY_MS },
  } as const
}

function url(schemes: readonly string[]) {
  const expected = `a URL that begins with ${schemes.map((scheme) => `${scheme}:`).join(', ')}`
  return z
    .string()
    .default('sqlite:')
    .refine((text) => schemes.includes(schemeOf(text)), expected)
}

/** Begins the names of queues, topics, streams or schemas, where several shops share a server. */
const namePrefix = (fallback: string) =>
  z
    .string()
    .regex(/^[a-z][a-z0-9_]{0,30}$/, 'lower-case letters, digits and _, 31 at most')
    .default(fallback)

function schemeOf(text: string): string {
  return text.slice(0, Math.max(0, text.indexOf(':'))).toLowerCase()
}

/** `sqlite:` alone is the default path; `sqlite:./here.db`, `sqlite:/there.db` and `sqlite:///there.db` name one. */
function locate(text: string, defaultPath: string): Address {
  const path = text.slice(text.indexOf(':') + 1).replace(/^\/\//, '')
  return { scheme: schemeOf(text), url: text, path: path === '' ? defaultPath : resolve(path) }
}

function serviceNames(known: readonly string[]) {
  const expected = `names separated by commas, of ${known.join(', ')}`
  return z
    .string()
    .transform((text) => [...new Set(pieces(text))])
    .refine((names) => names.length > 0 && names.every((name) => known.includes(name)), expected)
    .default([...known])
}

function serviceUrls(known: readonly string[]) {
  const expected = `name=http://host:port pairs separated by commas, the names of ${known.join(', ')}`
  return z
    .string()
    .transform((text) => new Map(pieces(text).map((pair) => splitPair(pair))))
    .refine((pairs) => [...pairs].every(([name, address]) => known.includes(name) && isHttpOrigin(address)), expected)
    .default(() => new Map<string, string>())
}

function origins() {
  return z
    .string()
    .transform((text) => pieces(text))
    .refine((all) => all.every(isHttpOrigin), 'origins as https://shop.example, separated by commas')
    .default([])
}

function webhookUrl() {
  return z
    .string()
    .refine((text) => {
      const url = URL.parse(text)
      return url !== null && /^https?:$/.test(url.protocol) && url.username === '' && url.password === ''
    }, 'a URL as https://alerts.example/shop, without a user and a password')
    .optional()
}

const WEBHOOK_SECRET_BYTES_MIN = 24
const WEBHOOK_SECRET_BYTES_MAX = 64

/** As Standard Webhooks writes it; the bytes sign. */
function webhookSecret() {
  const expected = `whsec_ and ${WEBHOOK_SECRET_BYTES_MIN} to ${WEBHOOK_SECRET_BYTES_MAX} bytes of chance in base64`
  return z
    .string()
    .regex(/^whsec_[A-Za-z0-9+/]+={0,2}$/, expected)
    .transform((text): Uint8Array => Buffer.from(text.slice('whsec_'.length), 'base64'))
    .refine(({ length }) => length >= WEBHOOK_SECRET_BYTES_MIN && length <= WEBHOOK_SECRET_BYTES_MAX, expected)
    .optional()
}

/** As small programs name them. */
const createdPlace = (scheme: ForeignPlace['scheme']) => (scheme === 'kafka' ? 'orders' : 'order_created')

function foreignPlaces(
  defaultPlace: (scheme: ForeignPlace['scheme']) => string,
  schemes: readonly ForeignPlace['scheme'][] = ['amqp', 'kafka', 'redis'],
) {
  return z
    .string()
    .transform((text, check) => {
      const places = parseForeignPlaces(text, defaultPlace)
      if (places?.every(({ scheme }) => schemes.includes(scheme))) return places
      check.addIssue({ code: 'custom', message: foreignPlacesExpected(schemes) })
      return z.NEVER
    })
    .default([])
}

function refuseEchoes(read: Record<`ORDER_${'EVENTS' | 'CREATED'}_${'FROM' | 'TO'}`, ForeignPlace[]>): void {
  for (const kind of ['ORDER_EVENTS', 'ORDER_CREATED'] as const) {
    const echo = read[`${kind}_FROM`].find((from) => read[`${kind}_TO`].some((to) => isSamePlace(from, to)))
    if (!echo) continue
    const text = `${kind}_FROM and ${kind}_TO both name '${echo.place}' of one broker, where the shop would hear itself: give them two`
    throw new StartError(text, { exitCode: 2 })
  }
}

const pieces = (text: string) =>
  text
    .split(',')
    .map((piece) => piece.trim())
    .filter((piece) => piece !== '')

function splitPair(pair: string): [name: string, address: string] {
  const at = pair.indexOf('=')
  return at < 0
    ? [pair, '']
    : [
        pair.slice(0, at).trim(),
        pair
          .slice(at + 1)
          .trim()
          .replace(/\/+$/, ''),
      ]
}

function isHttpOrigin(text: string): boolean {
  return /^https?:$/.test(URL.parse(text)?.protocol ?? '') && URL.parse(text)!.origin === text.toLowerCase()
}

function refuse(given: Record<string, string | undefined>, issues: readonly z.core.$ZodIssue[]): StartError {
  // One line a variable: its first issue; a later one would follow from it.
  const first = new Map(issues.toReversed().map((issue) => [String(issue.path[0]), issue.message]))
  const lines = [...first]
    .toReversed()
    .map(([name, expected]) => `${name} is ${show(name, given[name])}: expected ${expected}`)
  return new StartError(lines.join('\n'), { exitCode: 2 })
}

/** Addresses of webhooks often end in what lets one in. */
const neverShown = ['TOKEN_SECRET', 'ADMIN_PASSWORD', 'DEAD_LETTER_WEBHOOK', 'DEAD_LETTER_WEBHOOK_SECRET']

/** What was given, without passwords. */
/** The same address without user and password. */
export function withoutCredentials(address: string): string {
  return address.replace(/\/\/\S*@/g, '//…@') // to the last one: a password may have one in it, and slashes
}

function show(name: string, value = ''): string {
  if (neverShown.includes(name)) return `${value.length} characters long`
  const harmless = withoutCredentials(value)
  return `'${harmless.length > 200 ? `${harmless.slice(0, 200)}…` : harmless}'`
}
