/**
 * Everything the bus refuses or fails with. The list of codes is closed; docs/errors.md explains each, and a test holds
 * the two together. The class tells what to do: `PermanentError` is never tried again, `UnavailableError` waits for a
 * server or a disk to come back, every other error of a handler is tried again with back-off.
 */
export const errorCodes = {
  invalid_argument: 'an argument is wrong; the message names it',
  invalid_payload: "the payload does not match the event's schema",
  unknown_event: 'no definition of this event type was given to the bus',
  not_owner: 'the event belongs to another service, which alone may publish it',
  message_too_large: 'the encoded message exceeds messageBytesMax, or its id, key or headers theirs',
  undecodable: 'the bytes are not a message that the codec can read',
  version_too_new: 'the message was published with a version of the schema that this process does not know yet',
  no_upcaster: 'the message has an old version and the event has no upcaster from it',
  no_handler: 'the subscription got a message that none of its handlers takes',
  handler_timeout: 'the handler took longer than handlerTimeoutMs',
  attempts_exhausted: 'the handler failed attemptsMax times',
  version_conflict: 'somebody else appended to the stream since it was read',
  fenced: 'this process lost its lease while it worked; another has taken over',
  bus_closed: 'the bus is closed or closing',
  transport_unavailable: 'the broker cannot be reached; the outbox keeps what is published',
  transport_refused:
    'the broker refuses what is asked of it: credentials, rights, version, or a queue or topic made otherwise',
  store_unavailable: 'the database cannot be read or written now; nothing was changed',
  store_corrupt: 'the database file is damaged or is no database',
  store_refused: 'the database refuses what is asked of it: credentials, rights, version',
  outbox_full: 'the outbox holds outboxMessagesMax messages that the broker has not taken yet',
  log_full: 'the log reached its limit (embedded: logBytesMax; Redis: logEntriesMax, or its memory)',
  backlog_full: 'the keys waiting behind retries and dead letters hold deferredMessagesMax messages',
  not_found: 'there is no such dead letter, timer or subscription',
  permanent: 'the handler said that trying again cannot help',
} as const

export type ErrorCode = keyof typeof errorCodes

export class BusError extends Error {
  override readonly name: string = 'BusError'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Thrown by a handler: trying again cannot help. The message becomes a dead letter at once. */
export class PermanentError extends BusError {
  override readonly name = 'PermanentError'

  constructor(message: string, options?: ErrorOptions & { code?: ErrorCode }) {
    super(options?.code ?? 'permanent', message, options)
  }
}

/** A server or a disk is not there now. Nothing is counted as an attempt; the work is taken up when it is back. */
export class UnavailableError extends BusError {
  override readonly name = 'UnavailableError'
}
