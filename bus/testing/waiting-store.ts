/** A server's answers take real time. Where the clock is virtual, they must not cost any of its time: it waits for them. */
import type { MaybePromise, Reader, Store, Tx } from '../store.ts'
import { settleTurns } from './virtual-clock.ts'

/** Real milliseconds after which time moves on all the same: what is not answered may be waiting for it. */
const ANSWER_MAX_MS = 1_000

export class Answers {
  private missing = 0

  /** The same store; `settle` knows what it was asked. What a handler does between two questions is not waited for. */
  awaitedOf(store: Store): Store {
    return {
      dialect: store.dialect,
      open: () => store.open(),
      migrate: (name, ddl) => store.migrate(name, ddl),
      transaction: (work) => this.around((inside) => store.transaction((tx) => inside(() => work(this.txOf(tx))))),
      read: (work) => this.around((inside) => store.read((reader) => inside(() => work(this.readerOf(reader))))),
      close: () => store.close(),
    }
  }

  /** As `settle` of a virtual clock. */
  readonly settle = async (): Promise<void> => {
    const latest = performance.now() + ANSWER_MAX_MS
    do await settleTurns()
    while (this.missing > 0 && performance.now() < latest)
  }

  private readerOf(reader: Reader): Reader {
    return {
      dialect: reader.dialect,
      get: (query) => this.asked(reader.get(query)),
      all: (query) => this.asked(reader.all(query)),
    }
  }

  private txOf(tx: Tx): Tx {
    return {
      ...this.readerOf(tx),
      get ended() {
        return tx.ended
      },
      run: (query) => this.asked(tx.run(query)),
      insert: (table, rows, options) => this.asked(tx.insert(table, rows, options)),
      savepoint: (work) => this.around((inside) => tx.savepoint((scoped) => inside(() => work(this.txOf(scoped))))),
    }
  }

  private asked<T>(answer: MaybePromise<T>): MaybePromise<T> {
    if (!(answer instanceof Promise)) return answer
    this.missing += 1
    const done = () => {
      this.missing -= 1
    }
    answer.then(done, done)
    return answer
  }

  /** Waited for until `inside` begins, and again from its end. */
  private async around<T>(ask: (inside: <R>(work: () => MaybePromise<R>) => Promise<R>) => Promise<T>): Promise<T> {
    this.missing += 1
    try {
      return await ask(async (work) => {
        this.missing -= 1
        try {
          return await work()
        } finally {
          this.missing += 1
        }
      })
    } finally {
      this.missing -= 1
    }
  }
}
