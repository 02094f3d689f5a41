/** A shop on a real broker: what the broker rejected and what a service could not handle are told of by one monitor. */
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { eraseRabbitmq, eventually, inWorld, needs, type World } from '@shopsphere/bus/testing'
import { createLog } from '@shopsphere/runtime/log'
import { verifyWebhook } from '@shopsphere/runtime/webhook-signature'
import { type ConfirmChannel, connect } from 'amqplib'
import { type Shop, startShop } from '../shop.ts'

const { url, skip } = await needs('rabbitmq')
const TIMEOUT_MS = 60_000
const soon = (check: () => unknown, message: string) => eventually(check, { timeoutMs: 30_000, message })
const secret = Buffer.from('a secret of 24 bytes, so.')

type Told = { kind: string; service: string; subscription: string; count: number; more: number; look: string }

async function webhookOf(world: World): Promise<{ url: string; told: Told[] }> {
  const told: Told[] = []
  const server = createServer(async (request, response) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of request) chunks.push(chunk)
    const headers = new Headers(request.headers as Record<string, string>)
    const isSigned = verifyWebhook(secret, { headers, body: Buffer.concat(chunks), nowMs: Date.now() }) !== null
    if (isSigned) told.push(JSON.parse(Buffer.concat(chunks).toString()).data)
    response.writeHead(isSigned ? 204 : 401).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  world.defer(() => new Promise((resolve) => server.close(resolve)))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, told }
}

async function strangerOf(world: World): Promise<ConfirmChannel> {
  const model = await connect(url)
  world.defer(() => model.close())
  return model.createConfirmChannel()
}

async function ask(shop: Shop, path: string): Promise<any> {
  const { token } = await shop.tokens.issue({ userId: 'usr_operator', roles: ['operator'] })
  const answer = await shop.app.request(path, { headers: { authorization: `Bearer ${token}` } })
  assert.equal(answer.status, 200, path)
  return answer.json()
}

test(
  'B6 the monitor tells of what the broker rejected and of our dead letters, each once',
  { skip, timeout: TIMEOUT_MS },
  () =>
    inWorld(async (world) => {
      const prefix = `${world.name}_`
      world.defer(() => eraseRabbitmq(url, prefix))
      const webhook = await webhookOf(world)
      const warned: Record<string, unknown>[] = []
      const log = createLog('warn', { write: (text) => warned.push(JSON.parse(text)) })
      const open = async () => {
        const shop = await startShop({
          environment: {
            ...{
              DATA_DIR: world.directory,
              BROKER_URL: url,
              BROKER_PREFIX: prefix,
              SERVICES: 'notification',
              PORT: '0',
            },
            DEAD_LETTER_WEBHOOK: webhook.url,
            DEAD_LETTER_WEBHOOK_SECRET: `whsec_${secret.toString('base64')}`,
          },
          log,
        })
        world.defer(() => shop.close())
        return shop
      }

      const before = await open()
      const [subscription] = before.services.get('notification')!.bus.subscriptions()
      await before.close()
      // While the service is down, a program that takes its messages and rejects one.
      const channel = await strangerOf(world)
      const publish = async (body: string) => {
        const properties = { persistent: true, mandatory: true, messageId: 'm-1', type: 'order.placed' }
        channel.publish(`${prefix}platform-events`, 'order.placed', Buffer.from(body), properties)
        await channel.waitForConfirms()
      }
      await publish('nobody wants this')
      const taken = await eventually(() => channel.get(`${prefix}${subscription}.0`), { message: 'it was not routed' })
      if (taken) channel.nack(taken, false, false)

      const shop = await open()
      const queue = `${prefix}${subscription}.dead`
      await soon(() => webhook.told.length === 1, 'the broker rejected one, and nobody was told')
      const { look, ...told } = webhook.told[0]!
      assert.deepEqual(told, { kind: 'broker', service: 'notification', subscription, count: 1, more: 1 })
      assert.match(look, new RegExp(`queue ${queue} `))

      await publish('this is no event') // of the service itself this time
      const { items } = await eventually(
        async () => {
          const page = await ask(shop, '/api/operations/dead-letters')
          return page.items.length === 1 && page
        },
        { timeoutMs: 20_000, message: 'the service has no dead letter' },
      )
      assert.equal(items[0].messageId, 'm-1')
      const { broker } = await ask(shop, '/api/operations/dead-letters?service=notification')
      const message = { text: 'nobody wants this' }
      const first = [{ messageId: 'm-1', type: 'order.placed', reason: 'rejected', bytes: 17, message }]
      assert.deepEqual(broker, [{ subscription, queue, count: 1, first }])
      const metrics = async () => (await shop.app.request('/metrics')).text()
      const gauge = `broker_dead_letters{subscription="${subscription}"} 1\n`
      await soon(async () => (await metrics()).includes(gauge), 'the metric does not show it')
      assert.ok(
        (await metrics()).includes(`bus_dead_letters{service="notification",subscription="${subscription}"} 1\n`),
      )

      await soon(() => webhook.told.length === 2, 'the service has a dead letter, and nobody was told')
      const { look: where, ...ours } = webhook.told[1]!
      assert.deepEqual(ours, { kind: 'service', service: 'notification', subscription, count: 1, more: 1 })
      assert.equal(where, 'GET /api/operations/dead-letters?service=notification')
      await shop.close()
      const lines = warned.filter(({ msg }) => /more dead letters/.test(String(msg)))
      assert.deepEqual(
        lines.map(({ kind, count }) => [kind, count]),
        [
          ['broker', 1],
          ['service', 1],
        ],
      )
    }),
)
