/**
 * Processes that share a subscription ask each other what no broker tells: how much of it each has in hand, and under
 * which epochs it stands in the shards' queues. Each has one queue of its own; questions go to all who listen to a
 * subscription, through the exchange `platform-events.control`.
 *
 * O1 Nobody is asked while nothing changes: an idle process costs nothing here.
 * O2 How many there are, the broker says: each consumes a queue `<subscription>.members`, where nothing ever is.
 * O3 An answer that does not come in time is left out; whoever asks knows how many it expects.
 */
import { randomUUID } from 'node:crypto'
import type { Channel } from 'amqplib'
import { UnavailableError } from '../errors.ts'
import type { Link } from './rabbitmq-link.ts'
import type { Names } from './rabbitmq-topology.ts'

export type Answer = {
  readonly member: string
  /** Delivered to it and not acknowledged. */
  readonly unacknowledged: number
  /** When the oldest of them was published, milliseconds since the epoch. */
  readonly oldestAt: number | null
  /** Of each shard whose queue it stands in. */
  readonly epochs: Readonly<Record<number, number>>
}

export type Listener = {
  /** Where those who share the subscription are counted; null: it is this process's alone. */
  readonly members: string | null
  answer(): Promise<Omit<Answer, 'member'>>
  /** Somebody came, left or moved. */
  changed(): void
  /** It is heard no more: `listen` again. */
  unheard(): void
}

type Note =
  | { kind: 'asked'; question: string; replyTo: string }
  | { kind: 'answered'; question: string; answer: Answer }
  | { kind: 'changed' }

type Question = { expected: number; answers: Answer[]; done: () => void }

const ANSWER_MAX_MS = 500

export class RollCall {
  readonly member: string = randomUUID().slice(0, 8)
  private readonly names: Names
  private readonly listeners = new Map<string, Listener>()
  private readonly questions = new Map<string, Question>()
  private channel: Channel | undefined
  private queue = ''

  constructor(names: Names) {
    this.names = names
  }

  /** A queue on this connection; again wherever that is lost and the connection is not. */
  async attach(link: Link): Promise<void> {
    const channel = await link.channel()
    channel.once('close', () => {
      if (this.channel !== channel) return
      this.channel = undefined
      for (const listener of this.listeners.values()) listener.unheard()
      if (link.state().ready) this.attach(link).catch(() => {}) // the connection went after all: its next one attaches
    })
    const { queue } = await link.answer('a queue', channel.assertQueue('', { exclusive: true, durable: false }))
    const heard = (message: { content: Buffer; fields: { routingKey: string } } | null) => {
      if (message) this.heard(message.fields.routingKey, JSON.parse(message.content.toString()) as Note & From)
    }
    await link.answer('a consumer', channel.consume(queue, heard, { noAck: true }))
    this.channel = channel
    this.queue = queue
  }

  /** Rejects with UnavailableError where it has no queue at present. */
  async listen(name: string, listener: Listener): Promise<void> {
    const { channel, queue } = this
    if (!channel) throw new UnavailableError('transport_unavailable', 'RabbitMQ has just gone away')
    this.listeners.set(name, listener)
    if (listener.members === null) return
    await channel.bindQueue(queue, this.names.control, name)
    const gone = (message: unknown) => message === null && listener.unheard()
    await channel.consume(listener.members, gone, { noAck: true, consumerTag: name }) // O2
  }

  async ignore(name: string): Promise<void> {
    const { channel, queue } = this
    if (!this.listeners.delete(name)) return
    await channel?.unbindQueue(queue, this.names.control, name).catch(() => {})
    await channel?.cancel(name).catch(() => {})
  }

  /** Answers of the others: `expected` of them, or fewer where some did not come in time (O3). */
  ask(name: string, expected: number): Promise<readonly Answer[]> {
    const question = randomUUID()
    const answers: Answer[] = []
    if (expected <= 0 || !this.channel) return Promise.resolve(answers)
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        this.questions.delete(question)
        resolve(answers)
      }
      const timer = setTimeout(done, ANSWER_MAX_MS)
      this.questions.set(question, { expected, answers, done })
      this.send(this.names.control, name, { kind: 'asked', question, replyTo: this.queue })
    })
  }

  /** Tells the others that this process came, left or moved. */
  tellChanged(name: string): void {
    this.send(this.names.control, name, { kind: 'changed' })
  }

  private send(exchange: string, key: string, note: Note): void {
    try {
      this.channel?.publish(exchange, key, Buffer.from(JSON.stringify({ ...note, from: this.member })))
    } catch {
      // the channel is closing: whoever asks hears nothing in time, and the periodic look finds what changed
    }
  }

  private heard(routingKey: string, note: Note & From): void {
    if (note.kind === 'answered') {
      const question = this.questions.get(note.question)
      question?.answers.push(note.answer)
      if (question && question.answers.length >= question.expected) question.done()
      return
    }
    const listener = this.listeners.get(routingKey)
    if (!listener || note.from === this.member) return
    if (note.kind === 'changed') listener.changed()
    else void this.reply(listener, note)
  }

  private async reply(listener: Listener, { question, replyTo }: Note & { kind: 'asked' }): Promise<void> {
    try {
      const answer = { member: this.member, ...(await listener.answer()) }
      this.send('', replyTo, { kind: 'answered', question, answer })
    } catch {
      // our connection is going: we have nothing in hand any more
    }
  }
}

type From = { from: string }
