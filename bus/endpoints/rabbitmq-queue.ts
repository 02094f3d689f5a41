/**
 * A plain RabbitMQ queue, as small programs use one: declared by whoever comes first, written to through the default
 * exchange, read with a prefetch. What nobody understands is rejected without requeue.
 */
import { randomUUID } from 'node:crypto'
import { type Channel, type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect as dial } from 'amqplib'
import { refusedEncryption } from '../encryption.ts'
import type { Arrival, Endpoint, ReceiveOptions } from '../endpoint.ts'
import { BusError } from '../errors.ts'
import { replyOf, saidBy } from '../transports/rabbitmq-reasons.ts'
import { within } from '../within.ts'
import { keepConnection, notSent } from './kept-connection.ts'

export type RabbitmqQueueOptions = {
  queue: string
  /** As the other programs declare it: where two differ, RabbitMQ refuses the second. By default it dies with the server. */
  durable?: boolean
  /** As above: `x-queue-type`, `x-dead-letter-exchange` and so on; none by default. */
  arguments?: Readonly<Record<string, unknown>>
  /** False: it is taken as it is, and waited for where it is missing. */
  declare?: boolean
}

type Connection = { model: ChannelModel; inbound: Channel; outbound: ConfirmChannel; returned: Set<string> }

const CONNECT_TIMEOUT_MS = 10_000
const CONFIRM_TIMEOUT_MS = 15_000
/** A process that is asked to end has little time. */
const CLOSE_TIMEOUT_MS = 2_000
/** Half-open connections are noticed after two of them. */
const HEARTBEAT_SECONDS = 10
/** Access refused, precondition failed, not allowed: replies of AMQP 0-9-1 that come again and again. */
const REFUSALS: readonly number[] = [403, 406, 530]

/** @param url `amqp://user:password@host:port/vhost`, or `amqps:` */
export function rabbitmqQueue(url: string, options: RabbitmqQueueOptions): Endpoint {
  const { queue, durable = false, arguments: queueArguments = {}, declare = true } = options
  const name = `rabbitmq queue ${queue}`
  const deliveries = new WeakMap<Arrival, { channel: Channel; message: ConsumeMessage }>()
  const kept = keepConnection<Connection>({
    name,
    connect,
    async disconnect({ model, inbound }) {
      // The channel first: its close goes out behind the acknowledgements, that of the connection before them.
      await within(CLOSE_TIMEOUT_MS, 'closing', inbound.close()).catch(() => {})
      await within(CLOSE_TIMEOUT_MS, 'closing', model.close())
    },
  })

  async function connect(lost: (why: unknown) => void): Promise<Connection> {
    let model: ChannelModel | undefined
    try {
      model = await dial(withHeartbeat(url), { timeout: CONNECT_TIMEOUT_MS })
      watch(model, lost)
      return await within(CONNECT_TIMEOUT_MS, 'opening the queue', openChannels(model, lost))
    } catch (error) {
      await model?.close().catch(() => {})
      throw refusal(error) ?? error
    }
  }

  async function openChannels(model: ChannelModel, lost: (why: unknown) => void): Promise<Connection> {
    const inbound = watch(await model.createChannel(), lost)
    const outbound = watch(await model.createConfirmChannel(), lost)
    if (declare) await inbound.assertQueue(queue, { durable, arguments: queueArguments })
    else await inbound.checkQueue(queue)
    const returned = new Set<string>()
    outbound.on('return', ({ properties }) => {
      returned.add(properties.messageId)
      lost(new Error(`queue ${queue} is gone`)) // the next connection declares it anew
    })
    return { model, inbound, outbound, returned }
  }

  /** What waiting cannot mend, as an error that says what to change; undefined: anything else. */
  function refusal(error: unknown): BusError | undefined {
    const encryption = refusedEncryption(name, error)
    if (encryption) return encryption
    const reply = replyOf(error)
    if (reply === undefined || !REFUSALS.includes(reply)) return undefined
    const what =
      reply === 406
        ? `it was declared otherwise than durable ${durable}, arguments ${JSON.stringify(queueArguments)}: say what the others say, or take it as it is with declare: false (in an address ?declare=no)`
        : 'check the user, the password, the virtual host and their rights'
    return new BusError('transport_refused', `${name} is refused (${saidBy(error, url)}): ${what}`, { cause: error })
  }

  function toArrival(channel: Channel, message: ConsumeMessage): Arrival {
    const { messageId, headers = {} } = message.properties
    const arrival = {
      body: message.content,
      headers: textsOf(headers),
      id: typeof messageId === 'string' && messageId !== '' ? messageId : null,
      key: null,
      redelivered: message.fields.redelivered,
    }
    deliveries.set(arrival, { channel, message })
    return arrival
  }

  return {
    name,
    open: ({ log }) => kept.open(log),
    state: kept.state,
    receive: ({ windowMax, receive, lost }: ReceiveOptions) =>
      kept.withEach(async ({ inbound }) => {
        await inbound.prefetch(Math.min(windowMax, 0xffff))
        await inbound.consume(queue, (message) => {
          if (message) receive([toArrival(inbound, message)])
          else inbound.emit('error', new Error(`queue ${queue} was deleted`)) // cancelled by the server
        })
      }, lost),
    settle(arrival, outcome) {
      const { channel, message } = deliveries.get(arrival)!
      try {
        if (outcome === 'taken') channel.ack(message)
        else channel.reject(message, false)
      } catch {
        // Its channel is gone, and it is delivered again on the next: known by its id, if it has one.
      }
    },
    async send({ body, headers, id }) {
      const messageId = id ?? randomUUID()
      const { outbound, returned } = kept.current()
      const { 'content-type': contentType, ...others } = headers
      const properties = { messageId, headers: others, contentType, mandatory: true, persistent: true }
      const confirmed = new Promise<void>((resolve, reject) => {
        outbound.sendToQueue(queue, body, properties, (error) => (error ? reject(error) : resolve()))
      })
      try {
        await within(CONFIRM_TIMEOUT_MS, 'confirming', confirmed)
        // What no queue takes is returned first, and then confirmed all the same.
        if (returned.delete(messageId)) throw new Error('there is no such queue')
      } catch (error) {
        throw notSent(name, error)
      }
    },
    async waiting() {
      if (!kept.state().ready) return 0
      const { inbound } = kept.current()
      return inbound.checkQueue(queue).then(
        ({ messageCount }) => messageCount,
        () => 0,
      )
    },
    close: () => kept.close(),
  }
}

function watch<Watched extends { on(event: string, listener: (why?: Error) => void): unknown }>(
  watched: Watched,
  lost: (why: unknown) => void,
): Watched {
  watched.on('error', (why) => lost(why))
  watched.on('close', (why) => lost(why ?? new Error('the connection was closed')))
  return watched
}

function withHeartbeat(url: string): string {
  return /[?&]heartbeat=/.test(url) ? url : `${url}${url.includes('?') ? '&' : '?'}heartbeat=${HEARTBEAT_SECONDS}`
}

function textsOf(headers: object): Record<string, string> {
  const texts = Object.entries(headers).filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value))
  return Object.fromEntries(texts.map(([name, value]) => [name, String(value)]))
}
