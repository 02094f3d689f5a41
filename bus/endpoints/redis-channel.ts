/**
 * A Redis pub/sub channel. What is published there reaches those who listen at that moment, once or not at all: nothing is
 * kept for who comes later, nothing is delivered again, and there is nothing to acknowledge. Whoever needs more needs a stream.
 */
import { createClient, type RedisClientType } from 'redis'
import { refusedEncryption } from '../encryption.ts'
import type { Arrival, Endpoint, ReceiveOptions } from '../endpoint.ts'
import { BusError } from '../errors.ts'
import { type Log, silentLog } from '../log.ts'
import { serverName } from '../transports/redis-connection.ts'
import { within } from '../within.ts'
import { keepConnection, notSent } from './kept-connection.ts'

export type RedisChannelOptions = { channel: string }

type Connection = { publisher: RedisClientType; subscriber: RedisClientType }

const CONNECT_TIMEOUT_MS = 10_000
const SEND_TIMEOUT_MS = 10_000
/** A half-open connection is noticed by questions without an answer. */
const PING_MS = 4_000
const SILENCE_MAX_MS = 10_000
/** What came and waits until the bus has room: a channel cannot be told to wait. */
const BUFFER_NOTES_MAX = 10_000
const BUFFER_BYTES_MAX = 16 * 2 ** 20

/** @param url `redis://user:password@host:port/0`, or `rediss:` */
export function redisChannel(url: string, { channel }: RedisChannelOptions): Endpoint {
  const name = `redis channel ${channel}`
  const kept = keepConnection<Connection>({ name, connect, disconnect })
  let log: Log = silentLog
  let inHand: BoundedHand | undefined

  async function connect(lost: (why: unknown) => void): Promise<Connection> {
    const publisher = newClient(url, lost)
    const subscriber = newClient(url, lost)
    try {
      await within(CONNECT_TIMEOUT_MS, 'connecting', Promise.all([publisher.connect(), subscriber.connect()]))
      return { publisher, subscriber }
    } catch (error) {
      await disconnect({ publisher, subscriber })
      throw refusal(name, error) ?? error
    }
  }

  async function disconnect({ publisher, subscriber }: Connection): Promise<void> {
    for (const client of [publisher, subscriber]) if (client.isOpen) client.destroy()
  }

  return {
    name,
    open(context) {
      log = context.log
      return kept.open(log)
    },
    state: kept.state,
    receive({ windowMax, receive }: ReceiveOptions) {
      const lost = (count: number) =>
        log.error(
          { endpoint: name, count },
          'notes came faster than they could be taken, and a channel keeps none: they are lost',
        )
      inHand = boundedHand({ windowMax, receive, lost })
      const take = (body: Buffer) => inHand?.take({ body, headers: {}, id: null, key: null, redelivered: false })
      return kept.withEach(({ subscriber }) => subscriber.subscribe(channel, take, true))
    },
    settle: () => inHand?.settled(),
    async send({ body }) {
      const { publisher } = kept.current()
      try {
        await within(SEND_TIMEOUT_MS, 'publishing', publisher.publish(channel, body))
      } catch (error) {
        throw notSent(name, error)
      }
    },
    waiting: async () => inHand?.buffered() ?? 0,
    close: () => kept.close(),
  }
}

type BoundedHand = {
  take(arrival: Arrival): void
  settled(): void
  buffered(): number
}

/** Hands over as much as the window holds, keeps as much as the buffer holds, and counts what is lost beyond it. */
function boundedHand(given: {
  windowMax: number
  receive: (arrivals: Arrival[]) => void
  lost: (count: number) => void
}): BoundedHand {
  const { windowMax, receive, lost } = given
  const waiting: Arrival[] = []
  let waitingBytes = 0
  let inHand = 0
  let lostCount = 0

  function handOver(): void {
    const next = waiting.splice(0, windowMax - inHand)
    if (next.length === 0) return
    for (const { body } of next) waitingBytes -= body.length
    inHand += next.length
    receive(next)
  }

  function lose(): void {
    if (lostCount++ > 0) return
    setImmediate(() => {
      lost(lostCount)
      lostCount = 0
    })
  }

  return {
    take(arrival) {
      if (waiting.length >= BUFFER_NOTES_MAX || waitingBytes + arrival.body.length > BUFFER_BYTES_MAX) return lose()
      waiting.push(arrival)
      waitingBytes += arrival.body.length
      handOver()
    },
    settled() {
      inHand -= 1
      handOver()
    },
    buffered: () => waiting.length,
  }
}

function newClient(url: string, lost: (why: unknown) => void): RedisClientType {
  const socket = {
    reconnectStrategy: false as const,
    connectTimeout: CONNECT_TIMEOUT_MS,
    socketTimeout: SILENCE_MAX_MS,
    ...serverName(url),
  }
  const client: RedisClientType = createClient({ url, socket, pingInterval: PING_MS, disableOfflineQueue: true })
  client.on('error', lost)
  client.on('end', () => lost(new Error('the connection was closed')))
  return client
}

/** Wrong name or password, no rights, no encryption: waiting does not help. */
function refusal(name: string, error: unknown): BusError | undefined {
  const encryption = refusedEncryption(name, error)
  if (encryption) return encryption
  const { message } = error as Error
  if (!/^(?:WRONGPASS|NOAUTH|NOPERM|ERR (?:invalid password|Client sent AUTH|AUTH ))/i.test(message)) return undefined
  const what = 'check the user, the password and the rights in its address'
  return new BusError('transport_refused', `${name} is refused (${message}): ${what}`, { cause: error })
}
