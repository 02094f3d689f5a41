import { pino } from 'pino'

export type Log = pino.Logger

/** Where lines go: anything with `write`. */
export type LogStream = { write(text: string): unknown; readonly isTTY?: boolean }

/**
 * One JSON object a line, times as ISO 8601; lines for people where the stream is a terminal. What could sign somebody
 * in or charge a card is never written.
 */
export function createLog(level: string, stream: LogStream = process.stdout): Log {
  const options: pino.LoggerOptions = {
    level,
    base: undefined,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause }, // each cause once: ours say theirs in their own words
    redact: { paths: secretPaths, censor: '[redacted]' },
  }
  // Not a destination of pino's own: that one tries for ever, at the exit, to write where nobody reads any more.
  return pino(options, { write: (line: string) => void stream.write(stream.isTTY ? forPeople(line) : line) })
}

const secrets = ['password', 'token', 'authorization', 'secret', 'cvc', 'number']
const secretPaths = secrets.flatMap((name) => [name, `*.${name}`])

/** `12:03:04.567 WARN  payment: the provider is slow  attempt=2` and the stack below where there is one. */
function forPeople(line: string): string {
  const { level, time, msg = '', service, err, ...rest } = JSON.parse(line)
  const fields = Object.entries(rest).map(
    ([name, value]) => `  ${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  )
  const from = service ? `${service}: ` : ''
  const stack = err?.stack
  return `${time.slice(11, 23)} ${level.toUpperCase().padEnd(5)} ${from}${msg}${fields.join('')}${stack ? `\n${stack}` : ''}\n`
}
