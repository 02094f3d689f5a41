import { type AuditedEvent, inCausalOrder } from './causality.ts'

type Drawn = Pick<AuditedEvent, 'id' | 'type' | 'source' | 'time' | 'correlationId' | 'causationId'>

const CALLER = 'caller'

/**
 * A Mermaid sequence diagram (https://mermaid.js.org/syntax/sequenceDiagram.html) of what really happened: an arrow goes
 * from who said an event to each service that said something because of it. Who heard and kept silent is not known, so an
 * event without effects is a note.
 */
export function sequenceDiagram(title: string, events: readonly Drawn[]): string {
  const ordered = inCausalOrder(events)
  const startedAt = Math.min(...ordered.map(({ time }) => time))
  const listeners = listenersOf(ordered)
  const known = new Set(ordered.map(({ id }) => id))
  const requests = new Set<string>()
  const arrows = ordered.flatMap((event) => {
    const isBegun = event.causationId === null || !known.has(event.causationId)
    // One request may say several things.
    const request = isBegun && !requests.has(event.correlationId) ? [`  ${CALLER}->>${event.source}: request`] : []
    if (isBegun) requests.add(event.correlationId)
    return [...request, ...say(event, listeners.get(event.id) ?? [], label(event, startedAt))]
  })
  return [
    '---',
    `title: ${JSON.stringify(title)}`,
    '---',
    'sequenceDiagram',
    '  autonumber',
    ...(ordered.length > 0 ? [`  actor ${CALLER}`] : []),
    ...[...new Set(ordered.map(({ source }) => source))].map((name) => `  participant ${name}`),
    ...arrows,
    '',
  ].join('\n')
}

/** For each event the services that said something because of it, in the order in which they did. */
function listenersOf(events: readonly Drawn[]): Map<string, string[]> {
  const listeners = new Map<string, string[]>()
  for (const { causationId, source } of events) {
    if (causationId === null) continue
    const heard = listeners.get(causationId) ?? []
    if (!heard.includes(source)) heard.push(source)
    listeners.set(causationId, heard)
  }
  return listeners
}

function say({ source }: Drawn, listeners: readonly string[], text: string): string[] {
  if (listeners.length === 0) return [`  Note over ${source}: ${text}`]
  return listeners.map((listener) => `  ${source}->>${listener}: ${text}`)
}

function label({ type, time }: Drawn, startedAt: number): string {
  return `${type} (${elapsed(time - startedAt)})`
}

const MINUTE_MS = 60_000
const HOUR_MS = 3_600_000
const DAY_MS = 86_400_000

/** `+35 ms`, `+2.5 s`, `+3 min`, `+4 h`, `+30 d`: what a reader takes in at a glance. */
export function elapsed(ms: number): string {
  const rounded = (value: number) => String(Math.round(value * 10) / 10)
  if (ms < 1_000) return `+${ms} ms`
  if (ms < MINUTE_MS) return `+${rounded(ms / 1_000)} s`
  if (ms < HOUR_MS) return `+${rounded(ms / MINUTE_MS)} min`
  if (ms < DAY_MS) return `+${rounded(ms / HOUR_MS)} h`
  return `+${rounded(ms / DAY_MS)} d`
}
