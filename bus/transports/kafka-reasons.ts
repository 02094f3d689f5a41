/** The errors of Kafka's client name what they tried; why it failed stands in what they were caused by. */

/** The error and all that it was caused by, the deepest last. */
export function reasonsOf(error: unknown): { message: string; code?: string }[] {
  const found: { message: string; code?: string }[] = []
  const look = (one: unknown) => {
    if (!(one instanceof Error) || found.length > 20) return
    found.push(one as Error & { code?: string })
    for (const inner of (one as AggregateError).errors ?? []) look(inner)
    look(one.cause)
  }
  look(error)
  return found
}
