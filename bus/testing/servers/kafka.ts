import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ask, createServerProcess, findProgram, freePort, type Server, ServerMissing, serverFolder } from './server.ts'

const run = promisify(execFile)
const ARTIFACT = 'org.apache.kafka:kafka_2.13:4.3.0'
const DOWNLOAD_TIMEOUT_MS = 300_000
const FORMAT_TIMEOUT_MS = 30_000
/** Halves what it costs the processor to start. */
const COMPILED_SIMPLY = '-XX:TieredStopAtLevel=1'
const CLUSTER = 'c2hvcHNwaGVyZS10ZXN0cw'

export type KafkaOptions = {
  /** What clients are sent to: the port of a proxy before this server; its own port by default. */
  advertisedPort?: number
  /** The port to listen on; a free one by default. */
  port?: number
  /** Partitions of a topic that comes into being by itself; 1 by default. */
  partitions?: number
  /** Further lines of server.properties. */
  settings?: Readonly<Record<string, string>>
  /** Further places to listen, by names of letters. */
  listeners?: Readonly<Record<string, KafkaListener>>
  /** Users with passwords for SCRAM-SHA-256 and SCRAM-SHA-512. */
  users?: Readonly<Record<string, string>>
}

export type KafkaListener = {
  port: number
  protocol: 'PLAINTEXT' | 'SSL' | 'SASL_PLAINTEXT' | 'SASL_SSL'
  /** What clients are sent to; 127.0.0.1 by default. */
  host?: string
}

/** Whether Kafka answers on `port`, to the question which versions it speaks. */
export async function kafkaAnswers(port: number, host?: string): Promise<boolean> {
  const apiVersions = Buffer.from([0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff])
  const answer = await ask(port, apiVersions, host)
  return answer !== null && answer.length >= 10 && answer.readInt32BE(4) === 7 && answer.readInt16BE(8) === 0
}

export type KafkaCluster = AsyncDisposable & {
  readonly nodes: readonly Server[]
  /** All of them: whoever has it finds one that lives. */
  readonly url: string
}

/** Starts a private Kafka of one node (KRaft), without a password. Throws ServerMissing. */
export async function startKafka(options: KafkaOptions = {}): Promise<Server> {
  const [node] = (await startKafkaCluster(1, options)).nodes
  return node!
}

/**
 * Starts nodes that are joined; each is broker and controller, a server of its own, and can be killed alone. Of three, each
 * has all messages, and two must have one before it counts as taken. Throws ServerMissing.
 */
export async function startKafkaCluster(size = 3, options: KafkaOptions = {}): Promise<KafkaCluster> {
  const java = findProgram('java', 'default-jre-headless')
  const classes = ['-cp', `${await kafkaJars()}/*`]
  const places: Place[] = []
  for (let id = 1; id <= size; id++) {
    const port = (id === 1 && options.port) || (await freePort())
    places.push({ id, port, controllerPort: await freePort(), folder: serverFolder('kafka') })
  }
  const nodes = places.map(({ port, folder }) =>
    createServerProcess({
      name: 'kafka',
      url: `kafka://127.0.0.1:${port}`,
      port,
      folder,
      command: java,
      args: [
        `-Xmx${size === 1 ? 512 : 256}m`,
        COMPILED_SIMPLY,
        ...classes,
        'kafka.Kafka',
        join(folder, 'server.properties'),
      ],
      answers: () => kafkaAnswers(port),
    }),
  )
  const dispose = async () => void (await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]())))
  try {
    for (const place of places) {
      const properties = join(place.folder, 'server.properties')
      writeFileSync(properties, propertiesOf(place, places, options))
      const format = ['kafka.tools.StorageTool', 'format', '-t', CLUSTER, '-c', properties]
      await run(java, [COMPILED_SIMPLY, ...classes, ...format, ...scramOf(options)], {
        cwd: place.folder,
        timeout: FORMAT_TIMEOUT_MS,
      })
    }
    // One waits for the others.
    await Promise.all(nodes.map((node) => node.start()))
  } catch (error) {
    await dispose()
    throw error
  }
  const url = `kafka://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`
  return { nodes, url, [Symbol.asyncDispose]: dispose }
}

