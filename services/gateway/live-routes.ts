/** Live updates: of one order for whoever may see it, of everything for operators. */
import { createRoute, z } from '@hono/zod-openapi'
import { type Clock, type Message, matcher } from '@shopsphere/bus'
import { requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Context } from 'hono'
import { signedIn, signedInOrNot } from '../route-parts.ts'
import type { LiveFeed, Watched } from './live-feed.ts'
import { createLiveStream, ENDED_ID, type LiveStream } from './live-stream.ts'
import { addressOf } from './rate-limit.ts'

const STREAMS_MAX = 1_000
const STREAMS_PER_CALLER_MAX = 20
const TYPES_MAX = 20
const ID_MAX = 128

/** After these nothing moves that the customer waits for. */
const LAST_EVENTS: ReadonlySet<string> = new Set(['order.completed', 'order.cancelled'])
const LAST_STATES: ReadonlySet<unknown> = new Set(['completed', 'cancelled'])

const stream = (description: string) => ({
  description,
  content: { 'text/event-stream': { schema: z.string() } },
})
const tags = ['live']
const headers = z.object({
  'last-event-id': z.string().max(ID_MAX).optional().openapi({ description: 'Sent by browsers when they come back' }),
})

const orderLiveRoute = createRoute({
  method: 'get',
  path: '/api/orders/{orderId}/live',
  summary: 'What happens to an order, as server-sent events, until it is completed or cancelled',
  description:
    'First `event: snapshot` with the order as GET /api/orders/{orderId} answers it; then messages `{id, type, source, time, data}`; `event: end` at the end. A browser that lost the connection goes on where it was; where that is too long ago, `event: missed` comes before a new snapshot.',
  tags,
  security: signedInOrNot as Record<string, string[]>[],
  request: { params: z.object({ orderId: z.string().min(1).max(ID_MAX) }), headers },
  responses: {
    200: stream('Server-sent events'),
    204: { description: 'The order has ended and there is no more to come' },
    ...problemAnswers(401, 404, 429, 503),
  },
})

const liveRoute = createRoute({
  method: 'get',
  path: '/api/live',
  summary: 'Everything that is said, as server-sent events',
  tags,
  security: signedIn,
  middleware: requireRole('operator'),
  request: {
    query: z.object({
      types: z
        .string()
        .max(1_000)
        .default('#')
        .openapi({ description: 'Types or patterns separated by commas: order.*,payment.captured' }),
    }),
    headers,
  },
  responses: { 200: stream('Server-sent events'), ...problemAnswers(400, 401, 403, 429, 503) },
})

export type LiveRoutes = {
  readonly routes: Api
  /** Ends every stream, and refuses new ones. */
  endAll(): void
}

export function createLiveRoutes(options: {
  feed: LiveFeed
  clock: Clock
  log: Log
  trustProxy: boolean
  /** The order as its service shows it to who asks. */
  askOrder: (c: Context<ApiEnv>, orderId: string) => Promise<Response>
}): LiveRoutes {
  const { feed, clock, log, trustProxy, askOrder } = options
  const api = createApi(log)
  const open = new Set<LiveStream>()
  const perCaller = new Map<string, number>()
  let closing = false

  /** One more stream, unless there are too many. */
  function begin(c: Context<ApiEnv>, onEnd: () => void): LiveStream {
    if (closing) throw problem(503, 'unavailable', 'The shop is closing: come back in a moment.')
    const caller = c.var.caller?.userId ?? addressOf(c, trustProxy)
    const count = perCaller.get(caller) ?? 0
    if (open.size >= STREAMS_MAX || count >= STREAMS_PER_CALLER_MAX) {
      throw problem(429, 'too_many_requests', 'There are too many live updates open: close some, or ask again later.')
    }
    perCaller.set(caller, count + 1)
    const live = createLiveStream(clock, () => {
      open.delete(live)
      const left = perCaller.get(caller)! - 1
      if (left === 0) perCaller.delete(caller)
      else perCaller.set(caller, left)
      onEnd()
    })
    open.add(live)
    return live
  }

  /** Begins a stream. What comes before `ready` is held back, so that a snapshot can go first. */
  async function follow(
    c: Context<ApiEnv>,
    { wants, after, last }: { wants: Watched['wants']; after: string | undefined; last: ReadonlySet<string> },
  ) {
    let ended = false
    let stop = () => {}
    const live = begin(c, () => {
      ended = true
      stop()
    })
    const send = (message: Message) => {
      live.send({ id: message.id, data: shown(message) })
      if (last.has(message.type)) live.end('terminal')
    }
    let held: Message[] | null = []
    const show = (message: Message) => (held ? void held.push(message) : send(message))
    try {
      const watching = await feed.watch({ wants, show }, after)
      stop = watching.stop
      if (ended) stop()
      const ready = () => {
        const waiting = held ?? []
        held = null
        for (const message of waiting) send(message)
      }
      return { live, resumed: watching.resumed, ready }
    } catch (error) {
      live.end('closing')
      throw error
    }
  }

  api.openapi(orderLiveRoute, async (c) => {
    const { orderId } = c.req.valid('param')
    const after = c.req.valid('header')['last-event-id']
    if (after === ENDED_ID) return c.body(null, 204)
    const asked = await askOrder(c, orderId)
    if (!asked.ok) return asked as never // the problem, as the order service put it
    const wants: Watched['wants'] = ({ key, type }) => key === orderId && !type.endsWith('_due')
    const { live, resumed, ready } = await follow(c, { wants, after, last: LAST_EVENTS })
    let answer = asked
    if (after === undefined || !resumed) {
      if (!resumed) live.send({ event: 'missed', data: {} })
      // Asked again, now that nothing is missed any more.
      answer = await askOrder(c, orderId)
    }
    const order = (await answer.json()) as { order?: unknown }
    if (answer !== asked) live.send({ event: 'snapshot', data: order })
    ready()
    if (LAST_STATES.has(order.order)) live.end('terminal')
    return live.response as never
  })

  api.openapi(liveRoute, async (c) => {
    const after = c.req.valid('header')['last-event-id']
    const wants = wantsTypes(c.req.valid('query').types)
    const { live, resumed, ready } = await follow(c, { wants, after, last: new Set() })
    if (!resumed) live.send({ event: 'missed', data: {} })
    ready()
    return live.response as never
  })

  return {
    routes: api,
    endAll() {
      closing = true
      for (const live of open) live.end('closing')
    },
  }
}

function wantsTypes(types: string): Watched['wants'] {
  const patterns = types
    .split(',')
    .map((pattern) => pattern.trim())
    .filter((pattern) => pattern !== '')
  if (patterns.length === 0 || patterns.length > TYPES_MAX)
    throw problem(400, 'invalid_request', `Name 1 to ${TYPES_MAX} types or patterns, as order.*,payment.captured.`)
  try {
    return matcher(patterns.map((pattern) => ({ kind: 'topic', pattern })))
  } catch (error) {
    throw problem(400, 'invalid_request', (error as Error).message)
  }
}

function shown({ id, type, source, time, key, data }: Message) {
  return { id, type, source, time, key, data }
}
