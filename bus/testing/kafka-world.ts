/** The Kafka transport in a test's own world: few partitions, its own prefix, and its topics deleted at the end. */
import { after, test as nodeTest } from 'node:test'
import { Admin } from '@platformatic/kafka'
import type { Transport } from '../transport.ts'
import { type KafkaOptions, kafkaTransport } from '../transports/kafka.ts'
import { type KafkaOptions as ServerOptions, startKafka } from './servers/kafka.ts'
import { isRequired, needs } from './servers/needs.ts'
import { type Server, ServerMissing } from './servers/server.ts'
import type { SuiteRunner, SuiteTest } from './suite-test.ts'
import type { World } from './world.ts'

/** As few as show that work is shared. */
const PARTITIONS = 4

/** The server for this test process, and a runner that skips what needs it where it cannot be had. */
export async function kafkaServer(): Promise<{ url: string; runner: SuiteRunner }> {
  const { url, skip } = await needs('kafka')
  const skipped: SuiteTest = (name, options) => nodeTest(name, { ...options, skip })
  return { url, runner: skip ? { test: skipped } : {} }
}

/** The same with a server of this file's own, to set up, cut and kill; null where it cannot be had. */
export async function privateKafka(options: ServerOptions): Promise<{ server: Server | null; runner: SuiteRunner }> {
  try {
    const server = await startKafka(options)
    after(() => server[Symbol.asyncDispose]())
    return { server, runner: {} }
  } catch (error) {
    if (!(error instanceof ServerMissing) || isRequired('kafka')) throw error
    const skip = `needs kafka: ${error.message}`
    return { server: null, runner: { test: (name, rest) => nodeTest(name, { ...rest, skip }) } }
  }
}

/** Another process's transport in this world. */
export function kafkaIn(world: World, url: string, options: KafkaOptions = {}): Transport {
  const prefix = `${world.name}.`
  world.share('kafka topics', () => world.defer(() => deleteTopics(url, prefix)))
  return kafkaTransport(url, { prefix, partitions: PARTITIONS, ...options })
}

/** Deletes the topics whose names begin so; their groups' offsets go with them. */
export async function deleteTopics(url: string, prefix: string): Promise<void> {
  const admin = new Admin({ clientId: 'bus-tests', bootstrapBrokers: [new URL(url).host], retries: 1 })
  try {
    const topics = (await admin.listTopics()).filter((topic) => topic.startsWith(prefix))
    if (topics.length > 0) await admin.deleteTopics({ topics })
  } finally {
    await admin.close()
  }
}
