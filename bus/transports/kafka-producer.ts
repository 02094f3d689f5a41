/**
 * Brings messages to the brokers that lead their partitions.
 *
 * P1 Of one partition, records stand in the order of `publish`: one request at a time and broker, with many messages in
 *    it. (Two idempotent requests of the client in flight got OUT_OF_ORDER_SEQUENCE_NUMBER.) What waits meanwhile
 *    goes together with the next.
 * P2 A request whose answer is missing is sent again as it was, with the same sequence number, so that the broker knows
 *    the repeat. Where it is given up, the producer id is given up with it: what became of its numbers is not known.
 * P3 `publish` settles within publishTimeoutMs, whatever happens on the way.
 */
import { BusError, UnavailableError } from '../errors.ts'
import { shardOf } from '../routing.ts'
import { api, type Cluster, type ProduceTopic } from './kafka-cluster.ts'
import { encodeBatch, type Measured, measure, type Outgoing } from './kafka-records.ts'

/** One partition's part of a request; the broker's own limit is 1 MB unless a topic says otherwise. */
const FLIGHT_BYTES_MAX = 900_000
/** One request, all partitions together; the broker takes 100 MB. */
const REQUEST_BYTES_MAX = 16_000_000
const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 1_000
/** How long a broker may wait for its copies before it answers. */
const ACKS_TIMEOUT_MS = 4_000

const DUPLICATE_SEQUENCE = 46
const MESSAGE_TOO_LARGE = [10, 18]
/** The broker does not know our numbers (any more). */
const NUMBERS_LOST = [45, 47, 49, 59]
const TOPIC_GONE = 3

type Publication = {
  remaining: number
  settled: boolean
  resolve: () => void
  reject: (error: BusError) => void
}
type Pending = Measured & { readonly publication: Publication }
type Flight = { readonly pending: Pending[]; readonly records: Buffer }
type Lane = {
  readonly topic: string
  readonly partition: number
  waiting: Pending[]
  flight: Flight | null
  /** Sent and not answered: no other round may take it. */
  inAir: boolean
  producer: ProducerId | null
  sequence: number
  flightBytesMax: number
}
type ProducerId = { readonly id: bigint; readonly epoch: number }

export class Producer {
  private readonly cluster: Cluster
  private readonly topicGone: (topic: string) => Promise<void>
  private readonly trouble: (reason: string | null) => void
  private readonly lanes = new Map<string, Lane>()
  private readonly busy = new Set<Lane>()
  private readonly senders = new Set<number>()
  private producer: Promise<ProducerId> | null = null
  private scheduled = false
  private retryMs = RETRY_FIRST_MS
  private turn = 0
  private closed = false

  constructor(cluster: Cluster, topicGone: (topic: string) => Promise<void>, trouble: (reason: string | null) => void) {
    this.cluster = cluster
    this.topicGone = topicGone
    this.trouble = trouble
  }

