/** For operators: how the services are, and what to do with dead letters. Each act says who and why. */
import { createRoute, z } from '@hono/zod-openapi'
import {
  type BrokerDeadLetter,
  BusError,
  type BusStatus,
  type DeadLetter,
  jsonCodec,
  readingAll,
  type Transport,
} from '@shopsphere/bus'
import { requireCaller, requireRole } from '@shopsphere/runtime/auth'
import { type Api, createApi } from '@shopsphere/runtime/http'
import type { Log } from '@shopsphere/runtime/log'
import { decodeCursor, encodeCursor, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Service } from '@shopsphere/runtime/service'
import type { Context } from 'hono'
import { lineOf } from '../fields.ts'
import { body, json, signedIn as security } from '../route-parts.ts'
import { type BrokerBacklog, inTime } from './broker-backlog.ts'
import type { Forward } from './proxy.ts'

const GROUP_LENGTH_MAX = 4_000
const PER_SECOND_MAX = 100_000
/** Of each subscription, of what the broker rejected: taken out and put back for it. */
const BROKER_FIRST_MAX = 5
const BROKER_SHOWN_BYTES_MAX = 64 * 1024

const serviceName = z.string().min(1).max(64)
const why = lineOf(500).openapi({ description: 'Is recorded beside who does it' })
const count = z.int()

const subscriptionStatus = z.object({
  name: z.string(),
  waiting: count.nullable().openapi({ description: 'On the broker; null: it does not say' }),
  oldestAt: z.int().nullable(),
  oldestAgeMs: z.number().nullable(),
  inFlight: count,
  deferred: count,
  deadLetters: count,
})
const serviceStatus = z
  .object({
    service: z.string(),
    ready: z.boolean(),
    subscriptions: z.array(subscriptionStatus),
    outbox: z.object({
      waiting: count,
      oldestAgeMs: z.number(),
      refused: count.openapi({ description: 'Open dead letters that the broker itself refuses to take' }),
    }),
    timers: count,
    bridges: z.array(
      z.object({ name: z.string(), endpoint: z.string(), ready: z.boolean(), reason: z.string().nullable() }),
    ),
  })
  .openapi('ServiceStatus')

const deadLetter = z
  .object({
    id: z.string(),
    service: z.string(),
    subscription: z.string(),
    messageId: z.string(),
    type: z.string(),
    key: z.string(),
    code: z.string(),
    cause: z.string(),
    attempts: count,
    failedAt: z.int(),
    status: z.enum(['open', 'redriven', 'discarded']),
  })
  .openapi('DeadLetter')

const act = z.object({
  act: z.enum(['redrive', 'edit', 'discard']),
  by: z.string(),
  why: z.string(),
  at: z.int(),
  detail: z.string(),
})

const deadLetterWhole = deadLetter
  .extend({
    detail: z.string(),
    headers: z.record(z.string(), z.string()),
    message: z.unknown().openapi({ description: 'The message; where its bytes are none: {text}, or else {base64}' }),
    acts: z.array(act),
  })
  .openapi('DeadLetterWhole')

const group = z
  .object({
    group: z.string().openapi({ description: 'Names the group for a redrive' }),
    service: z.string(),
    subscription: z.string(),
    type: z.string(),
    code: z.string(),
    cause: z.string(),
    count,
    oldestAt: z.int(),
    newestAt: z.int(),
  })
  .openapi('DeadLetterGroup')

const rehearsal = z
  .discriminatedUnion('outcome', [
    z.object({
      outcome: z.literal('would_succeed'),
      publications: z.array(z.object({ type: z.string(), data: z.unknown() })),
    }),
    z.object({ outcome: z.literal('would_fail'), code: z.string(), cause: z.string() }),
  ])
  .openapi('Rehearsal')

