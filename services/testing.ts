/**
 * One service on its own, for tests: behind the real front door, with a broker and a database in memory and a clock that
 * moves when told. The other services are played: `say` publishes in their name.
 */
import { createBus, type EventType, type Message, memoryBroker, memoryTransport, sqliteStore } from '@shopsphere/bus'
import { type VirtualClock, virtualClock } from '@shopsphere/bus/testing'
import { allEvents } from '@shopsphere/contracts'
import { createTokens } from '@shopsphere/runtime/auth'
import { readConfig } from '@shopsphere/runtime/config'
import { createFrontDoor } from '@shopsphere/runtime/http'
import { createLog } from '@shopsphere/runtime/log'
import { prepareService, type ServiceDefinition } from '@shopsphere/runtime/service'

const TOKEN_SECRET = 'a secret for tests, long enough for HS256'

export type Asked = {
  body?: unknown
  /** Who asks: roles by user id, or null for a guest. */
  as?: { userId: string; roles: readonly string[] } | null
  /** A token that the service gave, in place of `as`. */
  token?: string
  headers?: Readonly<Record<string, string>>
}

export type Answered = {
  status: number
  /** Whatever the answer holds: tests assert what is inside. */
  body: any
  headers: Headers
}

export type ServiceBench = AsyncDisposable & {
  readonly clock: VirtualClock
  /** Events of the service itself and of those played, in the order in which they were heard. */
  readonly heard: readonly Message[]
  /** Payloads of one event type that were heard, once everything that is under way has been done. */
  told<Data>(event: EventType<Data>): Promise<Data[]>
  /** Publishes in the name of the event's owner and waits until the service has handled it; answers the message's id. */
  say<Data>(event: EventType<Data>, data: NoInfer<Data>, options?: { id?: string }): Promise<string>
  /** `ask('POST /api/carts', { body, as })` */
  ask(request: string, asked?: Asked): Promise<Answered>
  /** Waits until nothing is on its way. */
  idle(): Promise<void>
  /** Moves time on and waits until what fell due has been done. */
  pass(ms: number): Promise<void>
  deadLetters(): Promise<number>
}

/** Starts `definition` alone. `environment` is laid over what tests need. */
export async function openService(
  definition: ServiceDefinition,
  { environment = {} }: { environment?: Readonly<Record<string, string>> } = {},
): Promise<ServiceBench> {
  const clock = virtualClock()
  const broker = memoryBroker({ clock })
  const log = createLog('silent')
  const names = [...new Set(allEvents.map((event) => event.owner))]
  const config = readConfig({ TOKEN_SECRET, SEED: '1', ADMIN_PASSWORD: 'operator password', ...environment }, names)
  const service = await prepareService(definition, {
    transport: memoryTransport(broker),
    openStore: () => sqliteStore(':memory:'),
    events: allEvents,
    clock,
    config,
    log,
  })
  const tokens = createTokens({ secret: new TextEncoder().encode(config.tokenSecret!), clock })
  const door = createFrontDoor({ log, tokens })
  if (service.routes) door.route('/', service.routes)

  const makeBus = async (name: string) => {
    const store = sqliteStore(':memory:')
    await store.open()
    return createBus({ service: name, transport: memoryTransport(broker), store, events: allEvents, clock })
  }
  const heard: Message[] = []
  const listener = await makeBus('listener')
  listener.subscribe('#', (_, { message }) => void heard.push(message))
  await listener.start()
  await service.start()
  const players = new Map<string, ReturnType<typeof makeBus>>()
  const playerOf = (owner: string) => {
    const known = players.get(owner)
    if (known) return known
    const made = makeBus(owner).then(async (bus) => {
      await bus.start()
      return bus
    })
    players.set(owner, made) // at once: two events of one owner may be said at the same time
    return made
  }

  const idle = async () => {
    for (const player of players.values()) await (await player).idle()
    await service.bus.idle()
    await listener.idle()
  }
  return {
    clock,
    heard,
    idle,
    async told(event) {
      await idle()
      return heard.filter(({ type }) => type === event.type).map(({ data }) => data as never)
    },
    async say(event, data, options) {
      const player = await playerOf(event.owner)
      const id = await player.publish(event, data, options)
      await idle()
      return id
    },
    async ask(request, { body, as = null, token, headers = {} } = {}) {
      const [method, path] = request.split(' ') as [string, string]
      const bearer = token ?? (as && (await tokens.issue(as)).token)
      const response = await door.request(path, {
        method,
        headers: {
          ...(bearer && { authorization: `Bearer ${bearer}` }),
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      const text = await response.text()
      return { status: response.status, body: text === '' ? null : JSON.parse(text), headers: response.headers }
    },
    async pass(ms) {
      await clock.advance(ms)
      await idle()
    },
    async deadLetters() {
      await idle()
      const { subscriptions } = await service.status()
      return subscriptions.reduce((sum, { deadLetters }) => sum + deadLetters, 0)
    },
    async [Symbol.asyncDispose]() {
      await service.close()
      for (const bus of [listener, ...(await Promise.all(players.values()))]) {
        await bus.close()
        await bus.store.close()
      }
    },
  }
}
