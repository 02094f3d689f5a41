import { createHash } from 'node:crypto'
import { type Bus, type Clock, type Store, sql, type TransactionContext } from '@shopsphere/bus'
import type { Context, TypedResponse } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { JSONValue } from 'hono/utils/types'
import { problem } from './problem.ts'
import { type ApiEnv, origin } from './request-context.ts'

/**
 * `Idempotency-Key` on POSTs that create or move money: the same request again gets the same answer and has no second
 * effect (draft-ietf-httpapi-idempotency-key-header).
 *
 * 1. The answer is saved in the transaction that has the effect: either both are there or neither is, so a crash leaves
 *    nothing locked and nothing to take over.
 * 2. Only one attempt with a key can commit: the key's row is claimed first, in the same transaction.
 * 3. A request that fails saves nothing and may be sent again with its key.
 */

const KEY = /^[\x21-\x7e]{1,255}$/
const KEPT_MS = 24 * 3_600_000
const PURGE_ROWS_MAX = 500

export const idempotencyDdl = `
create table idempotency_key (
  caller text not null,
  key text not null,
  request text not null,
  status bigint,
  headers text,
  response text,
  created_at bigint not null,
  primary key (caller, key)
);
create index idempotency_key_created_at on idempotency_key (created_at);
`

export type Answer<Body, Status> = { status: Status; body: Body; headers?: Readonly<Record<string, string>> }

type Saved = { request: string; status: number; headers: string; response: string }

export type Idempotency = {
  /**
   * Runs `work` in one transaction of the bus and answers with what it returns; a repeat is answered from the first
   * run, marked `Idempotency-Replayed: true`. Without a key it just runs, unless one is `required`. Throws the problems
   * `idempotency_in_progress`, `idempotency_key_reused`, `invalid_idempotency_key`, `idempotency_key_required`.
   * Callers without an account share one name space: their keys must be unguessable, as UUIDs are.
   */
  run<Body extends JSONValue | object, const Status extends ContentfulStatusCode>(
    c: Context<ApiEnv>,
    work: (transaction: TransactionContext) => Promise<Answer<Body, Status>>,
    options?: { required?: boolean },
  ): Promise<Response & TypedResponse<Body, Status, 'json'>>
  /** Forgets answers older than 24 hours; answers how many. */
  purge(): Promise<number>
}

export function createIdempotency({
  bus,
  store,
  clock,
}: {
  bus: Pick<Bus, 'transaction'>
  store: Store
  clock: Clock
}): Idempotency {
  const running = new Set<string>()

  async function once(
    c: Context<ApiEnv>,
    key: string,
    work: (transaction: TransactionContext) => Promise<Answer<unknown, number>>,
  ): Promise<Response> {
    const caller = c.var.caller?.userId ?? ''
    const request = await fingerprint(c)
    const name = `${caller} ${key}`
    if (running.has(name)) throw inProgress()
    running.add(name)
    try {
      return await bus.transaction(async (transaction) => {
        const { tx } = transaction
        const nowMs = clock.now()
        const claimed = await tx.run(sql`
          insert into idempotency_key (caller, key, request, created_at) values (${caller}, ${key}, ${request}, ${nowMs})
          on conflict (caller, key) do update set request = excluded.request, created_at = excluded.created_at
          where idempotency_key.created_at <= ${nowMs - KEPT_MS}`)
        if (claimed === 0) {
          const saved = await tx.get<Saved>(
            sql`select request, status, headers, response from idempotency_key where caller = ${caller} and key = ${key}`,
          )
          return replay(saved, request)
        }
        const { status, body, headers = {} } = await work(transaction)
        const response = JSON.stringify(body)
        await tx.run(sql`
          update idempotency_key set status = ${status}, headers = ${JSON.stringify(headers)}, response = ${response}
          where caller = ${caller} and key = ${key}`)
        return answer(status, headers, response)
      }, origin(c))
    } finally {
      running.delete(name)
    }
  }

  return {
    async run(c, work, { required = false } = {}) {
      const key = readKey(c, required)
      const response =
        key === undefined
          ? await bus.transaction(async (transaction) => {
              const { status, body, headers = {} } = await work(transaction)
              return answer(status, headers, JSON.stringify(body))
            }, origin(c))
          : await once(c, key, work)
      // The route's schema is checked against Body and Status; the response is made here and not by c.json().
      return response as never
    },
    async purge() {
      const before = clock.now() - KEPT_MS
      let purged = 0
      for (let rows = PURGE_ROWS_MAX; rows === PURGE_ROWS_MAX; purged += rows) {
        rows = await store.transaction((tx) =>
          tx.run(sql`
            delete from idempotency_key where (caller, key) in
            (select caller, key from idempotency_key where created_at <= ${before} limit ${PURGE_ROWS_MAX})`),
        )
      }
      return purged
    },
  }
}

function readKey(c: Context<ApiEnv>, required: boolean): string | undefined {
  const key = c.req.header('idempotency-key')
  if (key === undefined) {
    if (!required) return undefined
    throw problem(
      400,
      'idempotency_key_required',
      'Send an Idempotency-Key, for example a new UUID, and the same one when you try again.',
    )
  }
  if (KEY.test(key)) return key
  throw problem(
    400,
    'invalid_idempotency_key',
    'An Idempotency-Key has 1 to 255 visible ASCII characters; a UUID is best.',
  )
}

/** What makes two requests the same: method, address and the bytes of the body. */
async function fingerprint(c: Context<ApiEnv>): Promise<string> {
  const { pathname, search } = new URL(c.req.url)
  return createHash('sha256')
    .update(`${c.req.method} ${pathname}${search}\n`)
    .update(await c.req.text())
    .digest('base64url')
}

function replay(saved: Saved | undefined, request: string): Response {
  // Another process claimed it and has not committed, or it was purged between the two statements.
  if (saved === undefined || saved.status === null) throw inProgress()
  if (saved.request !== request) {
    throw problem(
      422,
      'idempotency_key_reused',
      'This Idempotency-Key belongs to another request: send a new key with a new request.',
    )
  }
  return answer(Number(saved.status), { ...JSON.parse(saved.headers), 'idempotency-replayed': 'true' }, saved.response)
}

const answer = (status: number, headers: Readonly<Record<string, string>>, body: string) =>
  new Response(body, { status, headers: { 'content-type': 'application/json', ...headers } })

const inProgress = () =>
  problem(
    409,
    'idempotency_in_progress',
    'Wait for the first request, or send this one again in a moment.',
    {},
    { 'retry-after': '1' },
  )