const brokerDeadLetters = z
  .object({
    subscription: z.string(),
    queue: z.string().openapi({ description: 'Where they lie, by the name that the broker has for it' }),
    count,
    first: z.array(
      z.object({
        messageId: z.string().nullable(),
        type: z.string(),
        reason: z.string().openapi({ description: 'In the words of the broker' }),
        bytes: count,
        message: z.unknown().openapi({ description: 'As of a dead letter; null: it is too large to be shown' }),
      }),
    ),
  })
  .openapi('BrokerDeadLetters')

const waitingElsewhere = z
  .object({
    name: z.string(),
    waiting: count,
    oldestAt: z.int().nullable(),
    oldestAgeMs: z.number(),
    countedAt: z.int().openapi({ description: 'A long backlog is counted more rarely' }),
  })
  .openapi('WaitingElsewhere')

const tags = ['operations']
const middleware = requireRole('operator')
const one = { params: z.object({ service: serviceName, id: z.string().min(1).max(128) }) }
const path = '/api/operations/dead-letters' as const

const statusRoute = createRoute({
  method: 'get',
  path: '/api/operations/status',
  summary:
    'Backlogs, outboxes, timers and dead letters of the services of this process; what waits on the broker for others',
  tags,
  security,
  middleware,
  responses: {
    200: json(
      'The services',
      z.object({
        services: z.array(serviceStatus),
        unknown: z.array(z.string()).openapi({ description: 'Services that could not say how they are' }),
        elsewhere: z.record(z.string(), z.string()).openapi({ description: 'Services of other processes: ask there' }),
        broker: z
          .object({
            ready: z.boolean(),
            reason: z.string().nullable().openapi({ description: 'Why it is not ready' }),
            subscriptions: z.array(waitingElsewhere),
            unknown: z.array(z.string()).openapi({ description: 'Subscriptions that the broker did not answer for' }),
          })
          .openapi({ description: 'What waits for subscriptions of services that do not run here, stopped ones too' }),
      }),
    ),
    ...problemAnswers(401, 403),
  },
})

const auditRoute = createRoute({
  method: 'get',
  path: '/api/operations/audit',
  summary: 'Money, stock and events as the auditor of this process sees them while the shop runs',
  tags,
  security,
  middleware,
  responses: {
    200: json(
      'What the auditor has found since the start',
      z.object({
        looks: count.openapi({ description: 'Looks at orders since the start' }),
        waiting: count.openapi({ description: 'Orders that will be looked at once they have rested' }),
        passedOver: count.openapi({ description: 'Orders that there was no room for' }),
        violations: z.array(z.object({ invariant: z.string(), orderId: z.string().optional(), text: z.string() })),
      }),
    ),
    ...problemAnswers(401, 403),
  },
})

const listRoute = createRoute({
  method: 'get',
  path,
  summary: 'Dead letters of the services of this process, oldest first; beside them what the broker itself rejected',
  tags,
  security,
  middleware,
  request: {
    query: pageQuery.extend({
      service: serviceName.optional(),
      subscription: z.string().min(1).max(128).optional(),
      status: z.enum(['open', 'redriven', 'discarded']).default('open'),
    }),
  },
  responses: {
    200: json(
      'A page',
      pageOf(deadLetter).extend({
        broker: z
          .array(brokerDeadLetters)
          .nullable()
          .openapi({ description: 'On the first page of those that are open; null: the broker does not answer' }),
      }),
    ),
    ...problemAnswers(400, 401, 403, 404, 502, 504),
  },
})

const groupsRoute = createRoute({
  method: 'get',
  path: `${path}/groups`,
  summary: 'Open dead letters by cause, the largest group first',
  tags,
  security,
  middleware,
  request: { query: z.object({ service: serviceName.optional() }) },
  responses: {
    200: json('The groups', z.object({ items: z.array(group) })),
    ...problemAnswers(401, 403, 404, 502, 504),
  },
})

