/**
 * Talks to the brokers of one cluster: connections, addresses, who leads what, and what their errors mean.
 *
 * K1 Every request settles within its time limit. A connection that left one unanswered counts as dead and is made anew
 *    (a half-open socket says nothing by itself).
 * K2 A broker answers the requests of one connection one after another, so what waits (a long poll, a join) has a
 *    connection of its own and never holds up an acknowledgement.
 *
 * Only the client's protocol layer is used. Its Consumer commits without metadata and by itself joins anew and then
 * commits under the new generation, which would undo the fencing; decisions/0010 has the rest.
 */
import { isIP } from 'node:net'
import {
  type API,
  apiVersionsV3,
  Connection,
  createAPI,
  createTopicsV7,
  deleteGroupsV2,
  fetchV13,
  findCoordinatorV4,
  heartbeatV4,
  initProducerIdV4,
  joinGroupV7,
  leaveGroupV4,
  listOffsetsV7,
  metadataV12,
  offsetCommitV8,
  offsetFetchV8,
  produceV9,
  protocolErrorsCodesById,
  type Reader,
  syncGroupV5,
  Writer,
} from '@platformatic/kafka'
import { refusedEncryption } from '../encryption.ts'
import { BusError, UnavailableError } from '../errors.ts'
import type { KafkaSettings } from './kafka-address.ts'
import { reasonsOf } from './kafka-reasons.ts'

export type ProduceTopic = { readonly name: string; readonly partitions: { index: number; records: Buffer }[] }

function produceRequest(timeoutMs: number, topics: ProduceTopic[]): Writer {
  return Writer.create()
    .appendString(null)
    .appendInt16(-1) // acks=all
    .appendInt32(timeoutMs)
    .appendArray(topics, (writer, { name, partitions }) =>
      writer.appendString(name).appendArray(partitions, (inner, { index, records }) =>
        inner
          .appendInt32(index)
          .appendUnsignedVarInt(records.length + 1)
          .append(records),
      ),
    )
    .appendTaggedFields()
}

export type FetchedPartition = {
  readonly partitionIndex: number
  readonly errorCode: number
  readonly lastStableOffset: bigint
  readonly logStartOffset: bigint
  readonly abortedTransactions: { producerId: bigint; firstOffset: bigint }[] | null
  /** The record batches as they came. */
  readonly records: Buffer | null
}
export type Fetched = {
  readonly errorCode: number
  readonly responses: { topicId: string; partitions: FetchedPartition[] }[]
}

/** As the client's, but that the batches stay bytes: made into objects, they cost more than everything else together. */
function readFetched(_correlation: number, _key: number, _version: number, reader: Reader): Fetched {
  reader.readInt32() // throttled for so long
  const errorCode = reader.readInt16()
  reader.readInt32() // session
  const responses = reader.readArray((topic) => ({
    topicId: topic.readUUID(),
    partitions: topic.readArray(readFetchedPartition),
  }))
  return { errorCode, responses }
}

function readFetchedPartition(reader: Reader): FetchedPartition {
  const partitionIndex = reader.readInt32()
  const errorCode = reader.readInt16()
  reader.readInt64() // high watermark
  const lastStableOffset = reader.readInt64()
  const logStartOffset = reader.readInt64()
  const abortedTransactions = reader.readNullableArray((one) => ({
    producerId: one.readInt64(),
    firstOffset: one.readInt64(),
  }))
  reader.readInt32() // preferred replica
  const length = reader.readUnsignedVarInt() - 1
  const records = length > 0 ? reader.buffer.slice(reader.position, reader.position + length) : null
  if (length > 0) reader.skip(length)
  return { partitionIndex, errorCode, lastStableOffset, logStartOffset, abortedTransactions, records }
}

