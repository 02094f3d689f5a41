/** Encrypted connections to a private server, whose certificate is for localhost and from an authority that nobody knows. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { after, before, type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Authority, createAuthority } from './servers/certificates.ts'
import { isRequired, type ServerName } from './servers/needs.ts'
import { ServerMissing } from './servers/server.ts'
import { createWorld, type World } from './world.ts'

const run = promisify(execFile)
const child = fileURLToPath(new URL('./encryption-child.ts', import.meta.url))
const TEST_TIMEOUT_MS = 60_000
/** What waits for ever fails. */
const CHILD_TIMEOUT_MS = 30_000

export type Outcome = 'heard' | { code: string; message: RegExp }

export type EncryptionSuiteOptions<Ports> = {
  /** In a world that ends with the suite. */
  start: (world: World, authority: Authority) => Promise<Ports>
  /** The address of the port that encrypts, by this name of its host. */
  url: (ports: Ports, host: string) => string
  /** What comes of other addresses. */
  others: readonly { title: string; url: (ports: Ports) => string; outcome: Outcome }[]
}

export function encryptionSuite<Ports>(name: ServerName, { start, url, others }: EncryptionSuiteOptions<Ports>): void {
  const code = name === 'postgres' ? 'store_refused' : 'transport_refused'
  let world: World
  let authority: Authority
  let ports: Ports | undefined
  let missing = ''

  before(async () => {
    world = await createWorld()
    try {
      authority = createAuthority(world.directory)
      ports = await start(world, authority)
    } catch (error) {
      if (!(error instanceof ServerMissing) || isRequired(name)) throw error
      missing = error.message
    }
  })
  after(() => world[Symbol.asyncDispose]())

  const check = (
    title: string,
    { isKnown, at, outcome }: { isKnown: boolean; at: (ports: Ports) => string; outcome: Outcome },
  ): void => {
    test(`${name}: ${title}`, { timeout: TEST_TIMEOUT_MS }, async (context: TestContext) => {
      if (!ports) return context.skip(`needs ${name}: ${missing}`)
      const { NODE_EXTRA_CA_CERTS: _, ...others } = process.env
      const env = isKnown ? { ...others, NODE_EXTRA_CA_CERTS: authority.file } : others
      const { stdout } = await run(process.execPath, [child, at(ports)], { env, timeout: CHILD_TIMEOUT_MS })
      const { heard, code, message } = JSON.parse(stdout) as { heard?: number; code?: string; message?: string }
      if (outcome === 'heard') return assert.equal(heard, 1, stdout)
      assert.equal(code, outcome.code, stdout)
      assert.match(message!, outcome.message)
    })
  }

  const local = (ports: Ports) => url(ports, 'localhost')
  check('what is said is heard over TLS, from an authority that NODE_EXTRA_CA_CERTS names', {
    isKnown: true,
    at: local,
    outcome: 'heard',
  })
  check('a certificate that nobody vouches for is refused, and told to set NODE_EXTRA_CA_CERTS', {
    isKnown: false,
    at: local,
    outcome: { code, message: /NODE_EXTRA_CA_CERTS/ },
  })
  check('a certificate for another host is refused, and told for which it is', {
    isKnown: true,
    at: (ports) => url(ports, '127.0.0.1'),
    outcome: { code, message: /its certificate is for DNS:localhost/ },
  })
  for (const { title, url: at, outcome } of others) check(title, { isKnown: true, at, outcome })
}
