/**
 * The webhooks of the simulated provider: kept until the shop has answered 2xx, sent again with back-off for days, some
 * of them twice. One timer waits for the next that is due.
 */
import { type Clock, type Store, sql, type Timer, type Tx } from '@shopsphere/bus'
import { type SignedHeaders, signWebhook } from '@shopsphere/runtime/webhook-signature'

export const webhookDdl = `
create table provider_webhook (
  notice_id text primary key, due_at bigint not null, tries bigint not null, body text not null
);
create index provider_webhook_due on provider_webhook (due_at);`

export type WebhookSender = {
  /** In the provider's transaction; a repeat of the id is ignored. Call `plan` when it has committed. */
  add(tx: Tx, noticeId: string, content: unknown, dueAt: number): Promise<void>
  /** Sends what is due, and waits for the next. */
  plan(): void
  sign(noticeId: string, content: unknown): Promise<{ body: Uint8Array<ArrayBuffer>; headers: SignedHeaders }>
  close(): Promise<void>
}

const TRIES_MAX = 20
const BACKOFF_FIRST_MS = 1_000
const BACKOFF_MAX_MS = 12 * 3_600_000
const SENT_TOGETHER_MAX = 50

export function createWebhookSender(options: {
  store: Store
  clock: Clock
  deliver: ((body: Uint8Array<ArrayBuffer>, headers: SignedHeaders) => Promise<boolean>) | undefined
  secret: () => Promise<Uint8Array>
  isSentTwice: () => boolean
}): WebhookSender {
  const { store, clock, deliver, secret, isSentTwice } = options
  let timer: Timer | undefined
  let sending: Promise<void> | undefined
  let isPlannedAgain = false
  let isClosed = false

  async function sign(noticeId: string, content: unknown) {
    const body = new TextEncoder().encode(typeof content === 'string' ? content : JSON.stringify(content))
    return { body, headers: signWebhook(await secret(), { id: noticeId, atMs: clock.now(), body }) }
  }

  type Row = { notice_id: string; tries: number; body: string }

  async function send({ notice_id, tries, body }: Row): Promise<void> {
    let isTaken = false
    for (let left = isSentTwice() ? 2 : 1; left > 0; left--) {
      const signed = await sign(notice_id, body)
      isTaken = await deliver!(signed.body, signed.headers).catch(() => false)
    }
    const dueAt = clock.now() + Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 4 ** Number(tries))
    const isOver = isTaken || Number(tries) + 1 >= TRIES_MAX
    await store.transaction((tx) =>
      tx.run(
        isOver
          ? sql`delete from provider_webhook where notice_id = ${notice_id}`
          : sql`update provider_webhook set tries = tries + 1, due_at = ${dueAt} where notice_id = ${notice_id}`,
      ),
    )
  }

  async function sendDue(): Promise<void> {
    while (!isClosed) {
      const now = clock.now()
      const rows = await store.read((reader) =>
        reader.all<Row>(sql`
          select notice_id, tries, body from provider_webhook where due_at <= ${now}
          order by due_at limit ${SENT_TOGETHER_MAX}`),
      )
      for (const row of rows) await send(row)
      if (rows.length === 0) return waitForNext()
    }
  }

  async function waitForNext(): Promise<void> {
    const next = await store.read((reader) =>
      reader.get<{ at: number | null }>(sql`select min(due_at) as at from provider_webhook`),
    )
    timer?.cancel()
    if (isClosed || next?.at == null) return
    timer = clock.after(Number(next.at) - clock.now(), plan)
  }

  function plan(): void {
    if (isClosed || !deliver) return
    isPlannedAgain = sending !== undefined
    sending ??= sendDue()
      // The store is away or closing: what is not sent is found again at the next start, or with the next webhook.
      .catch(() => {})
      .finally(() => {
        sending = undefined
        if (isPlannedAgain) plan()
      })
  }

  return {
    sign,
    plan,
    async add(tx, noticeId, content, dueAt) {
      await tx.run(sql`
        insert into provider_webhook (notice_id, due_at, tries, body)
        values (${noticeId}, ${dueAt}, 0, ${JSON.stringify(content)}) on conflict (notice_id) do nothing`)
    },
    async close() {
      isClosed = true
      timer?.cancel()
      await sending
    },
  }
}