/** One version of each request, which brokers from 3.1 on understand. */
export const api = {
  apiVersions: apiVersionsV3.api,
  metadata: metadataV12.api,
  produce: createAPI<Parameters<typeof produceRequest>, produceV9.ProduceResponse>(
    0,
    9,
    produceRequest,
    produceV9.parseResponse,
  ),
  fetch: createAPI<Parameters<typeof fetchV13.createRequest>, Fetched>(1, 13, fetchV13.createRequest, readFetched),
  listOffsets: listOffsetsV7.api,
  findCoordinator: findCoordinatorV4.api,
  joinGroup: joinGroupV7.api,
  syncGroup: syncGroupV5.api,
  heartbeat: heartbeatV4.api,
  leaveGroup: leaveGroupV4.api,
  offsetCommit: offsetCommitV8.api,
  offsetFetch: offsetFetchV8.api,
  createTopics: createTopicsV7.api,
  initProducerId: initProducerIdV4.api,
  deleteGroups: deleteGroupsV2.api,
} as const

const CLIENT_ID = 'shopsphere-bus'
const CONNECT_TIMEOUT_MS = 3_000
/** What a connection itself would allow; `Link.request` has the limit that counts (K1). */
const NEVER_MS = 2 ** 31 - 1
const REQUESTS_IN_FLIGHT_MAX = 16
/** How long a passing state of the cluster is waited out, and how often it is looked at. */
const TRANSIENT_MAX_MS = 10_000
const TRANSIENT_LOOK_MS = 40

type Address = { readonly host: string; readonly port: number }

/** One connection to one broker, made when it is needed and again after it was lost. */
export class Link {
  private readonly settings: KafkaSettings
  private readonly address: () => Address | undefined
  private connection: Connection | undefined
  private connecting: Promise<Connection> | undefined
  private closed = false

  constructor(settings: KafkaSettings, address: () => Address | undefined) {
    this.settings = settings
    this.address = address
  }

  /** Answers also what carries an error code; rejects where there is no answer in time (K1). */
  async request<A extends unknown[], R>(
    one: API<A, R>,
    args: A,
    timeoutMs = this.settings.requestTimeoutMs,
  ): Promise<R> {
    const connection = await this.connected()
    const { promise, resolve, reject } = Promise.withResolvers<R>()
    const timer = setTimeout(() => {
      this.drop(connection)
      reject(new Error(`no answer within ${timeoutMs} ms`))
    }, timeoutMs)
    const answered = (error: Error | null, answer?: R) => {
      clearTimeout(timer)
      if (!error) resolve(answer as R)
      else if ((error as { response?: R }).response !== undefined) resolve((error as { response?: R }).response as R)
      else {
        this.drop(connection)
        reject(error)
      }
    }
    ;(one as unknown as (connection: Connection, ...rest: unknown[]) => void)(connection, ...args, answered)
    return promise
  }

  /** Ends what waits on it; the next request connects anew. */
  interrupt(): void {
    if (this.connection) this.drop(this.connection)
  }

  close(): void {
    this.closed = true
    this.interrupt()
  }

  private connected(): Promise<Connection> {
    if (this.closed) return Promise.reject(new Error('the connection is closed'))
    if (this.connection?.isConnected()) return Promise.resolve(this.connection)
    this.connecting ??= this.connect().finally(() => {
      this.connecting = undefined
    })
    return this.connecting
  }

  private async connect(): Promise<Connection> {
    const address = this.address()
    if (!address) throw new Error('the broker is not known at the moment')
    const connection = new Connection(CLIENT_ID, {
      connectTimeout: CONNECT_TIMEOUT_MS,
      requestTimeout: NEVER_MS,
      maxInflights: REQUESTS_IN_FLIGHT_MAX,
      ...this.settings.connection,
      tlsServerName: isIP(address.host) === 0,
    })
    connection.on('error', () => {})
    await connection.connect(address.host, address.port)
    if (this.closed) {
      connection.socket.destroy()
      throw new Error('the connection is closed')
    }
    this.connection = connection
    return connection
  }

  private drop(connection: Connection): void {
    if (this.connection === connection) this.connection = undefined
    connection.socket?.destroy()
  }
}

