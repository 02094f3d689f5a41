/** What a `kafka:` address says: brokers, credentials, encryption, and how topics are made. */
import type { ConnectionOptions } from '@platformatic/kafka'
import { BusError } from '../errors.ts'
import { type Log, silentLog } from '../log.ts'

export type KafkaOptions = {
  log?: Log
  /** Stands before the names of all topics and groups, so that several buses can share a cluster. */
  prefix?: string
  /** Of every topic: so many processes at most share a subscription. All topics of a bus must have the same number. */
  partitions?: number
  /** Copies of each new topic; −1: as the broker is configured. */
  replicas?: number
  /** Copies that must have a message before it counts as taken (`acks=all` is always asked); null: as the broker is configured. */
  insyncReplicasMin?: number | null
  /** A process that says nothing for so long loses its share. The broker has bounds for it (6 s to 30 min as it is delivered). */
  sessionTimeoutMs?: number
  /** How long a share that another is to have may take to finish what it has begun. */
  handOverMs?: number
  /** `publish` settles within this. */
  publishTimeoutMs?: number
  /** One request to the broker; beyond it the connection counts as dead. */
  requestTimeoutMs?: number
}

export type KafkaSettings = Required<KafkaOptions> & {
  readonly brokers: readonly { host: string; port: number }[]
  readonly connection: Pick<ConnectionOptions, 'sasl' | 'tls'>
  /** The address without its password, for messages. */
  readonly shown: string
}

const PORT_DEFAULT = 9092
const MECHANISMS = { plain: 'PLAIN', 'scram-sha-256': 'SCRAM-SHA-256', 'scram-sha-512': 'SCRAM-SHA-512' } as const
const PREFIX_LENGTH_MAX = 64

const defaults = {
  log: silentLog,
  prefix: '',
  partitions: 8,
  replicas: -1,
  insyncReplicasMin: null,
  sessionTimeoutMs: 6_000,
  handOverMs: 3_000,
  publishTimeoutMs: 10_000,
  requestTimeoutMs: 5_000,
} satisfies Required<KafkaOptions>

export type KafkaServers = Pick<KafkaSettings, 'brokers' | 'connection' | 'shown'>

const SERVER_WORDS = ['sasl', 'tls']
const TOPIC_WORDS = ['prefix', 'partitions', 'replicas', 'insyncReplicasMin']

/** Reads `kafka://user:password@host:port,host:port?sasl=scram-sha-256&tls=true`. Throws as `kafkaSettings` does. */
export function kafkaServers(address: string): KafkaServers {
  const { brokers, connection, shown } = readAddress(address, SERVER_WORDS)
  return { brokers, connection, shown }
}

/**
 * Reads what `kafkaServers` does, and `prefix=…&partitions=8&replicas=3` beside it. What stands in `options` wins. Throws
 * `invalid_argument`, and never shows the password.
 */
export function kafkaSettings(address: string, options: KafkaOptions): KafkaSettings {
  const { brokers, connection, shown, asked, refuse } = readAddress(address, [...SERVER_WORDS, ...TOPIC_WORDS])
  const number = (name: 'partitions' | 'replicas' | 'insyncReplicasMin') => {
    const text = asked.get(name)
    if (text === null) return {}
    if (!/^-?\d+$/.test(text)) throw refuse(`${name} must be a whole number`)
    return { [name]: Number(text) }
  }
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as KafkaOptions
  const prefix = asked.get('prefix')
  const settings = {
    ...defaults,
    ...number('partitions'),
    ...number('replicas'),
    ...number('insyncReplicasMin'),
    ...(prefix !== null && { prefix }),
    ...given,
  }
  if (!Number.isSafeInteger(settings.partitions) || settings.partitions < 1 || settings.partitions > 1_000)
    throw refuse(`partitions must be a whole number from 1 to 1000, not ${settings.partitions}`)
  if (!/^[A-Za-z0-9._-]*$/.test(settings.prefix) || settings.prefix.length > PREFIX_LENGTH_MAX)
    throw refuse(`prefix may have letters, digits, '.', '_' and '-', ${PREFIX_LENGTH_MAX} at most`)
  return { ...settings, brokers, connection, shown }
}

function readAddress(address: string, known: readonly string[]) {
  const shown = address.replace(/\/\/\S*@/, '//…@')
  const refuse = (why: string) => new BusError('invalid_argument', `broker address ${shown}: ${why}`)
  const parts = /^kafka:\/\/(?:([^:@/?]*):([^@/?]*)@)?([^@/?]+)\/?(?:\?(.*))?$/.exec(address)
  if (!parts)
    throw refuse(
      'write kafka://host:port, several separated by commas, kafka://user:password@host:port; ?tls=true for encryption',
    )
  const [, user, password, hosts, query] = parts
  const brokers = hosts!.split(',').map((text) => {
    const found = /^(\[[^\]]+\]|[^:]+)(?::(\d{1,5}))?$/.exec(text.trim())
    if (!found || Number(found[2] ?? 0) > 65_535) throw refuse(`'${text}' is no host:port`)
    return { host: found[1]!.replace(/^\[|\]$/g, ''), port: Number(found[2] ?? PORT_DEFAULT) }
  })
  const asked = new URLSearchParams(query)
  for (const name of asked.keys()) if (!known.includes(name)) throw refuse(`'${name}' is none of ${known.join(', ')}`)
  const connection: { sasl?: KafkaSettings['connection']['sasl']; tls?: object } = {}
  if (user !== undefined) {
    const mechanism = MECHANISMS[(asked.get('sasl') ?? 'plain') as keyof typeof MECHANISMS]
    if (!mechanism) throw refuse(`sasl must be one of ${Object.keys(MECHANISMS).join(', ')}`)
    const decoded = (text: string) => {
      try {
        return decodeURIComponent(text)
      } catch {
        throw refuse('a % in user or password is written %25')
      }
    }
    connection.sasl = { mechanism, username: decoded(user), password: decoded(password!) }
  } else if (asked.has('sasl')) throw refuse('sasl needs credentials: kafka://user:password@…')
  const tls = asked.get('tls') ?? 'false'
  if (tls !== 'true' && tls !== 'false') throw refuse('tls must be true or false')
  if (tls === 'true') connection.tls = {}
  return { brokers, connection: connection as KafkaSettings['connection'], shown, asked, refuse }
}
