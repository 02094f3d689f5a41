/** What the bus asks of a logger: pino's shape, fields first. */
export type Log = {
  info(fields: object, text: string): void
  warn(fields: object, text: string): void
  error(fields: object, text: string): void
}

/** For those who do not want to hear anything. */
export const silentLog: Log = { info() {}, warn() {}, error() {} }