function scramOf({ users = {} }: KafkaOptions): string[] {
  return Object.entries(users).flatMap(([name, password]) =>
    ['SCRAM-SHA-256', 'SCRAM-SHA-512'].flatMap((kind) => ['-S', `${kind}=[name=${name},password=${password}]`]),
  )
}

type Place = { readonly id: number; readonly port: number; readonly controllerPort: number; readonly folder: string }

function propertiesOf(
  { id, port, controllerPort, folder }: Place,
  places: readonly Place[],
  options: KafkaOptions,
): string {
  const copies = String(Math.min(3, places.length))
  const copiesMin = String(Math.min(2, places.length))
  const more = Object.entries(options.listeners ?? {})
  const listed = (line: (name: string, listener: KafkaListener) => string) =>
    more.map(([name, listener]) => `,${line(name, listener)}`).join('')
  const all = {
    'process.roles': 'broker,controller',
    'node.id': String(id),
    'controller.quorum.voters': places.map((place) => `${place.id}@127.0.0.1:${place.controllerPort}`).join(','),
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}${listed((name, listener) => `${name}://127.0.0.1:${listener.port}`)}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${options.advertisedPort ?? port}${listed((name, listener) => `${name}://${listener.host ?? '127.0.0.1'}:${listener.port}`)}`,
    'listener.security.protocol.map': `PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT${listed((name, { protocol }) => `${name}:${protocol}`)}`,
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'PLAINTEXT',
    'log.dirs': join(folder, 'data'),
    'num.partitions': String(options.partitions ?? 1),
    'default.replication.factor': copies,
    'min.insync.replicas': copiesMin,
    'offsets.topic.replication.factor': copies,
    'offsets.topic.num.partitions': '4',
    'transaction.state.log.replication.factor': copies,
    'transaction.state.log.min.isr': copiesMin,
    'transaction.state.log.num.partitions': '4',
    'group.initial.rebalance.delay.ms': '0',
    ...options.settings,
  }
  return Object.entries(all)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('')
}

/** The folder with Kafka's jars, fetched once per machine. Two processes may fetch at the same time: the first one wins. */
export async function kafkaJars(): Promise<string> {
  const [group, artifact, version] = ARTIFACT.split(':')
  const cache = join(homedir(), '.cache', 'shopsphere')
  const jars = join(cache, `kafka-${version}`)
  if (hasFiles(jars)) return jars
  const maven = findProgram('mvn', `maven (it fetches ${ARTIFACT} from Maven Central)`)
  process.stderr.write(`fetching ${ARTIFACT} and what it needs into ${jars}, once\n`)
  mkdirSync(cache, { recursive: true })
  const work = mkdtempSync(join(cache, 'fetching-'))
  try {
    const project = join(work, 'pom.xml')
    writeFileSync(
      project,
      `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>shopsphere</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency></dependencies>
</project>\n`,
    )
    const fetched = join(work, 'jars')
    const goal = ['dependency:copy-dependencies', `-DoutputDirectory=${fetched}`, '-DincludeScope=runtime']
    await run(maven, ['-B', '-q', '-f', project, ...goal], { timeout: DOWNLOAD_TIMEOUT_MS })
    try {
      renameSync(fetched, jars)
    } catch (error) {
      if (!hasFiles(jars)) throw error
    }
    return jars
  } catch (error) {
    const { stdout = '', message } = error as Error & { stdout?: string }
    throw new ServerMissing(
      `${ARTIFACT} could not be fetched: mvn dependency:get -Dartifact=${ARTIFACT} says why\n${stdout || message}`,
    )
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

function hasFiles(folder: string): boolean {
  try {
    return readdirSync(folder).length > 0
  } catch {
    return false
  }
}
