/**
 * Preloaded by `npm test` into the process of every test file: when the tests of the file are done, its process has to end by
 * itself. What is left open (a bus, a server, a timer) would hold the whole run up without a word: a test that fails before it
 * closes what it opened, or one that forgets to. It is told on stderr, and the file fails. `?graceMs=…` says how long the
 * file's own clean-up may take, the stopping of servers included.
 */
import { after } from 'node:test'
import { isMainThread } from 'node:worker_threads'

const GRACE_MS = Number(new URL(import.meta.url).searchParams.get('graceMs') ?? 60_000)

// A worker or a child of a test file is told to preload this too.
if (isMainThread && process.argv[1]?.endsWith('.test.ts')) {
  after(() => {
    const tell = () => {
      const open = [...new Set(process.getActiveResourcesInfo())].join(', ')
      process.stderr.write(`${process.argv[1]}: its tests are done, and something they opened is still open: ${open}\n`)
      process.exit(1)
    }
    setTimeout(tell, GRACE_MS).unref()
  })
}
