import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { StartError } from './start-error.ts'

const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 30_000
const KEEP_ALIVE_TIMEOUT_MS = 65_000 // longer than the 60 s of the usual proxies, so that theirs ends first
const TIMEOUT_CHECK_MS = 5_000
const HEADER_BYTES_MAX = 16 * 1024
const CONNECTIONS_MAX = 10_000
const CLOSE_LIMIT_MS = 5_000
const SWEEP_MS = 20

type App = { fetch: (request: Request, environment: never) => Response | Promise<Response> }

export type RunningServer = {
  readonly port: number
  /** `http://localhost:3000` */
  readonly url: string
  /** From now on `app` answers what comes. */
  answerWith(app: App): void
  /** Takes no more, lets what runs end for up to `limitMs`, then cuts. Closing twice is fine. */
  close(limitMs?: number): Promise<void>
}

type Place = {
  port: number
  /** Undefined: every interface. */
  host?: string | undefined
  /** The setting that the port comes from, for what an error advises; PORT by default. */
  setting?: string
}

/** Listens; resolves once requests are taken. Throws StartError where the port cannot be had. */
export function serve(app: App, place: Place): Promise<RunningServer> {
  const { port, host } = place
  let answering = app
  const answerWith = (next: App) => {
    answering = next
  }
  const server = createAdaptorServer({
    fetch: (request, environment) => answering.fetch(request, environment as never),
    serverOptions: {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
    },
  }) as Server
  server.maxConnections = CONNECTIONS_MAX

  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(explain(error, place)))
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo
      resolve({ port: address.port, url: urlOf(address.port, host), answerWith, close: closer(server) })
    })
  })
}

function closer(server: Server): RunningServer['close'] {
  let closed: Promise<void> | undefined
  return (limitMs = CLOSE_LIMIT_MS) => {
    closed ??= new Promise((resolve) => {
      // A connection whose last request ends now would be kept alive for the next one: look for those until none is left.
      const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS)
      const cut = setTimeout(() => server.closeAllConnections(), limitMs)
      server.close(() => {
        clearInterval(sweep)
        clearTimeout(cut)
        resolve()
      })
    })
    return closed
  }
}

function urlOf(port: number, host: string | undefined): string {
  const everywhere = host === undefined || host === '0.0.0.0' || host === '::'
  return `http://${everywhere ? 'localhost' : host.includes(':') ? `[${host}]` : host}:${port}`
}

function explain(error: NodeJS.ErrnoException, { port, host, setting = 'PORT' }: Place): StartError {
  const messages: Record<string, string> = {
    EADDRINUSE: `port ${port} is in use: set ${setting}=… to another one, or stop the program that uses it`,
    EACCES: `port ${port} may not be used by this user: set ${setting}=… to one from 1024 upwards`,
    EADDRNOTAVAIL: `this machine has no address ${host}: set HOST=… to one that it has, or leave it out`,
    ENOTFOUND: `there is no host named ${host}: set HOST=… to an address of this machine, or leave it out`,
  }
  return new StartError(messages[error.code ?? ''] ?? `port ${port} cannot be opened: ${error.message}`, {
    cause: error,
  })
}
