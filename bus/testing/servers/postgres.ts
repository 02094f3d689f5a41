import { execFileSync } from 'node:child_process'
import { globSync } from 'node:fs'
import { join } from 'node:path'
import { accountOf, ask, createServerProcess, findProgram, freePort, type Server, serverFolder } from './server.ts'

export type PostgresOptions = {
  /** Lines of postgresql.conf, as `max_connections: '20'`. */
  settings?: Readonly<Record<string, string>>
}

/** Whether PostgreSQL on `port` lets the user postgres in, or asks who that is; while it starts up, it does not. */
export async function postgresAnswers(port: number, host?: string): Promise<boolean> {
  const body = Buffer.from('\0\x03\0\0user\0postgres\0database\0postgres\0\0', 'latin1')
  const length = Buffer.alloc(4)
  length.writeUInt32BE(body.length + length.length)
  return (await ask(port, Buffer.concat([length, body]), host))?.toString('latin1', 0, 1) === 'R'
}

/** Starts a private PostgreSQL: fsync on, user postgres, no password. Throws ServerMissing. */
export async function startPostgres({ settings = {} }: PostgresOptions = {}): Promise<Server> {
  const folders = globSync('/usr/lib/postgresql/*/bin')
  const command = findProgram('postgres', 'postgresql', folders)
  const initdb = findProgram('initdb', 'postgresql', folders)
  const account = accountOf('postgres')
  const port = await freePort()
  const folder = serverFolder('postgres', account)
  const data = join(folder, 'data')
  execFileSync(initdb, ['-D', data, '-U', 'postgres', '--auth=trust', '--no-sync', '-E', 'UTF8', '--locale=C.UTF-8'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
    ...account,
  })
  const all = { port: String(port), listen_addresses: '127.0.0.1', unix_socket_directories: folder, ...settings }
  const server = createServerProcess({
    name: 'postgres',
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    port,
    folder,
    command,
    args: ['-D', data, ...Object.entries(all).flatMap(([key, value]) => ['-c', `${key}=${value}`])],
    account,
    stopSignal: 'SIGINT',
    answers: () => postgresAnswers(port),
  })
  await server.start()
  return server
}
