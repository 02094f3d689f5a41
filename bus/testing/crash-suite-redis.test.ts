import { crashSuite } from './crash-suite.ts'

crashSuite('redis × sqlite', { module: new URL('./redis-crash-world.ts', import.meta.url) })
