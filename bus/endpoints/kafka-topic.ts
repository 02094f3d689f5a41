/**
 * A Kafka topic of other programs. Each record has a place that never changes, and is known again by it; offsets are
 * committed up to the lowest record that is not settled.
 */
import { isIP } from 'node:net'
import { inspect } from 'node:util'
import { Consumer, type Message, ProduceAcks, Producer } from '@platformatic/kafka'
import { refusedEncryption } from '../encryption.ts'
import type { Arrival, Endpoint, Note, ReceiveOptions } from '../endpoint.ts'
import { BusError } from '../errors.ts'
import { kafkaServers } from '../transports/kafka-address.ts'
import { reasonsOf } from '../transports/kafka-reasons.ts'
import { within } from '../within.ts'
import { type KafkaWindow, kafkaWindow } from './kafka-window.ts'
import { keepConnection, notSent } from './kept-connection.ts'

export type KafkaTopicOptions = {
  topic: string
  /** Processes of one group share the topic's partitions; by default the bridge's name. */
  group?: string
  /** Where a new group begins. */
  from?: 'now' | 'beginning'
}

type Kafka = Consumer<Buffer, Buffer, Buffer, Buffer>
type KafkaRecord = Message<Buffer, Buffer, Buffer, Buffer>
type Connection = {
  readonly producer: Producer<Buffer, Buffer, Buffer, Buffer>
  readonly lost: (why: unknown) => void
  /** Where it receives, too. */
  reading?: { consumer: Kafka; window: KafkaWindow }
}

const REQUEST_TIMEOUT_MS = 10_000
/** A member that died is missed after this long, and so long its successor waits to join. */
const SESSION_TIMEOUT_MS = 8_000
const HEARTBEAT_MS = 1_000
const JOIN_TIMEOUT_MS = 30_000
/** Records of one request to the broker. */
const BATCH_MAX = 500

const membership = {
  sessionTimeout: SESSION_TIMEOUT_MS,
  rebalanceTimeout: SESSION_TIMEOUT_MS,
  heartbeatInterval: HEARTBEAT_MS,
}

