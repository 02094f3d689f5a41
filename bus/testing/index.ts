/** For people who write their own transport or store, and for tests of services: '@shopsphere/bus/testing'. */
export { type EventuallyOptions, eventually } from './eventually.ts'
export { type StoreCapabilities, type StoreSuiteOptions, storeSuite } from './store-suite.ts'
export type { SuiteContext, SuiteRunner, SuiteTest } from './suite-test.ts'
export { type TransportSuiteOptions, transportSuite } from './transport-suite.ts'
export { type VirtualClock, type VirtualClockOptions, virtualClock } from './virtual-clock.ts'
export { createWorld, type World } from './world.ts'
