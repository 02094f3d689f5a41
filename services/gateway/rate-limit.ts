import type { Clock } from '@shopsphere/bus'
import { hasRole } from '@shopsphere/runtime/auth'
import type { Config } from '@shopsphere/runtime/config'
import { problem } from '@shopsphere/runtime/problem'
import type { ApiEnv } from '@shopsphere/runtime/request-context'
import type { Context, MiddlewareHandler } from 'hono'

const WINDOW_MS = 60_000
/** Callers that are counted at once. Beyond it the counts begin anew: a limit must not be a way to fill the memory. */
const CALLERS_MAX = 100_000

/** Refuses with `too_many_requests` what one caller asks more than `perMinuteMax` times in a minute; 0: no limit. */
function createWindow(clock: Clock, perMinuteMax: number): (caller: string) => void {
  let endsAt = 0
  const counts = new Map<string, number>()
  return (caller) => {
    if (perMinuteMax === 0) return
    const now = clock.now()
    if (now >= endsAt || counts.size >= CALLERS_MAX) {
      counts.clear()
      endsAt = now + WINDOW_MS
    }
    const count = (counts.get(caller) ?? 0) + 1
    counts.set(caller, count)
    if (count <= perMinuteMax) return
    const seconds = Math.ceil((endsAt - now) / 1_000)
    throw problem(
      429,
      'too_many_requests',
      `${perMinuteMax} of these a minute are enough: go on in ${seconds} seconds.`,
      {},
      { 'retry-after': String(seconds) },
    )
  }
}

/** Limits what is dear or tempting: signing in, by address, and placing orders, by account or else by address. */
export function rateLimits(config: Pick<Config, 'rateLimits' | 'trustProxy'>, clock: Clock): MiddlewareHandler<ApiEnv> {
  const signIns = createWindow(clock, config.rateLimits.signInsPerMinute)
  const orders = createWindow(clock, config.rateLimits.ordersPerMinute)
  return (c, next) => {
    if (c.req.method === 'POST') {
      const { path } = c.req
      if (path === '/api/sessions' || path === '/api/users') signIns(addressOf(c, config.trustProxy))
      // A merchant brings in whole order books.
      else if (placesOrder(path) && !hasRole(c, 'merchant', 'operator'))
        orders(c.var.caller?.userId ?? addressOf(c, config.trustProxy))
    }
    return next()
  }
}

const placesOrder = (path: string) => path === '/api/orders' || /^\/api\/carts\/[^/]+\/check-?out$/.test(path)

type NodeBindings = { incoming?: { socket?: { remoteAddress?: string } } } | undefined

/** Where a request comes from. Without a socket (a request made in this process) all are one. */
export function addressOf(c: Context<ApiEnv>, trustProxy: boolean): string {
  const forwarded = trustProxy ? c.req.header('x-forwarded-for')?.split(',').at(-1)?.trim() : undefined
  return forwarded || ((c.env as NodeBindings)?.incoming?.socket?.remoteAddress ?? 'here')
}
