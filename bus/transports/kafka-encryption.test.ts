/** Encryption, and users that SCRAM knows. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encryptionSuite } from '../testing/encryption-suite.ts'
import { type KafkaListener, startKafka } from '../testing/servers/kafka.ts'
import { freePort } from '../testing/servers/server.ts'

const SCRAM = 'org.apache.kafka.common.security.scram.ScramLoginModule required;'
const PLAIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_ada="secret";'
const mechanisms = ['scram-sha-256', 'scram-sha-512', 'plain']

type Ports = { encrypted: number; guarded: number; plain: number }
const as =
  (user: string, mechanism: string) =>
  ({ guarded }: Ports) =>
    `kafka://${user}@localhost:${guarded}?tls=true&sasl=${mechanism}`

encryptionSuite<Ports>('kafka', {
  async start(world, authority) {
    const { certificate, key } = authority.issue('localhost')
    const pem = join(world.directory, 'server.pem')
    writeFileSync(pem, readFileSync(key, 'utf8') + readFileSync(certificate, 'utf8'))
    const [encrypted, guarded] = [await freePort(), await freePort()]
    const listener = (port: number, protocol: KafkaListener['protocol']) => ({ port, protocol, host: 'localhost' })
    const logins = mechanisms.map((one) => [
      `listener.name.guarded.${one}.sasl.jaas.config`,
      one === 'plain' ? PLAIN : SCRAM,
    ])
    const server = await startKafka({
      listeners: { ENCRYPTED: listener(encrypted, 'SSL'), GUARDED: listener(guarded, 'SASL_SSL') },
      users: { ada: 'secret' },
      settings: {
        'ssl.keystore.type': 'PEM',
        'ssl.keystore.location': pem,
        'sasl.enabled.mechanisms': mechanisms.join(',').toUpperCase(),
        ...Object.fromEntries(logins),
      },
    })
    world.defer(() => server[Symbol.asyncDispose]())
    return { encrypted, guarded, plain: server.port }
  },
  url: ({ encrypted }, host) => `kafka://${host}:${encrypted}?tls=true`,
  others: [
    {
      title: 'no tls=true at a port that encrypts is refused, and told to add it',
      url: ({ encrypted }) => `kafka://localhost:${encrypted}`,
      outcome: { code: 'transport_refused', message: /add \?tls=true/ },
    },
    {
      title: 'tls=true at a port that does not encrypt is refused',
      url: ({ plain }) => `kafka://localhost:${plain}?tls=true`,
      outcome: { code: 'transport_refused', message: /write it without \?tls=true/ },
    },
    ...mechanisms.flatMap((mechanism) => [
      {
        title: `sasl=${mechanism} lets in who has the password`,
        url: as('ada:secret', mechanism),
        outcome: 'heard' as const,
      },
      {
        title: `sasl=${mechanism} with a wrong password is refused`,
        url: as('ada:wrong', mechanism),
        outcome: { code: 'transport_refused', message: /refuses the credentials/ },
      },
    ]),
  ],
})
