/** Signed webhooks. Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md */
import { createHmac, timingSafeEqual } from 'node:crypto'

/** A webhook may be so much older or younger than now. */
const TOLERANCE_MS = 5 * 60_000

export type SignedHeaders = {
  readonly 'webhook-id': string
  /** Seconds since the epoch. */
  readonly 'webhook-timestamp': string
  readonly 'webhook-signature': string
}

export function signWebhook(
  secret: Uint8Array,
  { id, atMs, body }: { id: string; atMs: number; body: Uint8Array },
): SignedHeaders {
  const timestamp = String(Math.floor(atMs / 1000))
  return {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': `v1,${signature(secret, id, timestamp, body).toString('base64')}`,
  }
}

/** The webhook's id; null where it was not signed with `secret`, not over these bytes, or not about now. */
export function verifyWebhook(
  secret: Uint8Array,
  { headers, body, nowMs }: { headers: Headers; body: Uint8Array; nowMs: number },
): string | null {
  const id = headers.get('webhook-id')
  const timestamp = headers.get('webhook-timestamp')
  const given = headers.get('webhook-signature')
  if (!id || !timestamp || !given || !/^\d{1,12}$/.test(timestamp)) return null
  if (Math.abs(nowMs - Number(timestamp) * 1000) > TOLERANCE_MS) return null
  const expected = signature(secret, id, timestamp, body)
  // While a secret is changed there is one signature for each.
  return given.split(' ').some((one) => isSame(one, expected)) ? id : null
}

function signature(secret: Uint8Array, id: string, timestamp: string, body: Uint8Array): Buffer {
  return createHmac('sha256', secret).update(`${id}.${timestamp}.`).update(body).digest()
}

function isSame(given: string, expected: Buffer): boolean {
  if (!given.startsWith('v1,')) return false
  const bytes = Buffer.from(given.slice(3), 'base64')
  return bytes.length === expected.length && timingSafeEqual(bytes, expected)
}
