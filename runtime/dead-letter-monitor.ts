/**
 * Says so when there are more dead letters: those of this process's services, and what the broker itself rejected.
 *
 * M1 It warns when a subscription's count rises, from `alertMin` on: in the log at once, and by a webhook where there is
 *    one. Of the same ones it does not warn again; a new process knows of none.
 * M2 A lower count is believed when two looks in a row see it: who looks into a queue holds its messages for a moment.
 * M3 Nothing waits for the webhook. Of each subscription one is sent at a time, and what rises further before its turn is one
 *    with it, so no more than one waits. One that is not taken (2xx) is logged, sent again after each of `retryDelaysMs`
 *    under the same id, then given up and logged again.
 * M4 What cannot be counted now has not changed.
 */
import { randomUUID } from 'node:crypto'
import type { Clock, Timer, Transport } from '@shopsphere/bus'
import type { Log } from './log.ts'
import type { Service } from './service.ts'
import { signWebhook } from './webhook-signature.ts'

const LOOK_MS = 10_000
const RETRY_DELAYS_MS = [1_000, 5_000, 30_000, 120_000, 600_000]
const ANSWER_MAX_MS = 5_000

export type DeadLetterCount = {
  readonly kind: 'service' | 'broker'
  readonly service: string
  readonly subscription: string
  readonly count: number
  /** Where a person finds them. */
  readonly look: string
}

/** Answers every subscription that has any. */
export type DeadLetterSource = () => Promise<readonly DeadLetterCount[]>

/** What the log and the webhook are told. */
export type DeadLetterAlert = DeadLetterCount & {
  /** How many more than were told of before. */
  readonly more: number
}

export type DeadLetterMonitor = {
  /** Begins to look every few seconds. */
  watch(): void
  /** One look, now. Resolves before the webhook was taken. */
  look(): Promise<void>
  /** Gives up what was not sent. Closing twice is fine. */
  close(): Promise<void>
}

export type DeadLetterMonitorOptions = {
  sources: readonly DeadLetterSource[]
  clock: Clock
  log: Log
  alertMin?: number
  /** Null: the log alone. */
  webhook?: { readonly url: string; readonly secret: Uint8Array | null } | null
  retryDelaysMs?: readonly number[]
  answerMaxMs?: number
}

export function createDeadLetterMonitor(options: DeadLetterMonitorOptions): DeadLetterMonitor {
  const { sources, clock, log, alertMin = 1, webhook = null } = options
  const risings = sources.map((source) => ({ source, risen: createRise(alertMin) }))
  const sender = webhook && createSender({ ...options, webhook })
  let timer: Timer | undefined
  let looking: Promise<void> | undefined
  let closed = false

  async function look(): Promise<void> {
    await Promise.all(
      risings.map(async ({ source, risen }) => {
        const counts = await source().catch((error) => void log.debug({ err: error }, 'dead letters were not counted'))
        if (!counts || closed) return // M4
        for (const alert of risen(counts)) {
          log.warn(alert, 'there are more dead letters: they need a person')
          sender?.send(alert)
        }
      }),
    )
  }
  const lookOnce = () => (looking ??= look().finally(() => (looking = undefined)))

  function lookLater(): void {
    timer = clock.after(LOOK_MS, async () => {
      await lookOnce()
      if (!closed) lookLater()
    })
  }

  return {
    watch: () => void lookOnce().then(() => !closed && lookLater()),
    look: lookOnce,
    async close() {
      closed = true
      timer?.cancel()
      await Promise.all([looking, sender?.close()])
    },
  }
}

/** M1, M2: tells of one source what there is more of. */
function createRise(alertMin: number): (counts: readonly DeadLetterCount[]) => DeadLetterAlert[] {
  let before: ReadonlyMap<string, number> = new Map()
  const told = new Map<string, number>()

  return (counts) => {
    const now = new Map(counts.map(({ subscription, count }) => [subscription, count]))
    for (const [subscription, count] of told) {
      const most = Math.max(now.get(subscription) ?? 0, before.get(subscription) ?? 0)
      if (most === 0) told.delete(subscription)
      else told.set(subscription, Math.min(count, most))
    }
    before = now
    return counts.flatMap((one) => {
      const more = one.count - (told.get(one.subscription) ?? 0)
      if (more <= 0 || one.count < alertMin) return []
      told.set(one.subscription, one.count)
      return [{ ...one, more }]
    })
  }
}