export type TopicLayout = { readonly id: string; readonly name: string; readonly leaders: readonly number[] }

/** The cluster answers, and cannot do it at this moment: a leader or a coordinator moves, a topic is just made. */
export class Transient extends UnavailableError {}

export class Cluster {
  readonly settings: KafkaSettings
  private brokers = new Map<number, Address>()
  private readonly layouts = new Map<string, TopicLayout>()
  private readonly links = new Map<string, Link>()
  private readonly coordinators = new Map<string, number>()
  private readonly bootstrap: Link[]
  private preferred = 0
  private closed = false

  constructor(settings: KafkaSettings) {
    this.settings = settings
    this.bootstrap = settings.brokers.map((address) => new Link(settings, () => address))
  }

  /** Resolves when a broker answers that can do what is needed; rejects as `Transport.open` does. */
  async open(): Promise<void> {
    const answer = await this.anywhere(api.apiVersions, [CLIENT_ID, '1'])
    for (const [name, { key, version }] of Object.entries(api)) {
      const offered = answer.apiKeys.find(({ apiKey }) => apiKey === key)
      if (offered && offered.minVersion <= version && version <= offered.maxVersion) continue
      const has = offered ? `${offered.minVersion} to ${offered.maxVersion}` : 'none'
      throw new BusError(
        'transport_refused',
        `${this.settings.shown} is too old or too new: it needs version ${version} of ${name} and has ${has}. Use Kafka 3.1 or later`,
      )
    }
    await this.refresh([])
  }

  /** The connection for this purpose to that broker. */
  link(purpose: string, node: number): Link {
    const name = `${purpose}/${node}`
    let link = this.links.get(name)
    if (!link) {
      link = new Link(this.settings, () => this.brokers.get(node))
      if (this.closed) link.close()
      this.links.set(name, link)
    }
    return link
  }

  /** Closes the connections for this purpose. */
  unlink(purpose: string): void {
    for (const [name, link] of this.links) {
      if (!name.startsWith(`${purpose}/`)) continue
      link.close()
      this.links.delete(name)
    }
  }

  layout(topic: string): TopicLayout | undefined {
    return this.layouts.get(topic)
  }

  /** Who is where, and how these topics lie now; a topic that is not there is not in `layout` afterwards. */
  async refresh(topics: readonly string[]): Promise<void> {
    const answer = await this.anywhere(api.metadata, [topics.map((name) => ({ name })), false, false])
    this.brokers = new Map(answer.brokers.map(({ nodeId, host, port }) => [nodeId, { host, port }]))
    for (const { errorCode, name, topicId, partitions } of answer.topics) {
      if (!name) continue
      if (errorCode !== 0 && errorCode !== 5) {
        this.layouts.delete(name)
        this.refuseCode(errorCode, `topic '${name}'`)
        continue
      }
      const leaders = Array.from(partitions, () => -1)
      for (const { partitionIndex, leaderId } of partitions) leaders[partitionIndex] = leaderId
      this.layouts.set(name, { id: topicId, name, leaders })
    }
  }

  /** The broker that keeps this group; asked once, and again after `forgetCoordinator`. */
  async coordinator(group: string): Promise<number> {
    const known = this.coordinators.get(group)
    if (known !== undefined) return known
    const { coordinators } = await this.anywhere(api.findCoordinator, [0, [group]])
    const found = coordinators[0]
    if (found?.errorCode !== 0) throw this.failure(found?.errorCode ?? 15, `group '${group}'`)
    if (!this.brokers.has(found.nodeId)) await this.refresh([])
    this.coordinators.set(group, found.nodeId)
    return found.nodeId
  }

  forgetCoordinator(group: string): void {
    this.coordinators.delete(group)
  }

