import type { Bus } from '@shopsphere/bus'
import {
  notificationSent,
  orderCancelled,
  orderCompleted,
  orderDelivered,
  orderPlaced,
  orderRefunded,
} from '@shopsphere/contracts'
import { keepPlaced, keepProgress, keepRefund, keepSent } from './history.ts'

/** Only what changes what a customer reads in the list; the steps between stand in the order itself. */
export function hear(bus: Bus): void {
  bus.subscribe(orderPlaced, (order, { tx }) => keepPlaced(tx, order))
  bus.subscribe(orderDelivered, (order, { tx, message }) => keepProgress(tx, order, 'delivered', message))
  bus.subscribe(orderCompleted, (order, { tx, message }) => keepProgress(tx, order, 'completed', message))
  bus.subscribe(orderCancelled, (order, { tx, message }) => keepProgress(tx, order, 'cancelled', message))
  bus.subscribe(orderRefunded, (order, { tx, message }) => keepRefund(tx, order, message))
  bus.subscribe(notificationSent, (sent, { tx, message }) => keepSent(tx, sent, message))
}