/** @param address `kafka://user:password@host:9092,host:9092?sasl=scram-sha-256&tls=true`, as of the transport. Throws `invalid_argument`. */
export function kafkaTopic(address: string, options: KafkaTopicOptions): Endpoint {
  const { topic, from = 'beginning' } = options
  const name = `kafka topic ${topic}`
  const windows = new WeakMap<Arrival, { window: KafkaWindow; record: KafkaRecord }>()
  const { brokers, connection } = kafkaServers(address)
  const client = {
    bootstrapBrokers: [...brokers],
    ...connection,
    clientId: 'shopsphere-bridge',
    timeout: REQUEST_TIMEOUT_MS,
    connectTimeout: REQUEST_TIMEOUT_MS,
    retries: 2,
    retryDelay: 200,
    autocreateTopics: true,
  }
  const kept = keepConnection<Connection>({ name, connect, disconnect })
  const outgoing: { note: Note; resolve: () => void; reject: (error: unknown) => void }[] = []
  let producing = false
  /** Servers are asked for by their names, unless one of them is known by an IP address: that is no name, and Node refuses it. */
  let tlsServerName = brokers.every(({ host }) => isIP(host) === 0)

  async function connect(lost: (why: unknown) => void): Promise<Connection> {
    const producer = new Producer<Buffer, Buffer, Buffer, Buffer>({ ...client, tlsServerName })
    let areNamed = true
    try {
      const asking = producer.metadata({ topics: [topic], retries: 5 })
      const { brokers } = await within(2 * REQUEST_TIMEOUT_MS, 'asking for the topic', asking)
      areNamed = brokers.values().every(({ host }) => isIP(host) === 0)
    } catch (error) {
      await within(REQUEST_TIMEOUT_MS, 'closing', producer.close()).catch(() => {})
      throw refusal(name, error) ?? missing(error) ?? plain(error)
    }
    if (areNamed || !tlsServerName) return { producer, lost }
    tlsServerName = false
    await within(REQUEST_TIMEOUT_MS, 'closing', producer.close())
    return connect(lost)
  }

  async function disconnect({ producer, reading }: Connection): Promise<void> {
    await reading?.window.close()
    await within(REQUEST_TIMEOUT_MS, 'closing', Promise.allSettled([reading?.consumer.close(true), producer.close()]))
  }

  /** Reads what fits into the window, and commits what is settled. Ends with its connection. */
  async function consume(connection: Connection, { name: bridge, windowMax, receive }: ReceiveOptions): Promise<void> {
    const consumer: Kafka = new Consumer({
      ...client,
      tlsServerName,
      groupId: options.group ?? bridge,
      autocommit: false,
      ...membership,
    })
    const window = kafkaWindow(consumer, windowMax)
    connection.reading = { consumer, window }
    const fallbackMode = from === 'now' ? 'latest' : 'earliest'
    const stream = await within(
      JOIN_TIMEOUT_MS,
      'joining the group',
      consumer.consume({ topics: [topic], mode: 'committed', fallbackMode, maxWaitTime: 500 }),
    )
    void pump(stream, window, receive).then(
      () => connection.lost(new Error('the stream has ended')),
      (error) => connection.lost(plain(error)),
    )
  }

  async function pump(
    stream: AsyncIterable<KafkaRecord>,
    window: KafkaWindow,
    receive: ReceiveOptions['receive'],
  ): Promise<void> {
    for await (const record of stream) {
      await window.room()
      window.take(record)
      const arrival = toArrival(record)
      windows.set(arrival, { window, record })
      receive([arrival])
    }
  }

  /** One request at a time, with all that waits in it: two in flight may arrive in the wrong order. */
  async function produce(): Promise<void> {
    if (producing) return
    producing = true
    while (outgoing.length > 0) {
      const batch = outgoing.splice(0, BATCH_MAX)
      try {
        const { producer } = kept.current()
        const messages = batch.map(({ note }) => toRecord(topic, note))
        const sent = producer.send({ messages, acks: ProduceAcks.ALL })
        await within(REQUEST_TIMEOUT_MS, 'producing', sent)
        for (const { resolve } of batch) resolve()
      } catch (error) {
        for (const { reject } of batch) reject(notSent(name, error))
      }
    }
    producing = false
  }

  return {
    name,
    open: ({ log }) => kept.open(log),
    state: kept.state,
    receive: (options) => kept.withEach((connection) => consume(connection, options), options.lost),
    settle(arrival) {
      const { window, record } = windows.get(arrival)!
      window.settle(record) // there is nothing to refuse with: a topic keeps what it has
    },
    send: (note) =>
      new Promise((resolve, reject) => {
        outgoing.push({ note, resolve, reject })
        void produce()
      }),
    waiting: async () => 0, // asking would cost a request to each partition's leader, each time
    close: () => kept.close(),
  }
}

/** A record's place, and when it was written there: a topic that was deleted and made anew begins with the same offsets. */
function toArrival({ topic, partition, offset, timestamp, key, value, headers }: KafkaRecord): Arrival {
  const texts = [...headers].map(([name, text]) => [String(name), String(text)])
  return {
    body: value ?? Buffer.alloc(0),
    headers: Object.fromEntries(texts),
    id: `${topic}/${partition}/${offset}/${timestamp}`,
    key: key ? String(key) : null,
    redelivered: false,
  }
}

function toRecord(topic: string, { body, headers, id, key }: Note) {
  const all = Object.entries({ ...headers, ...(id === null ? {} : { id }) })
  return {
    topic,
    value: body,
    headers: new Map(all.map(([name, text]) => [Buffer.from(name), Buffer.from(text)])),
    ...(key === null ? {} : { key: Buffer.from(key) }),
  }
}

/** Credentials, rights and encryption: waiting does not help. */
function refusal(name: string, error: unknown): BusError | undefined {
  const encryption = refusedEncryption(name, error)
  if (encryption) return encryption
  const text = inspect(error, { depth: 4 })
  if (!/AuthenticationError|SASL|AUTHORIZATION_FAILED|INVALID_TOPIC/i.test(text)) return undefined
  const { message } = error as Error
  return new BusError(
    'transport_refused',
    `${name} is refused (${message}): check the credentials, the topic's name and the rights`,
    {
      cause: error,
    },
  )
}

/** `fetch failed 3 times` says nothing; `connect ECONNREFUSED host:9092` does. */
function plain(error: unknown): Error {
  return new Error(reasonsOf(error).at(-1)?.message ?? String(error), { cause: error })
}

/** Waiting helps once somebody has made it. */
function missing(error: unknown): Error | undefined {
  const isMissing = /Unknown topic|UNKNOWN_TOPIC/.test(inspect(error, { depth: 4 }))
  return isMissing
    ? new Error('the topic is not there, and the broker makes none by itself: create it', { cause: error })
    : undefined
}
