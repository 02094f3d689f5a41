/**
 * Notices a transaction that is asked for inside another of the same bus. The database runs one at a time, so the inner
 * one would wait for the outer one, which waits for it, until the handler's time is over.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { BusError } from './errors.ts'
import type { MaybePromise, Store, Tx } from './store.ts'

export class Inside {
  private readonly current = new AsyncLocalStorage<Tx>()

  /** The same store, whose transactions are noticed; a batch of handlers is one transaction, so it costs next to nothing. */
  noticing(store: Store): Store {
    return {
      dialect: store.dialect,
      open: () => store.open(),
      migrate: (name, ddl) => store.migrate(name, ddl),
      read: (work) => store.read(work),
      transaction: <T>(work: (tx: Tx) => MaybePromise<T>) => store.transaction((tx) => this.current.run(tx, work, tx)),
      close: () => store.close(),
    }
  }

  /** Throws `invalid_argument` inside a transaction that has not ended. */
  refuse(): void {
    if (this.current.getStore()?.ended !== false) return
    throw new BusError(
      'invalid_argument',
      'a transaction inside a transaction would wait for itself: use the `tx` and the `publish` that the handler was given',
    )
  }
}
