/**
 * Which service answers for which address: the gateway's one table. `*` is one segment; where several fit, the one with
 * the most segments counts.
 */
export const addresses: Readonly<Record<string, readonly string[]>> = {
  user: ['/api/users', '/api/sessions', '/api/customers'],
  product: ['/api/products'],
  cart: ['/api/carts'],
  order: ['/api/orders'],
  payment: ['/api/payments', '/api/payment-methods', '/api/orders/*/payments', '/api/orders/*/refunds'],
  inventory: ['/api/inventory'],
  shipping: ['/api/shipments', '/api/returns', '/api/orders/*/shipments', '/api/orders/*/returns'],
  notification: ['/api/notifications'],
  analytics: ['/api/analytics'],
  audit: ['/api/audit'],
}

const prefixes = Object.entries(addresses)
  .flatMap(([service, all]) => all.map((prefix) => ({ service, segments: prefix.split('/') })))
  .sort((one, other) => other.segments.length - one.segments.length)

/** The service that answers for `path`, wherever it runs; undefined: none. */
export function ownerOf(path: string): string | undefined {
  const segments = path.split('/')
  return prefixes.find((prefix) => fits(prefix.segments, segments))?.service
}

function fits(prefix: readonly string[], segments: readonly string[]): boolean {
  return prefix.every((segment, index) => (segment === '*' ? Boolean(segments[index]) : segment === segments[index]))
}
