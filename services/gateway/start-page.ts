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
curl -sf --retry 5 --retry-all-errors localhost:3000/api/inventory/heart/receipts -H "$JSON" -H "authorization: Bearer $TOKEN" \
  -H 'idempotency-key: first-delivery' -d '{"quantity":100}'
# somebody orders, and watches the order move
ORDER=$(curl -s localhost:3000/api/orders -H "$JSON" -H "idempotency-key: $(date +%s)" \
  -d '{"lines":[{"sku":"heart","quantity":2}],"paymentMethod":"pm_card_visa","email":"ada@example.org"}' \
  | sed 's/.*"orderId":"\([^"]*\)".*/\1/')
curl -N localhost:3000/api/orders/$ORDER/live`

const style = `
:root { --text: #1c2330; --dim: #4d5a70; --back: #fff; --box: #e8f0fa; --line: #8fb0d6; --quiet: #f3f5f8; --link: #0b5cad }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --dim: #a3b1c6; --back: #14181f; --box: #1c2a3d; --line: #3d5f87; --quiet: #1f2530; --link: #7db7f0 }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: var(--text); background: var(--back) }
pre { background: var(--quiet); padding: 1rem; overflow-x: auto; border-radius: .4rem }
a { color: var(--link) }
.picture { margin: 1.5rem 0 }
.services { columns: 4 15rem; column-gap: .75rem; margin-bottom: .75rem }
.box { background: var(--box); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; margin-bottom: .75rem; break-inside: avoid; overflow-wrap: anywhere }
.wide { text-align: center }
.box h3, .box p, .box dl { margin: 0 }
.box h3 { font-size: 1rem }
.box dt { color: var(--dim); font-size: .8rem; margin-top: .4rem }
.box dd { font-size: .85rem; line-height: 1.4; margin: 0 }
.box dd + dd { margin-top: .15rem }`

export type StartPage = {
  events: readonly EventType[]
  /** As far as this process knows; another process knows what its own services hear. */
  hears: readonly Hears[]
  /** False where /metrics is on a port of its own. */
  hasMetrics: boolean
  origin: string
}

export function startPage({ events, hears, hasMetrics, origin }: StartPage): string {
  const shown = links.filter(([href]) => hasMetrics || href !== '/metrics')
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ShopSphere</title>
<style>${style}
</style></head><body>
<h1>ShopSphere</h1>
<p>An online shop whose services talk only through events. Each box is a service with its own database: what it says (→), and
what it hears of whom (←).</p>
${picture(events, hears)}
<h2>Where things are</h2>
<ul>${shown.map(([href, what]) => `<li><a href="${href}">${href}</a> – ${escaped(what)}</li>`).join('')}
<li><code>POST /api/orders</code> places an order; <code>GET /api/orders/{orderId}/live</code> shows it move</li>
<li><code>GET /api/audit/orders/{orderId}?format=mermaid</code> draws what really happened (staff)</li>
<li><code>GET /api/operations/status</code> and <code>/api/operations/dead-letters</code> (operators)</li></ul>
<h2>First steps</h2>
<pre>${escaped(firstSteps.replaceAll('localhost:3000', new URL(origin).host))}</pre>
</body></html>
`
}

/** Timers that a service sets itself are left out. */
const isForOthers = (type: string) => !type.endsWith('_due')

/** The gateway above, the broker below, the services between them. */
function picture(events: readonly EventType[], hears: readonly Hears[]): string {
  const ownerOf = new Map(events.map(({ type, owner }) => [type, owner]))
  const said = Map.groupBy(
    events.filter(({ type }) => isForOthers(type)),
    ({ owner }) => owner,
  )
  const names = new Set([...said.keys(), ...hears.map(({ service }) => service)])
  const boxes = [...names].map((name) => {
    const types = new Set(hears.filter(({ service }) => service === name).flatMap(({ types }) => types))
    const heard = Map.groupBy([...types].filter(isForOthers), (type) => ownerOf.get(type) ?? 'patterns')
    heard.delete(name)
    const sources = types.has('#')
      ? ['everything']
      : [...heard].map(([owner, types]) => `${owner}: ${types.map((type) => short(type, owner)).join(', ')}`)
    const says = (said.get(name) ?? []).map(({ type }) => short(type, name))
    return `<div class="box"><h3>${escaped(name)}</h3><dl>${list('→ says', says.length ? [says.join(', ')] : [])}${list('← hears', sources)}</dl></div>`
  })
  const wide = (name: string, what: string) => `<div class="box wide"><h3>${name}</h3><p>${what}</p></div>`
  return `<div class="picture">${wide('gateway', 'HTTP, sign-in, limits, live updates')}
<div class="services">${boxes.join('\n')}</div>
${wide('broker', 'every event to everyone who subscribed, in order by key')}</div>`
}

/** `placed` for `order.placed` where it stands with its owner's name anyway. */
const short = (type: string, owner: string) => (type.startsWith(`${owner}.`) ? type.slice(owner.length + 1) : type)

const list = (name: string, entries: readonly string[]) =>
  entries.length === 0
    ? ''
    : `<dt>${name}</dt>${entries.map((entry) => `<dd>${escaped(entry).replace(/^\w+(?=:)/, '<b>$&</b>')}</dd>`).join('')}`

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
