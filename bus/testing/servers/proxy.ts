import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type Direction = 'to server' | 'to client'

export type ProxyOptions = {
  /** The server's port on 127.0.0.1; a function is asked for each connection, as a balancer before several would. */
  target: number | (() => number)
  /** Sees every chunk before it is passed on; if it cuts or silences, that chunk is not passed. */
  onData?: (chunk: Buffer, direction: Direction) => void
}

export type Proxy = AsyncDisposable & {
  readonly port: number
  /** The same URL, through this proxy. */
  through(url: string): string
  /** Resets every connection and refuses new ones. */
  cut(): void
  /** Keeps every connection, also new ones, and passes nothing either way: what came meanwhile is lost. */
  silence(): void
  /** Passes each chunk so many milliseconds later. */
  delay(ms: number): void
  /** Passes everything again; connections that were silenced are reset, since bytes of theirs are lost. */
  restore(): void
}

/** A TCP proxy in this process, to cut a client off from its server while both live. */
export async function startProxy({ target, onData }: ProxyOptions): Promise<Proxy> {
  let state: 'passing' | 'cut' | 'silent' = 'passing'
  let delayMs = 0
  const sockets = new Set<Socket>()
  const reset = () => {
    for (const socket of sockets) {
      // Node cannot reset while an end is on its way (`reset EINVAL`): it keeps the handle, and its process never ends.
      // A socket that is connecting it would reset once it is connected.
      if (socket.connecting || (socket.writableEnded && !socket.writableFinished)) socket.destroy()
      else socket.resetAndDestroy()
    }
  }

  const pass = (from: Socket, to: Socket, direction: Direction) => {
    sockets.add(from)
    let last: Promise<unknown> = Promise.resolve()
    const inOrder = (step: () => void) => {
      if (delayMs === 0 && pending === 0) return step()
      pending++
      const due = new Promise((resolve) => setTimeout(resolve, delayMs))
      last = Promise.all([last, due]).then(() => {
        pending--
        step()
      })
    }
    let pending = 0
    from.on('data', (chunk: Buffer) => {
      if (state !== 'passing') return
      onData?.(chunk, direction)
      if (state !== 'passing') return
      inOrder(() => {
        if (state !== 'passing' || to.destroyed) return
        if (!to.write(chunk)) {
          from.pause()
          to.once('drain', () => from.resume())
        }
      })
    })
    from.on('end', () => inOrder(() => state === 'passing' && to.end()))
    from.on('error', () => {})
    from.on('close', () => {
      sockets.delete(from)
      if (state === 'passing') inOrder(() => to.destroy())
    })
  }

  const listener = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    if (state === 'cut') {
      client.on('error', () => {})
      client.resetAndDestroy()
      return
    }
    const port = typeof target === 'number' ? target : target()
    const server = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    pass(client, server, 'to server')
    pass(server, client, 'to client')
  })
  await new Promise<void>((done, failed) => {
    listener.once('error', failed)
    listener.listen(0, '127.0.0.1', done)
  })
  listener.unref() // one that nobody disposed keeps no test process alive
  const { port } = listener.address() as AddressInfo

  return {
    port,
    through(url) {
      const rewritten = new URL(url)
      rewritten.hostname = '127.0.0.1'
      rewritten.port = String(port)
      return rewritten.href
    },
    cut() {
      state = 'cut'
      reset()
    },
    silence() {
      state = 'silent'
    },
    delay(ms) {
      delayMs = ms
    },
    restore() {
      if (state === 'silent') reset()
      state = 'passing'
      delayMs = 0
    },
    async [Symbol.asyncDispose]() {
      state = 'cut'
      reset()
      await new Promise((done) => listener.close(done))
    },
  }
}
