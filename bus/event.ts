import { BusError } from './errors.ts'

/**
 * What the bus asks of a validation library: Standard Schema (https://standardschema.dev), which zod, valibot and
 * arktype implement. Validation must be synchronous.
 */
export type Schema<Data> = {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Data> | Promise<SchemaResult<Data>>
    readonly types?: { readonly input: unknown; readonly output: Data } | undefined
  }
}
type SchemaResult<Data> =
  | { readonly value: Data; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }
type SchemaIssue = {
  readonly message: string
  readonly path?: readonly (PropertyKey | { key: PropertyKey })[] | undefined
}

export type EventOptions<Data> = {
  /** Grows by one with each change that a consumer of the old shape would not understand. */
  version: number
  schema: Schema<Data>
  /** Messages of one key are handled in order; null: no order. */
  key: (data: Data) => string | null
  /** The one service that may publish it; by default the first word of the type. */
  owner?: string
  /** From each older version to the next: `upcast[1]` makes a version 2 of a version 1. */
  upcast?: Readonly<Record<number, (old: any) => unknown>>
  /** One sentence for people: when is it said? */
  summary?: string
  /** A payload as it really occurs; shown in /asyncapi.json and checked by a test. */
  example?: NoInfer<Data>
}

export type EventType<Data = any> = Readonly<Required<Omit<EventOptions<Data>, 'example' | 'summary'>>> & {
  readonly type: string
  readonly summary: string
  readonly example: Data | undefined
}

export type DataOf<E> = E extends EventType<infer Data> ? Data : never

const TYPE_PATTERN = /^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$/

/** Defines an event: its type (`order.placed`), version, schema and key. Throws `invalid_argument` for a bad definition. */
export function event<Data>(type: string, options: EventOptions<Data>): EventType<Data> {
  const { version, schema, key, owner = type.split('.')[0]!, upcast = {}, summary = '', example } = options
  if (!TYPE_PATTERN.test(type)) {
    throw new BusError(
      'invalid_argument',
      `event type '${type}': write lower-case words separated by dots, as 'order.placed'`,
    )
  }
  if (!Number.isSafeInteger(version) || version < 1) {
    throw new BusError('invalid_argument', `event '${type}': version must be a whole number from 1, not ${version}`)
  }
  if (typeof schema?.['~standard']?.validate !== 'function') {
    throw new BusError('invalid_argument', `event '${type}': schema must be a Standard Schema, as z.object({ … })`)
  }
  if (typeof key !== 'function') {
    throw new BusError('invalid_argument', `event '${type}': key must be a function, () => null where order is nothing`)
  }
  for (let from = 1; from < version; from++) {
    if (!upcast[from])
      throw new BusError('no_upcaster', `event '${type}' version ${version}: give an upcaster from version ${from}`)
  }
  return { type, version, schema, key, owner, upcast, summary, example }
}

/** The payload as the schema gives it back. Throws `invalid_payload`, naming every field that is wrong. */
export function validate<Data>(event: EventType<Data>, payload: unknown): Data {
  const result = event.schema['~standard'].validate(payload)
  if (result instanceof Promise) {
    throw new BusError(
      'invalid_argument',
      `event '${event.type}': its schema validates asynchronously; the bus needs a synchronous one`,
    )
  }
  if (result.issues === undefined) return result.value
  throw new BusError(
    'invalid_payload',
    `${event.type} version ${event.version}: ${result.issues.slice(0, 5).map(describeIssue).join('; ')}`,
  )
}

/** The payload of `version` as today's shape, through every upcaster between. Throws `version_too_new`, `no_upcaster`, `invalid_payload`. */
export function upcast<Data>(event: EventType<Data>, version: number, payload: unknown): Data {
  if (version > event.version) {
    throw new BusError(
      'version_too_new',
      `${event.type} version ${version} arrived and this process knows up to ${event.version}: deploy the newer contract, then redrive`,
    )
  }
  let current = payload
  for (let from = version; from < event.version; from++) {
    const step = event.upcast[from]
    if (!step) throw new BusError('no_upcaster', `${event.type}: no upcaster from version ${from}`)
    current = step(current)
  }
  return validate(event, current)
}

function describeIssue(issue: SchemaIssue): string {
  const path = (issue.path ?? []).map((part) => (typeof part === 'object' ? part.key : part)).join('.')
  return path ? `${path}: ${issue.message}` : issue.message
}
