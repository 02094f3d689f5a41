import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { Admin } from '@platformatic/kafka'
import { connect as connectRabbitmq } from 'amqplib'
import { Client } from 'pg'
import { createClient } from 'redis'
import { eventually } from '../eventually.ts'
import { kafkaAnswers, startKafka } from './kafka.ts'
import { needs } from './needs.ts'
import { postgresAnswers, startPostgres } from './postgres.ts'
import { startProxy } from './proxy.ts'
import { rabbitmqAnswers, startRabbitmq } from './rabbitmq.ts'
import { redisAnswers, startRedis } from './redis.ts'
import { type Server, ServerMissing } from './server.ts'

type Life = {
  start(): Promise<Server>
  answers(port: number): Promise<boolean>
  write(url: string): Promise<void>
  read(url: string): Promise<unknown>
}

const redisClient = (url: string) => createClient({ url })
const withRedis = async <T>(url: string, use: (client: ReturnType<typeof redisClient>) => Promise<T>) => {
  const client = redisClient(url)
  client.on('error', () => {})
  await client.connect()
  try {
    return await use(client)
  } finally {
    client.destroy()
  }
}
const withPostgres = async (url: string, text: string) => {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}
const withRabbitmq = async (url: string, message: string | null) => {
  const connection = await connectRabbitmq(url)
  try {
    const channel = await connection.createConfirmChannel()
    await channel.assertQueue('kept', { durable: true })
    if (message === null) return (await channel.get('kept')) || null
    channel.sendToQueue('kept', Buffer.from(message), { persistent: true })
    await channel.waitForConfirms()
    // RabbitMQ 3.10 answers a declaration before its log holds that it is decided; writing the next one waits for that.
    await channel.assertQueue('after', { durable: true })
    return null
  } finally {
    await connection.close()
  }
}
const withKafka = async <T>(url: string, use: (admin: Admin) => Promise<T>) => {
  const admin = new Admin({ clientId: 'servers-test', bootstrapBrokers: [new URL(url).host] })
  try {
    return await use(admin)
  } finally {
    await admin.close()
  }
}

const lives: Record<string, Life> = {
  redis: {
    start: startRedis,
    answers: redisAnswers,
    write: (url) => withRedis(url, async (client) => void (await client.set('a', 'kept'))),
    read: (url) => withRedis(url, (client) => client.get('a')),
  },
  postgres: {
    start: startPostgres,
    answers: postgresAnswers,
    write: async (url) => void (await withPostgres(url, `create table t as select 'kept' as a`)),
    read: async (url) => (await withPostgres(url, 'select a from t'))[0].a,
  },
  rabbitmq: {
    start: startRabbitmq,
    answers: rabbitmqAnswers,
    write: async (url) => void (await withRabbitmq(url, 'kept')),
    read: async (url) => (await withRabbitmq(url, null))?.content.toString(),
  },
  kafka: {
    start: startKafka,
    answers: kafkaAnswers,
    write: (url) => withKafka(url, async (admin) => void (await admin.createTopics({ topics: ['kept'] }))),
    read: (url) => withKafka(url, async (admin) => (await admin.listTopics()).find((topic) => topic === 'kept')),
  },
}

const startOrSkip = async (start: () => Promise<Server>, skip: (why: string) => void) => {
  try {
    return await start()
  } catch (error) {
    if (!(error instanceof ServerMissing)) throw error
    skip(error.message)
    return null
  }
}

for (const [name, { start, answers, write, read }] of Object.entries(lives)) {
  test(`S1 S2 S3 ${name}: killed and started again it has its port and data; paused it is silent; nothing stays`, async (t) => {
    const began = await startOrSkip(start, (why) => t.skip(why))
    if (!began) return
    await using server = began
    await write(server.url)
    await server.kill()
    assert.equal(await answers(server.port), false)
    await server.start()
    assert.equal(await read(server.url), 'kept')
    server.pause()
    assert.equal(await answers(server.port), false)
    server.resume()
    await eventually(() => answers(server.port))
    await server[Symbol.asyncDispose]()
    assert.equal(await answers(server.port), false)
    assert.equal(server.log(), '', 'its folder is gone')
  })
}

test('what is missing is named with the package that brings it, and skipped unless REQUIRE names it', async () => {
  const { PATH, REQUIRE, REDIS_URL, KAFKA_URL } = process.env
  try {
    process.env.PATH = ''
    await assert.rejects(startRedis(), { name: 'ServerMissing', message: /apt-get install redis-server/ })
    delete process.env.KAFKA_URL
    process.env.REQUIRE = 'redis'
    assert.match((await needs('kafka')).skip as string, /^needs kafka: java is not installed: apt-get install default/)
  } finally {
    Object.assign(process.env, { PATH })
    for (const [key, value] of Object.entries({ REQUIRE, REDIS_URL, KAFKA_URL })) {
      if (value === undefined) delete process.env[key]
      else process.env[key] = value
    }
  }
})

