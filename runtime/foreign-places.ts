/**
 * Where programs of others read and write, as the environment says it: the address of their broker, and behind `#` the name
 * of a plain queue, topic or channel there.
 *
 *   amqp://user:password@host:5672/vhost#order_events?durable=yes&declare=no&prefetch=10
 *   kafka://host:9092,host:9092#orders          redis://host:6379#order_created
 */
import { BusError, type Endpoint } from '@shopsphere/bus'

export type ForeignPlace = {
  readonly scheme: 'amqp' | 'kafka' | 'redis'
  /** The broker's address, as its client takes it; Kafka's has commas in it. */
  readonly url: string
  /** Of the queue, topic or channel. */
  readonly place: string
  /** RabbitMQ: the queue outlives its server. */
  readonly durable: boolean
  /** RabbitMQ: false takes the queue as it is. */
  readonly declare: boolean
  /** Notes in hand at the same time; undefined: as the bridge thinks right. */
  readonly prefetch: number | undefined
}

const examples = { amqp: 'amqp://host#queue', kafka: 'kafka://host:9092#topic', redis: 'redis://host#channel' }

export function foreignPlacesExpected(taken: readonly ForeignPlace['scheme'][]): string {
  const shown = taken.map((scheme) => examples[scheme]).join(' or ')
  return `addresses separated by commas, as ${shown}; behind a name perhaps ?prefetch=1, and behind a queue's ?durable=yes&declare=no`
}

const PREFETCH_MAX = 2_000
const schemes = { amqp: 'amqp', amqps: 'amqp', kafka: 'kafka', redis: 'redis', rediss: 'redis' } as const
const brokers = { amqp: 'rabbitmq', kafka: 'kafka', redis: 'redis' } as const

/** Undefined where one of them is no such address. `defaultPlace`: the name where none is given. */
export function parseForeignPlaces(
  text: string,
  defaultPlace: (scheme: ForeignPlace['scheme']) => string,
): ForeignPlace[] | undefined {
  // Kafka's address may be a list itself: a comma ends one only where the next begins.
  const places = text.split(/,(?=\s*[a-z]+:\/\/)/).map((piece) => parse(piece.trim(), defaultPlace))
  return places.every((place) => place !== undefined) ? places : undefined
}

function parse(text: string, defaultPlace: (scheme: ForeignPlace['scheme']) => string): ForeignPlace | undefined {
  const [, url = '', scheme = '', fragment = ''] = /^((amqps?|kafka|rediss?):\/\/[^#\s]+)(?:#(\S*))?$/.exec(text) ?? []
  if (url === '') return undefined
  const kind = schemes[scheme as keyof typeof schemes]
  // A client would say so too late, and with the password in what it says.
  if (kind !== 'kafka' && !URL.canParse(url)) return undefined
  const [place = '', query = ''] = fragment.split('?')
  const { durable = 'no', declare = 'yes', prefetch, ...unknown } = Object.fromEntries(new URLSearchParams(query))
  const switches = [durable, declare].every((value) => value === 'yes' || value === 'no')
  const count = prefetch === undefined ? undefined : Number(prefetch)
  const countIsRight = count === undefined || (Number.isInteger(count) && count >= 1 && count <= PREFETCH_MAX)
  if (!switches || !countIsRight || Object.keys(unknown).length > 0) return undefined
  return {
    scheme: kind,
    url,
    place: place === '' ? defaultPlace(kind) : place,
    durable: durable === 'yes',
    declare: declare === 'yes',
    prefetch: count,
  }
}

/** The same place twice: whoever reads there what it writes there itself hears itself. */
export const isSamePlace = (one: ForeignPlace, other: ForeignPlace) =>
  one.url === other.url && one.place === other.place

export type ForeignDoor = { name: string; endpoint: Endpoint; prefetch: number | undefined }

/**
 * Endpoints for a bridge at each of the places. A client is loaded where there is one for it.
 * @param setting the variable that named them, as `ORDER_CREATED_FROM`: where a place refuses, the error begins with it
 */
export function openForeignPlaces(
  setting: string,
  bridge: string,
  places: readonly ForeignPlace[],
): Promise<ForeignDoor[]> {
  return Promise.all(
    places.map(async (place) => ({
      name: `${bridge}.${brokers[place.scheme]}.${place.place}`,
      endpoint: blaming(setting, await endpointAt(place)),
      prefetch: place.prefetch,
    })),
  )
}

function blaming(setting: string, endpoint: Endpoint): Endpoint {
  return {
    ...endpoint,
    async open(context) {
      try {
        await endpoint.open(context)
      } catch (error) {
        if (!(error instanceof BusError)) throw error
        throw new BusError(error.code, `${setting}: ${error.message}`, { cause: error })
      }
    },
  }
}

async function endpointAt({ scheme, url, place, durable, declare }: ForeignPlace): Promise<Endpoint> {
  if (scheme === 'amqp') {
    const { rabbitmqQueue } = await import('@shopsphere/bus/rabbitmq-queue')
    return rabbitmqQueue(url, { queue: place, durable, declare })
  }
  if (scheme === 'redis') {
    const { redisChannel } = await import('@shopsphere/bus/redis-channel')
    return redisChannel(url, { channel: place })
  }
  const { kafkaTopic } = await import('@shopsphere/bus/kafka-topic')
  return kafkaTopic(url, { topic: place })
}
