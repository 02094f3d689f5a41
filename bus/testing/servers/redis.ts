import { ask, createServerProcess, findProgram, freePort, type Server, serverFolder } from './server.ts'

export type RedisOptions = {
  /** The port to listen on; a free one by default. */
  port?: number
  /** Whether writes go to a log on disk; true by default. */
  appendonly?: boolean
  /** When that log is synced; `always` by default, so that what was answered survives `kill`. */
  appendfsync?: 'always' | 'everysec'
  /** Further lines of redis.conf, as `maxmemory: '100mb'`. */
  settings?: Readonly<Record<string, string>>
}

/** Whether Redis answers on `port`. */
export const redisAnswers = async (port: number, host?: string) =>
  (await ask(port, 'PING\r\n', host))?.toString().startsWith('+PONG') ?? false

/** Starts a private Redis. Throws ServerMissing. */
export async function startRedis(options: RedisOptions = {}): Promise<Server> {
  const command = findProgram('redis-server', 'redis-server')
  const { appendonly = true, appendfsync = 'always', port = await freePort() } = options
  const folder = serverFolder('redis')
  const all = {
    port,
    bind: '127.0.0.1',
    dir: folder,
    save: '',
    appendonly: appendonly ? 'yes' : 'no',
    appendfsync,
    ...options.settings,
  }
  const server = createServerProcess({
    name: 'redis',
    url: `redis://127.0.0.1:${port}`,
    port,
    folder,
    command,
    args: Object.entries(all).flatMap(([key, value]) => [`--${key}`, String(value)]),
    answers: () => redisAnswers(port),
  })
  await server.start()
  return server
}