test('a server that REQUIRE names and that cannot be had is an error, not a skip', async () => {
  const program = `
    import { needs } from ${JSON.stringify(new URL('./needs.ts', import.meta.url).href)}
    const answer = await needs('kafka').catch((error) => ({ thrown: error.name, message: error.message }))
    process.stdout.write(JSON.stringify(answer))`
  const { KAFKA_URL: _, ...environment } = process.env
  const answer = (require: string, more: NodeJS.ProcessEnv = {}) => {
    const env = { ...environment, PATH: '', REQUIRE: require, ...more }
    const text = execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
      env,
      encoding: 'utf8',
      timeout: 30_000,
    })
    return JSON.parse(text) as { url?: string; skip?: unknown; thrown?: string; message?: string }
  }
  assert.equal(answer('redis, kafka').thrown, 'ServerMissing')
  assert.match(answer('redis, kafka').message!, /apt-get install/)
  assert.match(answer('redis').skip as string, /^needs kafka: /)
  // What its variable names is taken as it is, and nothing else is looked for.
  const named = { url: 'kafka://kafka.example:9092', skip: false }
  assert.deepEqual(answer('kafka', { KAFKA_URL: named.url }), named)
})

test('the proxy holds each chunk back for its delay, keeps their order, and asks for the target of each connection', async () => {
  const DELAY_MS = 60
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket))
  await new Promise<void>((done) => echo.listen(0, '127.0.0.1', done))
  let asked = 0
  await using proxy = await startProxy({
    target() {
      asked += 1
      return (echo.address() as { port: number }).port
    },
  })
  const socket = connect({ port: proxy.port, host: '127.0.0.1' }).on('error', () => {})
  let heard = ''
  socket.on('data', (data) => {
    heard += data.toString()
  })
  socket.write('at once ')
  await eventually(() => heard === 'at once ')
  proxy.delay(DELAY_MS)
  const begun = performance.now()
  socket.write('one ')
  await eventually(() => heard === 'at once one ')
  const tookMs = performance.now() - begun
  assert.ok(tookMs >= 2 * DELAY_MS - 5, `there and back took ${tookMs} ms`) // timers may be early by a millisecond each
  socket.write('two ')
  proxy.restore()
  socket.write('three')
  await eventually(() => heard === 'at once one two three')
  assert.equal(asked, 1)
  socket.destroy()
  echo.close()
})

test('the proxy passes, is silent, restores, cuts at a chunk, and refuses while it is cut', async () => {
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket))
  await new Promise<void>((done) => echo.listen(0, '127.0.0.1', done))
  const target = (echo.address() as { port: number }).port
  await using proxy = await startProxy({
    target,
    onData: (chunk, direction) => {
      if (direction === 'to client' && chunk.includes('confirm')) proxy.cut()
    },
  })
  const open = () => connect({ port: proxy.port, host: '127.0.0.1' }).on('error', () => {})
  const closed = (socket: Socket) => new Promise((done) => socket.once('close', done))
  const said = (socket: Socket, text: string) =>
    new Promise((done) => {
      socket.once('data', (data) => done(data.toString()))
      socket.write(text)
    })
  const first = open()
  assert.equal(await said(first, 'one'), 'one')
  proxy.silence()
  let heard = 0
  first.on('data', () => heard++)
  first.write('two')
  const silenced = closed(first)
  proxy.restore()
  await silenced
  assert.equal(heard, 0)
  const second = open()
  assert.equal(await said(second, 'three'), 'three')
  const cut = closed(second)
  second.on('data', () => heard++)
  second.write('confirm')
  await cut
  await closed(open())
  assert.equal(heard, 0)
  proxy.restore()
  const third = open()
  assert.equal(await said(third, 'four'), 'four')
  third.destroy()
  echo.close()
})

test('a connection that is cut while its end is on its way lets the process end', () => {
  const proxyModule = JSON.stringify(new URL('proxy.ts', import.meta.url).href)
  const script = `
import { connect, createServer, Socket } from 'node:net'
import { startProxy } from ${proxyModule}
const target = createServer((socket) => socket.on('error', () => {}).resume()).listen(0, '127.0.0.1', async () => {
  const proxy = await startProxy({ target: target.address().port })
  const client = connect({ port: proxy.port, host: '127.0.0.1' }).on('error', () => {})
  const { end } = Socket.prototype
  Socket.prototype.end = function (...given) {
    end.apply(this, given)
    Socket.prototype.end = end
    process.nextTick(() => {
      proxy.cut()
      process.stdout.write('cut')
      target.close()
    })
    return this
  }
  client.once('connect', () => end.call(client))
})`
  const { error, status, stdout } = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
    timeout: 20_000,
    killSignal: 'SIGKILL',
  })
  assert.deepEqual({ error, status, stdout }, { error: undefined, status: 0, stdout: 'cut' })
})
