/**
 * What a bus tells whoever traces. The bus itself knows no tracer: `createBus({ tracing })` takes anything of this shape,
 * and where none is given nothing of it runs.
 *
 * A trace goes on through everything: a message carries the `traceparent` of what said it (B13); carrying it from the
 * outbox to the broker is a `send` span, each attempt of a handler a `process` span, both children of that; what a handler
 * publishes is a child of its attempt; and attempt n links to attempt n−1, also over a retry, a redrive and a restart.
 * Names and attributes: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
 */
export type SpanStart = {
  readonly name: string
  readonly kind: 'producer' | 'consumer' | 'server'
  /** W3C Trace Context of the parent; null: a trace begins here. */
  readonly parent: string | null
  /** Of the attempt before this one. */
  readonly link?: string | null
  readonly attributes: Readonly<Record<string, string | number>>
  /** Milliseconds since the epoch, where it began before now. */
  readonly startedAt?: number
}

export type Span = {
  /** W3C Trace Context of this span: the parent of what follows from it. */
  readonly traceparent: string
  /** Says more of it, once that is known. */
  describe(name: string, attributes: Readonly<Record<string, string | number>>): void
  /** It came to nothing, because of this. */
  fail(error: unknown): void
  end(): void
}

export type Tracing = { start(span: SpanStart): Span }
