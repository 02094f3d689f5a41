/** What somebody was told, and whether they want to be. */
import { createRoute, z } from '@hono/zod-openapi'
import { hasRole, requireCaller } from '@shopsphere/runtime/auth'
import type { Api } from '@shopsphere/runtime/http'
import { decodeCursor, page, pageOf, pageQuery } from '@shopsphere/runtime/pages'
import { problem, problemAnswers } from '@shopsphere/runtime/problem'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { anyId } from '../fields.ts'
import { body, json, signedIn } from '../route-parts.ts'
import type { Mailer } from './mailer.ts'
import { findNotification, findWantsMail, listNotifications, type Notification, saveWantsMail } from './queries.ts'

const notification = z
  .object({
    notificationId: z.string(),
    orderId: z.string().nullable(),
    userId: z.string().nullable(),
    step: z.string().openapi({ description: 'What it tells, by the event that set it off' }),
    channel: z.string(),
    state: z.enum(['sent', 'failed']),
    recipient: z.string(),
    subject: z.string(),
    reason: z.string().nullable().openapi({ description: 'Why it failed' }),
    at: z.int().openapi({ description: 'Milliseconds since the epoch' }),
  })
  .openapi('Notification')

const withText = notification
  .extend({ text: z.string().nullable().openapi({ description: 'Null: it was not sent, or the account is gone' }) })
  .openapi('NotificationWithText')

const preferences = z
  .strictObject({
    email: z.boolean().openapi({ description: 'False: only confirmations, refunds and payments that need you' }),
  })
  .openapi('NotificationPreferences')

const tags = ['notifications']

const listAll = createRoute({
  method: 'get',
  path: '/api/notifications',
  summary: 'What you were told, the newest first; for a merchant or an operator, what anybody was told',
  tags,
  security: signedIn,
  request: {
    query: pageQuery.extend({
      orderId: anyId.optional(),
      userId: anyId.optional().openapi({ description: 'Only for a merchant or an operator' }),
    }),
  },
  responses: { 200: json('A page of them', pageOf(notification)), ...problemAnswers(400, 401) },
})

const readPreferences = createRoute({
  method: 'get',
  path: '/api/notifications/preferences',
  summary: 'Whether you want mails',
  tags,
  security: signedIn,
  responses: { 200: json('What you want', preferences), ...problemAnswers(401) },
})

const savePreferences = createRoute({
  method: 'put',
  path: '/api/notifications/preferences',
  summary: 'Says whether you want mails',
  tags,
  security: signedIn,
  request: { body: body(preferences) },
  responses: { 200: json('What you want', preferences), ...problemAnswers(400, 401) },
})

const readOne = createRoute({
  method: 'get',
  path: '/api/notifications/{notificationId}',
  summary: 'One of them, with its text',
  tags,
  security: signedIn,
  request: { params: z.object({ notificationId: anyId }) },
  responses: { 200: json('It', withText), ...problemAnswers(400, 401, 404) },
})

export function addRoutes(api: Api, { store, mailer }: Pick<ServiceContext, 'store'> & { mailer: Mailer }): void {
  api.openapi(listAll, async (c) => {
    const caller = requireCaller(c)
    const { cursor, limit, orderId = null, userId = null } = c.req.valid('query')
    const filter = {
      userId: hasRole(c, 'merchant', 'operator') ? userId : caller.userId,
      orderId,
      beforeId: decodeCursor(z.string(), cursor) ?? null,
      limit: limit + 1,
    }
    const rows = await store.read((reader) => listNotifications(reader, filter))
    return c.json(page(rows, limit, { item: show, position: ({ notificationId }) => notificationId }), 200)
  })

  api.openapi(readPreferences, async (c) => {
    const { userId } = requireCaller(c)
    return c.json({ email: await store.read((reader) => findWantsMail(reader, userId)) }, 200)
  })

  api.openapi(savePreferences, async (c) => {
    const { userId } = requireCaller(c)
    const { email } = c.req.valid('json')
    await store.transaction((tx) => saveWantsMail(tx, userId, email))
    return c.json({ email }, 200)
  })

  api.openapi(readOne, async (c) => {
    const caller = requireCaller(c)
    const { notificationId } = c.req.valid('param')
    const found = await store.read((reader) => findNotification(reader, notificationId))
    const mayRead = found && (found.userId === caller.userId || hasRole(c, 'merchant', 'operator'))
    if (!mayRead) throw problem(404, 'not_found', `There is no notification ${notificationId}.`)
    const mail = await mailer.find(notificationId)
    return c.json({ ...show(found), text: mail?.text ?? null }, 200)
  })
}

function show({ about: _, attempts: __, ...shown }: Notification): z.infer<typeof notification> {
  return shown
}
