/** What a RabbitMQ said when it refused, out of an error of its client. */
import querystring from 'node:querystring'

/** Before the connection is open, the client keeps the server's reason to itself. Only the virtual host is asked for then. */
const REFUSED_AT_OPEN = 'Expected ConnectionOpenOk; got <ConnectionClose'

/** The reply code of AMQP 0-9-1, as 403, 404, 406 or 530; undefined where the server said none. */
export function replyOf(error: unknown): number | undefined {
  const { code, cause, message = '' } = error as { code?: unknown; cause?: { code?: unknown }; message?: string }
  const known = [code, cause?.code].find((one) => typeof one === 'number')
  if (known !== undefined) return known as number
  if (message.includes(REFUSED_AT_OPEN)) return 530
  const written = /\b(\d{3}) \([A-Z]/.exec(message)?.[1] // 403 (ACCESS-REFUSED)
  return written === undefined ? undefined : Number(written)
}

/**
 * The server's own sentence, without the client's words around it.
 *
 * @param url of the connection, for what the client keeps to itself
 */
export function saidBy(error: unknown, url?: string): string {
  const { message } = error as Error
  if (url !== undefined && message.includes(REFUSED_AT_OPEN)) return `the virtual host '${virtualHostOf(url)}'`
  return /with message "(.*)"$/s.exec(message)?.[1] ?? message
}

const virtualHostOf = (url: string) => querystring.unescape(new URL(url).pathname.slice(1)) || '/'
