/** GET /: says where things are. The picture is drawn from the contracts, so it cannot be out of date. */
import type { EventType } from '@shopsphere/bus'

export type Hears = { readonly service: string; readonly types: readonly string[] }

export const START_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

const links: readonly [href: string, what: string][] = [
  ['/openapi.json', 'the HTTP API (OpenAPI 3.1)'],
  ['/asyncapi.json', 'the events (AsyncAPI 3)'],
  ['/api/products', 'what is for sale'],
  ['/health/ready', 'is every service ready?'],
  ['/metrics', 'metrics for Prometheus'],
]

const firstSteps = String.raw`JSON='content-type: application/json'
# the operator signs in, offers a product and fills the shelf
TOKEN=$(curl -s localhost:3000/api/sessions -H "$JSON" \
  -d "{\"email\":\"operator@shop.example\",\"password\":\"$(cat data/operator-password)\"}" | sed 's/.*"token":"\([^"]*\)".*/\1/')
curl -s localhost:3000/api/products -H "$JSON" -H "authorization: Bearer $TOKEN" \
  -d '{"sku":"heart","name":"White hanging heart","pricePence":255}'
curl -s localhost:3000/api/inventory/heart/receipts -H "$JSON" -H "authorization: Bearer $TOKEN" \
  -H 'idempotency-key: first-delivery' -d '{"quantity":100}'
# somebody orders, and watches the order move
ORDER=$(curl -s localhost:3000/api/orders -H "$JSON" -H "idempotency-key: $(date +%s)" \
  -d '{"lines":[{"sku":"heart","quantity":2}],"paymentMethod":"pm_card_visa","email":"ada@example.org"}' \
  | sed 's/.*"orderId":"\([^"]*\)".*/\1/')
curl -N localhost:3000/api/orders/$ORDER/live`

export function startPage(events: readonly EventType[], origin: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ShopSphere</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; background: #fff }
pre { background: #f3f5f8; padding: 1rem; overflow-x: auto; border-radius: .4rem }
svg { width: 100%; height: auto }
a { color: #0b5cad }
@media (prefers-color-scheme: dark) { body { color: #e4e8ee; background: #14181f } pre { background: #1f2530 } a { color: #7db7f0 } }
</style></head><body>
<h1>ShopSphere</h1>
<p>An online shop whose services talk only through events. Each box is a service with its own database; what it says
stands inside.</p>
${picture(events)}
<h2>Where things are</h2>
<ul>${links.map(([href, what]) => `<li><a href="${href}">${href}</a> – ${escaped(what)}</li>`).join('')}
<li><code>POST /api/orders</code> places an order; <code>GET /api/orders/{orderId}/live</code> shows it move</li>
<li><code>GET /api/audit/orders/{orderId}?format=mermaid</code> draws what really happened (staff)</li>
<li><code>GET /api/operations/status</code> and <code>/api/operations/dead-letters</code> (operators)</li></ul>
<h2>First steps</h2>
<pre>${escaped(firstSteps.replaceAll('localhost:3000', new URL(origin).host))}</pre>
</body></html>
`
}

const COLUMNS = 4
const WIDTH = 960
const GAP = 16
const LINE = 15
const HEAD = 30
const DOOR = 40

/** The services in rows, the gateway above them, each with what it says. Timers that a service sets itself are left out. */
function picture(events: readonly EventType[]): string {
  const said = new Map<string, string[]>()
  for (const { owner, type } of events) {
    if (!type.endsWith('_due')) said.set(owner, [...(said.get(owner) ?? []), type])
  }
  for (const listener of ['analytics', 'audit']) said.set(listener, ['hears, says nothing'])
  const boxes = [...said]
  const boxWidth = (WIDTH - GAP * (COLUMNS - 1)) / COLUMNS
  const drawn: string[] = [box(0, 0, WIDTH, DOOR, 'gateway: HTTP, sign-in, limits, live updates', [])]
  let top = DOOR + GAP
  for (let start = 0; start < boxes.length; start += COLUMNS) {
    const row = boxes.slice(start, start + COLUMNS)
    const height = HEAD + LINE * Math.max(...row.map(([, types]) => types.length)) + 8
    row.forEach(([name, types], column) => {
      drawn.push(box(column * (boxWidth + GAP), top, boxWidth, height, name, types))
    })
    top += height + GAP
  }
  drawn.push(box(0, top, WIDTH, DOOR, 'broker: every event to everyone who subscribed, in order by key', []))
  return `<svg viewBox="0 0 ${WIDTH} ${top + DOOR}" role="img" aria-label="The services and the events they say" font-family="system-ui, sans-serif">${drawn.join('')}</svg>`
}

function box(x: number, y: number, width: number, height: number, title: string, types: readonly string[]): string {
  const lines = types.map(
    (type, index) =>
      `<text x="${x + 10}" y="${y + HEAD + 10 + index * LINE}" font-size="11" fill="#33415c">${escaped(type)}</text>`,
  )
  return `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="6" fill="#e8f0fa" stroke="#8fb0d6"/><text x="${x + 10}" y="${y + 22}" font-size="14" font-weight="600" fill="#14253d">${escaped(title)}</text>${lines.join('')}`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
