/**
 * Every event of the shop: who owns it, what it carries, in which order it is handled. Consumers need nothing else:
 * payloads carry the state that others use, so no service calls another. Timers that a service sends to itself are
 * named `…_due`; everything else is a fact in the past tense.
 */
import type { EventType } from '@shopsphere/bus'
import { cartEvents } from './cart.ts'
import { inventoryEvents } from './inventory.ts'
import { notificationEvents } from './notification.ts'
import { orderEvents } from './order.ts'
import { paymentEvents } from './payment.ts'
import { productEvents } from './product.ts'
import { shippingEvents } from './shipping.ts'
import { userEvents } from './user.ts'

export * from './cart.ts'
export * from './inventory.ts'
export * from './notification.ts'
export * from './order.ts'
export * from './payment.ts'
export * from './product.ts'
export * from './shipping.ts'
export * from './user.ts'
export {
  type Address,
  type Availability,
  type CancelReason,
  type CartLine,
  contractLimits,
  type OrderLine,
  type PartLine,
  type Role,
  type Shortage,
} from './values.ts'

/** Give this to `createBus({ events: allEvents })`. */
export const allEvents: EventType[] = [
  ...userEvents,
  ...productEvents,
  ...cartEvents,
  ...orderEvents,
  ...paymentEvents,
  ...inventoryEvents,
  ...shippingEvents,
  ...notificationEvents,
]
