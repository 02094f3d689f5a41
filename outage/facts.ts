/**
 * What there is when everything is over, from the databases of a whole shop, and whether that is what there should be.
 *
 * O1 Every order that was taken came to the end of its kind, as orders do when nothing is down.
 * O2 Of every order, each step of its kind was told once: none is lost, none was told twice (I6).
 * O3 Every notification is one mail at the mail server, and every mail belongs to a notification.
 * O4 Every notification was said once: to audit, and to the order's own timeline.
 * O5 Meanwhile the backlog was seen, through the API and /metrics (course.ts).
 */
import { sql } from '@shopsphere/bus'
import type { Shop } from '../shop.ts'

/** Orders of a kind come to the same end. */
export type Placed = { readonly orderId: string; readonly kind: string }

export type Facts = {
  /** Order → where it stands: `delivered/delivered`. */
  readonly ends: ReadonlyMap<string, string>
  /** Order → the steps that its customer was told, each as often as it was told, sorted. */
  readonly told: ReadonlyMap<string, readonly string[]>
  readonly mails: {
    /** At the mail server, about orders. */
    readonly sent: number
    /** That belong to no notification: somebody was written to twice. */
    readonly strange: number
  }
  /** `notification.sent` of orders: as audit heard them, and in the order service's timelines. */
  readonly said: { readonly audit: number; readonly timelines: number }
}

export type Verdict = {
  readonly expected: number
  readonly told: number
  readonly lost: number
  readonly twice: number
  /** A sentence each; empty: O1 to O4 hold. */
  readonly violations: readonly string[]
}

const VIOLATIONS_SHOWN_MAX = 20

export async function readFacts(shop: Shop): Promise<Facts> {
  const read = <Row>(service: string, query: ReturnType<typeof sql>) =>
    shop.services.get(service)!.bus.store.read((reader) => reader.all<Row>(query))
  const count = async (service: string, query: ReturnType<typeof sql>) =>
    Number((await read<{ count: number }>(service, query))[0]!.count)

  const orders = await read<{ order_id: string; status: string; stage: string }>(
    'order',
    sql`select order_id, status, stage from order_row`,
  )
  const notifications = await read<{ order_id: string; step: string }>(
    'notification',
    sql`select order_id, step from notification where order_id is not null and state = 'sent' order by step`,
  )
  const told = new Map<string, string[]>()
  for (const { order_id: orderId, step } of notifications) {
    const steps = told.get(orderId)
    if (steps) steps.push(step)
    else told.set(orderId, [step])
  }
  return {
    ends: new Map(orders.map(({ order_id: orderId, status, stage }) => [orderId, `${status}/${stage}`])),
    told,
    mails: {
      sent: await count(
        'notification',
        sql`select count(*) as count from mail_sent m join notification n on n.notification_id = m.message_id
            where n.order_id is not null`,
      ),
      strange: await count(
        'notification',
        sql`select count(*) as count from mail_sent m where not exists
            (select 1 from notification n where n.notification_id = m.message_id)`,
      ),
    },
    said: {
      audit: await count(
        'audit',
        sql`select count(*) as count from audit_event where type = 'notification.sent' and message_key like 'ord_%'`,
      ),
      timelines: await count('order', sql`select count(*) as count from order_notification`),
    },
  }
}

/** @param normal orders that were placed and told while nothing was down: each kind's end and steps are theirs */
export function judge(facts: Facts, { normal, all }: { normal: readonly Placed[]; all: readonly Placed[] }): Verdict {
  const norms = new Map(normal.map(({ orderId, kind }) => [kind, lifeOf(facts, orderId)]))
  const violations: string[] = []
  const totals = { expected: 0, told: 0, lost: 0, twice: 0 }
  for (const { orderId, kind } of all) {
    const norm = norms.get(kind)
    if (!norm) throw new Error(`no order of the kind ${kind} was placed before the outage`)
    const { end, steps } = lifeOf(facts, orderId)
    if (end !== norm.end) violations.push(`O1 ${orderId} (${kind}) stands at ${end}, without an outage at ${norm.end}`)
    const lost = norm.steps.filter((step) => !steps.includes(step))
    const twice = steps.filter((step, index) => !norm.steps.includes(step) || steps.indexOf(step) !== index)
    if (lost.length > 0) violations.push(`O2 ${orderId} (${kind}) was not told ${lost.join(', ')}`)
    if (twice.length > 0) violations.push(`O2 ${orderId} (${kind}) was told too much: ${twice.join(', ')}`)
    totals.expected += norm.steps.length
    totals.told += steps.length
    totals.lost += lost.length
    totals.twice += twice.length
  }
  const { mails, said } = facts
  if (mails.sent !== totals.told) violations.push(`O3 ${totals.told} notifications of orders, but ${mails.sent} mails`)
  if (mails.strange > 0) violations.push(`O3 ${mails.strange} mails belong to no notification`)
  for (const [where, count] of Object.entries(said))
    if (count !== totals.told) violations.push(`O4 ${totals.told} notifications, but ${count} in ${where}`)
  return { ...totals, violations: shortened(violations) }
}

function lifeOf({ ends, told }: Facts, orderId: string): { end: string; steps: readonly string[] } {
  return { end: ends.get(orderId) ?? 'nowhere', steps: told.get(orderId) ?? [] }
}

export function shortened(violations: readonly string[]): string[] {
  if (violations.length <= VIOLATIONS_SHOWN_MAX) return [...violations]
  return [...violations.slice(0, VIOLATIONS_SHOWN_MAX), `… and ${violations.length - VIOLATIONS_SHOWN_MAX} more`]
}
