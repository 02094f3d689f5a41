/**
 * Processes that share a subscription ask each other what no broker tells: how much of it each has in hand, and under
 * which epochs it stands in the shards' queues. Each has one queue of its own; questions go to all who listen to a
 * subscription, through the exchange `platform-events.control`.
 *
 * O1 Nobody is asked while nothing changes: an idle process costs nothing here.
 * O2 An answer that does not come in time is left out; whoever asks knows how many it expects.
 */
import { randomUUID } from 'node:crypto'
import type { Channel } from 'amqplib'
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
  answer(): Promise<Omit<Answer, 'member'>>
  /** Somebody came, left or moved. */
  changed(): void
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

  /** Begins to hear on a new connection. */
  async attach(link: Link): Promise<void> {
    const channel = await link.channel()
    channel.once('close', () => {
      if (this.channel === channel) this.channel = undefined
    })
    const { queue } = await link.answer('a queue', channel.assertQueue('', { exclusive: true, durable: false }))
    for (const name of this.listeners.keys()) await this.hear(channel, queue, name)
    const heard = (message: { content: Buffer; fields: { routingKey: string } } | null) => {
      if (message) this.heard(message.fields.routingKey, JSON.parse(message.content.toString()) as Note & From)
    }
    await link.answer('a consumer', channel.consume(queue, heard, { noAck: true }))
    this.channel = channel
    this.queue = queue
  }

  async listen(name: string, listener: Listener): Promise<void> {
    this.listeners.set(name, listener)
    if (this.channel) await this.hear(this.channel, this.queue, name)
  }

  async ignore(name: string): Promise<void> {
    this.listeners.delete(name)
    await this.channel?.unbindQueue(this.queue, this.names.control, name).catch(() => {})
  }

  /** Answers of the others: `expected` of them, or fewer where some did not come in time (O2). */
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

  private async hear(channel: Channel, queue: string, name: string): Promise<void> {
    await channel.bindQueue(queue, this.names.control, name)
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