  /** Asks the first broker that answers. Rejects with what `translate` makes of the last failure. */
  async anywhere<A extends unknown[], R>(one: API<A, R>, args: A): Promise<R> {
    const links = [...[...this.brokers.keys()].map((node) => this.link('control', node)), ...this.bootstrap]
    let failure: unknown
    for (let turn = 0; turn < links.length && !this.closed; turn++) {
      const index = (this.preferred + turn) % links.length
      try {
        const answer = await links[index]!.request(one, args)
        this.preferred = index
        return answer
      } catch (error) {
        failure = this.translate(error)
        if (!(failure instanceof UnavailableError)) throw failure
      }
    }
    throw failure ?? this.translate(new Error('the transport is closed'))
  }

  /** Does what may be done again, until no passing state of the cluster is in its way, but not for ever. */
  async patiently<T>(work: () => Promise<T>): Promise<T> {
    const endAt = performance.now() + TRANSIENT_MAX_MS
    while (true) {
      try {
        return await work()
      } catch (error) {
        if (!(error instanceof Transient) || performance.now() > endAt || this.closed) throw this.translate(error)
        await new Promise((resolve) => setTimeout(resolve, TRANSIENT_LOOK_MS))
      }
    }
  }

  /** What went wrong, as the bus says it: come again, or change something. */
  translate(error: unknown): BusError {
    if (error instanceof BusError) return error
    const reasons = reasonsOf(error)
    const text = reasons.map(({ message }) => message).join(' ')
    const { shown } = this.settings
    const refused = (advice: string) => new BusError('transport_refused', `${shown} ${advice}`, { cause: error })
    if (reasons.some(({ code }) => code === 'PLT_KFK_AUTHENTICATION'))
      return refused('refuses the credentials: look at user, password and ?sasl=… of the address')
    if (text.includes('requires TLS')) return refused('wants an encrypted connection: add ?tls=true to the address')
    const encryption = refusedEncryption(shown, error)
    if (encryption) return encryption
    if (text.includes('TLS handshake failed'))
      return refused('closes the connection instead of encrypting it: look at the port, or write it without ?tls=true')
    return new UnavailableError(
      'transport_unavailable',
      `${shown} does not answer (${reasons.at(-1)?.message ?? text}): it is tried again; see that the broker runs, and whether it wants credentials or tls`,
      { cause: error },
    )
  }

  /** The same for an error code of the protocol. */
  failure(code: number, about: string): BusError {
    const name = (protocolErrorsCodesById as Record<number, string>)[code] ?? `error ${code}`
    const advice = refusals[name]
    if (advice) return new BusError('transport_refused', `${this.settings.shown}, ${about}: ${name}. ${advice}`)
    return new Transient('transport_unavailable', `${this.settings.shown}, ${about}: ${name}; it is tried again`)
  }

  close(): void {
    this.closed = true
    for (const link of [...this.links.values(), ...this.bootstrap]) link.close()
  }

  private refuseCode(code: number, about: string): void {
    const failure = this.failure(code, about)
    if (!(failure instanceof UnavailableError)) throw failure
  }
}

/** Codes that waiting cannot heal, and what to do about them. */
const refusals: Readonly<Record<string, string>> = {
  TOPIC_AUTHORIZATION_FAILED: 'Give this user the rights to describe, create, read and write the topic',
  GROUP_AUTHORIZATION_FAILED: 'Give this user the rights to read and delete the group',
  CLUSTER_AUTHORIZATION_FAILED: 'Give this user the right to create topics and to write idempotently',
  UNSUPPORTED_VERSION: 'Use Kafka 3.1 or later',
  INVALID_TOPIC_EXCEPTION: 'Choose another prefix or a shorter owner',
  INVALID_REPLICATION_FACTOR: 'Set replicas to as many brokers as there are, or fewer',
  INVALID_CONFIG: 'Set insyncReplicasMin to no more than replicas',
  POLICY_VIOLATION: 'Ask who runs the broker for its rules about topics, and set partitions and replicas accordingly',
  INVALID_SESSION_TIMEOUT:
    "Set sessionTimeoutMs within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
  INCONSISTENT_GROUP_PROTOCOL: 'Another program uses a group of this name: choose another prefix',
}
