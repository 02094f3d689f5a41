/** Programs that use a broker's own client and nothing of ours. */
import { Consumer, Producer, stringDeserializer } from '@platformatic/kafka'
import { connect } from 'amqplib'
import { createClient } from 'redis'

/** One of them at one queue, topic or channel. */
export type Stranger = AsyncDisposable & {
  say(text: string | Uint8Array): Promise<void>
  /** From then on, `heard` grows. */
  listen(): Promise<void>
  readonly heard: readonly string[]
}

/** `place`: what such a broker calls it. */
type Kind = { readonly place: string; readonly open: (url: string, at: string) => Promise<Stranger> }

const rabbitmq: Kind = {
  place: 'queue',
  async open(url, queue) {
    const connection = await connect(url)
    connection.on('error', () => {}) // its server may be killed
    const channel = await connection.createChannel()
    channel.on('error', () => {})
    await channel.assertQueue(queue, { durable: false })
    const heard: string[] = []
    return {
      heard,
      say: async (text) => void channel.sendToQueue(queue, Buffer.from(text as string)),
      async listen() {
        await channel.consume(queue, (message) => void heard.push(message!.content.toString()), { noAck: true })
      },
      async [Symbol.asyncDispose]() {
        await channel.deleteQueue(queue).catch(() => {})
        await connection.close().catch(() => {})
      },
    }
  },
}

const kafka: Kind = {
  place: 'topic',
  async open(url, topic) {
    const client = {
      clientId: 'stranger',
      bootstrapBrokers: [url.slice('kafka://'.length)],
      autocreateTopics: true,
      retries: 5,
    }
    const producer = new Producer<Buffer, Buffer, Buffer, Buffer>(client)
    const consumer = new Consumer({
      ...client,
      groupId: `${topic}-stranger`,
      deserializers: { value: stringDeserializer },
    })
    const heard: string[] = []
    return {
      heard,
      say: async (text) => void (await producer.send({ messages: [{ topic, value: Buffer.from(text as string) }] })),
      async listen() {
        const stream = await consumer.consume({ topics: [topic], mode: 'earliest', maxWaitTime: 100 })
        stream.on('error', () => {})
        stream.on('data', ({ value }) => void heard.push(value))
      },
      async [Symbol.asyncDispose]() {
        await Promise.allSettled([producer.close(), consumer.close(true)])
      },
    }
  },
}

const redis: Kind = {
  place: 'channel',
  async open(url, channel) {
    const open = async () => {
      const client = createClient({ url, socket: { reconnectStrategy: false } })
      client.on('error', () => {}) // its server may be killed
      await client.connect()
      return client
    }
    const [speaker, listener] = [await open(), await open()]
    const heard: string[] = []
    return {
      heard,
      say: async (text) => void (await speaker.publish(channel, Buffer.from(text as string))),
      listen: () => listener.subscribe(channel, (text) => void heard.push(text)),
      async [Symbol.asyncDispose]() {
        for (const client of [speaker, listener]) if (client.isOpen) client.destroy()
      },
    }
  },
}

export const strangers = { rabbitmq, kafka, redis } as const
