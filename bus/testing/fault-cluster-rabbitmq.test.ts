/** RabbitMQ as a cluster of three nodes behind a balancer: nodes are killed under load, among them the leaders of all queues. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { connect } from 'amqplib'
import { eventually } from './eventually.ts'
import { FaultStage } from './fault-stage.ts'
import { defaultBounds } from './fault-suite.ts'
import { needs } from './servers/needs.ts'
import { startProxy } from './servers/proxy.ts'
import { rabbitmqAnswers, startRabbitmqCluster } from './servers/rabbitmq.ts'
import type { Server } from './servers/server.ts'
import { inWorld } from './world.ts'

const CASE_TIMEOUT_MS = 180_000
const WORDS_BETWEEN = 600
/** A node that comes back is joining again while the next one dies, three brokers on one machine. */
const RESUMES_WITHIN_MS = 20_000
const module = new URL('./rabbitmq-fault-world.ts', import.meta.url)
const { skip } = await needs('rabbitmq')

if (skip) test('rabbitmq: a cluster of three nodes', { skip })
else {
  const cluster = await startRabbitmqCluster(3)
  after(() => cluster[Symbol.asyncDispose]())
  const { nodes } = cluster
  /** Those that are not killed, the one to take first. */
  let alive: readonly Server[] = nodes
  const balancer = await startProxy({ target: () => alive[0]!.port })
  after(() => balancer[Symbol.asyncDispose]())

  test('S1 rabbitmq: three nodes are one cluster; each is killed alone, and comes back with what the others have', async () => {
    const queue = { durable: true, arguments: { 'x-queue-type': 'quorum' } }
    await withConfirms(nodes[0]!, async (channel) => {
      await channel.assertQueue('shared', queue)
      channel.sendToQueue('shared', Buffer.from('kept'), { persistent: true })
      await channel.waitForConfirms()
    })
    await nodes[0]!.kill()
    assert.equal(await rabbitmqAnswers(nodes[0]!.port), false)
    const count = (node: Server) =>
      withConfirms(node, async (channel) => (await channel.checkQueue('shared')).messageCount)
    await eventually(async () => (await count(nodes[1]!)) === 1, { timeoutMs: 15_000, message: 'the others lost it' })
    assert.ok(await rabbitmqAnswers(nodes[2]!.port))
    await nodes[0]!.start()
    await eventually(async () => (await count(nodes[0]!)) === 1, { timeoutMs: 15_000, message: 'it is not back' })
    await withConfirms(nodes[2]!, (channel) => channel.deleteQueue('shared'))
  })

  test(
    'F12 B11 rabbitmq: of three nodes one is killed under load, the leader of every queue, then another: nothing is lost or doubled',
    { timeout: CASE_TIMEOUT_MS },
    (context) =>
      inWorld(async (world) => {
        const server: Server = { ...nodes[0]!, url: balancer.through(nodes[0]!.url) }
        const broker = { server, proxy: balancer, watch() {}, [Symbol.asyncDispose]: async () => {} }
        const options = { module, broker, settings: { store: 'sqlite' } }
        const stage = new FaultStage(world, options, defaultBounds)
        // A queue is led by the node at which it was declared: the first.
        await stage.startScribe()
        await stage.startTeller()
        await stage.whileSaying(async () => {
          for (const victim of [nodes[0]!, nodes[1]!]) {
            await stage.untilHeardCount((await stage.heardCount()) + WORDS_BETWEEN)
            alive = nodes.filter((node) => node !== victim)
            await victim.kill()
            const said = stage.said
            const begun = performance.now()
            await eventually(async () => (await stage.heard()).some(({ n }) => n > said), {
              timeoutMs: RESUMES_WITHIN_MS,
              message: 'nothing said afterwards was heard',
            })
            const ms = (performance.now() - begun).toFixed(0)
            context.diagnostic(`what was said after the death of a node was heard ${ms} ms later`)
            await victim.start()
            alive = [...alive, victim]
          }
          await stage.untilHeardCount((await stage.heardCount()) + WORDS_BETWEEN)
        })
        await stage.assertOracle()
      }),
  )
}

type Confirming = Awaited<ReturnType<Awaited<ReturnType<typeof connect>>['createConfirmChannel']>>

async function withConfirms<T>(node: Server, work: (channel: Confirming) => Promise<T>): Promise<T> {
  const model = await connect(node.url)
  model.on('error', () => {})
  try {
    const channel = await model.createConfirmChannel()
    channel.on('error', () => {})
    return await work(channel)
  } finally {
    await model.close().catch(() => {})
  }
}
