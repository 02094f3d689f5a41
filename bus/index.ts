/** The public face of @shopsphere/bus. The test kit and the conformance suites are at `@shopsphere/bus/testing`. */
export { type AsyncapiOptions, asyncapi } from './asyncapi.ts'
export type { Bridge, Outgoing, Reading } from './bridge.ts'
export { type Bus, type BusOptions, type BusStatus, createBus, type Topic, type TransactionContext } from './bus.ts'
export {
  type Clock,
  type Random,
  type SkippableClock,
  seededRandom,
  skippableClock,
  systemClock,
  type Timer,
} from './clock.ts'
export { type Codec, readingAll } from './codec.ts'
export { foreignEnvelopeCodec, jsonCodec } from './codecs/json.ts'
export { messagePackCodec } from './codecs/message-pack.ts'
export {
  type Handler,
  type HandlerContext,
  type Middleware,
  type OutsideContext,
  type Step,
  type SubscribeOptions,
  type SubscriptionStatus,
  steps,
} from './consumer.ts'
export type { Act, Actor, DeadLetter, DeadLetterGroup, Rehearsal } from './dead-letters.ts'
export type { Arrival, Endpoint, Note } from './endpoint.ts'
export { BusError, type ErrorCode, errorCodes, PermanentError, UnavailableError } from './errors.ts'
export { type DataOf, type EventOptions, type EventType, event, type Schema, upcast, validate } from './event.ts'
export * as eventStore from './event-store.ts'
export { type Aggregate, type AsOf, aggregate, type StoredEvent, type StreamEvent } from './event-store.ts'
export { defaultLimits, type Limits } from './limits.ts'
export { consoleLog, type Log, silentLog } from './log.ts'
export { idMaker, type Message, type WireMessage } from './message.ts'
export type { Origin, Publish, PublishOptions } from './outbox.ts'
export { type ProcessManager, processManager, say, timer } from './process-manager.ts'
export { type Projection, projection } from './projection.ts'
export { OUTBOX } from './refused.ts'
export { matcher, matches, shardOf } from './routing.ts'
export { list, type Sql, SqlList, type SqlValue, sql } from './sql.ts'
export type { MaybePromise, Reader, Row, Store, Tx } from './store.ts'
export { sqliteStore } from './stores/sqlite.ts'
export { TableName, tableSql } from './table-name.ts'
export type { Schedule } from './timers.ts'
export type { Span, SpanStart, Tracing } from './tracing.ts'
export type {
  Backlog,
  Binding,
  BrokerDeadLetter,
  BrokerDeadLetters,
  ConsumeOptions,
  Consumer,
  Delivery,
  Lease,
  SubscriptionSpec,
  Transport,
  TransportCapabilities,
  TransportState,
} from './transport.ts'
export { memoryBroker, memoryTransport } from './transports/memory.ts'
export { type SqliteTransportOptions, sqliteTransport } from './transports/sqlite.ts'
