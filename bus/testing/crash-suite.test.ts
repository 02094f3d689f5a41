import { crashSuite } from './crash-suite.ts'

crashSuite('sqlite × sqlite', { module: new URL('./sqlite-crash-world.ts', import.meta.url) })
