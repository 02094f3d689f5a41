/** What notification asks of a mail server. The simulator implements it; an adapter for a real one would be a file like that. */

export type Mail = {
  /** The same key is the same mail, however often it is handed over. At most 200 characters. */
  readonly idempotencyKey: string
  readonly to: string
  readonly subject: string
  /** Plain text, lines ended by \n. */
  readonly text: string
}

export type Mailer = {
  /** Throws MailRefusal where trying again cannot help; whatever else it throws means: not now. */
  send(mail: Mail, signal?: AbortSignal): Promise<void>
}

/** The mail server will not take this mail, now or later. */
export class MailRefusal extends Error {
  override readonly name = 'MailRefusal'
  /** A code for programs: `mailbox_unknown`. */
  readonly reason: string

  constructor(reason: string, message: string) {
    super(message)
    this.reason = reason
  }
}
