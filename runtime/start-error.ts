/** The process cannot start, for a reason that its operator can remove: show the message without a stack, then exit. */
export class StartError extends Error {
  override readonly name = 'StartError'
  /** 2: the environment is wrong; 1: the machine refuses (port, folder, disk). */
  readonly exitCode: 1 | 2

  constructor(message: string, options: ErrorOptions & { exitCode?: 1 | 2 } = {}) {
    super(message, options)
    this.exitCode = options.exitCode ?? 1
  }
}
