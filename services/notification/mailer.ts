/** What notification asks of a mail server. The simulator implements it; SMTP or a provider would be a file like that. */

export type Mail = {
  /** Unique for ever: the same id is the same mail, however often it is sent. */
  readonly messageId: string
  readonly to: string
  readonly subject: string
  /** Plain text. */
  readonly text: string
}

export type Mailer = {
  /** Resolves when the server has taken the mail. Throws MailRefusal where sending again cannot help; else: not now. */
  send(mail: Mail, signal?: AbortSignal): Promise<void>
  /** What was sent; undefined: nothing under this id, or no longer. */
  find(messageId: string): Promise<{ readonly subject: string; readonly text: string } | undefined>
  /** Deletes what was kept of these mails. */
  forget(messageIds: readonly string[]): Promise<void>
}

/** The server will never deliver this mail. */
export class MailRefusal extends Error {
  override readonly name = 'MailRefusal'
  /** A code: `mailbox_unknown`. */
  readonly reason: string

  constructor(reason: string, message: string) {
    super(message)
    this.reason = reason
  }
}
