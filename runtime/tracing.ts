/**
 * OpenTelemetry traces, where somebody collects them: OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) names a collector that
 * speaks OTLP over HTTP; OTEL_TRACES_SAMPLER_ARG is the share of new traces that is kept, 1 by default. Without an
 * endpoint nothing of this is loaded. A collector that is away costs the spans of that time, and nothing else; the log says so.
 */
import type { Span, SpanStart, Tracing } from '@shopsphere/bus'
import type { Log } from './log.ts'
import { StartError } from './start-error.ts'

export type Traces = {
  /** The tracer of one service; all of a process share the exporter. */
  of(service: string): Tracing
  /** Hands over what waits, for a few seconds at most. */
  close(): Promise<void>
}

/** What a span is handed over to; the tests have one that keeps them. */
export type SpanExporter = import('@opentelemetry/sdk-trace').SpanExporter

const QUEUE_SPANS_MAX = 8_192
const BATCH_SPANS_MAX = 512
const EXPORT_EVERY_MS = 1_000
const EXPORT_TIMEOUT_MS = 3_000

/** Null: nobody traces. Throws StartError for an endpoint that is no URL and for a share that is none. */
export async function openTraces(
  environment: Readonly<Record<string, string | undefined>>,
  log: Log,
  exporter?: SpanExporter,
): Promise<Traces | null> {
  const url = tracesUrl(environment)
  if (url === null && !exporter) return null
  const share = sampledShare(environment.OTEL_TRACES_SAMPLER_ARG)
  const [api, sdk, { resourceFromAttributes }, { OTLPTraceExporter }] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/exporter-trace-otlp-http'),
  ])
  const processor = new sdk.BatchSpanProcessor({
    exporter: telling(exporter ?? new OTLPTraceExporter({ url: url!, timeoutMillis: EXPORT_TIMEOUT_MS }), log),
    maxQueueSize: QUEUE_SPANS_MAX,
    maxExportBatchSize: BATCH_SPANS_MAX,
    scheduledDelayMillis: EXPORT_EVERY_MS,
    exportTimeoutMillis: EXPORT_TIMEOUT_MS,
  })
  if (url !== null) log.info({ url }, 'traces are sent')
  const sampler = new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(share) })
  return {
    of(service) {
      const resource = resourceFromAttributes({ 'service.name': service, 'service.namespace': 'shopsphere' })
      const tracer = new sdk.TracerProvider({ resource, sampler, spanProcessors: [processor] }).getTracer('shopsphere')
      return { start: (span) => started(api, tracer, span) }
    },
    close: () => processor.shutdown().catch((error) => log.warn({ err: error }, 'the last spans were not handed over')),
  }
}

/** The same exporter; the log hears once that the collector is away, and once that it is back. */
function telling(exporter: SpanExporter, log: Log): SpanExporter {
  let isAway = false
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        const failed = result.code !== 0
        if (failed && !isAway)
          log.warn({ err: result.error }, 'traces are not taken, and lost until they are: see that the collector runs')
        if (!failed && isAway) log.info('traces are taken again')
        isAway = failed
        done(result)
      }),
    shutdown: () => exporter.shutdown(),
    ...(exporter.forceFlush && { forceFlush: () => exporter.forceFlush!() }),
  }
}

type OpenTelemetry = typeof import('@opentelemetry/api')
type Tracer = import('@opentelemetry/api').Tracer

function started(
  api: OpenTelemetry,
  tracer: Tracer,
  { name, kind, parent, link, attributes, startedAt }: SpanStart,
): Span {
  const { trace, ROOT_CONTEXT, SpanKind, SpanStatusCode } = api
  const kinds = { producer: SpanKind.PRODUCER, consumer: SpanKind.CONSUMER, server: SpanKind.SERVER }
  const parentContext = contextOf(parent)
  const linked = contextOf(link ?? null)
  const span = tracer.startSpan(
    name,
    {
      kind: kinds[kind],
      attributes,
      ...(startedAt !== undefined && { startTime: startedAt }),
      ...(linked && { links: [{ context: linked }] }),
    },
    parentContext ? trace.setSpanContext(ROOT_CONTEXT, parentContext) : ROOT_CONTEXT,
  )
  const { traceId, spanId, traceFlags } = span.spanContext()
  return {
    traceparent: `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`,
    describe: (described, more) => void span.updateName(described).setAttributes(more),
    fail(error) {
      span.recordException(error as Error)
      span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) })
    },
    end: () => span.end(),
  }
}

function contextOf(traceparent: string | null) {
  const [, traceId, spanId, flags] = traceparent?.split('-') ?? []
  return traceId && spanId && flags ? { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true } : null
}

/** As the OpenTelemetry specification has it: the general endpoint is a base, that of the traces is the whole address. */
function tracesUrl(environment: Readonly<Record<string, string | undefined>>): string | null {
  const { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: whole, OTEL_EXPORTER_OTLP_ENDPOINT: base } = environment
  const text = whole || (base ? `${base.replace(/\/+$/, '')}/v1/traces` : null)
  if (text === null) return null
  if (/^https?:$/.test(URL.parse(text)?.protocol ?? '')) return text
  const name = whole ? 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT' : 'OTEL_EXPORTER_OTLP_ENDPOINT'
  throw new StartError(`${name} is '${whole || base}': expected a URL such as http://localhost:4318`, { exitCode: 2 })
}

function sampledShare(text: string | undefined): number {
  const share = text?.trim() ? Number(text) : 1
  if (share >= 0 && share <= 1) return share
  throw new StartError(`OTEL_TRACES_SAMPLER_ARG is '${text}': expected a number from 0 to 1`, { exitCode: 2 })
}
