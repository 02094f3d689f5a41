import type { Clock, Timer } from '@shopsphere/bus'

const HEARTBEAT_MS = 15_000
/** What a slow reader may leave unread; then it is cut, and resumes from the buffer when it comes back. */
const UNREAD_BYTES_MAX = 512 * 1024
/** A token's roles are looked at when a stream begins: it does not go on for ever. */
const LIFETIME_MS = 30 * 60_000
const RETRY_MS = 2_000

/** The id of the last event of a stream that is over for good: a browser that comes back with it is sent away (204). */
export const ENDED_ID = 'ended'

export type LiveEvent = {
  /** Comes back as Last-Event-ID. */
  readonly id?: string
  /** None: an ordinary message. */
  readonly event?: 'snapshot' | 'missed' | 'end'
  readonly data: unknown
}

export type LiveStream = {
  readonly response: Response
  send(event: LiveEvent): void
  /** Says why, then closes. Ending twice is fine. */
  end(reason: 'terminal' | 'closing' | 'lifetime'): void
}

/**
 * Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) with heartbeats.
 * `onEnd` is called once, however it ends.
 */
export function createLiveStream(clock: Clock, onEnd: () => void): LiveStream {
  const text = new TextEncoder()
  let controller!: ReadableStreamDefaultController<Uint8Array>
  let timers: Timer[] = []
  let ended = false

  const over = () => {
    if (ended) return false
    ended = true
    for (const timer of timers) timer.cancel()
    timers = []
    onEnd()
    return true
  }
  const write = (block: string) => {
    if (ended) return
    controller.enqueue(text.encode(block))
    if ((controller.desiredSize ?? 0) < 0 && over()) controller.error(new Error('the reader is too slow'))
  }
  const beat = () => {
    write(': still here\n\n')
    if (!ended) timers[0] = clock.after(HEARTBEAT_MS, beat)
  }
  const send = ({ id, event, data }: LiveEvent) =>
    write(`${id ? `id: ${id}\n` : ''}${event ? `event: ${event}\n` : ''}data: ${JSON.stringify(data)}\n\n`)
  const end: LiveStream['end'] = (reason) => {
    send({ ...(reason === 'terminal' ? { id: ENDED_ID } : {}), event: 'end', data: { reason } })
    if (over()) controller.close()
  }

  const body = new ReadableStream<Uint8Array>(
    {
      start(started) {
        controller = started
      },
      cancel: () => void over(),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: UNREAD_BYTES_MAX }),
  )
  timers = [clock.after(HEARTBEAT_MS, beat), clock.after(LIFETIME_MS, () => end('lifetime'))]
  write(`retry: ${RETRY_MS}\n\n`)
  const headers = {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no', // nginx would collect the stream
  }
  return { response: new Response(body, { headers }), send, end }
}