/** M3 */
function createSender(options: DeadLetterMonitorOptions & { webhook: { url: string; secret: Uint8Array | null } }) {
  const { webhook, clock, log, retryDelaysMs = RETRY_DELAYS_MS, answerMaxMs = ANSWER_MAX_MS } = options
  const waiting = new Map<string, DeadLetterAlert>()
  const sending = new Map<string, Promise<void>>()
  const closing = new AbortController()

  async function sendWhatWaits(name: string): Promise<void> {
    for (let alert = waiting.get(name); alert && !closing.signal.aborted; alert = waiting.get(name)) {
      waiting.delete(name)
      await sendPatiently(alert)
    }
    sending.delete(name)
  }

  async function sendPatiently(alert: DeadLetterAlert): Promise<void> {
    const id = `msg_${randomUUID()}`
    const body = new TextEncoder().encode(JSON.stringify(contentOf(alert, clock.now())))
    const { service, subscription, kind } = alert
    const which = { service, subscription, kind }
    for (const delayMs of [0, ...retryDelaysMs]) {
      if (delayMs > 0) await pause(delayMs)
      const failure = closing.signal.aborted ? null : await post(id, body)
      if (failure === null || closing.signal.aborted) return
      if (delayMs === 0)
        log.warn({ ...which, err: failure }, 'the webhook for dead letters was not taken and is tried again')
    }
    log.warn(which, 'the webhook for dead letters is given up: see to DEAD_LETTER_WEBHOOK')
  }

  /** Why it was not taken; null: it was. */
  async function post(id: string, body: Uint8Array<ArrayBuffer>): Promise<unknown> {
    const { url, secret } = webhook
    const signed = secret && signWebhook(secret, { id, atMs: clock.now(), body })
    const headers = { 'content-type': 'application/json', 'webhook-id': id, ...signed }
    const signal = AbortSignal.any([closing.signal, AbortSignal.timeout(answerMaxMs)])
    try {
      const response = await fetch(url, { method: 'POST', headers, body, signal, redirect: 'manual' })
      await response.body?.cancel()
      return response.ok ? null : new Error(`it answered ${response.status}`)
    } catch (error) {
      return error
    }
  }

  function pause(delayMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = clock.after(delayMs, resolve)
    const wake = () => {
      timer.cancel()
      resolve()
    }
    closing.signal.addEventListener('abort', wake, { once: true })
    return promise.finally(() => closing.signal.removeEventListener('abort', wake))
  }

  return {
    send(alert: DeadLetterAlert): void {
      const name = `${alert.kind} ${alert.service} ${alert.subscription}`
      const more = alert.more + (waiting.get(name)?.more ?? 0)
      waiting.set(name, { ...alert, more })
      if (!sending.has(name)) sending.set(name, sendWhatWaits(name))
    },
    async close(): Promise<void> {
      closing.abort()
      await Promise.all(sending.values())
    },
  }
}

/** As Standard Webhooks has it. */
function contentOf(data: DeadLetterAlert, atMs: number) {
  return { type: 'dead_letters.risen', timestamp: new Date(atMs).toISOString(), data }
}

/** The dead letters in the databases of these services. */
export function serviceDeadLetters(services: readonly Service[]): DeadLetterSource[] {
  return services.map(({ name: service, bus }) => async () => {
    const counts = new Map<string, number>()
    for (const { subscription, count } of await bus.deadLetters.groups())
      counts.set(subscription, (counts.get(subscription) ?? 0) + count)
    const look = `GET /api/operations/dead-letters?service=${service}`
    return [...counts].map(([subscription, count]) => ({ kind: 'service', service, subscription, count, look }))
  })
}

/** What the broker rejected of these services; what it rejected of others is for the processes that run them. */
export function brokerDeadLetters(transport: Transport, services: readonly Service[]): DeadLetterSource {
  return async () => {
    const found = (await transport.brokerDeadLetters?.()) ?? []
    return found.flatMap(({ subscription, queue, count }) => {
      const service = services.find(({ bus }) => bus.subscriptions().includes(subscription))?.name
      if (service === undefined) return []
      const look = `the queue ${queue} on the broker, and GET /api/operations/dead-letters?service=${service}`
      return [{ kind: 'broker', service, subscription, count, look }]
    })
  }
}
