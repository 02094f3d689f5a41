import { encryptionSuite } from '../testing/encryption-suite.ts'
import { startRabbitmq } from '../testing/servers/rabbitmq.ts'
import { accountOf, freePort } from '../testing/servers/server.ts'

encryptionSuite('rabbitmq', {
  async start(world, authority) {
    const { certificate, key } = authority.issue('localhost', accountOf('rabbitmq'))
    const encrypted = await freePort()
    const tls = { 'ssl_options.certfile': certificate, 'ssl_options.keyfile': key }
    const server = await startRabbitmq({ settings: { 'listeners.ssl.default': `127.0.0.1:${encrypted}`, ...tls } })
    world.defer(() => server[Symbol.asyncDispose]())
    return { encrypted, plain: server.port }
  },
  url: ({ encrypted }, host) => `amqps://${host}:${encrypted}`,
  others: [
    {
      title: 'amqp:// at a port that encrypts is waited for, with the hint to write amqps://',
      url: ({ encrypted }) => `amqp://localhost:${encrypted}`,
      outcome: { code: 'transport_unavailable', message: /if this port wants encryption, write amqps:/ },
    },
    {
      title: 'amqps:// at a port that does not encrypt is refused',
      url: ({ plain }) => `amqps://localhost:${plain}`,
      outcome: { code: 'transport_refused', message: /it does not encrypt on this port/ },
    },
  ],
})
