import type { Server } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
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

export type RunningServer = {
  readonly port: number
  /** `http://localhost:3000` */
  readonly url: string
  /** Takes no more, lets what runs end for up to `limitMs`, then cuts. Closing twice is fine. */
  close(limitMs?: number): Promise<void>
}

/** Listens; resolves once requests are taken. Throws StartError where the port cannot be had. `host` undefined: every interface. */
export function serve(
  app: { fetch: (request: Request) => Response | Promise<Response> },
  { port, host }: { port: number; host?: string | undefined },
): Promise<RunningServer> {
  const server = createAdaptorServer({
    fetch: app.fetch,
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
    server.once('error', (error: NodeJS.ErrnoException) => reject(explain(error, port, host)))
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo
      resolve({ port: address.port, url: urlOf(address.port, host), close: closer(server) })
    })
  })
}

/** Throws StartError where `serve` would, before anything else is begun; whoever takes the port after that is told by `serve`. */
export function refuseTakenPort({ port, host }: { port: number; host?: string | undefined }): Promise<void> {
  const probe = createServer()
  return new Promise((resolve, reject) => {
    probe.once('error', (error: NodeJS.ErrnoException) => reject(explain(error, port, host)))
    probe.listen(port, host, () => probe.close(() => resolve()))
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

function explain(error: NodeJS.ErrnoException, port: number, host: string | undefined): StartError {
  const messages: Record<string, string> = {
    EADDRINUSE: `port ${port} is in use: set PORT=… to another one, or stop the program that uses it`,
    EACCES: `port ${port} may not be used by this user: set PORT=… to one from 1024 upwards`,
    EADDRNOTAVAIL: `this machine has no address ${host}: set HOST=… to one that it has, or leave it out`,
    ENOTFOUND: `there is no host named ${host}: set HOST=… to an address of this machine, or leave it out`,
  }
  return new StartError(messages[error.code ?? ''] ?? `port ${port} cannot be opened: ${error.message}`, {
    cause: error,
  })
}