  /** Resolves when all are durable. The topics must be known to the cluster. */
  publish(messages: readonly { readonly topic: string; readonly message: Outgoing }[]): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const { publishTimeoutMs } = this.cluster.settings
    const timer = setTimeout(() => this.settle(publication, lateError(publishTimeoutMs)), publishTimeoutMs)
    const publication: Publication = {
      remaining: messages.length,
      settled: false,
      resolve: () => {
        clearTimeout(timer)
        resolve()
      },
      reject: (error) => {
        clearTimeout(timer)
        reject(error)
      },
    }
    const at = Date.now()
    for (const { topic, message } of messages) {
      const lane = this.lane(topic, this.partition(topic, message))
      lane.waiting.push({ ...measure(message, at), publication })
      this.busy.add(lane)
    }
    this.schedule()
    return promise
  }

  /** What is still on its way is rejected: whether it arrived is not known. */
  close(): void {
    this.closed = true
    const failure = new UnavailableError('transport_unavailable', 'the transport was closed while it published')
    for (const lane of this.busy) for (const pending of laneContents(lane)) this.settle(pending.publication, failure)
    this.busy.clear()
  }

  private partition(topic: string, { key, id }: Outgoing): number {
    const { leaders } = this.cluster.layout(topic)!
    if (key !== null) return shardOf(key, leaders.length)
    // Any will do. By the id where there is one, so that a repeat comes to the same place.
    return id === '' ? this.turn++ % leaders.length : shardOf(id, leaders.length)
  }

  private lane(topic: string, partition: number): Lane {
    const name = `${topic}/${partition}`
    let lane = this.lanes.get(name)
    if (!lane) {
      lane = {
        topic,
        partition,
        waiting: [],
        flight: null,
        inAir: false,
        producer: null,
        sequence: 0,
        flightBytesMax: FLIGHT_BYTES_MAX,
      }
      this.lanes.set(name, lane)
    }
    return lane
  }

  private settle(publication: Publication, error: BusError | null): void {
    if (publication.settled) return
    publication.settled = true
    if (error) publication.reject(error)
    else publication.resolve()
  }

  /** Whatever is said in this turn of the event loop leaves together. */
  private schedule(): void {
    if (this.scheduled) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      this.dispatch()
    })
  }

  private dispatch(): void {
    if (this.closed) return
    for (const lane of this.busy) {
      if (lane.inAir) continue
      const leader = this.leader(lane)
      if (this.senders.has(leader)) continue
      this.senders.add(leader)
      void this.send(leader)
    }
  }

  private leader({ topic, partition }: Lane): number {
    return this.cluster.layout(topic)?.leaders[partition] ?? -1
  }

  /** Rounds to one broker, as long as there is something for it (P1). Never rejects. */
  private async send(leader: number): Promise<void> {
    try {
      while (!this.closed) {
        const lanes = this.take(leader)
        if (lanes.length === 0) return
        await this.round(leader, lanes)
      }
    } finally {
      this.senders.delete(leader)
      if (this.busy.size > 0) this.schedule()
    }
  }

  private take(leader: number): Lane[] {
    const taken: Lane[] = []
    for (const lane of this.busy) {
      if (lane.inAir || this.leader(lane) !== leader) continue
      this.forgetSettled(lane)
      if (lane.flight === null && lane.waiting.length === 0) this.busy.delete(lane)
      else taken.push(lane)
    }
    return taken
  }

  /** What nobody waits for any more is not sent; a flight that is given up takes the producer id with it (P2). */
  private forgetSettled(lane: Lane): void {
    if (lane.waiting[0]?.publication.settled)
      lane.waiting = lane.waiting.filter(({ publication }) => !publication.settled)
    if (lane.flight?.pending.every(({ publication }) => publication.settled)) {
      lane.flight = null
      this.producer = null
    }
  }

  private async round(leader: number, lanes: Lane[]): Promise<void> {
    for (const lane of lanes) lane.inAir = true
    try {
      if (leader < 0) throw new Error('no broker leads this partition at the moment')
      const producer = await this.producerId()
      const sent = this.fill(lanes, producer)
      const request = api.produce
      const topics = [...Map.groupBy(sent, ({ topic }) => topic)].map(
        ([name, ofTopic]): ProduceTopic => ({
          name,
          partitions: ofTopic.map(({ partition, flight }) => ({ index: partition, records: flight!.records })),
        }),
      )
      const answer = await this.cluster.link('produce', leader).request(request, [ACKS_TIMEOUT_MS, topics])
      const codes = new Map<string, number>()
      for (const { name, partitionResponses } of answer.responses)
        for (const { index, errorCode } of partitionResponses) codes.set(`${name}/${index}`, errorCode)
      await this.answered(sent, (lane) => codes.get(`${lane.topic}/${lane.partition}`) ?? 7)
    } catch (error) {
      await this.failed(lanes, this.cluster.translate(error))
    } finally {
      for (const lane of lanes) lane.inAir = false
    }
  }

  private producerId(): Promise<ProducerId> {
    if (!this.producer) {
      const asked = this.cluster.anywhere(api.initProducerId, [null, 0, -1n, -1]).then(({ errorCode, ...made }) => {
        if (errorCode !== 0) throw this.cluster.failure(errorCode, 'a producer id')
        return { id: made.producerId, epoch: made.producerEpoch }
      })
      asked.catch(() => {
        if (this.producer === asked) this.producer = null
      })
      this.producer = asked
    }
    return this.producer
  }

  /** Gives each lane a flight, within the limits; answers those that have one. */
  private fill(lanes: Lane[], producer: ProducerId): Lane[] {
    let bytes = 0
    const filled: Lane[] = []
    for (const lane of lanes) {
      if (bytes > REQUEST_BYTES_MAX) break
      lane.flight ??= this.flight(lane, producer)
      bytes += lane.flight.records.length
      filled.push(lane)
    }
    return filled
  }

  private flight(lane: Lane, producer: ProducerId): Flight {
    let bytes = 0
    let count = 0
    while (count < lane.waiting.length) {
      bytes += lane.waiting[count]!.bytesMax
      if (count > 0 && bytes > lane.flightBytesMax) break
      count++
    }
    const pending = lane.waiting.splice(0, count)
    if (lane.producer !== producer) {
      lane.producer = producer
      lane.sequence = 0
    }
    const origin = { producerId: producer.id, producerEpoch: producer.epoch, sequence: lane.sequence }
    return { pending, records: encodeBatch(pending, origin) }
  }

  private async answered(lanes: Lane[], codeOf: (lane: Lane) => number): Promise<void> {
    const failures: { lane: Lane; code: number }[] = []
    for (const lane of lanes) {
      const code = codeOf(lane)
      if (code === 0 || code === DUPLICATE_SEQUENCE) this.arrived(lane)
      else failures.push({ lane, code })
    }
    if (failures.length === 0) {
      this.retryMs = RETRY_FIRST_MS
      this.trouble(null)
      return
    }
    for (const { lane, code } of failures) {
      if (MESSAGE_TOO_LARGE.includes(code)) this.tooLarge(lane)
      else if (NUMBERS_LOST.includes(code)) {
        this.putBack(lane)
        this.producer = null
      } else {
        if (code === TOPIC_GONE) {
          this.putBack(lane) // a topic that is made anew knows no numbers
          this.producer = null
          await this.topicGone(lane.topic)
        }
        await this.failed([lane], this.cluster.failure(code, `topic '${lane.topic}'`))
      }
    }
  }

  private arrived(lane: Lane): void {
    const { pending } = lane.flight!
    lane.flight = null
    lane.sequence = (lane.sequence + pending.length) % 2 ** 31
    for (const { publication } of pending) {
      publication.remaining -= 1
      if (publication.remaining === 0) this.settle(publication, null)
    }
  }

  private putBack(lane: Lane): void {
    if (lane.flight) lane.waiting.unshift(...lane.flight.pending)
    lane.flight = null
  }

  private tooLarge(lane: Lane): void {
    const { pending } = lane.flight!
    if (pending.length > 1) {
      lane.flightBytesMax = Math.max(1, Math.floor(lane.flightBytesMax / 2))
      this.putBack(lane)
      return
    }
    lane.flight = null
    lane.flightBytesMax = FLIGHT_BYTES_MAX
    const { message, publication } = pending[0]!
    const text = `the topic '${lane.topic}' refuses a message of about ${pending[0]!.bytesMax} bytes (${message.id}): raise its max.message.bytes, or say less`
    this.settle(publication, new BusError('message_too_large', text))
  }

  /** What cannot be healed is told to those who wait; everything else is tried again until their time is over. */
  private async failed(lanes: Lane[], failure: BusError): Promise<void> {
    if (!(failure instanceof UnavailableError)) {
      for (const lane of lanes) {
        for (const pending of laneContents(lane)) this.settle(pending.publication, failure)
        this.forgetSettled(lane)
      }
      return
    }
    if (this.closed) return
    this.trouble(failure.message)
    await new Promise((resolve) => setTimeout(resolve, this.retryMs))
    this.retryMs = Math.min(this.retryMs * 2, RETRY_MAX_MS)
    const topics = new Set(lanes.map(({ topic }) => topic))
    // What comes of it shows in the next round.
    await this.cluster.refresh([...topics]).catch(() => {})
  }
}

function laneContents({ flight, waiting }: Lane): Pending[] {
  return [...(flight?.pending ?? []), ...waiting]
}

function lateError(timeoutMs: number): UnavailableError {
  return new UnavailableError(
    'transport_unavailable',
    `the broker has not confirmed within ${timeoutMs} ms: whether the messages arrived is not known, so publish them again`,
  )
}
