import { type ProxyOptions, startProxy, type Proxy as TcpProxy } from './servers/proxy.ts'
import { freePort, type Server } from './servers/server.ts'

/** A private server of a fault suite, with a proxy before it: it is killed, cut off and emptied. */
export type FaultBroker = AsyncDisposable & {
  readonly server: Server
  readonly proxy: TcpProxy
  /** From now on sees every chunk that passes the proxy; null: nobody looks. */
  watch(onData: NonNullable<ProxyOptions['onData']> | null): void
}

/**
 * Starts it with `start({ port, advertisedPort })`: it must listen on `port`, and where it tells clients an address, that must
 * be `advertisedPort`.
 */
export async function startFaultBroker(
  start: (at: { port: number; advertisedPort: number }) => Promise<Server>,
): Promise<FaultBroker> {
  let watcher: ProxyOptions['onData'] | null = null
  const port = await freePort()
  const proxy = await startProxy({ target: port, onData: (chunk, direction) => watcher?.(chunk, direction) })
  try {
    const server = await start({ port, advertisedPort: proxy.port })
    return {
      server,
      proxy,
      watch(onData) {
        watcher = onData
      },
      async [Symbol.asyncDispose]() {
        await proxy[Symbol.asyncDispose]()
        await server[Symbol.asyncDispose]()
      },
    }
  } catch (error) {
    await proxy[Symbol.asyncDispose]()
    throw error
  }
}
