import { encryptionSuite } from '../testing/encryption-suite.ts'
import { startPostgres } from '../testing/servers/postgres.ts'
import { accountOf } from '../testing/servers/server.ts'

encryptionSuite('postgres', {
  async start(world, authority) {
    const { certificate, key } = authority.issue('localhost', accountOf('postgres'))
    const encrypting = await startPostgres({ settings: { ssl: 'on', ssl_cert_file: certificate, ssl_key_file: key } })
    world.defer(() => encrypting[Symbol.asyncDispose]())
    const plain = await startPostgres()
    world.defer(() => plain[Symbol.asyncDispose]())
    return { encrypted: encrypting.port, plain: plain.port }
  },
  url: ({ encrypted }, host) => `postgres://postgres@${host}:${encrypted}/postgres?sslmode=verify-full`,
  others: [
    {
      title: 'sslmode=verify-full where the server does not encrypt is refused, and told to look at sslmode',
      url: ({ plain }) => `postgres://postgres@localhost:${plain}/postgres?sslmode=verify-full`,
      outcome: { code: 'store_refused', message: /it does not encrypt; or look at sslmode in the URL$/ },
    },
  ],
})
