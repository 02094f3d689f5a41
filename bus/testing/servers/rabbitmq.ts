import { randomUUID } from 'node:crypto'
import { chownSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  type Account,
  accountOf,
  ask,
  createServerProcess,
  findProgram,
  freePort,
  type Server,
  serverFolder,
} from './server.ts'

export type RabbitmqOptions = {
  /** The port to listen on; a free one by default, and for each further node of a cluster. */
  port?: number
  /** Lines of rabbitmq.conf, as `heartbeat: '5'`. */
  settings?: Readonly<Record<string, string>>
  /** Names of plugins; none by default. */
  plugins?: readonly string[]
}

export type RabbitmqCluster = AsyncDisposable & { readonly nodes: readonly Server[] }

/** Debian's program in PATH is a wrapper that writes to folders of the system's own server; the real one stands here. */
const DEBIAN_PROGRAM = '/usr/lib/rabbitmq/bin/rabbitmq-server'

function realProgram(): string {
  const program = findProgram('rabbitmq-server', 'rabbitmq-server', ['/usr/sbin'])
  return existsSync(DEBIAN_PROGRAM) ? DEBIAN_PROGRAM : program
}

/** Whether RabbitMQ answers on `port`: it opens with a method frame, Connection.Start. */
export const rabbitmqAnswers = async (port: number, host?: string) =>
  (await ask(port, 'AMQP\0\0\x09\x01', host))?.[0] === 1

/** Starts a private RabbitMQ, user guest with password guest. Throws ServerMissing. */
export async function startRabbitmq(options: RabbitmqOptions = {}): Promise<Server> {
  const [node] = (await startRabbitmqCluster(1, options)).nodes
  return node!
}

/** Starts nodes that are joined; each is a server of its own and can be killed alone. Throws ServerMissing. */
export async function startRabbitmqCluster(size = 3, options: RabbitmqOptions = {}): Promise<RabbitmqCluster> {
  const names = await startErlangNames()
  const nodes: Server[] = []
  const dispose = async () => {
    for (const node of nodes) await node[Symbol.asyncDispose]()
    await names.server[Symbol.asyncDispose]()
  }
  try {
    const id = randomUUID().slice(0, 8)
    for (let index = 1; index <= size; index++) {
      const alone = size === 1 ? () => names.server[Symbol.asyncDispose]() : undefined
      const { port: _, ...others } = options
      const node = await rabbitmqNode(
        `rabbit-${id}-${index}`,
        `rabbit-${id}-1`,
        names,
        index === 1 ? options : others,
        alone,
      )
      nodes.push(node)
      await node.start()
    }
  } catch (error) {
    await dispose()
    throw error
  }
  return { nodes, [Symbol.asyncDispose]: dispose }
}

type ErlangNames = { readonly server: Server; readonly account: Account | undefined; readonly cookie: string }

/** The name server of Erlang's nodes, on a port of its own: the system's one is not disturbed. */
async function startErlangNames(): Promise<ErlangNames> {
  realProgram()
  const command = findProgram('epmd', 'erlang-base')
  const account = accountOf('rabbitmq')
  const port = await freePort()
  const folder = serverFolder('epmd', account)
  const names = Buffer.from('\0\x01n', 'latin1')
  const server = createServerProcess({
    name: 'epmd',
    url: `tcp://127.0.0.1:${port}`,
    port,
    folder,
    command,
    args: ['-address', '127.0.0.1', '-port', String(port)],
    account,
    stopSignal: 'SIGKILL',
    answers: async () => (await ask(port, names)) !== null,
  })
  await server.start()
  return { server, account, cookie: randomUUID() }
}

async function rabbitmqNode(
  name: string,
  first: string,
  names: ErlangNames,
  { settings = {}, plugins = [], port: wanted }: RabbitmqOptions,
  disposed: (() => PromiseLike<void>) | undefined,
): Promise<Server> {
  const { account, cookie } = names
  const port = wanted ?? (await freePort())
  const folder = serverFolder('rabbitmq', account)
  const write = (file: string, text: string, mode = 0o600) => {
    writeFileSync(join(folder, file), text, { mode })
    if (account) chownSync(join(folder, file), account.uid, account.gid)
  }
  write('.erlang.cookie', cookie, 0o400)
  write('enabled_plugins', `[${plugins.join(',')}].\n`)
  const all = {
    'listeners.tcp.default': `127.0.0.1:${port}`,
    'cluster_formation.peer_discovery_backend': 'classic_config',
    'cluster_formation.classic_config.nodes.1': `${first}@localhost`,
    ...settings,
  }
  write(
    'rabbitmq.conf',
    Object.entries(all)
      .map(([key, value]) => `${key} = ${value}\n`)
      .join(''),
  )
  mkdirSync(join(folder, 'data'))
  if (account) chownSync(join(folder, 'data'), account.uid, account.gid)
  return createServerProcess({
    name: 'rabbitmq',
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    port,
    folder,
    command: realProgram(),
    args: [],
    account,
    environment: {
      HOME: folder,
      ERL_EPMD_PORT: String(names.server.port),
      RABBITMQ_NODENAME: `${name}@localhost`,
      RABBITMQ_DIST_PORT: String(await freePort()),
      RABBITMQ_MNESIA_BASE: join(folder, 'data'),
      RABBITMQ_LOG_BASE: folder,
      RABBITMQ_LOGS: '-',
      RABBITMQ_PID_FILE: join(folder, 'pid'),
      RABBITMQ_CONF_ENV_FILE: join(folder, 'none'),
      RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq.conf'),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'enabled_plugins'),
      // Becomes the Erlang machine instead of watching over it, so that signals reach that one.
      RABBITMQ_ALLOW_INPUT: '1',
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-noinput',
    },
    answers: () => rabbitmqAnswers(port),
    disposed,
  })
}
