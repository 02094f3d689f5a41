/**
 * The bus's promises (B1 to B15), as a service sees them, over any transport and any store:
 *
 *   busSuite('my broker, my database', { openTransport: …, openStore: … })
 *
 * Time is virtual; a case owns its world. What a transport and a store owe by themselves is in their own suites.
 */
import { contractCases } from './bus-contract-cases.ts'
import { deliveryCases } from './bus-delivery-cases.ts'
import { failureCases } from './bus-failure-cases.ts'
import { type BusSuiteOptions, type Check, Stage } from './bus-stage.ts'
import { timeCases } from './bus-time-cases.ts'
import { caseRegistrar, type SuiteRunner } from './suite-test.ts'

export type { BusSuiteOptions } from './bus-stage.ts'

export function busSuite(name: string, options: BusSuiteOptions, runner: SuiteRunner = {}): void {
  const register = caseRegistrar(name, runner)
  const check: Check = (title, run, needs) => {
    register(title, async (world, context) => {
      const stage = new Stage(world, options)
      if (needs && !stage.storesAreShared) context.skip(`the store's capability '${needs}' is false`)
      else await run(stage)
    })
  }
  for (const cases of [deliveryCases, failureCases, timeCases, contractCases]) cases(check)
}