const getRoute = createRoute({
  method: 'get',
  path: `${path}/{service}/{id}`,
  summary: 'One dead letter: its message, its cause, what was done about it',
  tags,
  security,
  middleware,
  request: one,
  responses: { 200: json('The dead letter', deadLetterWhole), ...problemAnswers(401, 403, 404, 502, 504) },
})

const rehearseRoute = createRoute({
  method: 'post',
  path: `${path}/{service}/{id}/rehearse`,
  summary: 'Run the handlers in a transaction that is rolled back, and say what would have happened',
  tags,
  security,
  middleware,
  request: one,
  responses: { 200: json('What would happen', rehearsal), ...problemAnswers(400, 401, 403, 404, 502, 504) },
})

const redriveOneRoute = createRoute({
  method: 'post',
  path: `${path}/{service}/{id}/redrive`,
  summary: 'Hand it back to its handlers, or to the broker where that refused it',
  tags,
  security,
  middleware,
  request: { ...one, body: body(z.strictObject({ why })) },
  responses: {
    200: json('Done; 0: it was not open any more', z.object({ redriven: count })),
    ...problemAnswers(400, 401, 403, 404, 502, 504),
  },
})

const editRoute = createRoute({
  method: 'post',
  path: `${path}/{service}/{id}/edit`,
  summary: 'Replace the payload and hand it back',
  tags,
  security,
  middleware,
  request: { ...one, body: body(z.strictObject({ data: z.unknown(), why })) },
  responses: {
    200: json('Done', z.object({ redriven: count })),
    ...problemAnswers(400, 401, 403, 404, 409, 502, 504),
  },
})

const discardRoute = createRoute({
  method: 'post',
  path: `${path}/{service}/{id}/discard`,
  summary: 'Give it up for good; what waited behind it goes on',
  tags,
  security,
  middleware,
  request: { ...one, body: body(z.strictObject({ why })) },
  responses: {
    200: json('Done', z.object({ status: z.enum(['redriven', 'discarded']) })),
    ...problemAnswers(400, 401, 403, 404, 502, 504),
  },
})

const redriveRoute = createRoute({
  method: 'post',
  path: `${path}/redrive`,
  summary: 'Hand back a group, or all of a service, at a rate',
  tags,
  security,
  middleware,
  request: {
    body: body(
      z
        .strictObject({
          service: serviceName,
          group: z.string().min(1).max(GROUP_LENGTH_MAX).optional(),
          all: z.literal(true).optional(),
          perSecondMax: z.number().positive().max(PER_SECOND_MAX).optional(),
          why,
        })
        .refine(({ group, all }) => (group === undefined) !== (all === undefined), 'give either group, or all: true'),
    ),
  },
  responses: {
    200: json('Done', z.object({ redriven: count })),
    ...problemAnswers(400, 401, 403, 404, 502, 504),
  },
})

/** What an auditor has found; the gateway only shows it. */
export type Findings = {
  readonly looks: number
  readonly waiting: number
  readonly passedOver: number
  readonly violations: readonly { readonly invariant: string; readonly orderId?: string; readonly text: string }[]
}

