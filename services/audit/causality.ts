/** What led to what. Pure: events in, order and trees out. */

/** One message as audit keeps it. Times are milliseconds since the epoch. */
export type AuditedEvent = {
  readonly id: string
  readonly type: string
  readonly source: string
  readonly time: number
  readonly key: string | null
  readonly correlationId: string
  readonly causationId: string | null
  readonly traceparent: string | null
  /** Of the schema that `data` has. */
  readonly version: number
  readonly data: unknown
}

/** What order and trees are made of. */
export type Caused = Pick<AuditedEvent, 'id' | 'time' | 'causationId'>

export type Effects<Event> = Event & { readonly effects: Effects<Event>[] }

/**
 * Every cause stands before its effects, otherwise by time. Clocks of several machines differ, and a timer carries the id
 * of long ago, so neither time nor id alone would do.
 */
export function inCausalOrder<Event extends Caused>(events: readonly Event[]): Event[] {
  const byId = new Map(events.map((event) => [event.id, event]))
  const placed = new Set<string>()
  const ordered: Event[] = []
  for (const event of events.toSorted(byTime)) {
    const first: Event[] = []
    for (let next: Event | undefined = event; next && !placed.has(next.id); next = causeOf(next, byId)) {
      placed.add(next.id)
      first.push(next)
    }
    ordered.push(...first.toReversed())
  }
  return ordered
}

function causeOf<Event extends Caused>(event: Event, byId: ReadonlyMap<string, Event>): Event | undefined {
  return event.causationId === null ? undefined : byId.get(event.causationId)
}

/** `event` with what it set off, and what that set off, as far as `events` know. */
export function effectsTree<Event extends Caused>(event: Event, events: readonly Event[]): Effects<Event> {
  const nodes = new Map<string, Effects<Event>>()
  const node = (each: Event): Effects<Event> => {
    const known = nodes.get(each.id)
    if (known) return known
    const made = { ...each, effects: [] }
    nodes.set(each.id, made)
    return made
  }
  const root = node(event)
  for (const each of inCausalOrder(events)) {
    if (each.id !== event.id && each.causationId !== null) nodes.get(each.causationId)?.effects.push(node(each))
  }
  return root
}

export function byTime(one: Caused, other: Caused): number {
  return one.time - other.time || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0)
}
