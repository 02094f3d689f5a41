/** Kafka as a cluster of three nodes: one is killed under load, a leader of partitions. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Admin } from '@platformatic/kafka'
import { topicName } from '../transports/kafka.ts'
import { eventually } from './eventually.ts'
import { FaultStage } from './fault-stage.ts'
import { defaultBounds } from './fault-suite.ts'
import { startKafkaCluster } from './servers/kafka.ts'
import { needs } from './servers/needs.ts'
import { startProxy } from './servers/proxy.ts'
import type { Server } from './servers/server.ts'
import { inWorld } from './world.ts'

const CASE_TIMEOUT_MS = 80_000
const WORDS_BETWEEN = 600
/** A node that died is missed after its session (1.5 s); then each partition has a leader again. */
const RESUMES_WITHIN_MS = 20_000
const module = new URL('./kafka-fault-world.ts', import.meta.url)
const { skip } = await needs('kafka')

if (skip) test('kafka: a cluster of three nodes', { skip })
else {
  const cluster = await startKafkaCluster(3, {
    settings: {
      'group.min.session.timeout.ms': '500',
      'broker.session.timeout.ms': '1500',
      'broker.heartbeat.interval.ms': '300',
    },
  })
  after(() => cluster[Symbol.asyncDispose]())
  const { nodes, url } = cluster
  const proxy = await startProxy({ target: nodes[0]!.port })
  after(() => proxy[Symbol.asyncDispose]())

  test(
    'F12 B11 kafka: of three nodes one that leads partitions is killed under load: nothing is lost or doubled, order per key kept',
    { timeout: CASE_TIMEOUT_MS },
    (context) =>
      inWorld(async (world) => {
        const server: Server = { ...nodes[0]!, url }
        const broker = { server, proxy, watch() {}, [Symbol.asyncDispose]: async () => {} }
        const stage = new FaultStage(world, { module, broker, settings: { store: 'sqlite' } }, defaultBounds)
        await stage.startScribe()
        await stage.startTeller()
        await stage.whileSaying(async () => {
          await stage.untilHeardCount(WORDS_BETWEEN)
          const partitions = await partitionsOf(topicName(`${stage.place.name}.`, 'teller'))
          for (const { replicas } of partitions) assert.equal(replicas.length, 3, 'each node has a copy')
          const leaders = partitions.map(({ leader }) => leader)
          // Nodes are numbered from 1. The one that leads most.
          const counts = nodes.map((_, index) => leaders.filter((leader) => leader === index + 1).length)
          const victim = nodes[counts.indexOf(Math.max(...counts))]!
          await victim.kill()
          const { said } = stage
          const begun = performance.now()
          await eventually(async () => (await stage.heard()).filter(({ n }) => n > said).length > WORDS_BETWEEN, {
            timeoutMs: RESUMES_WITHIN_MS,
            message: 'what was said afterwards was not heard',
          })
          context.diagnostic(`went on ${(performance.now() - begun).toFixed(0)} ms after the death of a node`)
          await victim.start()
          await stage.untilHeardCount((await stage.heardCount()) + WORDS_BETWEEN)
        })
        await stage.assertOracle()
      }),
  )

  async function partitionsOf(topic: string) {
    const bootstrapBrokers = nodes.map(({ port }) => `127.0.0.1:${port}`)
    const admin = new Admin({ clientId: 'cluster-test', bootstrapBrokers, retries: 1 })
    try {
      const { topics } = await admin.metadata({ topics: [topic] })
      return topics.get(topic)!.partitions
    } finally {
      await admin.close()
    }
  }
}