export function createOperationsRoutes(options: {
  services: readonly Service[]
  /** Where services of other processes answer. */
  elsewhere: ReadonlyMap<string, string>
  forward: Forward
  findings: () => Findings
  brokerBacklog: () => Promise<BrokerBacklog>
  transport: Transport
  log: Log
}): Api {
  const { services, elsewhere, forward, findings, brokerBacklog, transport, log } = options
  const api = createApi(log)

  /** Runs `work` with the service where it is here; where not, its own process answers. */
  async function at<Answer>(
    c: Context<ApiEnv>,
    name: string,
    work: (service: Service) => Promise<Answer>,
  ): Promise<Answer> {
    const service = services.find((candidate) => candidate.name === name)
    if (service) return translated(() => work(service))
    const origin = elsewhere.get(name)
    if (origin !== undefined) return (await forward(c, name, origin)) as never
    throw noService(name)
  }

  const chosen = (name: string | undefined) => {
    const found = name === undefined ? services : services.filter((service) => service.name === name)
    if (found.length === 0) throw noService(name ?? '')
    return found
  }
  const noService = (name: string) =>
    problem(
      404,
      'not_found',
      `No service ${name} runs here: there are ${services.map((each) => each.name).join(', ')}.`,
    )
  const actor = (c: Context<ApiEnv>, reason: string) => ({ by: requireCaller(c).userId, why: reason })
  const isElsewhere = (name: string | undefined): name is string =>
    name !== undefined && elsewhere.has(name) && !services.some((service) => service.name === name)

  api.openapi(statusRoute, async (c) => {
    const [asked, { subscriptions, unknown: unanswered }] = await Promise.all([
      Promise.allSettled(services.map((service) => service.status())),
      brokerBacklog(),
    ])
    const statuses = asked.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
    const unknown = services.filter((_, index) => asked[index]!.status === 'rejected').map(({ name }) => name)
    const broker = { ...transport.state(), subscriptions: [...subscriptions], unknown: [...unanswered] }
    const answer = { services: statuses.map(plain), unknown, elsewhere: Object.fromEntries(elsewhere), broker }
    return c.json(answer, 200)
  })

  api.openapi(auditRoute, (c) => {
    const { violations, ...found } = findings()
    return c.json({ ...found, violations: [...violations] }, 200)
  })

  api.openapi(listRoute, async (c) => {
    const { service, subscription, status, cursor, limit } = c.req.valid('query')
    if (isElsewhere(service)) return (await forward(c, service, elsewhere.get(service)!)) as never
    const after = decodeCursor(z.string(), cursor) ?? ''
    const filter = { status, after, limit: limit + 1, ...(subscription === undefined ? {} : { subscription }) }
    // Ids are UUIDv7, so the lists of several services merge into one in the order of failing.
    const lists = await Promise.all(
      chosen(service).map(async ({ name, bus }) =>
        (await bus.deadLetters.list(filter)).map((letter) => shown(name, letter)),
      ),
    )
    const letters = lists.flat().sort((a, b) => (a.id < b.id ? -1 : 1))
    const items = letters.slice(0, limit)
    const nextCursor = letters.length > limit ? encodeCursor(items.at(-1)!.id) : null
    const broker = status === 'open' && after === '' ? await rejected({ service, subscription }) : []
    return c.json({ items, nextCursor, broker }, 200)
  })

  /** What the broker rejected, of all subscriptions that it knows or of those asked for; null: it does not answer. */
  async function rejected(asked: { service: string | undefined; subscription: string | undefined }) {
    const found = await inTime(transport.brokerDeadLetters?.({ firstMax: BROKER_FIRST_MAX }) ?? Promise.resolve([]))
    const names = asked.service === undefined ? null : chosen(asked.service).flatMap(({ bus }) => bus.subscriptions())
    return (
      found
        ?.filter(({ subscription }) => asked.subscription === undefined || asked.subscription === subscription)
        .filter(({ subscription }) => names === null || names.includes(subscription))
        .map(({ first, ...one }) => ({ ...one, first: first.map(shownByBroker) })) ?? null
    )
  }

  api.openapi(groupsRoute, async (c) => {
    const { service } = c.req.valid('query')
    if (isElsewhere(service)) return (await forward(c, service, elsewhere.get(service)!)) as never
    const lists = await Promise.all(
      chosen(service).map(async ({ name, bus }) =>
        (await bus.deadLetters.groups()).map((each) => ({ service: name, ...each })),
      ),
    )
    return c.json({ items: lists.flat().sort((a, b) => b.count - a.count) }, 200)
  })

  api.openapi(getRoute, async (c) => {
    const { service: name, id } = c.req.valid('param')
    return at(c, name, async ({ bus }) => {
      const letter = await bus.deadLetters.get(id)
      const acts = await bus.deadLetters.acts(id)
      const { detail, headers } = letter
      return c.json({ ...shown(name, letter), detail, headers, message: readable(letter.body), acts }, 200)
    })
  })

  api.openapi(rehearseRoute, async (c) => {
    const { service: name, id } = c.req.valid('param')
    return at(c, name, async ({ bus }) => c.json((await bus.deadLetters.rehearse(id)) as never, 200))
  })

  api.openapi(redriveOneRoute, async (c) => {
    const { service: name, id } = c.req.valid('param')
    const act = actor(c, c.req.valid('json').why)
    return at(c, name, async ({ bus }) => c.json({ redriven: await bus.deadLetters.redrive(id, act) }, 200))
  })

  api.openapi(editRoute, async (c) => {
    const { service: name, id } = c.req.valid('param')
    const { data, why: reason } = c.req.valid('json')
    return at(c, name, async ({ bus }) => {
      const { status } = await bus.deadLetters.get(id)
      if (status !== 'open') throw problem(409, 'conflict', `The dead letter ${id} is ${status}: nothing waits for it.`)
      await bus.deadLetters.edit(id, data, actor(c, reason))
      return c.json({ redriven: 1 }, 200)
    })
  })

  api.openapi(discardRoute, async (c) => {
    const { service: name, id } = c.req.valid('param')
    const act = actor(c, c.req.valid('json').why)
    return at(c, name, async ({ bus }) => {
      await bus.deadLetters.discard(id, act)
      const { status } = await bus.deadLetters.get(id)
      return c.json({ status: status as 'redriven' | 'discarded' }, 200)
    })
  })

  api.openapi(redriveRoute, async (c) => {
    const { service: name, group, perSecondMax, why: reason } = c.req.valid('json')
    const rate = perSecondMax === undefined ? {} : { perSecondMax }
    return at(c, name, async ({ bus }) => {
      const which = group === undefined ? ('all' as const) : { group }
      return c.json({ redriven: await bus.deadLetters.redrive(which, { ...actor(c, reason), ...rate }) }, 200)
    })
  })

  return api
}

