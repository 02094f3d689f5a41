import { test as nodeTest } from 'node:test'
import { inWorld, type World } from './world.ts'

export type SuiteContext = {
  skip(why: string): void
  /** Says what was measured. */
  diagnostic?(text: string): void
}

/** How a suite registers its cases: `test` of node:test by default, or any runner's function brought into this shape. */
export type SuiteTest = (
  name: string,
  options: { timeout: number },
  run: (context: SuiteContext) => Promise<void>,
) => unknown

export type SuiteRunner = {
  /** Registers one case; `test` of node:test by default. */
  test?: SuiteTest
  /** Runs only the cases whose name this matches; all by default. */
  only?: RegExp
}

/** Real milliseconds that one case may take: a limit for what hangs, not a measure. */
const CASE_TIMEOUT_MS = 60_000

/** Registers cases one after another under the suite's name, each in a world of its own. */
export function caseRegistrar(
  suite: string,
  { test = nodeTest as SuiteTest, only }: SuiteRunner,
  timeout = CASE_TIMEOUT_MS,
) {
  return (name: string, run: (world: World, context: SuiteContext) => Promise<void>): void => {
    if (only && !only.test(name)) return
    test(`${suite}: ${name}`, { timeout }, (context) => inWorld((world) => run(world, context)))
  }
}
