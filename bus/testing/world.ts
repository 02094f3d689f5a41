import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * What one test owns: a place that nobody else uses. Everything opened in it is closed, the youngest first, and the
 * directory deleted, when the test ends: `await using world = await createWorld()`.
 */
export type World = AsyncDisposable & {
  /** Lower-case letters and digits, unique: a prefix for queues, topics, streams or databases on a shared server. */
  readonly name: string
  /** An empty directory, for what lives in files. */
  readonly directory: string
  /** The same value for everyone in this world who asks by the same name; the first makes it. */
  share<T>(name: string, make: () => T): T
  /** Runs `clean` when the world ends. */
  defer(clean: () => unknown): void
}

/** Runs `work` in a world of its own. Where it fails, its error is the one that comes out, whatever the clean-up says. */
export async function inWorld(work: (world: World) => Promise<void>): Promise<void> {
  const world = await createWorld()
  try {
    await work(world)
  } catch (error) {
    await Promise.resolve(world[Symbol.asyncDispose]()).catch(() => {})
    throw error
  }
  await world[Symbol.asyncDispose]()
}

let worlds = 0

export async function createWorld(): Promise<World> {
  const name = `w${process.pid.toString(36)}${Date.now().toString(36)}${(worlds++).toString(36)}`
  const directory = await mkdtemp(join(tmpdir(), `bus-${name}-`))
  const shared = new Map<string, unknown>()
  const cleaners: (() => unknown)[] = [() => rm(directory, { recursive: true, force: true })]
  return {
    name,
    directory,
    share<T>(key: string, make: () => T): T {
      if (!shared.has(key)) shared.set(key, make())
      return shared.get(key) as T
    },
    defer: (clean) => void cleaners.push(clean),
    async [Symbol.asyncDispose]() {
      const failures: unknown[] = []
      for (let clean = cleaners.pop(); clean; clean = cleaners.pop()) {
        try {
          await clean()
        } catch (error) {
          failures.push(error)
        }
      }
      if (failures.length > 0) throw new AggregateError(failures, 'a world could not be cleaned up')
    },
  }
}
