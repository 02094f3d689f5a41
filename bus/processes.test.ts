import { processesSuite } from './testing/processes-suite.ts'

processesSuite('sqlite × sqlite', { module: new URL('./testing/sqlite-crash-world.ts', import.meta.url) })
