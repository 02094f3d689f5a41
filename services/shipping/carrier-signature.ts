/**
 * Who brings news in the carrier's name without an account signs them, after Standard Webhooks
 * (https://www.standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`, the body byte for byte as it was sent.
 */
import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto'
import { problem } from '@shopsphere/runtime/problem'

/** How far the sender's clock may be off, either way; also how long a recorded request could be sent again. */
const TOLERANCE_SECONDS = 300
const SECRET_BYTES = 32
const PREFIX = 'whsec_'

/** The secret that is shared with the carrier, made of the key that signs tokens, which cannot be found from it. */
export function carrierSecret(tokenSecret: Uint8Array): string {
  const key = hkdfSync('sha256', tokenSecret, '', 'shipping: news of the carrier', SECRET_BYTES)
  return `${PREFIX}${Buffer.from(key).toString('base64')}`
}

export type SignedRequest = {
  /** Of the headers `webhook-id`, `webhook-timestamp` (seconds since the epoch) and `webhook-signature`. */
  id: string
  timestamp: string
  signature: string
  body: string
}

export function sign(secret: string, { id, timestamp, body }: Omit<SignedRequest, 'signature'>): string {
  const key = Buffer.from(secret.slice(PREFIX.length), 'base64')
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
}

/** Throws the problem `invalid_signature` for one that is forged, too old, or of another body. */
export function verify(secret: string, request: SignedRequest, nowMs: number): void {
  const ageSeconds = Math.abs(nowMs / 1000 - Number(request.timestamp))
  const expected = Buffer.from(sign(secret, request))
  const matches = request.signature
    .split(' ')
    .some((given) => given.length === expected.length && timingSafeEqual(Buffer.from(given), expected))
  if (!matches) {
    throw problem(
      400,
      'invalid_signature',
      'Sign `<webhook-id>.<webhook-timestamp>.<body>` with the shared secret, the body byte for byte as it is sent.',
    )
  }
  if (!(ageSeconds <= TOLERANCE_SECONDS)) {
    throw problem(400, 'invalid_signature', `webhook-timestamp is off by more than ${TOLERANCE_SECONDS} seconds.`)
  }
}
