import type { Connection } from './postgres-connection.ts'

type Waiting = { resolve: (connection: Connection) => void; reject: (error: unknown) => void }

/**
 * Connections that are made when they are needed, up to `max`, and lent to one taker at a time; whoever comes later
 * waits, first come, first served. A broken one is replaced by the next who needs one.
 */
export class Pool {
  private readonly make: () => Promise<Connection>
  private readonly max: number
  private readonly idleTimeoutMs: number
  private readonly idle: { connection: Connection; timer: NodeJS.Timeout }[] = []
  private readonly waiting: Waiting[] = []
  private size = 0
  private lent = 0
  private whenAllBack: (() => void) | undefined
  private closed = false

  constructor(make: () => Promise<Connection>, max: number, idleTimeoutMs: number) {
    this.make = make
    this.max = max
    this.idleTimeoutMs = idleTimeoutMs
  }

  async take(): Promise<Connection> {
    this.lent += 1
    try {
      return await this.find()
    } catch (error) {
      this.returned()
      throw error
    }
  }

  give(connection: Connection): void {
    this.returned()
    if (connection.broken || this.closed) {
      this.drop(connection)
      const next = this.waiting.shift()
      if (next) this.add().then(next.resolve, next.reject)
      return
    }
    const next = this.waiting.shift()
    if (next) {
      next.resolve(connection)
      return
    }
    connection.unref() // an idle connection keeps no process alive
    const timer = setTimeout(() => this.forget(connection), this.idleTimeoutMs).unref()
    this.idle.push({ connection, timer })
  }

  /** Waits until everything lent is back. */
  async close(): Promise<void> {
    if (this.lent > 0) {
      await new Promise<void>((resolve) => {
        this.whenAllBack = resolve
      })
    }
    this.closed = true
    const idle = this.idle.splice(0)
    for (const { timer, connection } of idle) {
      clearTimeout(timer)
      connection.ref() // or the process would end while we wait for the last word
    }
    await Promise.all(idle.map(({ connection }) => connection.close()))
  }

  private async find(): Promise<Connection> {
    for (let one = this.idle.pop(); one; one = this.idle.pop()) {
      clearTimeout(one.timer)
      if (one.connection.broken) {
        this.drop(one.connection)
        continue
      }
      one.connection.ref()
      return one.connection
    }
    if (this.size < this.max) return this.add()
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }))
  }

  private async add(): Promise<Connection> {
    this.size += 1
    try {
      return await this.make()
    } catch (error) {
      this.size -= 1
      // Where one cannot connect, those who wait cannot either; they come again when they think fit.
      for (const { reject } of this.waiting.splice(0)) reject(error)
      throw error
    }
  }

  private forget(connection: Connection): void {
    const place = this.idle.findIndex((one) => one.connection === connection)
    if (place < 0) return
    this.idle.splice(place, 1)
    this.drop(connection)
  }

  private drop(connection: Connection): void {
    this.size -= 1
    void connection.close()
  }

  private returned(): void {
    this.lent -= 1
    if (this.lent === 0) this.whenAllBack?.()
  }
}
