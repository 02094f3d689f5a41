/** What the bus asks of a logger: pino's shape, fields first. */
export type Log = {
  info(fields: object, text: string): void
  warn(fields: object, text: string): void
  error(fields: object, text: string): void
}

/** Warnings and errors on stderr, for those who named no other. */
export const consoleLog = (service: string): Log => ({
  info() {},
  warn: (fields, text) => console.warn(`${service}: ${text}`, fields),
  error: (fields, text) => console.error(`${service}: ${text}`, fields),
})

/** For those who do not want to hear anything. */
export const silentLog: Log = { info() {}, warn() {}, error() {} }
