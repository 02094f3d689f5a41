import { list, type Reader, type Row, sql, type Tx } from '@shopsphere/bus'
import type { Role } from '@shopsphere/contracts'
import type { Account, SavedAddress } from './account.ts'
import { comparable, FAILURES_KEPT_MS, type Failures } from './sign-in.ts'

type AccountRow = {
  user_id: string
  email: string | null
  sign_in_email: string | null
  name: string | null
  country: string | null
  roles: string
  addresses: string
  password_hash: string | null
  version: number
  registered_at: number
  registered_by: string | null
  external_reference: string | null
}

/** Undefined where there is none, or no longer. */
export async function findAccount(reader: Reader, userId: string): Promise<Account | undefined> {
  const row = await reader.get<AccountRow>(sql`select * from account where user_id = ${userId} and deleted_at is null`)
  return row && toAccount(row)
}

export async function findBySignInEmail(reader: Reader, email: string): Promise<Account | undefined> {
  const row = await reader.get<AccountRow>(sql`select * from account where sign_in_email = ${comparable(email)}`)
  return row && toAccount(row)
}

/** Accounts in the order of their making; `email`: only those with exactly this one. */
export async function listAccounts(
  reader: Reader,
  { email, afterUserId, limit }: { email: string | null; afterUserId: string; limit: number },
): Promise<Account[]> {
  const rows =
    email === null
      ? await reader.all<AccountRow>(sql`
          select * from account where user_id > ${afterUserId} and deleted_at is null order by user_id limit ${limit}`)
      : await reader.all<AccountRow>(sql`
          select * from account where sign_in_email = ${comparable(email)} and user_id > ${afterUserId}
          order by user_id limit ${limit}`)
  return rows.map(toAccount)
}

export async function hasOperator(reader: Reader): Promise<boolean> {
  const row = await reader.get(
    sql`select 1 as one from account where roles like ${'%"operator"%'} and deleted_at is null limit 1`,
  )
  return row !== undefined
}

/** Adds accounts; answers the positions of those that no other one stood in the way of, by e-mail or by reference. */
export async function addAccounts(tx: Tx, accounts: readonly Account[]): Promise<number[]> {
  return tx.insert('account', accounts.map(toRow), { orIgnore: true })
}

/** Writes a changed account; false where somebody else has changed it since it was read. */
export async function saveAccount(tx: Tx, before: Account, after: Account): Promise<boolean> {
  const row = toRow(after)
  const changed = await tx.run(sql`
    update account set email = ${row.email!}, sign_in_email = ${row.sign_in_email!}, name = ${row.name!},
      country = ${row.country!}, roles = ${row.roles!}, addresses = ${row.addresses!},
      password_hash = ${row.password_hash!}, version = ${row.version!}
    where user_id = ${after.userId} and version = ${before.version} and deleted_at is null`)
  return changed === 1
}

/** Leaves the id, so that late events about it are known to be about nobody. */
export async function eraseAccount(tx: Tx, userId: string, deletedAt: number): Promise<void> {
  await tx.run(sql`
    update account set email = null, sign_in_email = null, name = null, country = null, addresses = '[]',
      password_hash = null, external_reference = null, deleted_at = ${deletedAt}, version = version + 1
    where user_id = ${userId}`)
}

type Reference = { user_id: string; external_reference: string }

/** The ids of a merchant's customers by the merchant's references. At most a thousand at a time. */
export async function findReferences(reader: Reader, merchantId: string, references: readonly string[]) {
  const rows = await reader.all<Reference>(sql`
    select user_id, external_reference from account where registered_by = ${merchantId}
    and external_reference in ${list(references)}`)
  return new Map(rows.map((row) => [row.external_reference, row.user_id]))
}

export async function findFailures(reader: Reader, digest: string): Promise<Failures | undefined> {
  const row = await reader.get<{ failures: number; failed_at: number }>(
    sql`select failures, failed_at from sign_in_failure where email_digest = ${digest}`,
  )
  return row && { failures: Number(row.failures), failedAt: Number(row.failed_at) }
}

const PURGED_MAX = 100

/** Keeps the count, and forgets some of those that count no more. */
export async function saveFailures(tx: Tx, digest: string, { failures, failedAt }: Failures): Promise<void> {
  await tx.run(sql`
    delete from sign_in_failure where email_digest in
    (select email_digest from sign_in_failure where failed_at <= ${failedAt - FAILURES_KEPT_MS} limit ${PURGED_MAX})`)
  await tx.run(sql`
    insert into sign_in_failure (email_digest, failures, failed_at) values (${digest}, ${failures}, ${failedAt})
    on conflict (email_digest) do update set failures = excluded.failures, failed_at = excluded.failed_at`)
}

export async function forgetFailures(tx: Tx, digest: string): Promise<void> {
  await tx.run(sql`delete from sign_in_failure where email_digest = ${digest}`)
}

export type HistoryRow = {
  order_id: string
  progress: number
  placed_at: number | null
  line_count: number | null
  total_pence: number | null
  refunded_pence: number
  changed_at: number
}

/** Newest first: ids of orders grow with time. */
export async function listOrders(reader: Reader, userId: string, beforeId: string | null, limit: number) {
  return reader.all<HistoryRow>(sql`
    select order_id, progress, placed_at, line_count, total_pence, refunded_pence, changed_at from order_history
    where user_id = ${userId} and (cast(${beforeId} as text) is null or order_id < ${beforeId})
    order by order_id desc limit ${limit}`)
}

export type SentRow = {
  notification_id: string
  order_id: string | null
  step: string
  channel: string
  recipient: string
  subject: string
  sent_at: number
}

/** Newest first. */
export async function listSent(reader: Reader, userId: string, beforeId: string | null, limit: number) {
  return reader.all<SentRow>(sql`
    select notification_id, order_id, step, channel, recipient, subject, sent_at from sent_message
    where user_id = ${userId} and (cast(${beforeId} as text) is null or notification_id < ${beforeId})
    order by notification_id desc limit ${limit}`)
}

function toAccount(row: AccountRow): Account {
  return {
    userId: row.user_id,
    email: row.email,
    canSignIn: row.sign_in_email !== null,
    name: row.name,
    country: row.country,
    roles: JSON.parse(row.roles) as Role[],
    addresses: JSON.parse(row.addresses) as SavedAddress[],
    passwordHash: row.password_hash,
    version: Number(row.version),
    registeredAt: Number(row.registered_at),
    registeredBy: row.registered_by,
    externalReference: row.external_reference,
  }
}

function toRow(account: Account): Row {
  return {
    user_id: account.userId,
    email: account.email,
    sign_in_email: account.canSignIn && account.email !== null ? comparable(account.email) : null,
    name: account.name,
    country: account.country,
    roles: JSON.stringify(account.roles),
    addresses: JSON.stringify(account.addresses),
    password_hash: account.passwordHash,
    version: account.version,
    registered_at: account.registeredAt,
    registered_by: account.registeredBy,
    external_reference: account.externalReference,
    deleted_at: null,
  }
}
