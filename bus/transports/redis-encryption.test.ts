import { encryptionSuite } from '../testing/encryption-suite.ts'
import { startRedis } from '../testing/servers/redis.ts'
import { freePort } from '../testing/servers/server.ts'

encryptionSuite('redis', {
  async start(world, authority) {
    const { certificate, key } = authority.issue('localhost')
    const encrypted = await freePort()
    const tls = { 'tls-cert-file': certificate, 'tls-key-file': key, 'tls-auth-clients': 'no' }
    const server = await startRedis({ settings: { 'tls-port': `${encrypted}`, ...tls } })
    world.defer(() => server[Symbol.asyncDispose]())
    return { encrypted, plain: server.port }
  },
  url: ({ encrypted }, host) => `rediss://${host}:${encrypted}`,
  others: [
    {
      title: 'redis:// at a port that encrypts is waited for, with the hint to write rediss://',
      url: ({ encrypted }) => `redis://localhost:${encrypted}`,
      outcome: { code: 'transport_unavailable', message: /if this port wants encryption, write rediss:/ },
    },
    {
      title: 'rediss:// at a port that does not encrypt is waited for, with the hint to write redis://',
      url: ({ plain }) => `rediss://localhost:${plain}`,
      outcome: { code: 'transport_unavailable', message: /if this port does not encrypt, write redis:/ },
    },
  ],
})
