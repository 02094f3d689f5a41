/**
 * Product's own copy of who may edit: a role that was taken away ends here as soon as the event arrives, whatever a token
 * still says. Late and repeated messages change nothing: the newest roles win, and deleted is for ever.
 */
import type { Bus } from '@shopsphere/bus'
import { userDeleted, userRegistered, userRoleChanged } from '@shopsphere/contracts'
import { forgetEditor, keepRoles } from './queries.ts'

export function hear(bus: Bus): void {
  bus.subscribe(userRegistered, ({ userId, roles }, { tx, message }) => keepRoles(tx, userId, roles, message.time))
  bus.subscribe(userRoleChanged, ({ userId, roles }, { tx, message }) => keepRoles(tx, userId, roles, message.time))
  bus.subscribe(userDeleted, ({ userId }, { tx, message }) => forgetEditor(tx, userId, message.time))
}
