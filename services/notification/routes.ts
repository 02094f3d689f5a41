import { createRoute, z } from '@hono/zod-openapi'
import { hasRole, requireCaller } from '@shopsphere/runtime/auth'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { anyId } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import {
  findContact,
  findMail,
  listAllMails,
  listMailsAbout,
  listMailsOf,
  type MailRow,
  savePreference,
} from './queries.ts'

const notification = z
  .object({
    notificationId: z.string(),
    orderId: z.string().nullable(),
    step: z.string().openapi({ description: 'The event that set it off: `order.shipped`' }),
    channel: z.string(),
    recipient: z.string(),
    subject: z.string(),
    failure: z.string().nullable().openapi({ description: 'Null: it was sent; otherwise why not' }),
    at: z.int().openapi({ description: 'Milliseconds since the epoch' }),
  })
  .openapi('Notification')

const preferences = z
  .strictObject({ news: z.boolean().openapi({ description: 'False: only what has to be said is sent' }) })
  .openapi('NotificationPreferences')

const tags = ['notifications']
/** Above every id: lists begin with the newest. */
const FIRST = '\u{10ffff}'
const position = z.string().max(64)

const listRoute = createRoute({
  method: 'get',
  path: '/api/notifications',
  summary: 'What was sent to you, the newest first; merchants and operators: to everybody, or of one order',
  tags,
  security: signedIn,
  request: { query: pageQuery.extend({ orderId: anyId.optional() }) },
  responses: { 200: json('A page of notifications', pageOf(notification)), ...problemAnswers(400, 401) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/api/notifications/{notificationId}',
  summary: 'One notification with its text',
  tags,
  security: signedIn,
  request: { params: z.object({ notificationId: anyId }) },
  responses: { 200: json('The notification', notification.extend({ text: z.string() })), ...problemAnswers(401, 404) },
})

const getPreferences = createRoute({
  method: 'get',
  path: '/api/notifications/preferences',
  summary: 'Whether you want to hear more than what has to be said',
  tags,
  security: signedIn,
  responses: { 200: json('Your preferences', preferences), ...problemAnswers(401, 404) },
})

const putPreferences = createRoute({
  method: 'put',
  path: '/api/notifications/preferences',
  summary: 'Says whether you want to hear more than what has to be said',
  tags,
  security: signedIn,
  request: { body: body(preferences) },
  responses: { 200: json('Your preferences', preferences), ...problemAnswers(400, 401, 404) },
})

const noContact = () => problem(404, 'not_found', 'Your account is not known here yet: try again in a moment.')

export function addNotificationRoutes(routes: Api, { bus, store }: ServiceContext): void {
  routes.openapi(getPreferences, async (c) => {
    const { userId } = requireCaller(c)
    const contact = await store.read((reader) => findContact(reader, userId))
    if (!contact) throw noContact()
    return c.json({ news: contact.wantsNews }, 200)
  })

  routes.openapi(putPreferences, async (c) => {
    const { userId } = requireCaller(c)
    const { news } = c.req.valid('json')
    if (!(await bus.transaction(({ tx }) => savePreference(tx, userId, news)))) throw noContact()
    return c.json({ news }, 200)
  })

  routes.openapi(listRoute, async (c) => {
    const { userId } = requireCaller(c)
    const { cursor, limit, orderId } = c.req.valid('query')
    const before = decodeCursor(position, cursor) ?? FIRST
    const seesAll = hasRole(c, 'merchant', 'operator')
    const rows = await store.read(async (reader) => {
      if (orderId !== undefined) {
        const about = await listMailsAbout(reader, orderId, before, limit + 1)
        return seesAll ? about : about.filter((row) => row.user_id === userId)
      }
      return seesAll ? listAllMails(reader, before, limit + 1) : listMailsOf(reader, userId, before, limit + 1)
    })
    return c.json(page(rows, limit, { item: shape, position: (row) => row.notification_id }), 200)
  })

  routes.openapi(getRoute, async (c) => {
    const { userId } = requireCaller(c)
    const { notificationId } = c.req.valid('param')
    const row = await store.read((reader) => findMail(reader, notificationId))
    if (!row || (row.user_id !== userId && !hasRole(c, 'merchant', 'operator'))) {
      throw problem(404, 'not_found', `There is no notification ${notificationId}.`)
    }
    return c.json({ ...shape(row), text: row.body }, 200)
  })
}

function shape(row: MailRow) {
  return {
    notificationId: row.notification_id,
    orderId: row.order_id,
    step: row.step,
    channel: row.channel,
    recipient: row.recipient,
    subject: row.subject,
    failure: row.failure,
    at: Number(row.at),
  }
}