const plain = ({ subscriptions, bridges, ...status }: BusStatus) => ({
  ...status,
  subscriptions: [...subscriptions],
  bridges: [...bridges],
})

/** What the bus refuses because of what the operator sent. */
async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const sent = error instanceof BusError && ['invalid_payload', 'invalid_argument'].includes(error.code)
    if (sent) throw problem(400, 'invalid_request', error.message)
    if (error instanceof BusError && ['unknown_event', 'undecodable'].includes(error.code))
      throw problem(409, 'conflict', `${error.message}: it cannot be edited here, only redriven or discarded.`)
    throw error
  }
}

function shown(service: string, letter: DeadLetter) {
  const { id, subscription, messageId, type, key, code, cause, attempts, failedAt, status } = letter
  return { id, service, subscription, messageId, type, key, code, cause, attempts, failedAt, status }
}

function shownByBroker({ id: messageId, type, reason, body }: BrokerDeadLetter) {
  const bytes = body.byteLength
  return { messageId, type, reason, bytes, message: bytes > BROKER_SHOWN_BYTES_MAX ? null : readable(body) }
}

/** What people can read of it: JSON as it is, another format's message decoded, text, or the bytes. */
function readable(bytes: string | Uint8Array): unknown {
  const attempts = [
    () => JSON.parse(typeof bytes === 'string' ? bytes : utf8.decode(bytes)),
    () => anyCodec.decode(bytes),
    () => ({ text: typeof bytes === 'string' ? bytes : utf8.decode(bytes) }),
  ]
  for (const attempt of attempts) {
    try {
      return attempt()
    } catch {
      // the next one may
    }
  }
  return { base64: Buffer.from(bytes).toString('base64') }
}

const utf8 = new TextDecoder('utf-8', { fatal: true })
const anyCodec = readingAll(jsonCodec)
