import { faultSuite } from './fault-suite.ts'

const module = new URL('./sqlite-fault-world.ts', import.meta.url)

faultSuite('sqlite × sqlite', { module, broker: null, settings: { store: 'sqlite' } })
