/** A guest, and the operator who fills the shelves, of a shop that runs in another process. */
import { eventually } from '@shopsphere/bus/testing'

export const operator = { email: 'operator@shop.example', password: 'a long enough password' }

/** A test asserts what is inside. */
type Answer = any

/** Speaks to the shop at `url`; every answer comes with its status, whatever it is. */
export function customerOf(url: string) {
  async function send(method: string, path: string, { body, key, token }: Answer = {}) {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        'content-type': 'application/json',
        ...(token && { authorization: `Bearer ${token}` }),
        ...(key && { 'idempotency-key': key }),
      },
      ...(body && { body: JSON.stringify(body) }),
    })
    const type = response.headers.get('content-type') ?? ''
    return { status: response.status, type, body: (await response.json()) as Answer }
  }
  return {
    send,
    /** The same key is the same order. */
    place: (key: string) =>
      send('POST', '/api/orders', {
        key,
        body: { paymentMethod: 'pm_card_visa', email: 'eve@example.org', lines: [{ sku: 'heart', quantity: 1 }] },
      }),
    /** A product with plenty of it, made by the operator; waits until product knows the operator, and inventory the product. */
    async stock() {
      const { body } = await send('POST', '/api/sessions', { body: operator })
      const staff = { token: body.token }
      const product = { sku: 'heart', name: 'Heart', pricePence: 255 }
      const made = () => send('POST', '/api/products', { ...staff, key: 'product', body: product })
      await eventually(async () => (await made()).status === 201) // product has heard of the operator by an event
      const receipt = { ...staff, key: 'receipt', body: { quantity: 100_000 } }
      const received = () => send('POST', '/api/inventory/heart/receipts', receipt)
      await eventually(async () => (await received()).status < 300)
    },
  }
}
